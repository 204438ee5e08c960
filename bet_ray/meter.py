"""What a pool tells of itself on the Prometheus endpoint of its Ray node, once a second; until then it only adds."""

import time

from ray.util.metrics import Counter, Gauge

SECONDS = 1.0  # between tellings; Ray itself passes them on every ten


class Meter:
    """Counts since the last telling. Made once Ray runs; an update costs some microseconds a second."""

    def __init__(self) -> None:
        self.episodes = 0
        """That ended."""
        self.again = 0
        """That were given back by workers that were lost."""
        self.lost = 0
        """Workers that died or hung."""
        self.busy = self.slots = 0
        """Slot-steps with an episode, and all."""
        self._told = time.monotonic()
        self._episodes = Counter("bet_episodes", "Episodes that ended.")
        self._again = Counter("bet_retries", "Episodes to run again, of workers that were lost.")
        self._lost = Counter("bet_workers_lost", "Rollout workers that died or hung.")
        self._rate = Gauge("bet_episodes_per_second", "Episodes that ended in a second.")
        self._busy = Gauge("bet_slots_busy", "Share of the slots that had an episode.")
        self._waiting = Gauge("bet_episodes_waiting", "Episodes that no worker has.")
        self._running = Gauge("bet_episodes_leased", "Episodes that workers have.")
        self._workers = Gauge("bet_workers", "Rollout workers that have started.")

    def tell(self, waiting: int, leased: int, workers: int, *, last: bool = False) -> None:
        """Tell what was counted, if a second has passed or it is the last time."""
        passed = time.monotonic() - self._told
        if passed < SECONDS and not last:
            return
        self._told += passed
        counts = ((self._episodes, self.episodes), (self._again, self.again), (self._lost, self.lost))
        for counter, count in counts:
            if count:
                counter.inc(count)
        self._rate.set(0.0 if last else self.episodes / passed)
        self._busy.set(0.0 if last else self.busy / max(self.slots, 1))
        self._waiting.set(waiting)
        self._running.set(leased)
        self._workers.set(workers)
        self.episodes = self.again = self.lost = self.busy = self.slots = 0
