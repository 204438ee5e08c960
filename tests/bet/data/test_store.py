"""Our demonstrations file: what is written reads back, and what is not ours is refused by name."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from bet.data.episodes import DataError, Episodes
from bet.data.store import load_episodes, save_episodes

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def sample() -> Episodes:
    rng = np.random.default_rng(0)
    return Episodes(rng.random((9, 3), np.float32), rng.random((9, 2), np.float32), np.array([4, 5, 9]), "pusht")


@settings(max_examples=25)
@given(
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=6),
    obs_dim=st.integers(1, 4),
    act_dim=st.integers(1, 4),
    task=st.text(),
    data=st.data(),
)
def test_what_is_saved_loads_to_the_bit(
    tmp_path_factory: pytest.TempPathFactory,
    lengths: list[int],
    obs_dim: int,
    act_dim: int,
    task: str,
    data: st.DataObject,
) -> None:
    steps = sum(lengths)
    episodes = Episodes(
        data.draw(npst.arrays(np.float32, (steps, obs_dim), elements=FLOATS)),
        data.draw(npst.arrays(np.float32, (steps, act_dim), elements=FLOATS)),
        np.cumsum(lengths),
        task,
    )
    path = tmp_path_factory.mktemp("store") / "a.parquet"
    save_episodes(episodes, path)
    loaded = load_episodes(path)
    assert loaded.digest == episodes.digest
    assert loaded.observations.tobytes() == episodes.observations.tobytes()  # -0.0 is not 0.0
    assert (loaded.task, loaded.source) == (task, str(path))


def test_saving_makes_the_folder_replaces_the_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.parquet"
    save_episodes(sample(), path)
    save_episodes(sample().select(np.array([1])), path)
    assert len(load_episodes(path)) == 1
    assert [file.name for file in path.parent.iterdir()] == ["a.parquet"]


def test_any_parquet_tool_reads_it(tmp_path: Path) -> None:
    save_episodes(sample(), tmp_path / "a.parquet")
    table = pq.read_table(tmp_path / "a.parquet")
    assert table.column_names == ["episode", "observation", "action"]
    assert table.column("episode").to_pylist() == [0, 0, 0, 0, 1, 2, 2, 2, 2]
    np.testing.assert_array_equal(table.column("action").to_pylist(), sample().actions)


# What it refuses.


def complaint(path: Path) -> str:
    with pytest.raises(DataError) as error:
        load_episodes(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


def rewritten(path: Path, **columns: Any) -> Path:
    """A demonstrations file with columns replaced; None leaves one out."""
    save_episodes(sample(), path)
    table = pq.read_table(path)
    for name, values in columns.items():
        place = table.column_names.index(name)
        table = table.remove_column(place)
        if values is not None:
            table = table.append_column(name, values)
    pq.write_table(table, path)
    return path


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "no such file" in complaint(tmp_path / "absent.parquet")


@pytest.mark.parametrize("keep", [0, 3, 200, -1])
def test_a_damaged_file_is_refused(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "a.parquet"
    save_episodes(sample(), path)
    path.write_bytes(path.read_bytes()[:keep])
    assert "not a readable parquet file" in complaint(path)


def test_a_file_that_was_never_parquet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_text("observation,action\n1,2\n")
    assert "not a readable parquet file" in complaint(path)


def test_a_parquet_file_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"observation": [1.0], "action": [2.0]}), path)
    assert "not a demonstrations file" in complaint(path)


@pytest.mark.parametrize("column", ["episode", "observation", "action"])
def test_a_missing_column_is_named(tmp_path: Path, column: str) -> None:
    assert f"no column {column!r}" in complaint(rewritten(tmp_path / "a.parquet", **{column: None}))


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = rewritten(tmp_path / "a.parquet")
    table = pq.read_table(path)
    pq.write_table(table.append_column("episode", table.column("episode")), path)
    assert "2 columns 'episode'" in complaint(path)


def test_a_task_that_is_not_text_is_still_a_name(tmp_path: Path) -> None:
    path = rewritten(tmp_path / "a.parquet")
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({b"bet.task": b"\xff"}), path)
    assert load_episodes(path).task == "\ufffd"


def test_episodes_that_are_not_in_order_are_refused_with_the_row(tmp_path: Path) -> None:
    path = rewritten(tmp_path / "a.parquet", episode=pa.array([0, 0, 2, 2, 1, 1, 1, 3, 3]))
    assert "rows are not ordered by episode (row 4)" in complaint(path)


def test_episode_numbers_may_have_gaps(tmp_path: Path) -> None:
    path = rewritten(tmp_path / "a.parquet", episode=pa.array([3, 3, 3, 3, 7, 20, 20, 20, 20]))
    assert load_episodes(path).digest == sample().digest


@pytest.mark.parametrize("values", [pa.array(list("aabbccddd")), pa.array([0.5] * 9), pa.array([0, None] + [1] * 7)])
def test_episode_numbers_that_are_not_integers_are_refused(tmp_path: Path, values: pa.Array) -> None:
    assert "'episode'" in complaint(rewritten(tmp_path / "a.parquet", episode=values))


@pytest.mark.parametrize(
    "values",
    [pa.array([1.0] * 9), pa.array([[1.0]] * 8 + [[1.0, 2.0]]), pa.array([["a"]] * 9, pa.list_(pa.string(), 1))],
)
def test_columns_that_are_not_lists_of_as_many_numbers_are_refused(tmp_path: Path, values: pa.Array) -> None:
    assert "'observation'" in complaint(rewritten(tmp_path / "a.parquet", observation=values))


def test_a_value_that_is_missing_is_refused_with_its_row(tmp_path: Path) -> None:
    rows = [[1.0, 2.0]] * 8 + [[1.0, None]]
    path = rewritten(tmp_path / "a.parquet", action=pa.array(rows, pa.list_(pa.float32(), 2)))
    assert "actions row 8 (episode 2) is not finite" in complaint(path)


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    save_episodes(sample(), path)
    pq.write_table(pq.read_table(path).slice(0, 0), path)
    assert "no episodes" in complaint(path)


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    save_episodes(sample(), path)
    whole = path.read_bytes()
    with pq.ParquetFile(path) as file:
        column = file.metadata.row_group(0).column(1)
    last = (column.dictionary_page_offset or column.data_page_offset) + column.total_compressed_size - 1
    path.write_bytes(whole[:last] + bytes([whole[last] ^ 1]) + whole[last + 1 :])
    assert "not a readable parquet file" in complaint(path)
