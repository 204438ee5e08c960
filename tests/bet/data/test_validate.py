"""Checks of demonstrations report everything that is wrong or odd, each on its own line."""

import warnings

import numpy as np
import pytest

from bet import tasks
from bet.config import make_config
from bet.data.episodes import DataError, Episodes, FaultyEpisodesError
from bet.data.validate import Problem, Severity, opened, problems
from bet.envs.pointmass import PointMassVersion
from bet.oracles.pointmass import demonstrations

from .samples import some

POINTMASS = tasks.get("pointmass2")
GOOD = demonstrations(PointMassVersion.TWO, 30, seed=0)
ENDS = GOOD.episode_ends


def changed(
    observations: np.ndarray = GOOD.observations, actions: np.ndarray = GOOD.actions, ends: np.ndarray = ENDS
) -> Episodes:
    return Episodes(observations, actions, ends, "pointmass2")


def texts(episodes: Episodes, severity: Severity = Severity.WARNING) -> list[str]:
    found = problems(episodes, POINTMASS, "state")
    assert all(problem.severity is severity for problem in found), found
    return [problem.text for problem in found]


@pytest.mark.parametrize("task", tasks.TASKS)
def test_every_tasks_own_demonstrations_pass(task, request, monkeypatch):
    origin = tasks.get(task).origin
    if origin is None:
        pytest.skip("comes without demonstrations")
    if origin.places:
        monkeypatch.setenv(tasks.DATA_DIR, str(request.getfixturevalue("data_dir")))
        if not (origin.path and origin.path.exists()):
            pytest.skip(f"needs {origin.path}")
    for layout in tasks.get(task).layouts:
        config = make_config(task, {"data.observation": layout})
        assert problems(tasks.get(task).load(config.data), tasks.get(task), layout) == []


def test_equal_episodes_are_told_by_number():
    twice = GOOD.select(np.array([0, 1, 2, 1, 0, 1]))
    assert texts(twice) == ["episodes 0, 4 are the same", "episodes 1, 3, 5 are the same"]


def test_equal_observations_with_other_actions_are_other_episodes():
    twice = GOOD.select(np.array([0, 0, 1]))
    actions = twice.actions.copy()
    actions[0] += 0.01
    assert texts(changed(twice.observations, actions, twice.episode_ends)) == []


def test_constant_columns_are_told_with_their_value():
    observations = GOOD.observations.copy()
    observations[:, 1] = 0.25
    found = [text for text in texts(changed(observations)) if "every step" in text]
    assert found == ["observations: 'y' is 0.25 in every step"]


def test_constant_columns_of_one_value_are_one_line():
    made = some("kitchen", 60, 9, (40, 40, 30))
    observations, actions = made.observations.copy(), np.clip(made.actions, -1, 1)
    full = Episodes(observations.copy(), actions, made.episode_ends, "kitchen")
    assert problems(full, tasks.get("kitchen"), "state") == []
    observations[:, 30:] = 0
    padded = Episodes(observations, actions, made.episode_ends, "kitchen")
    (problem,) = problems(padded, tasks.get("kitchen"), "state")
    assert problem.text == "observations: 'goal 0', 'goal 1' and 28 other columns are 0 in every step"


def test_numbers_outside_of_the_spaces_are_counted_and_the_first_is_named():
    observations, actions = GOOD.observations.copy(), GOOD.actions.copy()
    start = GOOD.episode_starts[7]
    observations[start + 2, 0] = -5
    actions[[start + 3, start + 4], 1] = 2.5
    found = [text for text in texts(changed(observations, actions)) if "leaves" in text]
    steps = f"{len(actions):,}"
    assert found == [
        f"observations: 'x' leaves -4..12 in 1 of {steps} steps, first in episode 7, step 2 (-5)",
        f"actions: 'step y' leaves -2..2 in 2 of {steps} steps, first in episode 7, step 3 (2.5)",
    ]


