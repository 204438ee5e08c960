"""LeRobot's data sets, both versions: what is written reads back and is laid out as LeRobot's code expects it.

LeRobot 0.4.4 itself opened what the writer gives, its converter took version 2.1 to 3.0, and what it wrote reads here
to the bit; these tests keep the properties that made it so.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bet.data.episodes import DataError
from bet.data.lerobot import LeRobotVersion, load_lerobot, version_of
from bet.data.lerobot_writer import TASK, save_lerobot
from bet.layouts import PushTLayout
from tests.bet.data.samples import any_numbers, pusht, same

V21, V30 = LeRobotVersion.V21, LeRobotVersion.V30
LAYOUTS = (PushTLayout.AGENT, PushTLayout.KEYPOINTS8)
STEPS = {V21: "data/chunk-000/episode_000001.parquet", V30: "data/chunk-000/file-000.parquet"}  # holds episode 1
EPISODES = {V21: "meta/episodes.jsonl", V30: "meta/episodes/chunk-000/file-000.parquet"}
every_version = pytest.mark.parametrize("version", LeRobotVersion)
every_layout = pytest.mark.parametrize("layout", LAYOUTS)


def write(path: Path, version: LeRobotVersion, layout: PushTLayout = PushTLayout.KEYPOINTS8) -> Path:
    save_lerobot(pusht(layout), path, version)
    return path


@every_version
@every_layout
@settings(max_examples=15)
@given(data=st.data())
def test_what_is_saved_loads_to_the_bit(
    version: LeRobotVersion, layout: PushTLayout, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    episodes = data.draw(any_numbers("pusht", layout.dim, 2))
    path = tmp_path_factory.mktemp("lerobot") / "a"
    save_lerobot(episodes, path, version)
    loaded = load_lerobot(path)
    assert same(loaded, episodes)
    assert loaded.source == str(path)
    assert version_of(path) is version


# As LeRobot has it.


@every_version
def test_the_steps_have_lerobots_columns(version: LeRobotVersion, tmp_path: Path) -> None:
    info = json.loads((write(tmp_path / "a", version) / "meta/info.json").read_text())
    table = pq.read_table(tmp_path / "a" / STEPS[version])
    assert table.column_names == list(info["features"])
    assert info["features"]["observation.environment_state"]["shape"] == [16]
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"], info["fps"]) == (3, 11, 1, 10)
    for name, feature in info["features"].items():
        kind = table.schema.field(name).type
        size = kind.list_size if pa.types.is_fixed_size_list(kind) else 1
        number = kind.value_type if pa.types.is_fixed_size_list(kind) else kind
        assert ([size], str(number)) == (feature["shape"], {"float32": "float"}.get(feature["dtype"], feature["dtype"]))
    frames = table.column("frame_index").to_numpy()
    np.testing.assert_array_equal(table.column("timestamp").to_numpy(), (frames / 10).astype(np.float32))


def test_version_2_has_a_file_for_each_episode(tmp_path: Path) -> None:
    path = write(tmp_path / "a", V21)
    files = sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())
    assert files == [
        *(f"data/chunk-000/episode_00000{index}.parquet" for index in range(3)),
        *(f"meta/{name}" for name in ("episodes.jsonl", "episodes_stats.jsonl", "info.json", "tasks.jsonl")),
    ]
    assert pq.read_table(path / STEPS[V21]).column("index").to_pylist() == [4]
    lines = [json.loads(line) for line in (path / EPISODES[V21]).read_text().splitlines()]
    assert lines[2] == {"episode_index": 2, "tasks": [TASK], "length": 6}
    stats = [json.loads(line) for line in (path / "meta/episodes_stats.jsonl").read_text().splitlines()][2]["stats"]
    actions = pusht(PushTLayout.KEYPOINTS8).actions[5:]
    np.testing.assert_allclose(stats["action"]["mean"], actions.mean(axis=0, dtype=float))
    np.testing.assert_allclose(stats["action"]["std"], actions.std(axis=0, dtype=float))
    assert stats["action"]["max"] == actions.max(axis=0).tolist()
    assert stats["frame_index"] == {"min": [0], "max": [5], "mean": [2.5], "std": [np.arange(6).std()], "count": [6]}


def test_version_3_says_where_each_episode_lies(tmp_path: Path) -> None:
    path = write(tmp_path / "a", V30)
    episodes = pq.read_table(path / EPISODES[V30]).to_pylist()
    assert [(row["dataset_from_index"], row["dataset_to_index"], row["length"]) for row in episodes] == [
        (0, 4, 4),
        (4, 5, 1),
        (5, 11, 6),
    ]
    assert episodes[1]["tasks"] == [TASK]
    assert episodes[1]["stats/action/count"] == [1]
    tasks = pd.read_parquet(path / "meta/tasks.parquet")  # LeRobot looks a task up by the frame's index
    assert tasks.loc[TASK, "task_index"] == 0
    stats = json.loads((path / "meta/stats.json").read_text())
    np.testing.assert_allclose(stats["action"]["mean"], pusht(PushTLayout.AGENT).actions.mean(axis=0, dtype=float))


def test_episodes_beyond_a_thousand_go_to_another_folder(tmp_path: Path) -> None:
    episodes = pusht(PushTLayout.AGENT, [1] * 1001)
    save_lerobot(episodes, tmp_path / "a", V21)
    assert (tmp_path / "a/data/chunk-001/episode_001000.parquet").exists()
    assert json.loads((tmp_path / "a/meta/info.json").read_text())["total_chunks"] == 2
    assert same(load_lerobot(tmp_path / "a"), episodes)


def test_version_3_may_spread_over_several_files(tmp_path: Path) -> None:
    path = write(tmp_path / "a", V30)
    steps, listed = pq.read_table(path / STEPS[V30]), pq.read_table(path / EPISODES[V30])
    pq.write_table(steps.slice(0, 5), path / STEPS[V30])
    pq.write_table(steps.slice(5), path / "data/chunk-000/file-001.parquet")
    place = listed.column_names.index("data/file_index")
    listed = listed.set_column(place, "data/file_index", pa.array([0, 0, 1]))
    pq.write_table(listed.slice(0, 1), path / EPISODES[V30])
    pq.write_table(listed.slice(1), path / "meta/episodes/chunk-000/file-001.parquet")
    assert same(load_lerobot(path), pusht(PushTLayout.KEYPOINTS8))


@every_version
def test_lists_of_varying_length_and_columns_unknown_here_are_read(version: LeRobotVersion, tmp_path: Path) -> None:
    """As pandas writes them: LeRobot's converter to version 3.0 goes through it."""
    path = write(tmp_path / "a", version)
    for file in (path / "data").rglob("*.parquet"):
        frame = pq.read_table(file).to_pandas().assign(**{"next.reward": 1.0})
        frame.to_parquet(file, index=False)
        assert pa.types.is_list(pq.read_schema(file).field("action").type)
    assert same(load_lerobot(path), pusht(PushTLayout.KEYPOINTS8))


