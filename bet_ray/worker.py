"""The rollout actor: episodes of many policies in its slots, a moment at a time.

Nothing that an actor does shows in a row: not which episodes ran beside each other, not an exception among them.
"""

import logging
import os
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
import pyarrow as pa
import ray
import torch
from numpy.typing import NDArray

from bet import tasks
from bet.arithmetic import numerics
from bet.config import Split
from bet.errors import FailedRunError
from bet.policy import Policy
from bet.protocol import Recipe
from bet.rollout import EpisodeResult, Rollout, failed, raised
from bet_ray.inference import Inference, InferenceError, ServedPolicy
from bet_ray.results import EpisodeSource, episodes_table, execution_table, trajectories_table

log = logging.getLogger(__name__)

HUNGRY_SECONDS = 0.02  # after which a worker without a backlog asks for more: long against a 1 ms round trip


class PoolError(FailedRunError):
    """Workers cannot run; the message says why."""


@dataclass(frozen=True)
class Job:
    """Episodes of one policy to roll out."""

    source: EpisodeSource
    packed: tuple[bytes, bytes]
    """`Policy.pack()`; travels once per node through the object store."""
    recipe: Recipe
    split: Split
    keep_trajectories: bool = False
    inference: Inference | None = None
    """Who computes actions; None: the workers."""

    @classmethod
    def of(
        cls,
        policy: Policy,
        recipe: Recipe,
        split: Split,
        *,
        keep_trajectories: bool = False,
        inference: Inference | None = None,
    ) -> "Job":
        """Raises `UsageError` here, not in a worker, when the policy does not fit the protocol."""
        Rollout(policy, recipe, split, 1).close()
        source = EpisodeSource.of(policy, recipe.protocol, split)
        job = cls(source, policy.pack(), recipe, split, keep_trajectories, inference)
        return job if inference is None else replace(job, source=replace(source, numerics=inference.numerics))


@dataclass(frozen=True)
class Lease:
    """One episode for a worker to run."""

    job: str
    index: int
    attempt: int
    """1 for the first worker it is given to."""


@dataclass
class Usage:
    """How well the slots of workers were used: counts of slot-steps, and seconds."""

    busy: int = 0
    """Slot-steps with an episode."""
    slots: int = 0
    """All slot-steps."""
    busy_before_tail: int = 0
    """The same while more episodes waited for a slot than there were."""
    slots_before_tail: int = 0
    simulating: float = 0.0
    acting: float = 0.0
    seconds: float = 0.0
    """Of workers, from their first episode to their last: simulation, inference and the rest."""

    def __iadd__(self, other: "Usage") -> "Usage":
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)
        return self

    @property
    def utilisation(self) -> float:
        """Share of all slot-steps that had an episode."""
        return self.busy / max(self.slots, 1)

    @property
    def utilisation_before_tail(self) -> float:
        """The same while there was work for every slot."""
        return self.busy_before_tail / max(self.slots_before_tail, 1)

    @property
    def overhead(self) -> float:
        """Share of the workers' time that was neither simulation nor inference."""
        return 1 - (self.simulating + self.acting) / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Report:
    """What finished of one job, as Arrow IPC bytes: the cheapest thing to send through Ray."""

    job: str
    indices: list[int]
    episodes: bytes
    execution: bytes
    trajectories: bytes | None


@dataclass(frozen=True)
class Moment:
    """What came of one call of a worker."""

    reports: list[Report]
    usage: Usage


@dataclass(frozen=True)
class Whereabouts:
    """Where a worker is."""

    node: str
    actor: str
    pid: int
    numerics: str = ""
    """With which it computes actions, where nobody does it for it."""


HERE = Whereabouts("", "", 0)
"""For rows of episodes that no worker finished."""


@dataclass
class _Active:
    """A job inside a worker."""

    job: Job
    policy: Policy
    rollout: Rollout
    waiting: deque[Lease] = field(default_factory=deque)
    apart: deque[list[Lease]] = field(default_factory=deque)
    """Groups of which one episode makes the simulator raise; each runs with nothing of its job beside it."""
    running: dict[int, tuple[Lease, float]] = field(default_factory=dict)
    """Leases under way, and since when."""

    @property
    def work(self) -> bool:
        return bool(self.waiting or self.apart or self.running)


