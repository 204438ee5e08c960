import gc
from itertools import pairwise
from pathlib import Path
from typing import Any

import gym_pusht  # noqa: F401  (registers the environment)
import gymnasium
import numpy as np
import pytest
import shapely
import shapely.affinity
import zarr
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from bet.envs.pusht import PushTVectorEnv
from bet.envs.pusht_scene import BAR, GOAL, STEM, coverage, draw
from bet.layouts import PushTLayout, pusht_observations


class Reference:
    """gym-pusht itself, one environment per slot."""

    def __init__(self, slots: int) -> None:
        self.envs: list[Any] = [
            gymnasium.make("gym_pusht/PushT-v0", disable_env_checker=True).unwrapped for _ in range(slots)
        ]
        self.states = np.zeros((slots, 5))
        self.contacts = np.zeros(slots, dtype=np.int64)  # contact points met so far

    def reset(self, slot: int, seed: int) -> None:
        self.states[slot], _ = self.envs[slot].reset(seed=seed)

    def restore(self, slot: int, state: NDArray[Any]) -> None:
        """What gym-pusht's `_set_state` calls the right order (angle first), and no physics step."""
        env = self.envs[slot]
        env.reset(seed=0)
        env._setup()
        env.agent.position = state[:2].tolist()
        env.block.angle = float(state[4])
        env.block.position = state[2:4].tolist()
        self.states[slot] = env.get_obs()

    def step(self, slot: int, action: NDArray[Any]) -> tuple[float, bool, dict[str, Any]]:
        env = self.envs[slot]
        self.states[slot], reward, terminated, _, info = env.step(action)
        self.contacts[slot] += env.n_contact_points
        return reward, terminated, info


def random_targets(states: NDArray[np.float64], rng: np.random.Generator, step: int) -> NDArray[np.float64]:
    return rng.uniform(0, 512, (len(states), 2))


def pushes_through_the_block(states: NDArray[np.float64], rng: np.random.Generator, step: int) -> NDArray[np.float64]:
    """To a place beside the block, then straight through its middle to the other side."""
    middle = states[:, 2:4] + 45 * np.stack([-np.sin(states[:, 4]), np.cos(states[:, 4])], axis=1)
    towards = np.array([256.0, 256.0]) - middle + rng.normal(0, 20, middle.shape)
    return middle + (0.8 if step % 25 >= 8 else -0.9) * towards


def pushes_into_the_walls(states: NDArray[np.float64], rng: np.random.Generator, step: int) -> NDArray[np.float64]:
    """Past the block to the nearest wall and beyond, so that the block is squeezed against it."""
    outward = np.sign(states[:, 2:4] - 256) * 400
    return states[:, 2:4] + (outward if step % 30 >= 10 else -outward / 4)


