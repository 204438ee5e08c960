"""`bet-ray data` lists, describes, checks and shows demonstrations, and exits as its help says."""

import os
import re
from functools import partial
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

from bet.data.episodes import Episodes
from bet.data.formats import DataFormat, save
from bet.data.store import load_episodes, save_episodes
from bet.envs.pointmass import PointMassVersion
from bet.oracles import pointmass
from bet.oracles.pointmass import demonstrations
from tests.bet.data.samples import some
from tests.bet_ray.commands import Command, Done

GOOD = demonstrations(PointMassVersion.TWO, 40, seed=0)


@pytest.fixture
def data(command: Command) -> Command:
    """Runs `bet-ray data ...`."""
    return partial(command, "data")


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.parquet"
    save_episodes(GOOD, path)
    return path


def buffer(path: Path) -> Path:
    """A small PushT replay buffer with enough distinct actions."""
    generator = np.random.default_rng(0)
    group = zarr.open_group(path, mode="w", zarr_format=2)
    states = generator.uniform(20, 490, (240, 5)).astype(np.float32)
    states[:, 4] = np.linspace(0, 6, 240)
    group.create_array("data/state", data=states, chunks=(80, 5))
    actions = generator.uniform(20, 490, (240, 2)).astype(np.float32)
    group.create_array("data/action", data=actions, chunks=(80, 2))
    group.create_array("meta/episode_ends", data=np.array([60, 150, 240]))
    return path