class RolloutWorker:
    """A Ray actor of one CPU: `slots` episodes at once, of as many policies as it is given."""

    def __init__(self, slots: int) -> None:
        torch.set_num_threads(1)
        self._slots = slots
        self._active: dict[str, _Active] = {}
        self._usage = Usage()
        self._left: float | None = None  # when the last call ended with work still to do

    def ready(self) -> Whereabouts:
        """Returns once the worker has started, so that a failed start is not blamed on an episode."""
        context = ray.get_runtime_context()
        cpu = numerics(torch.device("cpu"))
        self._here = Whereabouts(context.get_node_id(), context.get_actor_id() or "", os.getpid(), cpu)
        return self._here

    def advance(
        self,
        new: Sequence[Lease],
        jobs: Mapping[str, list[ray.ObjectRef]],
        over: Sequence[str],
        seconds: float,
        more: bool,
        rested: bool,
    ) -> Moment:
        """Take on new episodes, run for `seconds`, return what finished.

        `jobs` holds references to the `Job`s that this worker meets for the first time, each inside a list so that Ray
        does not fetch it; `over` names jobs to forget. `more`: other episodes wait that no worker has;
        `rested`: this one was not asked anything for a while. Raises
        `PoolError` when this node cannot run a job.
        """
        began = time.perf_counter()
        if self._left is not None and not rested:
            self._usage.seconds += began - self._left
        for name in over:
            if (done := self._active.pop(name, None)) is not None:
                done.rollout.close()
        for name, (ref,) in jobs.items():
            self._active[name] = self._begin(name, ref)
        for lease in new:
            self._active[lease.job].waiting.append(lease)
        finished: dict[str, list[tuple[EpisodeResult, Lease, float]]] = {}
        while time.perf_counter() - began < seconds and self._work():
            busy = sum(len(active.running) for active in self._active.values())
            for name, active in self._active.items():
                before = len(active.running)
                results = self._run(active, self._slots - busy)
                busy += len(active.running) + len(results) - before
                if results:
                    finished.setdefault(name, []).extend(results)
            waiting = any(active.waiting for active in self._active.values())
            self._usage.busy += busy
            self._usage.slots += self._slots
            if more or waiting:
                self._usage.busy_before_tail += busy
                self._usage.slots_before_tail += self._slots
            if more and new and not waiting and time.perf_counter() - began > HUNGRY_SECONDS:
                break  # before slots run empty
        reports = [self._report(name, results) for name, results in finished.items()]
        self._left = time.perf_counter()
        self._usage.seconds += self._left - began
        usage, self._usage = self._usage, Usage()
        if not (more or self._work()):
            self._left = None  # nothing is waited for
        return Moment(reports, usage)

    def _begin(self, name: str, ref: ray.ObjectRef) -> _Active:
        job: Job = ray.get(ref)
        about, weights = job.packed
        if job.inference is None:
            policy = Policy.unpack(about, weights)
        else:
            policy = ServedPolicy.unpack(about, weights)
            policy.connect(job.inference, ref)
        if policy.numerics != job.source.numerics:
            raise PoolError(
                f"this node computes with {policy.numerics!r}, the episodes were asked for with "
                f"{job.source.numerics!r}; run on nodes of one kind"
            )
        return _Active(job, policy, Rollout(policy, job.recipe, job.split, self._slots))

    def _work(self) -> bool:
        return any(active.work for active in self._active.values())

    def _run(self, active: _Active, free: int) -> list[tuple[EpisodeResult, Lease, float]]:
        """Fill up to `free` slots of a job and make one step: what ended, its lease, and the seconds it took."""
        new = [active.waiting.popleft() for _ in range(min(free, len(active.waiting)))]
        if not active.running and not new and active.apart and len(active.apart[0]) <= free:
            new = active.apart.popleft()
        active.running |= {lease.index: (lease, time.monotonic()) for lease in new}
        if not active.running:
            return []
        try:
            active.rollout.start([lease.index for lease in new])
            ended = active.rollout.step()
        except (MemoryError, InferenceError):
            raise
        except Exception as error:  # whatever a simulator may raise
            log.warning("a simulator raised while %d episodes ran", len(active.running), exc_info=True)
            ended = self._raised(active, error)
        self._usage.simulating += active.rollout.simulating
        self._usage.acting += active.rollout.acting
        active.rollout.simulating = active.rollout.acting = 0.0
        now = time.monotonic()
        return [(result, lease, now - since) for result in ended for lease, since in [active.running.pop(result.index)]]

    def _raised(self, active: _Active, error: Exception) -> list[EpisodeResult]:
        """Give the running episodes another try in smaller groups; one that ran alone is the one, and ends."""
        leases = [lease for lease, _ in active.running.values()]
        with suppress(Exception):
            active.rollout.close()
        active.rollout = Rollout(active.policy, active.job.recipe, active.job.split, self._slots)
        if len(leases) > 1:
            active.running.clear()
            active.apart.extendleft(reversed(quarters(leases)))
            return []
        return [failed(active.job.recipe.protocol, active.job.split, leases[0].index, raised(error))]

    def _report(self, name: str, finished: list[tuple[EpisodeResult, Lease, float]]) -> Report:
        active = self._active[name]
        centers = active.policy.bin_centers if active.job.keep_trajectories else None
        return report(active.job, name, finished, self._here, centers)


Item = TypeVar("Item")


def quarters(items: Sequence[Item]) -> list[list[Item]]:
    """Four groups, or five, in order: to find the one among them that is at fault."""
    size = max(len(items) // 4, 1)
    return [list(items[start : start + size]) for start in range(0, len(items), size)]


def report(
    job: Job,
    name: str,
    finished: Sequence[tuple[EpisodeResult, Lease, float | None]],
    where: Whereabouts,
    centers: NDArray[np.float32] | None = None,
) -> Report:
    """Results of one job, with the seconds each took; with `centers`, the bins in action units, their steps as well."""
    task = tasks.simulated(job.source.task)
    results = [result for result, _, _ in finished]
    rows = [
        job.source.key
        | {"index": result.index, "node": where.node, "actor": where.actor, "wall_seconds": seconds}
        | {"attempts": lease.attempt, "error": result.error}
        for result, lease, seconds in finished
    ]
    return Report(
        name,
        [result.index for result in results],
        to_ipc(episodes_table(task, job.source, results)),
        to_ipc(execution_table(rows)),
        None if centers is None else to_ipc(trajectories_table(task, job.source, results, centers)),
    )


def to_ipc(table: pa.Table) -> bytes:
    """A table as the bytes of an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()
