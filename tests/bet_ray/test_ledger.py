"""Episodes are recorded exactly once, whatever is repeated, torn or interrupted."""

import subprocess
import sys
import warnings
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bet import tasks
from bet.config import Split
from bet.metrics import PushTOutcome
from bet.protocol import episode_randomness
from bet.rollout import End, EpisodeResult, failed
from bet_ray.ledger import PARTS, Ledger
from bet_ray.manifest import RunError
from bet_ray.results import EpisodeSource, episodes_table, execution_table, write_table

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


def published(run: Path) -> pa.Table:
    """What a reader finds who knows nothing of parts."""
    files = sorted((run / "episodes").glob("*.parquet"))
    return pa.concat_tables([pq.read_table(file) for file in files])


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
    publish_after=st.sets(st.integers(0, 5)),
)
def test_no_episode_is_lost_or_counted_twice_however_parts_overlap(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[int]], publish_after: set[int]
) -> None:
    ledger = Ledger(tmp_path_factory.mktemp("run"), TASK)
    for number, batch in enumerate(batches):
        ledger.append(*rows(batch))
        if number in publish_after:
            ledger.publish()
    expected = sorted({index for batch in batches for index in batch})
    assert ledger.read().equals(rows(expected)[0])
    ledger.publish()
    assert ledger.read().equals(rows(expected)[0])


def test_publishing_leaves_one_published_file_and_no_parts(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, TASK)
    for index in range(5):
        ledger.append(*rows([index]))
    ledger.publish()
    assert len(list((tmp_path / "episodes").glob("*.parquet"))) == 1
    assert not list((tmp_path / "episodes" / PARTS).iterdir())
    assert len(list((tmp_path / "execution").glob("*.parquet"))) == 1


def test_whoever_asks_for_one_policy_need_not_read_the_others_of_a_large_file(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, TASK)
    tables, digests = rows(list(range(2000))), [f"{policy:02d}" for policy in range(20)]
    for digest in digests:
        ledger.append(*(table.set_column(0, "policy_digest", pa.repeat(digest, len(table))) for table in tables))
    ledger.publish()
    (file,) = (tmp_path / "episodes").glob("*.parquet")
    about = pq.read_metadata(file)
    groups = [about.row_group(number) for number in range(about.num_row_groups)]
    extent = [(group.column(0).statistics, group.num_rows) for group in groups]
    assert sum(count for of, count in extent if of.min <= "07" <= of.max) < about.num_rows // 2
    assert indices(ledger, replace(SOURCE, policy_digest="07")) == list(range(2000))


def test_publishing_again_writes_only_what_is_new(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, TASK)
    ledger.append(*rows([0, 1]))
    ledger.publish()
    (first,) = (tmp_path / "episodes").glob("*.parquet")
    before = first.read_bytes()
    ledger.append(*rows([1, 2]))
    ledger.publish()
    assert first.read_bytes() == before
    assert sorted(published(tmp_path).column("index").to_pylist()) == [0, 1, 2]


def test_rows_that_two_processes_published_at_once_become_one_at_the_next_publishing(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, TASK)
    ledger.append(*rows([0, 1]))
    ledger.publish()
    (first,) = (tmp_path / "episodes").glob("*.parquet")
    (tmp_path / "episodes" / "twin.parquet").write_bytes(first.read_bytes())  # where the file system has no locks
    assert ledger.read().equals(rows([0, 1])[0])
    ledger.append(*rows([2]))
    ledger.publish()
    assert published(tmp_path).column("index").to_pylist() == [0, 1, 2]


def test_an_error_that_was_made_good_counts_no_more(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, TASK)
    error = failed(TASK.protocol, Split.REPORT, 1, "the simulator hung")
    told = SOURCE.key | {"index": 1, "node": "n", "actor": "a", "attempts": 3, "error": error.error}
    ledger.append(episodes_table(TASK, SOURCE, [error]), execution_table([told]))
    ledger.append(*rows([0]))
    assert ledger.errors(SOURCE) == {1: "the simulator hung"}
    ledger.publish()
    assert ledger.errors(SOURCE) == {1: "the simulator hung"}
    ledger.append(*rows([1]))
    assert ledger.errors(SOURCE) == {}
    ledger.publish()
    assert published(tmp_path).equals(rows([0, 1])[0])
    assert pq.read_table(tmp_path / "execution").column("attempts").to_pylist() == [1, 1]


WRITER = """
import sys, warnings
from pathlib import Path
from bet_ray.ledger import Ledger
from tests.bet_ray.test_ledger import TASK, rows
ledger = Ledger(Path(sys.argv[1]), TASK)
for index in range(int(sys.argv[2]), int(sys.argv[3])):
    ledger.append(*rows([index, index + 1]))
    ledger.publish()
"""


