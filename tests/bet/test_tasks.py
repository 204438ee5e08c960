"""The task registry: what every task offers, and what is told to who asks for another."""

import dataclasses
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from bet.config import PRESETS, BinSource, ConfigError, DataConfig, EvalConfig, Start, make_config
from bet.data.episodes import DataError, Episodes
from bet.data.formats import DataFormat, save
from bet.data.store import save_episodes
from bet.envs.pointmass import PointMassVectorEnv, PointMassVersion
from bet.layouts import PushTLayout
from bet.oracles.pointmass import demonstrations
from bet.tasks import DATA_DIR, TASKS, SimulatedTask, Task, data_root, get, simulated
from tests.bet.data.samples import pusht, some

SIMULATED = {name: task for name, task in TASKS.items() if isinstance(task, SimulatedTask)}
every_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS.keys())
every_simulated_task = pytest.mark.parametrize("task", SIMULATED.values(), ids=SIMULATED.keys())


# What every task offers.


def test_every_task_has_a_preset_and_every_preset_a_task() -> None:
    simulated = {"pusht", "blockpush", "kitchen", "pointmass1", "pointmass2"}
    assert TASKS.keys() == simulated | {"carla"}
    assert PRESETS.keys() == TASKS.keys() | {"pusht-agent-only"}
    assert get("pusht-agent-only") is get("pusht")
    assert SIMULATED.keys() == simulated


@every_task
def test_a_task_is_found_by_its_name(task: Task) -> None:
    assert get(task.name) is task
    assert task.summary


@every_simulated_task
def test_a_simulated_task_has_a_protocol_and_columns_of_its_own(task: SimulatedTask) -> None:
    assert simulated(task.name) is task
    assert task.protocol.task == task.name
    assert dataclasses.is_dataclass(task.outcome_type)


@pytest.mark.parametrize("name", [name for name in TASKS if name not in SIMULATED])
def test_a_task_without_a_simulator_is_refused_where_one_is_needed(name: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name} has no simulator yet: .*looked at and trained on.*$"):
        simulated(name)
    observation, action = get(name).boxes("state")
    assert (observation.shape, action.shape) == {"carla": ((512,), (2,))}[name]
    assert not observation.is_bounded()
    assert not action.is_bounded()


@every_task
def test_the_presets_layout_is_the_tasks_first(task: Task) -> None:
    assert make_config(task.name).data.observation == task.layouts[0]


@every_simulated_task
def test_every_layout_makes_an_environment_of_the_slots_asked_for(task: SimulatedTask) -> None:
    for layout in (None, *task.layouts):
        env = task.make_env(3, layout)
        assert env.num_envs == 3
        assert env.max_steps == task.protocol.max_steps
        assert task.make_env(1, layout, max_steps=5).max_steps == 5


@every_simulated_task
def test_mode_shares_sum_to_one_where_modes_are_named(task: SimulatedTask) -> None:
    if task.modes:
        assert "route" in [field.name for field in dataclasses.fields(task.outcome_type)]
        assert sum(task.modes.values()) == pytest.approx(1)


@pytest.mark.parametrize(("name", "steps"), [("pusht", 300), ("kitchen", 280), ("pointmass1", 50), ("pointmass2", 50)])
def test_protocols_have_the_published_limits(name: str, steps: int) -> None:
    assert simulated(name).protocol.max_steps == steps


def test_protocols_differ_in_their_digests_and_stay_as_they_are() -> None:
    assert len({task.protocol.digest for task in SIMULATED.values()}) == len(SIMULATED)
    pusht = get("pusht").protocol
    assert pusht.digest == pusht.model_copy().digest
    assert pusht.digest != pusht.model_copy(update={"seed": 1}).digest
    assert pusht.digest != pusht.model_copy(update={"env_version": "2"}).digest


