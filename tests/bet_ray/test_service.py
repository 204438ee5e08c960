"""The service rolls out what trials hand it. What it does when its pool fails is in test_faults.py."""

from dataclasses import replace
from pathlib import Path

import pytest

from bet import tasks
from bet.envs.pointmass import PointMassVersion
from bet.oracles.pointmass import demonstrations
from bet.policy import Policy
from bet.rollout import rollout
from bet_ray.ledger import Ledger, MixedNumericsError
from bet_ray.results import episodes_table
from bet_ray.service import RolloutService
from tests.bet_ray.test_pool import job_of


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_who_asks_may_compute_with_another_cpu_than_the_workers_whose_the_episodes_are(
    trained: Path, tmp_path: Path
) -> None:
    here = job_of(trained)
    elsewhere = replace(here.source, numerics="torch of a node with a GPU")
    service = RolloutService(tmp_path, "pointmass2", demonstrations(PointMassVersion.TWO, 5, seed=0), 1, 8, 1.0)
    try:
        asked = service.evaluate(replace(here, source=elsewhere), 20)
        assert set(asked.column("numerics").to_pylist()) == {here.source.numerics}
        assert service.evaluate(here, 20).equals(asked)  # which did not run again
    finally:
        service.close()
    assert Ledger(tmp_path, tasks.get("pointmass2")).execution.read().num_rows == 20


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_sweep_whose_workers_compute_otherwise_than_before_ends_with_one_line(trained: Path, tmp_path: Path) -> None:
    job = job_of(trained)
    before = replace(job.source, numerics="torch 1.0 SSE")
    results = rollout(Policy.load(trained), job.recipe, job.split, [0], slots=1)
    rows = episodes_table(tasks.get("pointmass2"), before, list(results))
    Ledger(tmp_path, tasks.get("pointmass2")).episodes.append(rows)
    service = RolloutService(tmp_path, "pointmass2", demonstrations(PointMassVersion.TWO, 5, seed=0), 1, 8, 1.0)
    with pytest.raises(
        MixedNumericsError, match=r"made with 'torch 1\.0 SSE', the rollout workers have '.*'; resume where"
    ):
        service.evaluate(job, 20)