@pytest.mark.slow
def test_readers_see_every_row_once_while_two_processes_write_and_publish(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, TASK)
    ledger.append(*rows(list(range(50))))
    ledger.publish()
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), *span]) for span in (("50", "80"), ("60", "90"))
    ]
    looks = 0
    while any(writer.poll() is None for writer in writers):
        seen = indices(ledger)
        assert seen[:50] == list(range(50))
        assert len(set(seen)) == len(seen)
        with suppress(FileNotFoundError):  # of others' readers, who know nothing of parts: no row twice
            raw = published(tmp_path).column("index").to_pylist()
            assert len(set(raw)) == len(raw)
        looks += 1
    assert [writer.wait() for writer in writers] == [0, 0]
    assert looks > 10
    assert sorted(published(tmp_path).column("index").to_pylist()) == list(range(91))
    assert not list(tmp_path.rglob("*.corrupt"))


def test_a_crash_between_publishing_and_removing_parts_counts_nothing_twice(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, TASK)
    ledger.append(*rows([0, 1]))
    part = next((tmp_path / "episodes" / PARTS).glob("*.parquet"))
    kept = part.read_bytes()
    ledger.publish()
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


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_never_changes_a_row(tmp_path: Path, place: float, bit: int) -> None:
    ledger = Ledger(tmp_path / str(uuid4()), TASK)
    ledger.append(*rows(list(range(20))))
    (part,) = (ledger.run / "episodes" / PARTS).glob("*.parquet")
    damaged = bytearray(part.read_bytes())
    damaged[int(place * len(damaged))] ^= 1 << bit
    part.write_bytes(damaged)
    with warnings.catch_warnings(), suppress(RunError):  # a column's name
        warnings.simplefilter("ignore")
        found = ledger.read()
        assert found.num_rows == 0 or found.equals(rows(list(range(20)))[0])


def test_an_exception_while_episodes_are_recorded_leaves_nothing_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(tmp_path, TASK)

    def interrupted(rows: pa.Table) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(ledger.episodes, "append", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ledger.append(*rows([0, 1]))
    assert not list(tmp_path.rglob("*.parquet"))


def test_a_part_that_somebody_publishes_meanwhile_is_read_from_where_it_went(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(tmp_path, TASK)
    ledger.append(*rows([0, 1]))
    stale = ledger.episodes._parts()
    ledger.publish()
    listings = iter([stale])
    monkeypatch.setattr(ledger.episodes, "_parts", lambda: next(listings, []))
    assert indices(ledger) == [0, 1]
    assert not list(tmp_path.rglob("*.corrupt"))


def test_a_sound_file_of_another_task_is_refused_and_left_alone(tmp_path: Path) -> None:
    Ledger(tmp_path, TASK).append(*rows([0]))
    with pytest.raises(RunError, match="holds other columns than episodes of this task"):
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
    ledger = Ledger(tmp_path, TASK)
    _, execution = rows([4])
    ledger.append(
        episodes_table(TASK, SOURCE, [failed(TASK.protocol, Split.REPORT, 4, "the simulator hung")]), execution
    )
    row = ledger.read().to_pylist()[0]
    assert row["end"] == "error"
    assert row["best_coverage"] is None
    assert indices(ledger) == [4]


def test_a_single_published_file_is_replaced_when_an_error_is_made_good(tmp_path: Path) -> None:
    """Whoever reads it meanwhile sees the old or the new, and no row twice."""
    ledger = Ledger(tmp_path, TASK)
    error = failed(TASK.protocol, Split.REPORT, 0, "the simulator hung")
    ledger.append(episodes_table(TASK, SOURCE, [error]), rows([0])[1])
    ledger.publish()
    before = sorted((tmp_path / "episodes").glob("*.parquet"))
    ledger.append(*rows([0, 1]))
    ledger.publish()
    assert sorted((tmp_path / "episodes").glob("*.parquet")) == before
    assert published(tmp_path).equals(rows([0, 1])[0])


def test_a_table_of_an_earlier_version_without_errors_is_read_and_published(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, TASK)
    episodes, execution = rows([0, 1])
    write_table(episodes, tmp_path / "episodes" / "old.parquet")
    write_table(execution.drop_columns("error"), tmp_path / "execution" / "old.parquet")
    ledger.append(*rows([2]))
    ledger.publish()
    assert ledger.execution.read().column("index").to_pylist() == [0, 1, 2]
    assert indices(ledger) == [0, 1, 2]
