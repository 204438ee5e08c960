"""The rollout pool: Ray actors that run episodes, kept busy by a dispatcher, replaced when they die or hang."""

import logging
import math
import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from bet_ray.dispatch import Dispatcher, Finished
from bet_ray.meter import Meter
from bet_ray.session import last_line
from bet_ray.worker import Job, Moment, PoolError, RolloutWorker, Usage, Whereabouts

log = logging.getLogger(__name__)

SLICE_SECONDS = 0.25  # how long a worker runs before it reports: long against a 1 ms round trip, short for a person
SLICE_PER_WORKER = 0.002  # and at least so long for each worker there is: the driver takes 0.5 ms for a report
PATIENCE = 60.0  # seconds that a worker may say nothing
FAILED_STARTS = 3  # workers in a row that died before they took an episode
CALLS_PER_ANSWER = 128  # one of so many workers' answers is waited for before they are looked at
WATCH_SECONDS = 1.0  # between looks for hung workers
SLOW_START = 20.0  # seconds without a worker after which a person is told what is waited for
# Nodes with this label are for training: a rollout there would hold a GPU's CPUs, and keep its machine from going home.
# What a cluster's files say of its nodes; where they say nothing, workers run anywhere.
NO_ROLLOUTS = {"bet-ray/rollouts": "no"}
NODE_DIED = "its node has died"  # in Ray's words


def rollout_actor(cpus: float) -> Any:
    """The actor class of workers, which reserve so many CPUs each and keep off the nodes labelled `NO_ROLLOUTS`."""
    elsewhere = {label: f"!{value}" for label, value in NO_ROLLOUTS.items()}
    return ray.remote(num_cpus=cpus, max_restarts=0, label_selector=elsewhere)(RolloutWorker)


def rollout_cpus() -> int:
    """CPUs of the session's nodes on which workers run."""
    nodes = [node for node in ray.nodes() if node["Alive"] and not NO_ROLLOUTS.items() <= node["Labels"].items()]
    return int(sum(node["Resources"].get("CPU", 0) for node in nodes))


@dataclass
class _Worker:
    """A worker as the pool sees it."""

    number: int
    handle: Any
    here: Whereabouts | None = None
    """None until it has started."""
    knows: set[str] = field(default_factory=set)
    """Jobs it was told of."""
    rested: bool = False
    """It had nothing to do before the call that it is asked now."""
    call: ray.ObjectRef | None = None
    called: float = 0.0
    """When, by `time.monotonic`."""
    silent: float = 0.0
    """Seconds since then, as far as this process was there to see them."""