def test_an_episode_of_one_step_is_named():
    assert "episode 30 has one step" in texts(
        changed(
            np.concatenate([GOOD.observations, [[4.0, 4.0]]]),
            np.concatenate([GOOD.actions, [[1.0, 1.0]]]),
            np.append(ENDS, ENDS[-1] + 1),
        )
    )


def test_demonstrations_of_no_route_are_counted():
    observations = GOOD.observations.copy()
    observations[ENDS[2] : ENDS[3], 1] += 3
    assert texts(changed(observations)) == ["1 of 30 episodes follow none of the routes (first: episode 3)"]


def test_fewer_distinct_actions_than_the_presets_bins_are_an_error():
    found = problems(changed(actions=np.sign(GOOD.actions) * [1, 0]), POINTMASS, "state")
    errors = [problem.text for problem in found if problem.severity is Severity.ERROR]
    assert errors == ["2 distinct actions in the training episodes, but the preset has 3 bins (set bins=)"]


def test_a_single_episode_is_an_error():
    assert texts(GOOD.select(np.array([3])), Severity.ERROR) == [
        "one episode: training needs two at least, one of them to validate"
    ]


def test_everything_is_reported_at_once_and_errors_come_first():
    two = GOOD.select(np.array([0, 0]))
    observations = np.tile(np.array([20, 1], np.float32), (len(two.observations), 1))
    found = problems(changed(observations, np.zeros_like(two.actions), two.episode_ends), POINTMASS, "state")
    assert [problem.severity for problem in found] == [Severity.ERROR] + [Severity.WARNING] * 6
    said = "\n".join(problem.text for problem in found)
    for part in ("1 distinct action in", "0, 1 are the same", "follow none", "'x' is 20", "'y' is 1", "'x' leaves"):
        assert part in said
    assert "'step x', 'step y' are 0" in said


def test_other_dimensions_are_refused():
    with pytest.raises(DataError, match=r"shape \(3,\), expected \(2,\)"):
        problems(changed(np.zeros((len(GOOD.observations), 3))), POINTMASS, "state")


def test_all_faults_of_refused_arrays_are_told():
    observations, actions = GOOD.observations.copy(), GOOD.actions.copy()
    first, second = GOOD.episode_starts[[2, 5]]
    observations[[first, first + 1, second], 0] = np.nan
    actions[second + 1, 1] = np.inf
    episodes, found = opened(lambda: changed(observations, actions))
    assert episodes is None
    assert found == [
        Problem(Severity.ERROR, f"observations row {first} (episode 2) is not finite, and 1 more in the episode"),
        Problem(Severity.ERROR, f"observations row {second} (episode 5) is not finite"),
        Problem(Severity.ERROR, f"actions row {second + 1} (episode 5) is not finite"),
    ]


def test_ends_that_jump_back_or_stand_still_or_stop_early_are_all_told():
    ends = np.array([10, 10, 5, 20])
    with pytest.raises(FaultyEpisodesError) as error:
        Episodes(np.zeros((21, 2), np.float32), np.zeros((22, 2), np.float32), ends, "pointmass2", "here")
    assert str(error.value) == "here: 21 observations but 22 actions"
    assert error.value.faults == (
        "21 observations but 22 actions",
        "episode 1 is empty (episode_ends must rise)",
        "episode 2 ends at 5, before it starts (episode_ends must rise)",
        "the last episode ends at 20 but there are 21 steps",
    )


def test_what_a_loader_warns_of_is_an_error_and_what_a_library_deprecates_is_not():
    def load() -> Episodes:
        warnings.warn("lacks 1 of its 4 chunks", stacklevel=1)
        warnings.warn("soon gone", DeprecationWarning, stacklevel=1)
        return GOOD

    assert opened(load) == (GOOD, [Problem(Severity.ERROR, "lacks 1 of its 4 chunks")])


def test_what_cannot_be_opened_is_not_a_list_of_problems():
    def load() -> Episodes:
        raise DataError("d.parquet: not a readable parquet file")

    with pytest.raises(DataError, match="not a readable"):
        opened(load)