def test_a_task_may_have_several_protocols_each_with_its_own_simulator() -> None:
    kitchen, data = get("kitchen"), make_config("kitchen").data
    usual = kitchen.recipe(EvalConfig(), data).protocol
    assert usual == kitchen.protocol == kitchen.recipe(EvalConfig(protocol="kitchen-v1"), data).protocol
    other = kitchen.recipe(EvalConfig(protocol="kitchen-noiseless-v1", hold_bins=2), data).protocol
    assert other.digest != kitchen.recipe(EvalConfig(hold_bins=2), data).protocol.digest
    seen = [kitchen.make_env(2, protocol=name).reset(seed=[1, 2])[0] for name in (None, usual.name, other.name)]
    assert (seen[0][0] != seen[0][1]).any()
    np.testing.assert_array_equal(seen[0], seen[1])
    np.testing.assert_array_equal(seen[2][0], seen[2][1])
    with pytest.raises(ConfigError, match="kitchen has no protocol 'kitchen-noiseles'; did you mean 'kitchen-noisel"):
        kitchen.make_env(1, protocol="kitchen-noiseles")


# Tasks of gymnasium's.


def test_a_gymnasium_id_is_a_task_made_from_its_registration() -> None:
    task = simulated("MountainCarContinuous-v0")
    assert get("MountainCarContinuous-v0") is task
    assert task.name == task.protocol.task == task.protocol.name == "MountainCarContinuous-v0"
    assert task.protocol.max_steps == 999
    assert task.protocol.success == "return >= 90 at the end"
    assert task.protocol.primary == "success"
    assert gymnasium.__version__ in task.protocol.env_version
    assert task.signals == ("success",)
    env = task.make_env(3, max_steps=5)
    assert (env.num_envs, env.max_steps) == (3, 5)


def car_file(path: Path, observations: list[list[float]], actions: list[list[float]]) -> DataConfig:
    """Demonstrations of one episode in a file."""
    arrays = np.array(observations, np.float32), np.array(actions, np.float32)
    save_episodes(Episodes(*arrays, np.array([len(actions)]), "MountainCarContinuous-v0"), path / "car.parquet")
    return DataConfig(path=str(path / "car.parquet"))


def test_demonstrations_up_to_the_bounds_of_the_boxes_are_taken(tmp_path: Path) -> None:
    data = car_file(tmp_path, [[-1.2, 0.07], [0.6, -0.07]], [[1.0], [-1.000001]])  # the last by rounding
    assert len(get("MountainCarContinuous-v0").load(data)) == 1


@pytest.mark.parametrize(
    ("observations", "actions", "message"),
    [
        (
            [[0, 0], [0, 0.08]],
            [[0], [0]],
            "observations row 1, dimension 1: 0.08 is outside the environment's -0.07..0.07",
        ),
        ([[0, 0], [0, 0]], [[0], [-1.5]], "actions row 1, dimension 0: -1.5 is outside the environment's -1..1"),
        ([[0, 0, 0]], [[0]], r"observations have shape \(3,\), expected \(2,\)"),
        ([[0, 0]], [[0, 0]], r"actions have shape \(2,\), expected \(1,\)"),
    ],
)
def test_demonstrations_that_leave_the_environments_boxes_are_refused_by_row_and_dimension(
    observations: list[list[float]], actions: list[list[float]], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=rf"car\.parquet: {message}"):
        get("MountainCarContinuous-v0").load(car_file(tmp_path, observations, actions))


def test_no_value_is_outside_an_infinite_bound(tmp_path: Path) -> None:
    task = dataclasses.replace(simulated("MountainCarContinuous-v0"), _make_env=lambda *_: Unbounded())
    assert len(task.load(car_file(tmp_path, [[1e30, -1e30]], [[1e9]]))) == 1


class Unbounded(PointMassVectorEnv):
    def __init__(self) -> None:
        super().__init__(1, PointMassVersion.ONE)
        self.single_observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.single_action_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)


def test_gymnasiums_tasks_need_demonstrations_and_say_how_to_make_them() -> None:
    with pytest.raises(DataError, match=r"^data\.path: Pendulum-v1 .* bet\.data\.store\.save_episodes .*data\.path="):
        get("Pendulum-v1").load(DataConfig())


# Demonstrations.


@pytest.mark.parametrize("version", PointMassVersion)
def test_point_mass_makes_its_own_demonstrations_the_same_ones_each_time(version: PointMassVersion) -> None:
    data = make_config(version.value).data
    episodes = get(version.value).load(data)
    assert episodes.task == version.value
    assert len(episodes) == 2000
    assert get(version.value).load(data).digest == episodes.digest


