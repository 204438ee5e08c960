"""The pool gives the same table whatever its shape. What it does when workers die is in test_faults.py."""

import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
import ray
from ray._private.internal_api import node_stats
from ray.core.generated.common_pb2 import ActorDiedErrorContext  # pyright: ignore[reportAttributeAccessIssue]
from ray.exceptions import ActorDiedError

from bet import tasks
from bet.config import Split
from bet.policy import Policy
from bet.protocol import Recipe
from bet.rollout import rollout
from bet_ray import pool as pool_module
from bet_ray.dispatch import Finished
from bet_ray.pool import Pool
from bet_ray.results import episodes_table, unique_rows
from bet_ray.worker import Job, PoolError, RolloutWorker
from tests.bet.test_rollout import pusht as wandering_pusht_policy
from tests.bet_ray.commands import eventually

pytestmark = pytest.mark.slow


def job_of(run: Path, *, trajectories: bool = False) -> Job:
    policy = Policy.load(run)
    protocol = tasks.get("pointmass2").protocol
    return Job.of(policy, Recipe(protocol), Split.REPORT, keep_trajectories=trajectories)


def here(job: Job, episodes: int) -> pa.Table:
    """The rows that this process makes of a job's first episodes, without Ray."""
    results = rollout(Policy.unpack(*job.packed), job.recipe, job.split, range(episodes), slots=32)
    return unique_rows(episodes_table(tasks.simulated(job.source.task), job.source, list(results)))


def drain(pool: Pool, seconds: float = 120) -> pa.Table:
    """Poll until the pool is idle; every row that came, duplicates included."""
    tables = []
    deadline = time.monotonic() + seconds
    while not pool.idle:
        assert time.monotonic() < deadline, "the pool does not finish"
        tables += [finished.episodes for finished in pool.poll()]
    return pa.concat_tables(tables)


@pytest.mark.usefixtures("ray_session")
def test_tables_are_identical_whatever_the_number_of_actors_and_slots(trained: Path) -> None:
    job = job_of(trained)
    alone = here(job, 100)
    for actors, slots in ((1, 4), (2, 16)):
        with Pool(actors, slots) as pool:
            pool.submit(job, list(range(100)))
            assert unique_rows(drain(pool)).equals(alone)


@pytest.mark.usefixtures("ray_session")
def test_a_table_of_contact_physics_is_identical_too() -> None:
    protocol = tasks.get("pusht").protocol.model_copy(update={"max_steps": 40})
    job = Job.of(wandering_pusht_policy(), Recipe(protocol), Split.REPORT)
    with Pool(2, 4) as pool:
        pool.submit(job, list(range(40)))
        table = unique_rows(drain(pool))
    assert table.equals(here(job, 40))
    assert max(table.column("best_coverage").to_pylist()) > 0


@pytest.mark.usefixtures("ray_session")
def test_two_jobs_share_the_workers_and_get_their_own_episodes(trained: Path) -> None:
    report = job_of(trained)
    tune = Job.of(Policy.load(trained), report.recipe, Split.TUNE)
    with Pool(1, 8) as pool:
        first, second = pool.submit(report, list(range(20))), pool.submit(tune, list(range(30)))
        counts = {first: 0, second: 0}
        splits: dict[str, set[str]] = {first: set(), second: set()}
        while not pool.idle:
            for finished in pool.poll():
                counts[finished.job] += len(finished)
                splits[finished.job] |= set(finished.episodes.column("split").to_pylist())
    assert counts == {first: 20, second: 30}
    assert splits == {first: {"report"}, second: {"tune"}}


def stored() -> int:
    """MB in the object store."""
    (node,) = ray.nodes()
    stats = node_stats(node["NodeManagerAddress"], node["NodeManagerPort"], include_memory_info=False).store_stats
    return stats.object_store_bytes_used >> 20


@pytest.mark.usefixtures("ray_session")
def test_policies_are_in_the_object_store_only_while_their_episodes_run(trained: Path) -> None:
    job = job_of(trained)
    about, weights = job.packed
    large = replace(job, packed=(about + b" " * 2**23, weights))
    before, looks = stored(), []
    with Pool(1, 4) as pool:
        for _ in range(6):
            pool.submit(large, range(16))
        while not pool.idle:
            pool.poll()
            looks.append(stored() - before)
        assert next(filter(None, looks)) == 8  # the first one's: the others wait
        eventually(lambda: stored() <= before)  # Ray frees once a second


@pytest.mark.usefixtures("ray_session")
def test_a_pool_whose_workers_cannot_start_says_so(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(RolloutWorker):
        def __init__(self, slots: int) -> None:
            raise OSError("no such library")

    monkeypatch.setattr(pool_module, "RolloutWorker", Broken)
    monkeypatch.setattr(pool_module, "FAILED_STARTS", 2)
    with Pool(1, 4) as pool:
        pool.submit(job_of(trained), list(range(40)))
        with pytest.raises(PoolError, match="could not start: OSError: no such library"):
            drain(pool)


def test_workers_whose_node_dies_while_they_start_wait_for_the_next_one_all_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class OnNoNode(Pool):
        """Its workers are never called; they start where a test says, or not."""

        def _start(self) -> Any:
            return SimpleNamespace(ready=SimpleNamespace(remote=object))

    def died(*_: object) -> None:
        raise ActorDiedError(ActorDiedErrorContext(error_message=said, actor_id=b"1" * 16, never_started=True))

    monkeypatch.setattr(ray, "get", died)
    monkeypatch.setattr(ray, "kill", lambda _: None)
    monkeypatch.setattr(ray, "wait", lambda calls, **_: (calls, []))
    pool = OnNoNode(8, 4)
    said = "The actor died because its node has died. Node Id: 3f"
    for _ in range(3):
        assert pool.poll() == []
        assert len(pool._calls) == 8
    said = "The actor died because its worker process exited."
    assert pool.poll() == []
    with pytest.raises(PoolError, match="10 rollout workers in a row could not start"):
        pool.poll()


@pytest.mark.usefixtures("ray_session")
def test_a_worker_that_computes_otherwise_than_it_is_asked_to_is_refused(trained: Path) -> None:
    job = job_of(trained)
    elsewhere = replace(job.source, numerics=f"{job.source.numerics[:-1]}x")  # another CPU model, of equal capability
    with Pool(1, 4) as pool:
        pool.submit(replace(job, source=elsewhere), [0])
        with pytest.raises(PoolError, match=r"this node computes with .* run on nodes of one kind"):
            drain(pool)


@pytest.mark.usefixtures("ray_session")
def test_trajectories_come_only_when_asked_for(trained: Path) -> None:
    with Pool(1, 4) as pool:
        pool.submit(job_of(trained), [0])
        assert [finished.trajectories for finished in _all(pool)] == [None]
        pool.submit(job_of(trained, trajectories=True), [0])
        (finished,) = _all(pool)
    assert finished.trajectories is not None
    assert finished.trajectories.num_rows == finished.episodes.column("length")[0].as_py() + 1


def test_a_pool_needs_an_actor_and_a_slot() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Pool(0, 4)


def _all(pool: Pool) -> list[Finished]:
    finished = []
    while not pool.idle:
        finished += pool.poll()
    return finished