@every_version
@pytest.mark.parametrize("layout", [layout for layout in PushTLayout if layout not in LAYOUTS])
def test_other_layouts_are_not_written(version: LeRobotVersion, layout: PushTLayout, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"has layout '{layout.value}'; LeRobot's PushT holds 'agent' and 'keypoints8'"):
        save_lerobot(replace(pusht(layout), source="there"), tmp_path / "a", version)
    assert not list(tmp_path.iterdir())


# What it refuses.


def complaint(path: Path) -> str:
    with pytest.raises(DataError) as error:
        load_lerobot(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


def edit_info(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    file = path / "meta/info.json"
    info = json.loads(file.read_text())
    change(info)
    file.write_text(json.dumps(info))
    return path


def edit_table(file: Path, **columns: Any) -> None:
    """Replace columns of a parquet file (with `.` for `__` in their names); None leaves one out."""
    table = pq.read_table(file)
    for key, values in columns.items():
        name = key.replace("__", ".")
        table = table.drop_columns([name])
        if values is not None:
            table = table.append_column(name, values)
    pq.write_table(table, file)


@every_version
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda info: info.update(codebase_version="v1.6"),
            "codebase_version: Input should be 'v2.1' or 'v3.0'",
        ),
        (lambda info: info.pop("codebase_version"), "codebase_version: missing"),
        (lambda info: info.update(fps=50), "50 frames per second, but PushT has 10"),
        (lambda info: info.update(fps="fast"), "fps: "),
        (lambda info: info.update(data_path="../{episode_index}.parquet"), "data_path is '../{episode_index}.parquet'"),
        (lambda info: info.update(total_episodes=4), "has 3 episodes of 11 steps, but meta/info.json says 4 of 11"),
        (lambda info: info.update(total_frames=12), "has 3 episodes of 11 steps, but meta/info.json says 3 of 12"),
        (lambda info: info.update(total_episodes=0), "total_episodes: "),
        (lambda info: info["features"].pop("action"), "no feature 'action', which PushT has"),
        (lambda info: info["features"].pop("observation.state"), "no feature 'observation.state'"),
        (lambda info: info["features"]["action"].update(shape=[7]), "'action' is float32 of shape [7], but PushT's"),
        (lambda info: info["features"]["action"].update(dtype="int64"), "'action' is int64 of shape [2]"),
        (lambda info: info["features"]["observation.environment_state"].update(shape=[18]), "of shape [18], but"),
        (lambda info: info.update(features=[]), "features: "),
    ],
)
def test_information_that_is_not_pushts_is_refused(
    version: LeRobotVersion, change: Callable[[dict[str, Any]], object], message: str, tmp_path: Path
) -> None:
    text = complaint(edit_info(write(tmp_path / "a", version), change))
    assert message in text
    assert "meta/info.json" in text