def test_demonstrations_of_a_file_are_those_in_it(tmp_path: Path) -> None:
    episodes = demonstrations(PointMassVersion.ONE, 5, seed=3)
    save_episodes(episodes, tmp_path / "a.parquet")
    assert get("pointmass1").load(DataConfig(path=str(tmp_path / "a.parquet"))).digest == episodes.digest


@pytest.mark.parametrize("layout", get("pusht").layouts)
def test_pusht_reads_the_published_demonstrations_in_any_layout(
    layout: str, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DATA_DIR, str(data_dir))
    episodes = get("pusht").load(DataConfig(observation=layout))
    assert len(episodes) == 206
    space = get("pusht").make_env(1, layout).single_observation_space
    assert episodes.observations.shape[1:] == space.shape


def test_the_folder_of_data_is_set_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DATA_DIR, "/somewhere")
    assert data_root() == Path("/somewhere")
    monkeypatch.delenv(DATA_DIR)
    assert data_root() == Path("data")


def test_a_release_is_found_in_its_folder_and_where_the_whole_of_it_was_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DATA_DIR, str(tmp_path))
    for folder, steps in (("bet_data_release/kitchen", 3), ("kitchen", 4)):  # the second comes first
        save(some("kitchen", 60, 9, (steps, 2)), tmp_path / folder, DataFormat.KITCHEN)
        assert len(get("kitchen").load(make_config("kitchen").data).actions) == steps + 2


def test_block_push_reads_the_demonstrations_of_its_environment(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DATA_DIR, str(data_dir))
    episodes = get("blockpush").load(make_config("blockpush").data)
    assert (len(episodes), len(episodes.actions), episodes.task) == (500, 56591, "blockpush")


# What is refused.


@pytest.mark.parametrize(("name", "meant"), [("push", "pusht"), ("pointmass", "pointmass"), ("Pusht", "pusht")])
def test_an_unknown_task_is_named_with_the_one_probably_meant(name: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown task '{name}'; did you mean '{meant}"):
        get(name)


def test_an_unknown_task_like_no_other_gets_the_list_of_all() -> None:
    known = "pusht, pusht-agent-only, blockpush, kitchen, carla, pointmass1, pointmass2"
    with pytest.raises(ConfigError, match=rf"known: {known} \(a gymnasium id .*-v0\)"):
        get("xyz")


@every_task
def test_an_unknown_layout_is_refused_by_its_key(task: Task) -> None:
    message = rf"^data\.observation: {task.name} has no layout 'stat'; did you mean 'state'\?"
    with pytest.raises(ConfigError, match=message):
        task.boxes("stat")
    with pytest.raises(ConfigError, match=message):
        task.load(DataConfig(observation="stat"))


def test_missing_demonstrations_are_named_with_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DATA_DIR, str(tmp_path))
    with pytest.raises(DataError) as error:
        get("pusht").load(DataConfig())
    message = str(error.value)
    assert str(tmp_path / "pusht" / "pusht_cchi_v7_replay.zarr") in message
    assert DATA_DIR in message
    assert "data.path" in message
    assert "bet-ray data download pusht" in message
    assert "\n" not in message


