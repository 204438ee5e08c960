"""What all trials of a sweep share, as a Ray actor: the pool, the ledger it fills, and the codebooks.

Trials on any node hand it policies, it hands back episode tables.
"""

import logging
import queue
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from bet import tasks
from bet.config import Config, canonical_json
from bet.data.episodes import Episodes
from bet.training import FittedActions, fit_actions
from bet_ray.ledger import Ledger, MixedNumericsError
from bet_ray.pool import Pool
from bet_ray.recorder import Recorder
from bet_ray.results import unique_rows
from bet_ray.worker import Job, PoolError

log = logging.getLogger(__name__)


@dataclass
class _Request:
    job: Job
    episodes: int
    tables: list[pa.Table] = field(default_factory=list)
    left: int = 0
    done: threading.Event = field(default_factory=threading.Event)


class Codebooks:
    """Fits each codebook once, whoever asks first."""

    def __init__(self, episodes: Episodes) -> None:
        self._episodes = episodes
        self._fitted: dict[str, FittedActions] = {}
        self._lock = threading.Lock()

    def of(self, config: Config) -> FittedActions:
        """Of the data and codebook settings of `config`. Raises `DataError`."""
        key = canonical_json([config.split, config.model_dump(mode="json", include={"data", "codebook"})])
        with self._lock:
            if key not in self._fitted:
                train, _ = self._episodes.split(*config.split)
                self._fitted[key] = fit_actions(config, self._episodes, train)
            return self._fitted[key]


class RolloutService:
    """Shared by all trials of a sweep; many evaluations run at once, the tail of one filling with the next.

    One thread owns the pool and the ledger; callers wait for their episodes.
    """

    def __init__(
        self, run: Path, task: str, episodes: Episodes, actors: int, slots: int, cpus_per_actor: float
    ) -> None:
        self._codebooks = Codebooks(episodes)
        self._ledger = Ledger(run, tasks.simulated(task))
        self._pool = Pool(actors, slots, cpus_per_actor)
        self._inbox: queue.Queue[_Request | None] = queue.Queue()
        self._active: dict[str, _Request] = {}
        self._numerics: str | None = None
        """Of the workers, and so of every row."""
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def evaluate(self, job: Job, episodes: int) -> pa.Table:
        """Rows of episodes 0..episodes-1 of a policy, by index; those in the ledger are not run again.

        Raises `PoolError` when the pool cannot run.
        """
        request = _Request(job, episodes)
        self._inbox.put(request)
        while not request.done.wait(1.0):
            self.check()
        return unique_rows(pa.concat_tables(request.tables)).filter(pc.field("index") < episodes)

    def codebook(self, config: Config) -> FittedActions:
        """The normaliser of actions and the bin centres that trainings of this setting share. Raises `DataError`."""
        return self._codebooks.of(config)

    def check(self) -> None:
        """Raises what ended the service, if anything did: before a training whose policies nobody would judge."""
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Publish what is recorded; nothing may be asked for any more."""
        self._inbox.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            with Recorder(self._ledger) as recorder, self._pool:
                self._serve(recorder)
            self._failure = PoolError("the rollout service is closed")
        except Exception as error:
            self._failure = error  # which all who wait will hear
            log.exception("the rollout service ends")

    def _serve(self, recorder: Recorder) -> None:
        waiting: list[_Request] = []
        while True:
            while not self._inbox.empty() or not (waiting or self._active):
                request = self._inbox.get()
                if request is None:
                    return
                waiting.append(request)
            waiting = [request for request in waiting if not self._admit(request)]
            for finished in self._pool.poll(timeout=0.1):
                recorder.add(finished)
                request = self._active[finished.job]
                request.tables.append(finished.episodes)
                request.left -= len(finished)
            recorder.flush_if_due()
            for name in [name for name, request in self._active.items() if request.left == 0]:
                recorder.flush()
                self._active.pop(name).done.set()

    def _admit(self, request: _Request) -> bool:
        """Start what the ledger lacks; False before a worker is there to say how it computes, and while a twin is under
        way, for two settings can train equal policies.

        Who asks may have another CPU than the workers, as nodes with a GPU often do: the episodes are the workers'.
        """
        if self._numerics is None:
            self._numerics = self._agreed()
        if self._numerics is None:
            return False
        source = replace(request.job.source, numerics=self._numerics)
        request.job = replace(request.job, source=source)
        if any(active.job.source.key == source.key for active in self._active.values()):
            return False
        recorded = self._ledger.of(source)
        known = set(recorded.column("index").to_pylist())
        missing = [index for index in range(request.episodes) if index not in known]
        request.tables, request.left = [recorded], len(missing)
        if missing:
            self._active[self._pool.submit(request.job, missing)] = request
        else:
            request.done.set()
        return True

    def _agreed(self) -> str | None:
        """The numerics of the workers, once one has started. Raises `MixedNumericsError` where those of the run differ:
        trials would be ranked by rungs of both.
        """
        here = self._pool.numerics
        if here is None:
            return None
        before = self._ledger.numerics()
        if before and here not in before:
            raise MixedNumericsError(
                f"{self._ledger.run}: its episodes were made with {min(before)!r}, the rollout workers have {here!r}; "
                "resume where they are as before, or choose another --out"
            )
        return here
