"""BlockPush: the original's starts, rewards and ends; how near its physics is, tells `benchmarks/fit_blockpush.py`."""

from pathlib import Path
from typing import Any, cast

import mujoco
import numpy as np
import pytest
from numpy.typing import NDArray

from bet.data.bet_release import BetRelease, load_release
from bet.data.episodes import Episodes
from bet.envs.blockpush import (
    BLOCK_XY,
    BLOCKS,
    EFFECTOR,
    EFFECTOR_TARGET,
    OBS_DIM,
    STATE_DIM,
    TARGET_XY,
    TARGETS,
    VELOCITIES,
    WORKSPACE,
    BlockPushVectorEnv,
    at_rest,
    block_distances,
    rest,
    wrapped,
)


@pytest.fixture(scope="module")
def recorded(data_dir: Path) -> Episodes:
    return load_release(data_dir / "blockpush", BetRelease.BLOCKPUSH)


def scene(**places: tuple[float, ...]) -> NDArray[np.float64]:
    """A state (22,) at rest with some things placed; the others are out of the way."""
    state = np.zeros(STATE_DIM)
    for columns, xy in zip((*BLOCKS, *TARGETS), ((0.3, -0.3), (0.5, -0.3), (0.28, 0.2), (0.52, 0.2)), strict=True):
        state[list(columns[:2])] = xy
    state[EFFECTOR_TARGET] = places.pop("effector", (0.2, 0.4))
    state[EFFECTOR] = rest(state[None, EFFECTOR_TARGET])[0]
    for name, place in places.items():
        columns = {"block": BLOCKS[0], "block2": BLOCKS[1], "target": TARGETS[0], "target2": TARGETS[1]}[name]
        state[list(columns[: len(place)])] = place
    return state


def stepped(state: NDArray[np.float64], *actions: tuple[float, float]) -> tuple[BlockPushVectorEnv, list[tuple]]:
    env = BlockPushVectorEnv(1)
    env.reset(options={"states": state[None]})
    return env, [env.step(np.array([action])) for action in actions]


# Where episodes begin.


def test_episodes_begin_as_the_originals_do(recorded: Episodes) -> None:
    env = BlockPushVectorEnv(2000)
    ours, _ = env.reset(seed=0)
    theirs = recorded.observations[recorded.episode_starts]
    assert np.array_equal(ours[:, EFFECTOR_TARGET], np.tile(np.array([0.3, -0.4], np.float32), (2000, 1)))
    np.testing.assert_allclose(ours[:, EFFECTOR], np.tile(theirs[0, EFFECTOR], (2000, 1)), atol=2e-4)
    for column in (*BLOCKS[0], *BLOCKS[1], *TARGET_XY.ravel()):
        shares = (0.0, 0.25, 0.75, 1.0)  # places have two modes, and no median to speak of
        apart = np.quantile(ours[:, column], shares) - np.quantile(theirs[:, column], shares)
        assert np.abs(apart).max() < 0.09 * np.ptp(theirs[:, column])
    yaws = wrapped(ours[:, [12, 15]].astype(float) - np.pi)
    assert np.abs(yaws).max() <= np.pi / 30 + 1e-6


def test_blocks_begin_apart_and_targets_on_either_side() -> None:
    observations, _ = BlockPushVectorEnv(500).reset(seed=1)
    assert np.abs(observations[:, 0] - observations[:, 3]).min() > 0.1 - 1e-6
    first_is_left = observations[:, 10] < observations[:, 13]
    assert 0.4 < first_is_left.mean() < 0.6


# How it moves.


def test_the_effector_goes_most_of_its_way_in_a_step_and_stays_in_the_workspace() -> None:
    env, steps = stepped(scene(effector=(0.4, 0.0)), (0.02, 0.0), *[(0.0, 0.1)] * 8)
    (first, *_), *_, (last, *_) = steps
    assert 0.4 + 0.9 * 0.02 < first[0, 6] - (rest(np.array([[0.42, 0.0]])) - 0.42)[0, 0] < 0.42
    assert last[0, 9] == WORKSPACE[1, 1]
    assert env.states[0, 8] == pytest.approx(0.42)


def test_a_block_moves_where_it_is_pushed_and_stops_when_it_is_left_alone() -> None:
    env, _ = stepped(scene(block=(0.4, -0.1, 0.0), effector=(0.4, -0.14)), *[(0.0, 0.02)] * 4)
    x, y = env.states[0, :2]
    assert x == pytest.approx(0.4, abs=0.005)
    assert y == pytest.approx(env.states[0, 7] + 0.02 + 0.006, abs=0.001)
    env.step(np.array([[0.0, -0.1]]))
    left = env.states[0, :3]
    assert abs(left[1] - y) < 0.003
    env.step(np.zeros((1, 2)))
    np.testing.assert_allclose(env.states[0, :3], left, atol=1e-6)


def test_what_is_not_touched_does_not_move() -> None:
    state = scene()
    env, _ = stepped(state, *[(0.0, 0.01)] * 5)
    np.testing.assert_allclose(env.states[0, :6], state[:6], atol=1e-9)


def test_a_push_off_the_middle_turns_a_block() -> None:
    for side in (-1, 1):
        env, _ = stepped(scene(block=(0.4, -0.1, 0.0), effector=(0.4 + side * 0.015, -0.14)), *[(0.0, 0.02)] * 6)
        assert side * env.states[0, 2] > 0.1


