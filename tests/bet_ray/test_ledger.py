"""Episodes are recorded exactly once, whatever is repeated, torn or interrupted."""

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bet import tasks
from bet.config import Split
from bet.metrics import PushTOutcome
from bet.protocol import episode_randomness
from bet.rollout import End, EpisodeResult
from bet_ray.ledger import PARTS, Ledger
from bet_ray.manifest import RunError
from bet_ray.results import EpisodeSource, episodes_table, execution_table

TASK = tasks.get("pusht")
SOURCE = EpisodeSource("policy", TASK.protocol.digest, "torch", "report", "pusht", TASK.protocol.name, 0)


def rows(indices: list[int], source: EpisodeSource = SOURCE) -> tuple[pa.Table, pa.Table]:
    """Episode and execution rows as a worker would make them: deterministic in the index."""
    results = [
        EpisodeResult(
            index=index,
            seed=episode_randomness(TASK.protocol, Split.REPORT, index)[0],
            success=index % 3 == 0,
            primary=index % 7 / 7,
            total_reward=float(index),
            max_reward=0.5,
            length=index + 1,
            end=End.TIME_LIMIT,
            outcome=PushTOutcome(best_coverage=0.5),
            trajectory=None,
        )
        for index in indices
    ]
    execution = [
        source.key | {"index": i, "node": "n", "actor": "a", "wall_seconds": 0.1, "attempts": 1} for i in indices
    ]
    return episodes_table(TASK, source, results), execution_table(execution)


def indices(ledger: Ledger, source: EpisodeSource = SOURCE) -> list[int]:
    """The episodes of a policy that are done."""
    return ledger.of(source).column("index").to_pylist()


def test_what_is_appended_is_read_back_in_key_order(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, TASK)
    ledger.append(*rows([3, 1]))
    ledger.append(*rows([2, 0]))
    assert ledger.read().column("index").to_pylist() == [0, 1, 2, 3]


def test_an_empty_ledger_reads_as_no_rows(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, TASK)
    assert ledger.read().num_rows == 0
    assert indices(ledger) == []


@settings(max_examples=25)
@given(
    batches=st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=6, unique=True), min_size=1, max_size=6),
    compact_after=st.sets(st.integers(0, 5)),
)
def test_no_episode_is_lost_or_counted_twice_however_parts_overlap(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[int]], compact_after: set[int]
) -> None:
    ledger = Ledger(tmp_path_factory.mktemp("run"), TASK)
    for number, batch in enumerate(batches):
        ledger.append(*rows(batch))
        if number in compact_after:
            ledger.compact()
    expected = sorted({index for batch in batches for index in batch})
    assert ledger.read().equals(rows(expected)[0])
    ledger.compact()
    assert ledger.read().equals(rows(expected)[0])


def test_compaction_leaves_one_published_file_and_no_parts(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, TASK)
    for index in range(5):
        ledger.append(*rows([index]))
    ledger.compact()
    assert len(list((tmp_path / "episodes").glob("*.parquet"))) == 1
    assert not list((tmp_path / "episodes" / PARTS).iterdir())
    assert len(list((tmp_path / "execution").glob("*.parquet"))) == 1


def test_two_published_tables_become_one_at_the_next_compaction(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, TASK)
    ledger.append(*rows([0, 1]))
    ledger.compact()
    published = next((tmp_path / "episodes").glob("*.parquet"))
    (tmp_path / "episodes" / "twin.parquet").write_bytes(published.read_bytes())  # as two evaluations at once leave it
    ledger.compact()
    assert len(list((tmp_path / "episodes").glob("*.parquet"))) == 1
    assert ledger.read().equals(rows([0, 1])[0])


def test_a_crash_between_publishing_and_removing_parts_counts_nothing_twice(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, TASK)
    ledger.append(*rows([0, 1]))
    part = next((tmp_path / "episodes" / PARTS).glob("*.parquet"))
    kept = part.read_bytes()
    ledger.compact()
    part.write_bytes(kept)  # as if the removal had never happened
    assert ledger.read().equals(rows([0, 1])[0])


def test_a_torn_part_is_set_aside_with_a_warning_and_its_episodes_are_missing_again(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, TASK)
    ledger.append(*rows([0, 1]))
    torn = next((tmp_path / "episodes" / PARTS).glob("*.parquet"))
    ledger.append(*rows([2]))
    torn.write_bytes(torn.read_bytes()[:100])
    with pytest.warns(UserWarning, match="does not open"):
        assert indices(ledger) == [2]
    assert torn.with_suffix(".corrupt").exists()
    assert indices(ledger) == [2]


def test_a_part_that_somebody_compacts_meanwhile_is_read_from_where_it_went(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(tmp_path, TASK)
    ledger.append(*rows([0, 1]))
    stale = ledger._files()
    ledger.compact()
    lists = iter([stale, ledger._files()])
    monkeypatch.setattr(ledger, "_files", lambda: next(lists))
    assert indices(ledger) == [0, 1]
    assert not list(tmp_path.rglob("*.corrupt"))


def test_a_sound_file_of_another_task_is_refused_and_left_alone(tmp_path: Path) -> None:
    Ledger(tmp_path, TASK).append(*rows([0]))
    with pytest.raises(RunError, match="holds other columns than this task's episodes"):
        Ledger(tmp_path, tasks.get("pointmass2")).read()
    assert indices(Ledger(tmp_path, TASK)) == [0]


def test_policies_and_splits_do_not_mix(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, TASK)
    other = EpisodeSource(**{**vars(SOURCE), "policy_digest": "other"})
    ledger.append(*rows([0, 1]))
    ledger.append(*rows([0], other))
    assert indices(ledger, other) == [0]
    assert ledger.of(other).num_rows == 1
    assert ledger.read().num_rows == 3


def test_an_error_row_has_no_task_columns_but_counts_as_done(tmp_path: Path) -> None:
    from bet.rollout import failed

    ledger = Ledger(tmp_path, TASK)
    _, execution = rows([4])
    ledger.append(episodes_table(TASK, SOURCE, [failed(TASK.protocol, Split.REPORT, 4)]), execution)
    row = ledger.read().to_pylist()[0]
    assert row["end"] == "error"
    assert row["best_coverage"] is None
    assert indices(ledger) == [4]