@pytest.mark.parametrize(
    ("policy", "slots", "dtype"),
    [
        (random_targets, 3, np.float32),
        (pushes_through_the_block, 3, np.float64),
        (pushes_into_the_walls, 3, np.float64),
        (pushes_through_the_block, 8, np.float32),
    ],
)
def test_states_rewards_and_ends_equal_gym_pushts_to_the_bit_in_every_slot(policy, slots, dtype):
    """Slots reset at different times, each to a new seed; few and many slots take different paths in the code."""
    env, reference, rng = PushTVectorEnv(slots, max_steps=10_000), Reference(slots), np.random.default_rng(slots)
    env.reset(seed=100)
    for slot in range(slots):
        reference.reset(slot, 100 + slot)
    np.testing.assert_array_equal(env.states, reference.states)
    touched = np.zeros(slots, dtype=bool)
    for step in range(2_600 // slots):
        actions = policy(env.states, rng, step).astype(dtype)
        observations, rewards, terminated, _, info = env.step(actions)
        for slot in range(slots):
            reward, done, expected = reference.step(slot, actions[slot])
            assert rewards[slot] == pytest.approx(reward, abs=1e-9)
            assert info["coverage"][slot] == pytest.approx(expected["coverage"], abs=1e-9)
            assert terminated[slot] == info["success"][slot] == done
        np.testing.assert_array_equal(env.states, reference.states)
        np.testing.assert_array_equal(observations, pusht_observations(reference.states, PushTLayout.STATE))
        touched |= reference.contacts > 0
        renew = terminated | (rng.random(slots) < 0.01)
        if renew.any():
            seeds: list[int] = rng.integers(0, 2**31, slots).tolist()
            env.reset(seed=seeds, options={"reset_mask": renew})
            for slot in np.flatnonzero(renew).tolist():
                reference.reset(slot, seeds[slot])
            np.testing.assert_array_equal(env.states, reference.states)
    assert touched.all()
    if policy is not random_targets:
        assert (reference.contacts > 10_000 / slots).all()


def recorded(data_dir: Path) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    """States (N, 5), actions (N, 2) and ends (E,) of the published demonstrations."""
    group = zarr.open_group(data_dir / "pusht" / "pusht_cchi_v7_replay.zarr", mode="r")
    state, action, ends = (np.asarray(group[key]) for key in ("data/state", "data/action", "meta/episode_ends"))
    return state, action, ends


def test_replayed_demonstrations_equal_gym_pushts_to_the_bit(data_dir):
    states, actions, ends = recorded(data_dir)
    slots, length = 10, 90
    starts = np.concatenate([[0], ends[: slots - 1]])
    env, reference = PushTVectorEnv(slots), Reference(slots)
    env.reset(options={"states": states[starts]})
    for slot in range(slots):
        reference.restore(slot, states[starts[slot]].astype(np.float64))
    running = np.ones(slots, dtype=bool)
    for step in range(length):
        targets = actions[np.minimum(starts + step, ends[:slots] - 1)]
        _, _, terminated, _, _ = env.step(targets)
        for slot in np.flatnonzero(running).tolist():
            reference.step(slot, targets[slot])
        np.testing.assert_array_equal(env.states, reference.states)
        running &= ~terminated
    assert (reference.contacts > 50).all()


def test_a_seeded_slot_goes_on_with_its_own_generator_as_gym_pusht_does():
    env, reference = PushTVectorEnv(1), Reference(1)
    env.reset(seed=3)
    reference.reset(0, 3)
    for _ in range(5):
        env.reset()
        state, _ = reference.envs[0].reset()
        np.testing.assert_array_equal(env.states[0], state)


def test_replaying_from_restored_states_follows_the_recorded_demonstrations(data_dir):
    states, actions, ends = recorded(data_dir)
    slots = 40
    env = PushTVectorEnv(slots)
    starts = np.concatenate([[0], ends[: slots - 1]])
    env.reset(options={"states": states[starts]})
    errors = []
    for step in range(np.diff(ends[: slots + 1]).min() // 2):
        env.step(actions[starts + step])
        errors.append(np.abs(env.states - states[starts + step + 1])[:, :4].max(axis=1))
    assert np.median(errors) < 1e-4  # pixels; the recording is float32


def test_restored_states_are_the_states_given_at_rest():
    rng = np.random.default_rng(0)
    states = rng.uniform([50, 50, 100, 100, 0], [450, 450, 400, 400, 2 * np.pi], (4, 5))
    env = PushTVectorEnv(4)
    env.reset(seed=0)
    for _ in range(20):
        env.step(env.states[:, 2:4])
    env.reset(options={"states": states})
    np.testing.assert_array_equal(env.states, states)
    states[:, :2] = 30.0  # a corner, away from the blocks
    env.reset(options={"states": states})
    env.step(states[:, :2])
    np.testing.assert_allclose(env.states, states, rtol=0, atol=1e-9)


def test_states_that_are_not_finite_are_refused_before_the_simulator_sees_them():
    env = PushTVectorEnv(2)
    states = np.full((2, 5), 200.0)
    states[1, 4] = np.nan
    with pytest.raises(ValueError, match="the state given for slot 1 is not finite"):
        env.reset(options={"states": states})
    env.reset(options={"states": states, "reset_mask": np.array([True, False])})


def test_a_reset_leaves_nothing_behind():
    rng = np.random.default_rng(1)
    used, fresh = PushTVectorEnv(2), PushTVectorEnv(2)
    used.reset(seed=[1, 2])
    for step in range(60):
        used.step(pushes_through_the_block(used.states, rng, step))
    touching = used.states
    for states in (None, touching):
        for env in (used, fresh):
            env.reset(seed=8, options=None if states is None else {"states": states})
        for step in range(60):
            actions = pushes_through_the_block(fresh.states, rng, step)
            np.testing.assert_array_equal(used.step(actions)[0], fresh.step(actions)[0])
            np.testing.assert_array_equal(used.states, fresh.states)


def test_a_slot_does_not_depend_on_the_others():
    many, alone = PushTVectorEnv(12), PushTVectorEnv(1)
    rng = np.random.default_rng(2)
    many.reset(seed=40)
    alone.reset(seed=47)
    for step in range(150):
        actions = pushes_through_the_block(many.states, rng, step)
        _, rewards, _, _, info = many.step(actions)
        _, reward, _, _, single = alone.step(actions[7:8])
        np.testing.assert_array_equal(many.states[7], alone.states[0])
        assert rewards[7] == reward[0]
        assert info["coverage"][7] == single["coverage"][0]
        if step % 20 == 0:
            mask = np.arange(12) == step // 20 % 5
            many.reset(seed=step, options={"reset_mask": mask})


def test_an_episode_succeeds_above_95_percent_and_its_slot_then_rests():
    env = PushTVectorEnv(3)
    on_goal = np.array([60.0, 60.0, *GOAL])
    beside = on_goal + np.array([0, 0, 5, 0, 0])
    away = on_goal + np.array([0, 0, 150, 100, 0])
    env.reset(options={"states": np.stack([on_goal, beside, away])})
    actions = np.full((3, 2), 60.0)
    _, rewards, terminated, truncated, info = env.step(actions)
    np.testing.assert_array_equal(terminated, [True, False, False])
    np.testing.assert_array_equal(info["success"], [1, 0, 0])
    assert not truncated.any()
    assert info["coverage"][0] == pytest.approx(1.0, abs=1e-9)
    assert 0.8 < info["coverage"][1] < 0.95
    assert rewards[1] == pytest.approx(info["coverage"][1] / 0.95)
    np.testing.assert_array_equal(rewards[[0, 2]], [1, 0])
    resting = env.states[0]
    env.step(actions + 100)
    np.testing.assert_array_equal(env.states[0], resting)


def test_an_episode_is_cut_at_its_time_limit():
    env = PushTVectorEnv(2, max_steps=3)
    env.reset(seed=0)
    cut = [env.step(np.full((2, 2), 256.0))[3].all() for _ in range(3)]
    assert cut == [False, False, True]


@pytest.mark.parametrize("layout", PushTLayout)
def test_observations_follow_the_layout(layout):
    env = PushTVectorEnv(2, layout)
    observations, info = env.reset(seed=0)
    assert info == {}
    assert env.single_observation_space.shape == (layout.dim,)
    assert env.observation_space.contains(observations)
    np.testing.assert_array_equal(observations, pusht_observations(env.states, layout))


# Coverage


def block(x: float, y: float, angle: float) -> shapely.Geometry:
    tee = shapely.union_all([shapely.Polygon(BAR), shapely.Polygon(STEM)])
    return shapely.affinity.translate(shapely.affinity.rotate(tee, angle, origin=(0, 0), use_radians=True), x, y)


def covered(x: float, y: float, angle: float) -> float:
    goal = block(*GOAL)
    return float(shapely.area(shapely.intersection(goal, block(x, y, angle))) / shapely.area(goal))


POSE = st.tuples(st.floats(0, 512), st.floats(0, 512), st.floats(-10, 10))
NEAR_POSE = st.tuples(
    st.floats(-60, 60).map(lambda d: GOAL[0] + d),
    st.floats(-60, 60).map(lambda d: GOAL[1] + d),
    st.sampled_from([0, np.pi / 2, np.pi, -np.pi / 2]).flatmap(
        lambda turn: st.floats(-1e-3, 1e-3).map(lambda d: GOAL[2] + turn + d)
    ),
)


@given(st.one_of(POSE, NEAR_POSE))
def test_coverage_equals_the_area_of_shapelys_intersection(pose):
    assert coverage(np.array([pose]))[0] == pytest.approx(covered(*pose), abs=1e-9)


def test_a_block_exactly_on_its_goal_covers_all_of_it():
    turns = np.array([0, 2 * np.pi, -2 * np.pi])
    poses = np.column_stack([np.full((3, 2), 256.0), GOAL[2] + turns])
    np.testing.assert_allclose(coverage(poses), 1.0, rtol=0, atol=1e-12)


@pytest.mark.parametrize("along", [0.0, 30.0, 60.0, 120.0, 1e-9, 1e-13])
def test_edges_that_coincide_count_once(along):
    """Moved along its own bar, the block's long edges stay on the goal's."""
    pose = (GOAL[0] + along * np.cos(GOAL[2]), GOAL[1] + along * np.sin(GOAL[2]), GOAL[2])
    overlap = max(0, 120 - along) * 30 + max(0, 30 - along) * 90
    assert coverage(np.array([pose]))[0] == pytest.approx(overlap / 6300, abs=1e-9)


def test_blocks_out_of_reach_cover_nothing_and_do_not_change_the_others():
    rng = np.random.default_rng(0)
    poses = rng.uniform([-100, -100, -7], [600, 600, 7], (500, 3))
    together = coverage(poses)
    assert (together == 0).any()
    assert (together > 0).any()
    np.testing.assert_array_equal(together, [coverage(pose[None])[0] for pose in poses])
    np.testing.assert_allclose(together, [covered(*pose) for pose in poses], rtol=0, atol=1e-9)


# Pictures


def test_render_gives_one_picture_per_slot_that_moves_with_the_agent():
    env = PushTVectorEnv(2)
    env.reset(seed=0)
    first = env.render()
    env.step(np.array([[50.0, 50.0], [450.0, 450.0]]))
    second = env.render()
    assert len(first) == 2
    assert all(frame.shape == (384, 384, 3) and frame.dtype == np.uint8 for frame in first + second)
    assert all((a != b).any() for a, b in zip(first, second, strict=True))


def test_pictures_show_agent_block_and_goal_where_gym_pusht_shows_them():
    env, reference = PushTVectorEnv(1), Reference(1)
    env.reset(seed=11)
    reference.reset(0, 11)
    ours = draw(env.states, size=680)[0].astype(int)
    theirs = reference.envs[0].render().astype(int)
    differs = np.abs(ours - theirs).max(axis=-1) > 60
    assert differs.mean() < 0.01  # edges: gym-pusht rounds to whole pixels


def test_a_picture_marks_the_target_only_where_there_is_one():
    states = np.array([[100.0, 100, 300, 300, 0]] * 2)
    plain, marked = draw(states, targets=np.array([[np.nan, np.nan], [400.0, 60.0]]))
    x, y = round(400 * 384 / 512), round(60 * 384 / 512)
    np.testing.assert_array_equal(plain[y, x], [255, 255, 255])
    np.testing.assert_array_equal(marked[y, x], [255, 0, 0])


# Memory


def test_closing_frees_the_simulations_and_a_reset_starts_anew():
    env = PushTVectorEnv(3)
    env.reset(seed=0)
    before = env.states
    env.close()
    env.close()
    assert not env.step(np.zeros((3, 2)))[1].any()  # all slots rest
    env.reset(seed=0)
    np.testing.assert_array_equal(env.states, before)


def test_memory_does_not_grow_with_resets():
    resource = pytest.importorskip("resource")
    env = PushTVectorEnv(4)

    def peak_after(resets: int) -> int:  # kB
        for seed in range(resets):
            env.reset(seed=seed)
            env.step(env.states[:, 2:4])
        gc.collect()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    peaks = [peak_after(400) for _ in range(3)]
    growth = [after - before for before, after in pairwise(peaks)]
    assert min(growth) < 1_000  # 2,000 leaked spaces would be 20 MB or more