@every_task
def test_a_path_that_is_not_there_is_named(task: Task, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.parquet: no such"):
        task.load(DataConfig(path=str(tmp_path / "absent.parquet")))


def test_demonstrations_of_another_task_are_refused_with_the_file_and_both_names(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    save_episodes(demonstrations(PointMassVersion.ONE, 5, seed=0), path)
    with pytest.raises(DataError, match=r"a\.parquet: demonstrations of 'pointmass1', expected 'pointmass2'"):
        get("pointmass2").load(DataConfig(path=str(path)))


def test_demonstrations_of_other_dimensions_are_refused_before_a_rollout(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    save_episodes(
        Episodes(np.zeros((4, 3), np.float32), np.zeros((4, 2), np.float32), np.array([4]), "pointmass1"), path
    )
    with pytest.raises(DataError, match=r"a\.parquet: observations have shape \(3,\), expected \(2,\)"):
        get("pointmass1").load(DataConfig(path=str(path)))


# Demonstrations of any format.


@pytest.mark.parametrize(
    ("kind", "stored", "offered"),
    [
        (DataFormat.LEROBOT_V21, "agent", ("agent",)),
        (DataFormat.LEROBOT_V30, "agent", ("agent",)),
        (DataFormat.LEROBOT_V21, "keypoints8", tuple(PushTLayout)),
        (DataFormat.LEROBOT_V30, "keypoints8", tuple(PushTLayout)),
        (DataFormat.PUSHT_ZARR, "state", tuple(PushTLayout)),
        (DataFormat.PARQUET, "keypoints9", tuple(PushTLayout)),
    ],
)
def test_pusht_reads_any_format_in_the_layouts_it_can_show(
    kind: DataFormat, stored: str, offered: tuple[str, ...], tmp_path: Path
) -> None:
    save(pusht(PushTLayout(stored)), tmp_path / "a", kind)
    for layout in PushTLayout:
        data = DataConfig(path=str(tmp_path / "a"), observation=layout.value)
        if layout in offered:
            assert get("pusht").load(data).observations.shape == (11, layout.dim)
        else:
            with pytest.raises(DataError, match=f"offers layout '{stored}' only.*{layout.value}"):
                get("pusht").load(data)


@pytest.mark.parametrize("version", PointMassVersion)
def test_point_mass_reads_the_studys_rollouts(version: PointMassVersion, tmp_path: Path) -> None:
    episodes = demonstrations(version, 5, seed=3)
    save(episodes, tmp_path / "a", DataFormat.STUDY_ROLLOUTS)
    assert get(version.value).load(DataConfig(path=str(tmp_path / "a"))).digest == episodes.digest


# How a task is evaluated.


def test_the_usual_evaluation_is_the_protocol_itself() -> None:
    task = get("pointmass1")
    recipe = task.recipe(EvalConfig(), DataConfig())
    assert recipe.protocol == task.protocol
    assert recipe.protocol.digest == task.protocol.digest
    assert recipe.starts is None


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"window": 1}, "window 1"),
        ({"hold_bins": 3}, "bins held for 3 steps"),
        ({"bins": BinSource.CODEBOOK}, "bins drawn from the codebook"),
        ({"start": Start.DEMONSTRATIONS}, "started where demonstrations did"),
    ],
)
def test_every_evaluation_setting_makes_another_protocol_that_says_so(changes: dict[str, Any], told: str) -> None:
    task = get("pointmass1")
    protocol = task.recipe(EvalConfig(**changes), DataConfig()).protocol
    assert protocol.digest != task.protocol.digest
    assert protocol.variations == (told,)


def test_episodes_can_begin_where_the_demonstrations_did() -> None:
    task = get("pointmass1")
    recipe = task.recipe(EvalConfig(start=Start.DEMONSTRATIONS), DataConfig())
    episodes = task.load(DataConfig())
    np.testing.assert_array_equal(recipe.starts, episodes.observations[episodes.episode_starts])


def test_push_t_begins_in_the_states_of_its_demonstrations_whatever_the_policy_sees(data_dir: Path) -> None:
    task, path = get("pusht"), str(data_dir / "pusht" / "pusht_cchi_v7_replay.zarr")
    starts = [
        task.recipe(EvalConfig(start=Start.DEMONSTRATIONS), DataConfig(path=path, observation=layout))
        for layout in task.layouts
    ]
    assert all(recipe.starts is not None and recipe.starts.shape == (206, 5) for recipe in starts)
    assert len({recipe.protocol.digest for recipe in starts}) == 1


def test_a_task_whose_demonstrations_hide_the_state_cannot_begin_there() -> None:
    with pytest.raises(ConfigError, match=r"eval\.start: demonstrations of Pendulum-v1 do not tell"):
        simulated("Pendulum-v1").recipe(EvalConfig(start=Start.DEMONSTRATIONS), DataConfig())


def test_a_protocol_of_another_name_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"pusht has no protocol 'pusht-v2'; did you mean 'pusht-v1'"):
        get("pusht").recipe(EvalConfig(protocol="pusht-v2"), DataConfig())
