"""The pool as a Ray actor: trials on any node hand it policies, it hands back episode tables, through one ledger."""

import queue
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from bet import tasks
from bet_ray.evaluation import Recorder
from bet_ray.ledger import Ledger
from bet_ray.pool import Job, Pool
from bet_ray.results import unique_episodes


@dataclass
class _Request:
    job: Job
    missing: list[int]
    tables: list[pa.Table]
    left: int
    done: threading.Event = field(default_factory=threading.Event)


class RolloutService:
    """Shared by all trials of a sweep; many evaluations run at once, the tail of one filling with the next.

    One thread owns the pool and the ledger; callers wait for their episodes.
    """

    def __init__(self, run: Path, task: str, actors: int, slots: int, cpus_per_actor: float) -> None:
        self._ledger = Ledger(run, tasks.get(task))
        self._recorder = Recorder(self._ledger)
        self._pool = Pool(actors, slots, cpus_per_actor)
        self._inbox: queue.Queue[_Request] = queue.Queue()
        self._failure: Exception | None = None
        self._lock = threading.Lock()  # the ledger is read by callers and written by the thread
        threading.Thread(target=self._run, daemon=True).start()

    def evaluate(self, job: Job, episodes: int) -> pa.Table:
        """Rows of episodes 0..episodes-1 of a policy, by index; those in the ledger are not run again.

        Raises `PoolError` when the pool cannot run.
        """
        with self._lock:
            recorded = self._ledger.of(job.source)
        known = set(recorded.column("index").to_pylist())
        missing = [index for index in range(episodes) if index not in known]
        request = _Request(job, missing, [recorded], len(missing))
        if missing:
            self._inbox.put(request)
            while not request.done.wait(1.0):
                if self._failure is not None:
                    raise self._failure
        return unique_episodes(pa.concat_tables(request.tables)).filter(pc.field("index") < episodes)

    def compact(self) -> None:
        """Publish what has finished so far."""
        with self._lock:
            self._recorder.flush()
            self._ledger.compact()

    def _run(self) -> None:
        active: dict[str, _Request] = {}
        try:
            while True:
                while not self._inbox.empty() or not active:
                    request = self._inbox.get()
                    active[self._pool.submit(request.job, request.missing)] = request
                for finished in self._pool.poll(timeout=0.1):
                    request = active[finished.job]
                    with self._lock:
                        self._recorder.add(finished)
                    request.tables.append(finished.episodes)
                    request.left -= len(finished)
                    if request.left == 0:
                        with self._lock:
                            self._recorder.flush()
                        del active[finished.job]
                        request.done.set()
        except Exception as error:
            self._failure = error
            raise
