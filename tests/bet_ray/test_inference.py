"""Actions from an inference actor are those that a worker would compute, whoever asks at the same time, and crashes."""

import asyncio
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pytest
import ray
import torch

from bet import tasks
from bet.config import Split
from bet.errors import UsageError
from bet.policy import DRAW, Policy
from bet.protocol import Recipe
from bet_ray import inference
from bet_ray.evaluation import Evaluation, LazyPool, PoolShape, evaluate_all
from bet_ray.inference import Inference, InferenceError, InferenceServer, serving
from bet_ray.pool import Pool
from bet_ray.results import unique_rows
from bet_ray.worker import Job, PoolError
from tests.bet_ray.test_pool import here, job_of

BATCH = 16


def rows(policy: Policy, count: int, seed: int) -> tuple[np.ndarray, ...]:
    """What a worker with so many running slots asks for; one bin in four is held."""
    random = np.random.default_rng(seed)
    history = random.uniform(0, 8, (count, policy.window, policy.model.obs_dim)).astype(np.float32)
    held = np.where(random.random(count) < 0.25, 1, DRAW)
    return history, random.integers(1, policy.window + 1, count), random.random(count), held


async def asked(server: InferenceServer, batches: list[tuple[np.ndarray, ...]], digest: str) -> list:
    """Answers to requests that wait at the same time."""
    calls = (server.act(digest, BATCH, *batch) for batch in batches)
    return await asyncio.gather(*calls, return_exceptions=True)


def serves(policy: Policy) -> InferenceServer:
    """A server in this process that knows a policy."""
    server = InferenceServer("cpu")
    server._policies[policy.digest] = policy
    return server


def test_of_many_policies_those_used_last_are_kept_and_none_that_a_request_waits_for_is_put_away(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, "POLICIES", 2)
    job = Job.of(policy, Recipe(tasks.get("pointmass2").protocol), Split.REPORT)

    async def known(used: str, *, waits: bool) -> set[str]:
        server = InferenceServer("cpu")
        for name in "ab":
            await learn(server, name)
        answer = asyncio.ensure_future(server.act(used, BATCH, *rows(policy, 1, 0)))
        await (asyncio.sleep(0) if waits else answer)
        await learn(server, "c")
        assert await answer is not None
        return set(server._policies)

    async def learn(server: InferenceServer, name: str) -> None:
        there: asyncio.Future[Job] = asyncio.get_running_loop().create_future()
        there.set_result(job)
        await server.learn(name, policy.numerics, [there])  # pyright: ignore[reportArgumentType]

    assert asyncio.run(known("b", waits=False)) == {"b", "c"}
    assert asyncio.run(known("a", waits=False)) == {"a", "c"}
    assert asyncio.run(known("a", waits=True)) == {"a", "b", "c"}  # put away when the next one comes


def test_requests_that_wait_together_share_forwards_and_each_gets_its_own_rows_to_the_last_bit(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = Policy.load(trained)
    batches = [rows(policy, count, seed) for seed, count in enumerate((5, 1, 9, 16, 2))]
    expected = [policy.act(history, lengths, drawn, BATCH, held) for history, lengths, drawn, held in batches]
    read, sizes = policy.model.read, []
    monkeypatch.setattr(policy.model, "read", lambda *inputs: sizes.append(len(inputs[0])) or read(*inputs))
    answers = asyncio.run(asked(serves(policy), batches, policy.digest))
    assert sizes == [BATCH] * 3  # for 33 rows
    for (actions, bins), (own_actions, own_bins) in zip(answers, expected, strict=True):
        assert actions.tobytes() == own_actions.tobytes()
        assert bins.tobytes() == own_bins.tobytes()


def test_a_policy_that_is_not_known_is_asked_for(trained: Path) -> None:
    policy = Policy.load(trained)
    assert asyncio.run(asked(InferenceServer("cpu"), [rows(policy, 3, 0)], policy.digest)) == [None]


def test_what_goes_wrong_on_the_device_is_told_to_all_who_wait(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = Policy.load(trained)

    def read(*_: torch.Tensor) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(policy.model, "read", read)
    answers = asyncio.run(asked(serves(policy), [rows(policy, 3, 0), rows(policy, 2, 1)], policy.digest))
    assert [str(answer) for answer in answers] == ["out of memory"] * 2


def test_an_actor_that_has_other_numerics_takes_no_policy_on() -> None:
    server = InferenceServer("cpu")
    with pytest.raises(InferenceError, match=r"it has 'torch .* cpu float32 .*' now, .* asked for with 'torch 1\.0'"):
        asyncio.run(server.learn("digest", "torch 1.0", []))


@pytest.fixture(scope="module")
def served(ray_session: int) -> Iterator[Inference]:
    with serving("cpu") as inference:
        yield inference


def asked_of(trained: Path, inference: Inference | None, **settings: int) -> Evaluation:
    return Evaluation.of(trained, None, settings={f"eval.{k}": v for k, v in settings.items()}, inference=inference)


@pytest.mark.slow
def test_a_served_table_is_the_one_that_workers_make_alone(trained: Path, served: Inference) -> None:
    alone, held = (here(asked_of(trained, None, **way).job, 60) for way in ({}, {"hold_bins": 3}))
    assert not held.equals(alone)
    both = [asked_of(trained, served), asked_of(trained, served, hold_bins=3)]
    for shape in (PoolShape(2, 16), PoolShape(1, 50)):
        with LazyPool(shape) as pool:
            tables = evaluate_all(both, 60, pool).tables
        assert all(table.equals(expected) for table, expected in zip(tables, (alone, held), strict=True))


def server_process() -> psutil.Process:
    family = psutil.Process().children(recursive=True)
    (found,) = (process for process in family if process.name().startswith("ray::Inference"))
    return found


@pytest.mark.slow
def test_an_inference_actor_killed_with_kill_9_comes_back_and_no_episode_is_lost(
    trained: Path, served: Inference
) -> None:
    policy, protocol = Policy.load(trained), tasks.get("pointmass2").protocol
    tables = []
    with Pool(2, 8) as pool:
        pool.submit(Job.of(policy, Recipe(protocol), Split.REPORT, inference=served), range(1500))
        while not tables:
            tables += [finished.episodes for finished in pool.poll()]
        before = server_process()
        before.send_signal(signal.SIGKILL)
        deadline = time.monotonic() + 120
        while not pool.idle:
            assert time.monotonic() < deadline
            tables += [finished.episodes for finished in pool.poll()]
    assert server_process() != before
    table = pa.concat_tables(tables)
    assert sorted(table.column("index").to_pylist()) == list(range(1500))
    assert unique_rows(table).equals(here(job_of(trained), 1500))


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_an_inference_actor_that_is_gone_for_good_ends_the_run_and_no_episode_is_blamed(trained: Path) -> None:
    with serving("cpu") as inference:
        one = Evaluation.of(trained, None, inference=inference)
        (server,) = inference.servers
        ray.kill(server)
        with LazyPool(PoolShape(1, 4)) as pool, pytest.raises(PoolError, match="an inference actor cannot compute"):
            evaluate_all([one], 20, pool)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_gpu_that_is_not_there_is_named_at_once() -> None:
    if ray.cluster_resources().get("GPU", 0) >= 99:
        pytest.skip("there are that many")
    with pytest.raises(UsageError, match="--inference cuda: 99 asked for, and Ray finds"), serving("cuda", 99):
        pass
