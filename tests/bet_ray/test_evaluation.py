"""`evaluate` gives the promised table and extends it."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bet import tasks
from bet.config import Split
from bet.policy import Policy, resolve
from bet_ray import evaluate
from bet_ray.evaluation import (
    Evaluation,
    LazyPool,
    PoolShape,
    evaluate_all,
    measurement,
    recipe_of,
    run_of,
)
from bet_ray.ledger import Ledger, MixedNumericsError
from bet_ray.manifest import EVALUATIONS, UNDER_WAY, read_manifest
from bet_ray.replay import Match, compare, replay
from bet_ray.results import EpisodeSource, episodes_schema, write_table
from bet_ray.saved import saved_trajectories
from tests.bet_ray.test_pool import here, job_of

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_session")]


@pytest.fixture(scope="module")
def pool(ray_session: int) -> Iterator[LazyPool]:
    """Workers for all of these tests."""
    with LazyPool(PoolShape(actors=2, slots=4)) as pool:
        yield pool


def test_the_table_has_the_published_schema_and_the_asked_episodes(trained: Path, pool: LazyPool) -> None:
    table = evaluate(trained, episodes=20, pool=pool)
    assert table.schema == episodes_schema(tasks.get("pointmass2"))
    assert table.column("index").to_pylist() == list(range(20))


def test_extending_keeps_the_rows_that_were_there_and_runs_only_the_rest(
    trained: Path, pool: LazyPool, tmp_path: Path
) -> None:
    few = evaluate(trained, episodes=10, pool=pool, out=tmp_path)
    counts: list[tuple[int, int, int]] = []
    many = evaluate(trained, episodes=30, pool=pool, out=tmp_path, progress=lambda *count: counts.append(count))
    assert many.slice(0, 10).equals(few)
    assert counts[0] == (10, 30, 10)
    assert counts[-1] == (30, 30, 10)
    assert pq.read_table(tmp_path / "execution").num_rows == 30


def test_a_finished_evaluation_is_read_not_run(trained: Path, pool: LazyPool, tmp_path: Path) -> None:
    first = evaluate(trained, episodes=10, pool=pool, out=tmp_path)
    counts: list[tuple[int, int, int]] = []
    again = evaluate(trained, episodes=10, out=tmp_path, progress=lambda *count: counts.append(count))
    assert again.equals(first)
    assert counts == [(10, 10, 10)]
    assert evaluate(trained, episodes=4, out=tmp_path).equals(first.slice(0, 4))


def test_rows_of_other_numerics_do_not_mix_silently(trained: Path, pool: LazyPool, tmp_path: Path) -> None:
    table = evaluate(trained, episodes=5, pool=pool)
    position = table.column_names.index("numerics")
    foreign = table.set_column(position, table.schema.field(position), pa.array(["torch 1.0 SSE cpu float32"] * 5))
    write_table(foreign, tmp_path / "episodes" / "foreign.parquet")
    with pytest.raises(MixedNumericsError, match=r"torch 1\.0 SSE"):
        evaluate(trained, episodes=5, out=tmp_path)
    allowed = evaluate(trained, episodes=5, pool=pool, out=tmp_path, allow_mixed_numerics=True)
    assert allowed.equals(table)


def test_another_way_to_evaluate_has_rows_of_its_own_and_replays_under_its_own_settings_only(
    trained: Path, pool: LazyPool, tmp_path: Path
) -> None:
    settings = {"eval.hold_bins": 3, "eval.window": 1, "eval.start": "demonstrations"}
    usual = evaluate(trained, episodes=12, pool=pool, out=tmp_path)
    other = evaluate(trained, episodes=12, pool=pool, out=tmp_path, settings=settings)
    assert not set(usual.column("protocol_digest").to_pylist()) & set(other.column("protocol_digest").to_pylist())
    assert Ledger(tmp_path, tasks.get("pointmass2")).read().num_rows == 24
    policy = Policy.load(trained)
    changed, partly = recipe_of(policy, settings), recipe_of(policy, {"eval.hold_bins": 3})
    replayed = replay(policy, changed, Split.REPORT, 4, pictures=False)
    source = EpisodeSource.of(policy, changed.protocol, Split.REPORT)
    assert compare(replayed, source, tmp_path) is Match.SAME
    source = EpisodeSource.of(policy, partly.protocol, Split.REPORT)
    assert compare(replayed, source, tmp_path) is Match.UNRECORDED


def test_a_measurement_of_the_table_names_the_modes(trained: Path, pool: LazyPool) -> None:
    found = measurement(tasks.get("pointmass2"), evaluate(trained, episodes=20, pool=pool))
    assert found.episodes == 20
    assert set(found.mode_shares) == set(tasks.get("pointmass2").modes)
    assert found.primary.low <= found.primary.estimate <= found.primary.high


def test_a_policy_directory_outside_any_run_holds_its_own_episodes(
    trained: Path, pool: LazyPool, tmp_path: Path
) -> None:
    Policy.load(trained).save(tmp_path / "policy")
    first = evaluate(tmp_path / "policy", episodes=4, pool=pool, out=tmp_path / "policy")
    assert evaluate(tmp_path / "policy", episodes=4, out=tmp_path / "policy").equals(first)


def test_a_policy_belongs_to_the_run_it_lies_in(tmp_path: Path) -> None:
    assert run_of(tmp_path / "run" / "policies" / "ab12" / "0" / "40") == tmp_path / "run"
    assert run_of(tmp_path / "run") == tmp_path / "run"


def test_many_policies_share_one_pool_and_equal_ones_their_rows(trained: Path, pool: LazyPool, tmp_path: Path) -> None:
    best = Policy.load(trained)
    best.model.get_parameter("head.weight")[0] += 1
    parts = best.centers, best.observation_normalizer, best.action_normalizer, best.dataset_digest
    Policy(best.config, best.model, *parts).save(tmp_path / "other")
    paths = [trained, tmp_path / "other", resolve(trained)]
    evaluations = [Evaluation.of(path, tmp_path / "run") for path in paths]
    counts: list[tuple[int, int, int]] = []
    found = evaluate_all(evaluations, 30, pool, progress=lambda *count: counts.append(count))
    again = evaluate_all(evaluations, 40, pool)
    assert counts[-1] == (60, 60, 0)
    assert found.ran == 60
    assert again.ran == 20
    assert found.tables[0].equals(found.tables[2])
    assert not found.tables[0].equals(found.tables[1])
    assert all(more.slice(0, 30).equals(few) for more, few in zip(again.tables, found.tables, strict=True))
    for path, table in zip(paths, found.tables, strict=True):
        assert table.equals(here(job_of(path), 30))
    manifest = read_manifest(tmp_path / "run")
    noted = manifest[EVALUATIONS]
    assert UNDER_WAY not in manifest  # all have ended
    assert [entry["ran"] for entry in noted] == [30, 30, 10, 10]
    assert all(0.5 < entry["utilisation"] <= 1 and entry["episodes_per_second"] > 0 for entry in noted)
    assert found.usage.busy == sum(sum(table.column("length").to_pylist()) for table in found.tables[:2])


def test_episodes_recorded_without_their_steps_run_again_when_steps_are_asked_for(
    trained: Path, pool: LazyPool, tmp_path: Path
) -> None:
    plain = evaluate(trained, episodes=6, pool=pool, out=tmp_path)
    counts: list[tuple[int, int, int]] = []
    kept = evaluate(
        trained, episodes=8, pool=pool, out=tmp_path, trajectories=True, progress=lambda *c: counts.append(c)
    )
    assert counts[0] == (0, 8, 0)
    assert kept.slice(0, 6).equals(plain)
    assert len(saved_trajectories(tmp_path, tasks.simulated("pointmass2"))) == 8
    assert pq.read_table(tmp_path / "episodes").num_rows == 8
