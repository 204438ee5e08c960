"""The service rolls out what trials hand it. What it does when its pool fails is in test_faults.py."""

from dataclasses import replace
from pathlib import Path

import pytest

from bet import tasks
from bet.envs.pointmass import PointMassVersion
from bet.oracles.pointmass import demonstrations
from bet_ray.ledger import Ledger
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
        asked = service.evaluate(replace(here, source=elsewhere, fingerprint="its own"), 20)
        assert set(asked.column("numerics").to_pylist()) == {here.source.numerics}
        assert service.evaluate(here, 20).equals(asked)  # which did not run again
    finally:
        service.close()
    assert Ledger(tmp_path, tasks.get("pointmass2")).execution.read().num_rows == 20