@every_version
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe"])
def test_damaged_information_is_refused(version: LeRobotVersion, content: bytes, tmp_path: Path) -> None:
    path = write(tmp_path / "a", version)
    (path / "meta/info.json").write_bytes(content)
    assert "meta/info.json" in complaint(path)


@every_version
@pytest.mark.parametrize("files", [STEPS, EPISODES], ids=["steps", "episodes"])
def test_a_missing_file_is_named(version: LeRobotVersion, files: dict[LeRobotVersion, str], tmp_path: Path) -> None:
    path = write(tmp_path / "a", version)
    (path / files[version]).unlink()
    assert f"{path / files[version]}: no such file" in complaint(path)


@every_version
@pytest.mark.parametrize("keep", [0, 50, -1])
def test_a_file_of_steps_cut_short_is_refused(version: LeRobotVersion, keep: int, tmp_path: Path) -> None:
    file = write(tmp_path / "a", version) / STEPS[version]
    file.write_bytes(file.read_bytes()[:keep])
    assert f"{file}: not a readable parquet file" in complaint(tmp_path / "a")


@every_version
@pytest.mark.parametrize("column", ["action", "observation.state", "episode_index", "frame_index"])
def test_a_missing_column_is_named(version: LeRobotVersion, column: str, tmp_path: Path) -> None:
    file = write(tmp_path / "a", version) / STEPS[version]
    edit_table(file, **{column.replace(".", "__"): None})
    assert f"{file}: no column {column!r}" in complaint(tmp_path / "a")


@every_version
@pytest.mark.parametrize(
    ("row", "message"),
    [([1.0, np.nan], "is not finite"), ([1.0, 2.0, 3.0], "3 numbers, expected 2"), (None, "without a value")],
)
def test_a_step_that_is_not_all_numbers_is_refused(
    version: LeRobotVersion, row: list[float] | None, message: str, tmp_path: Path
) -> None:
    file = write(tmp_path / "a", version) / STEPS[version]
    rows = pq.read_table(file).column("action").to_pylist()
    edit_table(file, action=pa.array([*rows[:-1], row], pa.list_(pa.float32())))
    assert message in complaint(tmp_path / "a")


@every_version
def test_steps_of_another_episode_are_refused(version: LeRobotVersion, tmp_path: Path) -> None:
    file = write(tmp_path / "a", version) / STEPS[version]
    numbers = pq.read_table(file).column("episode_index").to_numpy() + 1
    edit_table(file, episode_index=pa.array(numbers))
    assert "which belongs elsewhere" in complaint(tmp_path / "a")


def test_steps_out_of_order_are_refused_with_the_row(tmp_path: Path) -> None:
    file = write(tmp_path / "a", V30) / STEPS[V30]
    table = pq.read_table(file)
    pq.write_table(table.take([0, 2, 1, *range(3, 11)]), file)
    assert f"{file}: row 1 is step 2 of episode 0" in complaint(tmp_path / "a")


@every_version
def test_a_file_with_fewer_steps_than_listed_is_refused(version: LeRobotVersion, tmp_path: Path) -> None:
    file = write(tmp_path / "a", version) / STEPS[version]
    pq.write_table(pq.read_table(file).slice(1), file)
    assert f"{file}: has " in complaint(tmp_path / "a")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"episode_index": 1, "length": 0}', "line 2: length: Input should be greater than 0"),
        (f'{{"episode_index": 1, "length": {2**70}}}', "line 2: length: Input should be less than"),
        ('{"episode_index": 7, "length": 1}', "entry 1 is of episode 7; expected every episode once"),
        ('{"length": 1}', "line 2: episode_index: missing"),
        ("{", "line 2: "),
    ],
)
def test_a_broken_list_of_episodes_of_version_2_is_refused_with_the_line(
    line: str, message: str, tmp_path: Path
) -> None:
    file = write(tmp_path / "a", V21) / EPISODES[V21]
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], line, lines[2]]))
    text = complaint(tmp_path / "a")
    assert str(file) in text
    assert message in text


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"length": pa.array([4, 0, 6])}, "episode 1 is empty"),
        ({"length": pa.array([4, 1, None])}, "'length' is int64 with 1 nulls"),
        ({"length": None}, "no column 'length'"),
        ({"episode_index": pa.array([0, 2, 1])}, "entry 1 is of episode 2"),
        (
            {"data/file_index": pa.array([0, 0, 5])},
            "file-000.parquet: has 11 steps, expected the 5 of 2",
        ),
    ],
)
def test_a_broken_list_of_episodes_of_version_3_is_refused(
    columns: dict[str, Any], message: str, tmp_path: Path
) -> None:
    edit_table(write(tmp_path / "a", V30) / EPISODES[V30], **columns)
    assert message in complaint(tmp_path / "a")