def test_replayed_pushes_stay_near_the_recorded_ones(recorded: Episodes) -> None:
    rows = np.flatnonzero(np.linalg.norm(np.diff(recorded.observations[:, :2], axis=0), axis=1) > 0.002)
    inside = ~np.isin(rows + 1, recorded.episode_ends)
    rows = rows[inside][::20]
    states = np.zeros((len(rows), STATE_DIM))
    states[:, :OBS_DIM] = recorded.observations[rows]
    env = BlockPushVectorEnv(len(rows))
    env.reset(options={"states": states})
    env.step(recorded.actions[rows])
    apart = env.states[:, :OBS_DIM] - recorded.observations[rows + 1]
    assert np.median(np.linalg.norm(apart[:, EFFECTOR], axis=1)) < 2e-4
    assert np.median(np.linalg.norm(apart[:, :2], axis=1)) < 1e-3


# Rewards and ends.


def sliding(state: NDArray[np.float64], block: int, speed: float) -> NDArray[np.float64]:
    """The state with a block (0 or 1) on its way along y, some millimetres before it stops."""
    state[VELOCITIES.start + 3 * block + 1] = speed
    return state


def test_the_first_entry_of_a_block_into_a_target_is_rewarded_once() -> None:
    _, steps = stepped(sliding(scene(block=(0.28, 0.149, 0.0)), 0, 0.3), (0.0, 0.0), (0.0, 0.0))
    assert [reward[0] for _, reward, *_ in steps] == [0.49, 0.0]


def test_two_blocks_that_come_into_one_target_are_rewarded_twice_and_are_no_success() -> None:
    """Here the original ends: it takes any reward of 0.5 for success."""
    both = scene(block=(0.28, 0.149, 0.0), block2=(0.28, 0.251, 0.0))
    _, ((_, rewards, terminated, *_),) = stepped(sliding(sliding(both, 0, 0.3), 1, -0.3), (0.0, 0.0))
    assert rewards[0] == pytest.approx(0.98)
    assert not terminated[0]


def test_a_block_that_is_in_a_target_when_restored_has_come_into_it_before() -> None:
    _, ((_, rewards, *_),) = stepped(scene(block=(0.28, 0.2, 0.0)), (0.0, 0.0))
    assert rewards[0] == 0


def test_both_blocks_in_different_targets_end_the_episode_in_success() -> None:
    for first, second in ((0, 1), (1, 0)):
        targets = (0.28, 0.2, 0.0), (0.52, 0.2, 0.0)
        env, ((_, rewards, terminated, truncated, info),) = stepped(
            scene(block=targets[first], block2=targets[second]), (0.0, 0.0)
        )
        assert (rewards[0], terminated[0], truncated[0], info["success"][0]) == (0.51, True, False, 1.0)
        assert env.states[0, 0] == pytest.approx(targets[first][0], abs=1e-6)


@pytest.mark.parametrize(("away", "inside"), [(0.0499, True), (0.0501, False)])
def test_a_block_is_in_a_target_nearer_than_5_cm(away: float, inside: bool) -> None:
    state = scene(block=(0.28, 0.2 - away, 0.0), block2=(0.52, 0.2, 0.0))
    _, ((_, _, terminated, *_),) = stepped(state, (0.0, 0.0))
    assert terminated[0] == inside


def test_distances_are_those_of_each_block_from_each_target() -> None:
    state = scene()
    expected = [[np.linalg.norm(state[block] - state[target]) for target in TARGET_XY] for block in BLOCK_XY]
    np.testing.assert_allclose(block_distances(state[None])[0], expected)


# States.


def test_a_restored_state_goes_on_with_its_velocities() -> None:
    state = scene(block=(0.4, 0.0, 0.0))
    state[16:19] = 0.3, 0.0, 2.0
    env, _ = stepped(state, (0.0, 0.0))
    assert 0.4 < env.states[0, 0] < 0.41
    assert 0.0 < env.states[0, 2] < 0.2


def test_an_observation_is_restored_with_its_blocks_at_rest(recorded: Episodes) -> None:
    seen = recorded.observations[recorded.episode_starts[:5] + 30]
    restored = []
    for states in (seen, at_rest(seen)):
        env = BlockPushVectorEnv(5)
        observations, _ = env.reset(options={"states": states})
        np.testing.assert_allclose(observations, seen, atol=1e-6)
        env.step(np.tile([0.01, 0.02], (5, 1)))
        restored.append(env.states)
    np.testing.assert_array_equal(*restored)


def test_states_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(1, 17\), expected \(1, 22\)"):
        BlockPushVectorEnv(1).reset(options={"states": np.zeros((1, 17))})


def test_the_moment_of_inertia_of_a_yaw_is_the_one_given() -> None:
    """`dof_M0` is what MuJoCo keeps it in for a body whose joints are its own axes."""
    env = BlockPushVectorEnv(1)
    world, compiled = env._worlds[0], cast(Any, mujoco)
    for inertia in (1e-5, 2e-3):
        env._inertias[:] = inertia
        compiled.mj_forward(env.model, world)
        momenta = np.zeros(env.model.nv)
        compiled.mj_mulM(env.model, world, momenta, np.ones(env.model.nv))
        np.testing.assert_allclose(momenta[2:6:3], inertia)


def test_angles_are_seen_within_half_a_turn() -> None:
    state = scene(block=(0.4, 0.0, 7.0))
    _, ((observations, *_),) = stepped(state, (0.0, 0.0))
    assert observations[0, 2] == pytest.approx(7.0 - 2 * np.pi, abs=1e-5)


def test_a_frame_shows_blocks_targets_and_the_effector() -> None:
    env = BlockPushVectorEnv(2)
    env.reset(seed=0)
    before, _ = env.render()
    assert before.shape == (224, 384, 3)
    colours = {tuple(colour) for colour in before.reshape(-1, 3).tolist()}
    assert {(209, 73, 91), (46, 139, 87), (207, 227, 207), (217, 211, 236), (34, 34, 34)} <= colours
    env.step(np.tile([0.05, 0.0], (2, 1)))
    assert (env.render()[0] != before).any()