def test_list_says_where_each_tasks_demonstrations_are_and_how_to_get_them(
    data: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BET_DATA_DIR", str(tmp_path))
    listed = " ".join(data("list").out.split())
    assert re.search(r"pusht .* absent people .* MIT bet-ray data", listed)
    assert re.search(r"pointmass2 made on the spot 2,000 25,176 a scripted none needed bet-ray data", listed)
    buffer(tmp_path / "pusht" / "pusht_cchi_v7_replay.zarr")
    assert re.search(r"pusht .* 3 240 people", " ".join(data("list").out.split()))
    (tmp_path / "pusht" / "pusht_cchi_v7_replay.zarr" / "data" / "action" / ".zarray").unlink()
    assert re.search(r"pusht .* damaged people", " ".join(data("list").out.split()))


def test_info_of_a_task_is_of_its_own_demonstrations(data: Command) -> None:
    found = data("info", "pointmass2")
    assert found.code == 0
    assert "2,000 demonstrations, 25,176 steps, digest 3083e7493abe" in found.out
    assert "lengths 9 to 15, mean 12.6; 23,176 windows of 2" in found.out
    assert "25,176 distinct actions; the preset has 3 bins" in found.out
    assert "route: diagonal, 804 episodes, 0.402 (published 0.400)" in found.out
    assert "route: no known route, 0 episodes, 0.000 (published 0.000)" in found.out
    assert "equal episodes: none" in found.out


def test_info_of_a_file_flags_constant_columns_and_equal_episodes(data: Command, tmp_path: Path) -> None:
    twice = GOOD.select(np.array([0, 1, 0]))
    still = twice.observations.copy()
    still[:, 1] = 1
    path = tmp_path / "d.parquet"
    save_episodes(Episodes(still, twice.actions, twice.episode_ends, "pointmass2"), path)
    found = data("info", path).out
    assert "equal episodes: 0 = 2" in found
    assert re.search(r"^ y +1 +1 +1 +0 +constant", found, re.MULTILINE)
    assert not re.search(r"^ x .*constant", found, re.MULTILINE)


def test_info_sees_a_replay_buffer_through_the_layout_asked_for(data: Command, tmp_path: Path) -> None:
    path = buffer(tmp_path / "b.zarr")
    whole, agent = data("info", path).out, data("info", path, "--observation", "agent").out
    assert "observation layout state" in whole
    assert "block sin" in whole
    assert "observation layout agent" in agent
    assert "block sin" not in agent


def test_validate_of_sound_demonstrations_exits_with_0(data: Command, good: Path) -> None:
    assert data("validate", good) == Done(
        0, f"40 demonstrations, {len(GOOD.actions)} steps: 0 errors, 0 warnings\n", ""
    )


def test_validate_reports_every_fault_of_what_episodes_refuses_and_exits_with_1(data: Command, good: Path) -> None:
    table = pq.read_table(good)
    for column, row in ((1, 3), (2, 50)):
        values = np.array(table.column(column).combine_chunks().flatten())
        values[2 * row] = np.nan
        field = table.schema.field(column)
        table = table.set_column(column, field, pa.FixedSizeListArray.from_arrays(pa.array(values), 2))
    pq.write_table(table, good)
    found = data("validate", good)
    assert found.code == 1
    assert found.out.splitlines() == [
        "error: observations row 3 (episode 0) is not finite",
        f"error: actions row 50 (episode {np.searchsorted(GOOD.episode_ends, 50, 'right')}) is not finite",
        "2 errors, 0 warnings",
    ]


def test_validate_lets_warnings_pass_unless_it_is_strict(data: Command, tmp_path: Path) -> None:
    path = tmp_path / "d.parquet"
    save_episodes(GOOD.select(np.array([0, 1, 2, 1])), path)
    found = data("validate", path)
    assert found.code == 0
    assert "warning: episodes 1, 3 are the same" in found.out
    assert "0 errors, 1 warning" in found.out
    assert data("validate", path, "--strict") == found._replace(code=1)


def test_validate_calls_missing_chunks_an_error(data: Command, tmp_path: Path) -> None:
    path = buffer(tmp_path / "b.zarr")
    assert data("validate", path).code == 0
    (path / "data" / "action" / "1.0").unlink()
    found = data("validate", path)
    assert found.code == 1
    assert "error: " in found.out
    assert "data/action lacks 1 of its 3 chunks" in found.out
    assert found.err == ""


@pytest.mark.parametrize("verb", ["info", "validate", "show"])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pushd", "pushd: neither a task nor a file or folder; did you mean 'pusht'?"),
        ("bad.parquet", "bad.parquet: not a readable parquet file"),
        ("empty", "empty: no demonstrations (looked for .zgroup, meta/info.json, "),
    ],
)
def test_what_cannot_be_opened_is_one_line_and_exits_with_2(
    data: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, name: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.parquet").write_bytes(b"PAR1 no")
    Path("empty").mkdir()
    found = data(verb, name)
    assert found.code == 2
    assert found.out == ""
    (line,) = found.err.splitlines()
    assert line.startswith(f"error: {message}")


def test_show_writes_a_page_and_a_video_of_the_chosen_episodes(data: Command, good: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    found = data("show", good, "--episodes", "2,7", "--bins", "5", "--out", out)
    assert found == Done(0, f"page: {out}/demonstrations.html\nvideo: {out}/demonstrations.mp4\n", "")
    assert len(iio.imread(out / "demonstrations.mp4")) == GOOD.lengths[[2, 7]].max()
    assert "5 bins, as a training would fit them" in (out / "demonstrations.html").read_text()


def test_show_of_a_layout_without_the_state_says_why_there_is_no_video(data: Command, tmp_path: Path) -> None:
    found = data("show", buffer(tmp_path / "b.zarr"), "--observation", "agent", "--out", tmp_path / "out")
    assert found.code == 0
    assert "no video: the layout 'agent' does not tell the simulator's whole state" in found.out
    assert os.listdir(tmp_path / "out") == ["demonstrations.html"]


@pytest.mark.parametrize("verb", ["info", "validate", "show"])
def test_observations_of_another_layout_are_refused(data: Command, tmp_path: Path, verb: str) -> None:
    path = tmp_path / "agent.parquet"
    save_episodes(Episodes(GOOD.observations, GOOD.actions, GOOD.episode_ends, "pusht"), path)
    found = data(verb, path, "--observation", "state")
    assert found.code == 2
    offered = "offers layout 'agent' only: it does not show the block, so 'state' cannot be had from it"
    assert found.err == f"error: {path}: {offered}\n"


def test_the_layout_is_told_by_the_columns_where_nobody_says(data: Command, tmp_path: Path) -> None:
    path = tmp_path / "agent.parquet"
    save_episodes(Episodes(GOOD.observations, GOOD.actions, GOOD.episode_ends, "pusht"), path)
    assert f"from {path} (parquet), observation layout agent" in data("info", path).out
    assert "(made on the spot), observation layout state" in data("info", "pointmass1").out


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--episodes", "2,x", "--episodes: expected numbers with commas between them, got '2,x'"),
        ("--episodes", "40", "--episodes: no episode 40; there are 0 to 39"),
        ("--observation", "stat", "{good}: pointmass2 has no layout 'stat'; did you mean 'state'?"),
    ],
)
def test_a_wrong_option_is_named_and_nothing_is_written(
    data: Command, good: Path, tmp_path: Path, option: str, value: str, message: str
) -> None:
    found = data("show", good, option, value, "--out", tmp_path / "out")
    assert found.code == 2
    assert found.err == f"error: {message.format(good=good)}\n"
    assert not (tmp_path / "out").exists()