class Pool:
    """Workers and what they are to do. Not thread-safe: one thread submits and polls.

    `submit` queues episodes, `poll` hands out work and returns what finished meanwhile. Use as a context manager.
    A worker that says nothing for `patience` seconds is taken for hung and replaced.
    """

    def __init__(
        self,
        actors: int,
        slots: int,
        cpus_per_actor: float = 1.0,
        patience: float = PATIENCE,
    ) -> None:
        if actors < 1 or slots < 1:
            raise ValueError(f"a pool needs at least one actor and one slot, got {actors} and {slots}")
        self._usage = Usage()
        self._meter = Meter()
        self.ready_at = math.inf
        """When the first worker had started, by `time.monotonic`."""
        self._patience = patience
        self._slots = slots
        self._actor = rollout_actor(cpus_per_actor)
        self._seconds = max(SLICE_SECONDS, actors * SLICE_PER_WORKER)
        self._dispatcher = Dispatcher(slots, actors)
        self._jobs: dict[str, ray.ObjectRef] = {}  # that some worker was told of
        self._failed_starts = 0
        self._failure: PoolError | None = None
        self._watched = time.monotonic()
        self._alone_since: float | None = self._watched  # without a started worker; None: not, or a person was told
        self._numbers = count()
        self._workers: dict[int, _Worker] = {}
        self._calls: dict[ray.ObjectRef, _Worker] = {}
        self._resting: set[int] = set()  # started, and with nothing to do
        for _ in range(actors):
            self._hire()

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in list(self._workers.values()):
            self._fire(worker)
        self._meter.tell(0, 0, 0, last=True)

    @property
    def idle(self) -> bool:
        return self._dispatcher.idle

    @property
    def whereabouts(self) -> list[Whereabouts]:
        """Of the workers that have started."""
        return [worker.here for worker in self._workers.values() if worker.here]

    @property
    def numerics(self) -> str | None:
        """With which its workers compute; None before one has started."""
        return next((here.numerics for here in self.whereabouts), None)

    def take_usage(self) -> Usage:
        """How well the workers were used since this was last asked."""
        usage, self._usage = self._usage, Usage()
        return usage

    def submit(self, job: Job, indices: Sequence[int]) -> str:
        """Queue episodes, all different; returns the job's name, which `Finished` carries."""
        return self._dispatcher.submit(job, indices)

    def poll(self, timeout: float = 1.0) -> list[Finished]:
        """Hand out work, wait for a report or `timeout` seconds, and return what finished.

        Raises `PoolError` when workers cannot run; what had finished was returned before.
        """
        if self._failure is not None:
            raise self._failure
        if self._dispatcher.open:
            for number in list(self._resting):
                self._call(self._workers[number])
        if not self._calls:
            return []
        calls = list(self._calls)
        # Of a thousand workers some eight at a time: a look at all of them costs Ray a millisecond.
        ready, _ = ray.wait(calls, num_returns=-(-len(calls) // CALLS_PER_ANSWER), timeout=timeout)
        if ready:
            ready, _ = ray.wait(calls, num_returns=len(calls), timeout=0)
        finished: list[Finished] = []
        steps = [partial(self._answered, ref) for ref in ready]
        for step in (*steps, self._watch):
            try:
                finished += step()
            except PoolError as error:
                self._failure = error
        for done in finished:
            self._meter.episodes += len(done)
            if not self._dispatcher.active(done.job):
                self._jobs.pop(done.job, None)
        self._meter.tell(self._dispatcher.waiting, self._dispatcher.leased, self._dispatcher.workers)
        if self._failure is not None and not finished:
            raise self._failure
        return finished

    def crash(self, here: Whereabouts) -> None:
        """End a worker's process as an accident would; the pool is not told."""
        for worker in self._workers.values():
            if worker.here == here and here.node != ray.get_runtime_context().get_node_id():
                ray.kill(worker.handle)
            elif worker.here == here:
                with suppress(ProcessLookupError):
                    os.kill(here.pid, signal.SIGKILL)

    def _answered(self, ref: ray.ObjectRef) -> list[Finished]:
        worker = self._calls.pop(ref, None)
        if worker is None:
            return []
        worker.call = None
        try:
            answer: Moment | Whereabouts = ray.get(ref)
        except RayError as error:
            if isinstance(error, RayTaskError) and not isinstance(error.cause, MemoryError):
                raise PoolError(f"a rollout worker cannot run: {_reason(error)}") from error  # it lives and says why
            return self._lost(worker, _reason(error), with_node=NODE_DIED in str(error))
        worker.rested = False
        if isinstance(answer, Whereabouts):
            worker.here, self._failed_starts, self._alone_since = answer, 0, None
            self.ready_at = min(self.ready_at, time.monotonic())
            self._dispatcher.join(worker.number)
            self._call(worker)
            return []
        self._usage += answer.usage
        self._meter.busy += answer.usage.busy
        self._meter.slots += answer.usage.slots
        finished = self._dispatcher.accept(worker.number, answer.reports)
        self._call(worker)
        return finished

    def _hire(self) -> None:
        worker = _Worker(next(self._numbers), self._start())
        self._workers[worker.number] = worker
        self._await(worker, worker.handle.ready.remote())

    def _start(self) -> Any:
        """The handle of a new worker."""
        return self._actor.remote(self._slots)

    def _call(self, worker: _Worker) -> None:
        """Top up a worker's leases and let it run."""
        new = self._dispatcher.assign(worker.number)
        if not self._dispatcher.has_leases(worker.number):
            self._resting.add(worker.number)
            worker.rested = True
            return
        self._resting.discard(worker.number)
        names = {lease.job for lease in new}
        for name in names - self._jobs.keys():  # not before: a comparison's policies need not all fit into the store
            job = self._dispatcher.job(name)
            try:
                self._jobs[name] = ray.put(job)
            except RayError as error:
                raise PoolError(f"a policy does not fit into Ray's object store: {_reason(error)}") from error
        jobs = {name: [self._jobs[name]] for name in names - worker.knows}
        over = {name for name in worker.knows if not self._dispatcher.active(name)}
        worker.knows = worker.knows - over | names
        more = self._dispatcher.waiting > 0
        call = worker.handle.advance.remote(new, jobs, tuple(over), self._seconds, more, worker.rested)
        self._await(worker, call)

    def _await(self, worker: _Worker, call: ray.ObjectRef) -> None:
        worker.call, worker.called, worker.silent = call, time.monotonic(), 0.0
        self._calls[call] = worker

    def _watch(self) -> list[Finished]:
        """Replace workers that hang; tell what is waited for where none starts."""
        now, before = time.monotonic(), self._watched
        if now - before < WATCH_SECONDS:
            return []
        self._watched = now
        finished = []
        for worker in list(self._calls.values()):
            # What is longer was not seen: this process was stopped itself, or waited for a disk, and the answer may be
            # on its way.
            worker.silent += min(now - max(before, worker.called), WATCH_SECONDS)
            if worker.here and worker.silent > self._patience + self._seconds:
                finished += self._lost(worker, f"it said nothing for {self._patience:g} seconds", hung=True)
        if self._alone_since is not None and now - self._alone_since > SLOW_START:
            self._alone_since = None
            log.warning("no rollout worker runs: Ray has no CPU for one, or it takes long to start")
        return finished

    def _lost(self, worker: _Worker, reason: str, *, hung: bool = False, with_node: bool = False) -> list[Finished]:
        """Replace a worker and give its leases back. One that went `with_node` while it started is no failed start: it
        waits for the next node, as many as there were.
        """
        self._fire(worker)
        if worker.here is None:
            log.warning("a rollout worker could not start (%s)", reason)
            self._failed_starts += not with_node
            if with_node or self._failed_starts < FAILED_STARTS:
                self._hire()
            elif not self._workers:  # else the others do the work
                raise PoolError(f"{self._failed_starts} rollout workers in a row could not start: {reason}")
            return []
        where = {"node": worker.here.node, "pid": worker.here.pid, "hung": hung}
        log.warning("a rollout worker was lost (%s); its episodes run again", reason, extra=where)
        self._hire()
        if not self.whereabouts:
            self._alone_since = time.monotonic()
        leased = self._dispatcher.leased
        finished = self._dispatcher.lose(worker.number, hung=hung, began=hung or not worker.rested)
        self._meter.lost += 1
        self._meter.again += max(leased - self._dispatcher.leased - sum(map(len, finished)), 0)
        return finished

    def _fire(self, worker: _Worker) -> None:
        del self._workers[worker.number]
        self._resting.discard(worker.number)
        if worker.call is not None:
            self._calls.pop(worker.call, None)
        ray.kill(worker.handle)


def _reason(error: Exception) -> str:
    """The last line of what Ray says, without its guesses at causes."""
    return last_line(error).partition(" Worker exit detail:")[0]
