"""Forwards in actors of their own, on a GPU that many simulators share. Opt-in; what is not served acts in its worker.

Requests that wait at the same time share forwards. Those have the protocol's batch size as ever, padded, at which a row
depends neither on its place nor on its neighbours: who is served together never shows in a row.
"""

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from bet.arithmetic import numerics
from bet.errors import FailedRunError, UsageError
from bet.policy import DRAW, Policy
from bet_ray.session import last_line, on_cluster, session

POLICIES = 256  # that an actor holds, of some MB each; one that it has put away it is told of again
ANSWER_SECONDS = 30.0  # for a server to start again, and for a forward; less than the patience with workers

Acted = tuple[NDArray[np.float32], NDArray[np.int64]]
"""Actions (k, act_dim) and bins (k,)."""


class InferenceError(FailedRunError):
    """An inference actor cannot be had; the message says why."""


@dataclass(frozen=True)
class _Request:
    """Rows that one worker wants actions for, as `Policy.act` takes them."""

    history: NDArray[np.float32]  # (k, W, obs_dim)
    lengths: NDArray[np.int64]  # (k,)
    uniforms: NDArray[np.float64]  # (k,)
    held: NDArray[np.int64]  # (k,)
    answer: asyncio.Future[Acted]


class InferenceServer:
    """A Ray actor that holds policies on its device and acts for rollout workers."""

    def __init__(self, device: str) -> None:
        torch.set_num_threads(1)
        self._device = torch.device(device)
        self._policies: dict[str, Policy] = {}
        self._waiting: dict[tuple[str, int], list[_Request]] = {}

    async def numerics(self) -> str:
        """Of what it computes."""
        return numerics(self._device)

    async def learn(self, digest: str, asked: str, job: list[ray.ObjectRef]) -> None:
        """Take a policy on: that of the `Job` referred to, which comes through the object store.

        Raises `InferenceError` where this actor, started again elsewhere, has not the numerics asked for.
        """
        if (here := numerics(self._device)) != asked:
            raise InferenceError(f"it has {here!r} now, the episodes were asked for with {asked!r}")
        about, weights = (await job[0]).packed
        self._policies[digest] = Policy.unpack(about, weights).to(self._device)
        waited_for = {digest for digest, _ in self._waiting}
        for old in [known for known in self._policies if known not in waited_for][:-POLICIES]:
            del self._policies[old]

    async def act(self, digest: str, batch_size: int, *rows: NDArray[Any]) -> Acted | None:
        """As `Policy.act`; None where the policy is not known, as after a crash."""
        policy = self._policies.pop(digest, None)
        if policy is None:
            return None
        self._policies[digest] = policy  # the last of them, for it was used last
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_soon(self._answer)  # after all requests that are there by now
        request = _Request(*rows, answer=loop.create_future())
        self._waiting.setdefault((digest, batch_size), []).append(request)
        return await request.answer

    def _answer(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for (digest, batch_size), requests in waiting.items():
            try:
                actions, bins = self._policies[digest].act(
                    np.concatenate([request.history for request in requests]),
                    np.concatenate([request.lengths for request in requests]),
                    np.concatenate([request.uniforms for request in requests]),
                    batch_size,
                    np.concatenate([request.held for request in requests]),
                )
            except Exception as error:  # of the device: the workers are to hear of it
                for request in requests:
                    request.answer.set_exception(error)
                continue
            ends = np.cumsum([len(request.history) for request in requests])
            for request, end in zip(requests, ends, strict=True):
                mine = slice(end - len(request.history), end)
                request.answer.set_result((actions[mine], bins[mine]))


@dataclass(frozen=True)
class Inference:
    """Inference actors that are there for jobs."""

    servers: tuple[Any, ...]
    numerics: str


@contextmanager
def serving(device: str, actors: int = 1, cpus: int | None = None) -> Iterator[Inference]:
    """Inference actors, each with a GPU of its own where the device is one, in a session with room for `cpus`.

    Raises `UsageError` where this machine has too few GPUs, and `InferenceError` where they do not start or are not of
    one kind.
    """
    gpus = 0 if device == "cpu" else 1
    with session(cpus):
        there = ray.cluster_resources().get("GPU", 0)
        if gpus * actors > there and not on_cluster():  # which may grow
            raise UsageError(f"--inference {device}: {actors} asked for, and Ray finds {there:g} GPUs here")
        # Ray starts one again that died, and repeats the calls that were under way in it.
        server: Any = ray.remote(num_cpus=0, num_gpus=gpus, max_restarts=-1, max_task_retries=-1)(InferenceServer)
        servers = tuple(server.remote(device) for _ in range(actors))
        try:
            try:
                found = sorted(set(ray.get([one.numerics.remote() for one in servers])))
            except RayError as error:
                raise InferenceError(f"inference actors cannot run on {device}: {_reason(error)}") from error
            if len(found) > 1:
                raise InferenceError(f"inference actors have {found[0]!r} and {found[1]!r}; use GPUs of one kind")
            yield Inference(servers, found[0])
        finally:
            for one in servers:
                ray.kill(one)


class ServedPolicy(Policy):
    """A policy whose forwards an inference actor makes; to be told of one by `connect` before it acts."""

    def connect(self, inference: Inference, job: ray.ObjectRef) -> None:
        """`job` refers to the `Job` that holds this policy."""
        self._asked = inference.numerics
        self._server = inference.servers[os.getpid() % len(inference.servers)]
        self._job = job

    @property
    def numerics(self) -> str:
        return self._asked

    def act(
        self,
        history: NDArray[np.float32],
        lengths: NDArray[np.integer],
        uniforms: NDArray[np.float64],
        batch_size: int = 32,
        held: NDArray[np.int64] | None = None,
    ) -> Acted:
        """As of any policy. Raises `InferenceError`."""
        rows = history, lengths, uniforms, np.full(len(history), DRAW) if held is None else held
        while (acted := self._ask(self._server.act.remote(self.digest, batch_size, *rows))) is None:
            self._ask(self._server.learn.remote(self.digest, self._asked, [self._job]))
        return acted

    def _ask(self, call: ray.ObjectRef) -> Any:
        try:
            return ray.get(call, timeout=ANSWER_SECONDS)
        except GetTimeoutError as error:
            raise InferenceError(f"an inference actor gave no answer in {ANSWER_SECONDS:g} seconds") from error
        except RayError as error:
            raise InferenceError(f"an inference actor cannot compute: {_reason(error)}") from error


def _reason(error: RayError) -> str:
    """The last line of what Ray says, or what the actor raised."""
    if isinstance(error, RayTaskError):
        return f"{type(error.cause).__name__}: {error.cause}"
    return last_line(error)
