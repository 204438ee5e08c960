"""A replay is the recorded episode, row and steps, to the last bit; where it is not, the difference is named."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bet import tasks
from bet.config import Split
from bet.policy import Policy
from bet.rollout import NOT_FINITE, End, EpisodeResult, failed
from bet_ray.evaluation import recipe_of
from bet_ray.ledger import PARTS
from bet_ray.replay import Match, Replay, StepMatch, compare, compare_steps, failures, recorded, replay, successes
from bet_ray.results import EpisodeSource, episodes_table, write_table
from bet_ray.video import Film

from .recording import record, roll_out

EPISODES = 30
TASK = tasks.get("pointmass2")


@pytest.fixture(scope="module")
def source(policy: Policy) -> EpisodeSource:
    return EpisodeSource.of(policy, recipe_of(policy).protocol, Split.REPORT)


@pytest.fixture(scope="module")
def results(policy: Policy) -> list[EpisodeResult]:
    """Rolled out together: both kinds of end are among them."""
    found = roll_out(policy, EPISODES)
    assert 0 < sum(result.success for result in found) < EPISODES
    return found


def again(policy: Policy, index: int) -> Replay:
    return replay(policy, recipe_of(policy), Split.REPORT, index, pictures=False)


def rewrite(run: Path, column: str, row: int, change) -> None:
    """Changes one value of the steps that a run kept."""
    (file,) = (run / "trajectories" / PARTS).glob("*.parquet")
    table = pq.read_table(file)
    values = table.column(column).to_pylist()
    values[row] = change(values[row])
    at = table.column_names.index(column)
    write_table(table.set_column(at, table.schema.field(at), pa.array(values, table.schema.field(at).type)), file)


def test_every_replay_is_the_recorded_row_and_the_steps_that_were_kept(
    policy: Policy, source: EpisodeSource, results: list[EpisodeResult], tmp_path: Path
) -> None:
    record(tmp_path, policy, results, results[:5])
    for index in range(8):
        one = again(policy, index)
        assert compare(one, source, tmp_path) is Match.SAME
        expected = StepMatch(results[index].length) if index < 5 else None
        assert compare_steps(one, policy, source, tmp_path) == expected


def test_another_number_in_the_row_is_told(
    policy: Policy, source: EpisodeSource, results: list[EpisodeResult], tmp_path: Path
) -> None:
    changed = replace(results[2], total_reward=float(np.nextafter(results[2].total_reward, 2.0)))
    record(tmp_path, policy, [*results[:2], changed])
    assert compare(again(policy, 1), source, tmp_path) is Match.SAME
    assert compare(again(policy, 2), source, tmp_path) is Match.DIFFERENT
    assert compare(again(policy, 3), source, tmp_path) is Match.UNRECORDED


def one_bit(values: list[float]) -> list[float]:
    return [float(np.nextafter(np.float32(values[0]), np.float32(9))), *values[1:]]


@pytest.mark.parametrize(
    ("column", "change"),
    [
        ("observation", one_bit),
        ("action", one_bit),
        ("offset", one_bit),
        ("bin", lambda number: number ^ 1),
        ("reward", lambda zero: -zero),
        ("signal_success", lambda zero: float(np.nextafter(zero, 1))),
    ],
)
def test_one_bit_in_the_file_of_steps_is_found(
    policy: Policy, source: EpisodeSource, results: list[EpisodeResult], tmp_path: Path, column: str, change
) -> None:
    record(tmp_path, policy, results[:2], results[:2])
    rewrite(tmp_path, column, results[0].length + 1 + 3, change)
    assert compare_steps(again(policy, 0), policy, source, tmp_path) == StepMatch(results[0].length)
    found = compare_steps(again(policy, 1), policy, source, tmp_path)
    assert found == StepMatch(results[1].length, 3, (column,))


def test_a_step_that_is_missing_at_the_end_is_found(
    policy: Policy, source: EpisodeSource, results: list[EpisodeResult], tmp_path: Path
) -> None:
    record(tmp_path, policy, results[:1], results[:1])
    (file,) = (tmp_path / "trajectories" / PARTS).glob("*.parquet")
    table = pq.read_table(file)
    write_table(table.slice(0, len(table) - 1), file)
    found = compare_steps(again(policy, 0), policy, source, tmp_path)
    assert found is not None
    assert found.step == results[0].length
    assert "observation" in found.columns


def test_failures_and_successes_come_by_index_and_errors_are_neither(
    policy: Policy, source: EpisodeSource, results: list[EpisodeResult], tmp_path: Path
) -> None:
    lost = [result.index for result in results if not result.success]
    broken = failed(recipe_of(policy).protocol, Split.REPORT, lost[0], NOT_FINITE, 3)
    record(tmp_path, policy, [broken, *(result for result in results if result.index != lost[0])][::-1])
    rows = recorded(source, tmp_path)
    assert failures(rows) == lost[1:]
    assert successes(rows) == [result.index for result in results if result.success]


def test_an_error_without_a_step_was_given_up_and_one_with_steps_is_different(
    policy: Policy, source: EpisodeSource, tmp_path: Path
) -> None:
    protocol = recipe_of(policy).protocol
    given_up = failed(protocol, Split.REPORT, 0, "the simulator hung")
    record(tmp_path, policy, [given_up, failed(protocol, Split.REPORT, 1, NOT_FINITE, 4)])
    assert compare(again(policy, 0), source, tmp_path) is Match.GIVEN_UP
    assert compare(again(policy, 1), source, tmp_path) is Match.DIFFERENT
    same = Replay(failed(protocol, Split.REPORT, 1, NOT_FINITE, 4), Film())
    assert same.result.end is End.ERROR
    assert compare(same, source, tmp_path) is Match.SAME


def test_rows_of_other_numerics_are_taken_where_there_are_no_own_and_said_to_be_so(
    policy: Policy, source: EpisodeSource, results: list[EpisodeResult], tmp_path: Path
) -> None:
    record(tmp_path, policy, results[:4], results[:4])
    foreign = replace(source, numerics="torch 1.0 SSE cpu float32")
    write_table(episodes_table(TASK, foreign, results[2:6]), tmp_path / "episodes" / "foreign.parquet")
    rows = recorded(source, tmp_path)
    assert rows.column("index").to_pylist() == list(range(6))
    assert rows.column("numerics").to_pylist() == [source.numerics] * 4 + [foreign.numerics] * 2
    assert compare(again(policy, 2), source, tmp_path) is Match.SAME
    assert compare(again(policy, 5), source, tmp_path) is Match.OTHER_NUMERICS
    assert compare_steps(again(policy, 5), policy, source, tmp_path) is None