def test_generate_makes_the_demonstrations_of_its_seed_in_blocks(
    data: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = demonstrations(PointMassVersion.TWO, 250, seed=3)
    monkeypatch.setattr(pointmass, "BLOCK", 100)
    path = tmp_path / "d.parquet"
    assert data("generate", "pointmass2", "--episodes", "250", "--seed", "3", "--out", path).code == 0
    assert load_episodes(path).digest == whole.digest


def test_generation_tells_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pointmass, "BLOCK", 100)
    heard: list[int] = []
    demonstrations(PointMassVersion.ONE, 250, seed=0, progress=heard.append)
    assert heard == [100, 200, 250]


@pytest.mark.parametrize("verb", ["list", "info", "validate", "show", "generate"])
def test_help_shows_an_example(data: Command, verb: str) -> None:
    assert f"bet-ray data {verb}" in data(verb, "--help").out.split("Example")[-1]


def cooking() -> Episodes:
    """Random numbers of the kitchen, actions within their box."""
    found = some("kitchen", 60, 9, (40, 50, 30))
    return Episodes(found.observations, np.clip(found.actions, -1, 1), found.episode_ends, found.task)


@pytest.fixture
def kitchen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small release of the kitchen, time-major, in its place below the folder of data."""
    monkeypatch.setenv("BET_DATA_DIR", str(tmp_path))
    save(cooking(), tmp_path / "kitchen", DataFormat.KITCHEN)
    return tmp_path / "kitchen"


@pytest.mark.parametrize("by_name", [True, False])
def test_demonstrations_of_the_kitchen_are_described_checked_and_converted(
    data: Command, kitchen: Path, tmp_path: Path, by_name: bool
) -> None:
    given = "kitchen" if by_name else kitchen
    described = data("info", given).out
    assert "3 demonstrations, 120 steps, digest" in described
    assert f"from {kitchen} (bet-kitchen), observation layout state" in described
    assert "lengths 30 to 50, mean 40.0; 93 windows of 10" in described
    assert re.search(r"^ microwave ", described, re.MULTILINE)
    assert data("validate", given) == Done(0, "3 demonstrations, 120 steps: 0 errors, 0 warnings\n", "")
    converted = data("convert", given, tmp_path / "k.parquet", "--to", "parquet")
    assert "3 demonstrations of kitchen, 120 steps, from bet-kitchen to parquet" in converted.out
    assert load_episodes(tmp_path / "k.parquet").digest == cooking().digest


def test_demonstrations_without_a_simulator_are_shown_without_a_video(data: Command, tmp_path: Path) -> None:
    save(some("carla", 512, 2, (40, 50, 30)), tmp_path / "carla.parquet", DataFormat.PARQUET)
    shown = data("show", tmp_path / "carla.parquet", "--bins", "4", "--out", tmp_path / "out")
    assert shown.out.splitlines()[1] == "no video: carla has no simulator yet"
    assert os.listdir(tmp_path / "out") == ["demonstrations.html"]


def test_the_paths_of_block_push_are_drawn(data: Command, tmp_path: Path) -> None:
    save(some("blockpush", 16, 2, (20, 30)), tmp_path / "blockpush", DataFormat.BLOCKPUSH)
    assert data("show", tmp_path / "blockpush", "--out", tmp_path / "out").code == 0
    text = (tmp_path / "out" / "demonstrations.html").read_text()
    assert len(iio.imread(tmp_path / "out" / "demonstrations.mp4")) > 20
    assert "Strokes show which way the block 2 is turned" in text
    for body in ("effector", "block", "block 2"):
        assert f'"text":"{body}"' in text
