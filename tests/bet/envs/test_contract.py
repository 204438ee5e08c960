"""What every environment promises, whatever it simulates: one suite, run against each.

Bits are compared, not closeness: the episode table is to be the same whatever ran in a slot, or beside it, before.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bet.envs.blockpush import BlockPushVectorEnv
from bet.envs.gym import GymVectorEnv
from bet.envs.kitchen import KitchenVectorEnv
from bet.envs.pointmass import PointMassVectorEnv, PointMassVersion
from bet.envs.pusht import PushTVectorEnv
from bet.envs.vector import Info, RenderError, SlotVectorEnv
from bet.layouts import PushTLayout

MAX_STEPS = 12  # few, so that episodes end by themselves within a test
SEEDS = st.integers(0, 2**64 - 1)  # what SeedSequence.generate_state(1, np.uint64) can give
Slots = int | slice | NDArray[np.bool_]


@dataclass(frozen=True)
class Case:
    """An environment under test."""

    name: str
    make: Callable[[int, int], SlotVectorEnv]  # (num_envs, max_steps)
    restores: bool = True
    """Whether states can be read and restored."""


CASES = [
    Case("blockpush", BlockPushVectorEnv),
    Case("kitchen", KitchenVectorEnv),
    *(
        Case(version.value, lambda n, steps, version=version: PointMassVectorEnv(n, version, steps))
        for version in PointMassVersion
    ),
    *(
        Case(f"pusht-{layout}", lambda n, steps, layout=layout: PushTVectorEnv(n, layout, steps))
        for layout in PushTLayout
    ),
    *(
        Case(env_id, lambda n, steps, env_id=env_id: GymVectorEnv(n, env_id, steps), restores=False)
        for env_id in ("Pendulum-v1", "MountainCarContinuous-v0")
    ),
]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture(scope="module", params=[case for case in CASES if case.restores], ids=lambda case: case.name)
def restoring(request: pytest.FixtureRequest) -> Case:
    return request.param


few_examples = settings(max_examples=10)  # each steps an environment many times


def random_actions(env: SlotVectorEnv, seed: int, steps: int) -> NDArray[np.float32]:
    """Legal actions, (steps, num_envs, act_dim), slot by slot the same for the same seed whatever num_envs."""
    space = env.single_action_space
    assert isinstance(space, spaces.Box)
    draws = [np.random.default_rng((seed, slot)).random((steps, *space.shape)) for slot in range(env.num_envs)]
    return (space.low + (space.high - space.low) * np.stack(draws, axis=1)).astype(np.float32)


def idle(env: VectorEnv) -> NDArray[np.float64]:
    """Actions (num_envs, act_dim) that end no episode of any case before its time limit."""
    return np.zeros(env.action_space.shape or ())


def where(env: SlotVectorEnv) -> NDArray[Any]:
    """All that can be known of where every slot is, (num_envs, dim): what is seen of it, and its state."""
    observations = env._observe()
    return np.concatenate([observations, env.states], axis=1) if env.state_dim else observations


def play(env: SlotVectorEnv, actions: NDArray[np.float32]) -> list[NDArray[Any]]:
    """Every array that steps give, each stacked to (steps, num_envs, ...), and where they lead."""
    rows = []
    for action in actions:
        *arrays, info = env.step(action)
        rows.append([*arrays, *(info[name] for name in env.signals), where(env)])
    return [np.stack(column) for column in zip(*rows, strict=True)]


def pictures(env: SlotVectorEnv) -> tuple[NDArray[np.uint8], ...]:
    """Frames; no test where this machine cannot draw them."""
    try:
        return env.render()
    except RenderError as error:
        pytest.skip(str(error))


def assert_same(
    left: list[NDArray[Any]], right: list[NDArray[Any]], *, of: Slots = slice(None), to: Slots = slice(None)
) -> None:
    """Equal bit for bit, comparing slots `of` the left with slots `to` the right."""
    for a, b in zip(left, right, strict=True):
        np.testing.assert_array_equal(a[:, of], b[:, to], strict=True)


# What it looks like.


def test_the_spaces_say_what_comes_and_goes(case: Case) -> None:
    env = case.make(3, MAX_STEPS)
    assert isinstance(env, VectorEnv)
    assert env.num_envs == 3
    for single, batched in (
        (env.single_observation_space, env.observation_space),
        (env.single_action_space, env.action_space),
    ):
        assert isinstance(single, spaces.Box)
        assert single.dtype == np.float32
        assert len(single.shape) == 1
        assert batched == batch_space(single, 3)
    observations, info = env.reset(seed=0)
    assert observations in env.observation_space
    assert info == {}


def test_states_are_one_row_per_slot(restoring: Case) -> None:
    env = restoring.make(3, MAX_STEPS)
    env.reset(seed=0)
    assert env.states.shape == (3, env.state_dim)
    assert env.states.dtype == np.float64


def test_a_step_gives_one_row_per_slot_of_the_promised_types(case: Case) -> None:
    env = case.make(3, MAX_STEPS)
    env.reset(seed=0)
    for action in random_actions(env, 0, MAX_STEPS + 2):
        observations, rewards, terminated, truncated, _ = env.step(action)
        assert observations in env.observation_space
        for array, dtype in ((rewards, np.float64), (terminated, np.bool_), (truncated, np.bool_)):
            assert array.shape == (3,)
            assert array.dtype == dtype
        assert not (terminated & truncated).any()


def test_every_step_reports_the_same_signals(case: Case) -> None:
    env = case.make(3, MAX_STEPS)
    assert "success" in env.signals
    env.reset(seed=0)
    for action in random_actions(env, 0, MAX_STEPS + 2):  # also once every slot rests
        info = env.step(action)[-1]
        assert tuple(info) == env.signals
        for values in info.values():
            assert values.shape == (3,)
            assert values.dtype == np.float64
        assert set(info["success"]) <= {0.0, 1.0}


def test_it_never_resets_a_slot_by_itself(case: Case) -> None:
    assert case.make(1, 1).metadata["autoreset_mode"] is AutoresetMode.DISABLED


def test_render_gives_one_picture_per_slot(case: Case) -> None:
    env = case.make(2, MAX_STEPS)
    assert env.render_mode in env.metadata["render_modes"]
    env.reset(seed=0)
    play(env, random_actions(env, 0, 3))
    frames = pictures(env)
    assert len(frames) == 2
    for frame in frames:
        assert frame.dtype == np.uint8
        assert frame.ndim == 3
        assert frame.shape[2] == 3
        assert frame.std() > 0
    assert (frames[0] != frames[1]).any()  # other seeds and actions, other places


def test_rendering_changes_nothing(case: Case) -> None:
    seen, unseen = case.make(2, MAX_STEPS), case.make(2, MAX_STEPS)
    seen.reset(seed=3)
    unseen.reset(seed=3)
    actions = random_actions(seen, 0, 6)
    first = play(seen, actions[:3]), play(unseen, actions[:3])
    pictures(seen)
    assert_same(*first)
    assert_same(play(seen, actions[3:]), play(unseen, actions[3:]))


def test_arrays_handed_out_are_the_callers_to_keep(case: Case) -> None:
    env = case.make(2, MAX_STEPS)
    observations, _ = env.reset(seed=0)
    states = where(env)
    kept = observations.copy(), states.copy()
    env.step(random_actions(env, 0, 1)[0])
    np.testing.assert_array_equal(observations, kept[0])
    np.testing.assert_array_equal(states, kept[1])
    before = where(env)
    states[:] = -1
    np.testing.assert_array_equal(where(env), before)


def test_gymnasiums_own_wrappers_take_it(case: Case) -> None:
    env = RecordEpisodeStatistics(case.make(2, MAX_STEPS))
    env.reset(seed=0)
    rewards, info = np.zeros(2), {}
    for _ in range(MAX_STEPS):
        _, reward, _, _, info = env.step(idle(env))
        rewards += reward
    np.testing.assert_allclose(info["episode"]["r"], rewards)
    np.testing.assert_array_equal(info["episode"]["l"], MAX_STEPS)


# Seeds.


@few_examples
@given(seed=SEEDS, slot=st.integers(0, 4), other=SEEDS)
def test_a_seed_gives_the_same_start_in_any_slot_of_any_number(case: Case, seed: int, slot: int, other: int) -> None:
    alone, among = case.make(1, MAX_STEPS), case.make(5, MAX_STEPS)
    alone.reset(seed=[seed])
    among.reset(seed=[seed if index == slot else other for index in range(5)])
    np.testing.assert_array_equal(where(among)[slot], where(alone)[0])


def test_episode_seeds_are_accepted_as_numpy_gives_them(case: Case) -> None:
    seeds = [np.random.SeedSequence(7, spawn_key=(0, index)).generate_state(1, np.uint64)[0] for index in range(3)]
    as_list, as_array, as_int = (case.make(3, MAX_STEPS) for _ in range(3))
    as_list.reset(seed=seeds)
    as_array.reset(seed=np.array(seeds))  # pyright: ignore[reportArgumentType]
    as_int.reset(seed=[int(seed) for seed in seeds])
    np.testing.assert_array_equal(where(as_list), where(as_int))
    np.testing.assert_array_equal(where(as_array), where(as_int))


def test_one_integer_seeds_the_slots_in_sequence(case: Case) -> None:
    one, several = case.make(3, MAX_STEPS), case.make(3, MAX_STEPS)
    one.reset(seed=40)
    several.reset(seed=[40, 41, 42])
    np.testing.assert_array_equal(where(one), where(several))


def test_other_seeds_start_elsewhere(case: Case) -> None:
    env = case.make(20, MAX_STEPS)
    env.reset(seed=0)
    assert len(np.unique(where(env), axis=0)) == 20


def test_without_a_seed_a_slot_goes_on_with_its_own_generator(case: Case) -> None:
    env, twin = case.make(2, MAX_STEPS), case.make(2, MAX_STEPS)
    env.reset(seed=5)
    first = where(env)
    env.reset()
    assert (where(env) != first).any(axis=1).all()
    twin.reset(seed=5)
    twin.reset(seed=[None, None])
    np.testing.assert_array_equal(where(env), where(twin))


# Slots live apart.


@few_examples
@given(seed=SEEDS, slot=st.integers(0, 3), mine=st.integers(0, 99), theirs=st.integers(100, 199))
def test_what_other_slots_do_changes_no_bit(case: Case, seed: int, slot: int, mine: int, theirs: int) -> None:
    alone, among = case.make(1, MAX_STEPS), case.make(4, MAX_STEPS)
    alone.reset(seed=[seed])
    among.reset(seed=[seed if index == slot else theirs + index for index in range(4)])
    my_actions = random_actions(alone, mine, MAX_STEPS)
    all_actions = random_actions(among, theirs, MAX_STEPS)
    all_actions[:, slot] = my_actions[:, 0]
    expected = play(alone, my_actions)
    actual = []
    for step in range(MAX_STEPS):  # others are reset in the middle of it
        if step % 5 == 3:
            among.reset(options={"reset_mask": np.arange(4) != slot})
        actual.append(play(among, all_actions[step : step + 1]))
    together = [np.concatenate(column) for column in zip(*actual, strict=True)]
    assert_same(together, expected, of=slot, to=0)


@few_examples
@given(seed=SEEDS, use=st.integers(0, 99), steps=st.integers(0, 2 * MAX_STEPS), resets=st.integers(0, 2))
def test_a_reset_leaves_nothing_behind(case: Case, seed: int, use: int, steps: int, resets: int) -> None:
    fresh, used = case.make(2, MAX_STEPS), case.make(2, MAX_STEPS)
    for episode in range(resets + 1):
        used.reset(seed=use + episode)
        play(used, random_actions(used, use + episode, steps))
    np.testing.assert_array_equal(used.reset(seed=[seed, seed])[0], fresh.reset(seed=[seed, seed])[0])
    np.testing.assert_array_equal(where(used), where(fresh))
    actions = random_actions(fresh, use, MAX_STEPS)
    assert_same(play(used, actions), play(fresh, actions))


@few_examples
@given(mask=st.lists(st.booleans(), min_size=4, max_size=4), seed=SEEDS)
def test_a_masked_reset_leaves_the_other_slots_alone(case: Case, mask: list[bool], seed: int) -> None:
    env, untouched = case.make(4, MAX_STEPS), case.make(4, MAX_STEPS)
    chosen, others = np.array(mask), ~np.array(mask)
    for each in (env, untouched):
        each.reset(seed=1)
        before = play(each, random_actions(each, 1, 4))[0][-1]
    states = where(env)
    observations, _ = env.reset(seed=[seed] * 4, options={"reset_mask": chosen})
    np.testing.assert_array_equal(observations[others], before[others])
    np.testing.assert_array_equal(where(env)[others], states[others])
    actions = random_actions(env, 2, MAX_STEPS)  # and the others' futures and time limits are as they were
    assert_same(play(env, actions), play(untouched, actions), of=others, to=others)


# Restoring.


def states_on_the_way(restoring: Case, num_envs: int) -> NDArray[np.float64]:
    """States (num_envs, state_dim) that the simulator itself reached, each at another step."""
    env = restoring.make(num_envs, 10 * MAX_STEPS)
    env.reset(seed=11)
    reached = play(env, random_actions(env, 11, num_envs))[-1][..., -env.state_dim :]  # (steps, num_envs, state_dim)
    return reached[np.arange(num_envs), np.arange(num_envs)]


def test_a_restored_state_is_the_state_given(restoring: Case) -> None:
    given_states = states_on_the_way(restoring, 16)
    env = restoring.make(16, MAX_STEPS)
    env.reset(options={"states": given_states})
    np.testing.assert_array_equal(env.states, given_states)


def test_what_follows_a_restored_state_depends_on_it_alone(restoring: Case) -> None:
    given_states = states_on_the_way(restoring, 4)
    fresh, used = restoring.make(4, MAX_STEPS), restoring.make(4, MAX_STEPS)
    used.reset(seed=2)
    play(used, random_actions(used, 3, 7))
    expected, _ = fresh.reset(options={"states": given_states})
    actual, _ = used.reset(options={"states": given_states})
    np.testing.assert_array_equal(actual, expected)
    actions = random_actions(fresh, 4, MAX_STEPS)
    assert_same(play(used, actions), play(fresh, actions))


def test_restoring_some_slots_reads_only_their_rows(restoring: Case) -> None:
    given_states = states_on_the_way(restoring, 3)
    env = restoring.make(3, MAX_STEPS)
    before, _ = env.reset(seed=0)
    states = env.states
    mask = np.array([False, True, False])
    after, _ = env.reset(options={"states": np.where(mask[:, None], given_states, np.nan), "reset_mask": mask})
    np.testing.assert_array_equal(env.states, np.where(mask[:, None], given_states, states))
    np.testing.assert_array_equal(after[~mask], before[~mask])


@pytest.mark.parametrize("case", [case for case in CASES if not case.restores], ids=lambda case: case.name)
def test_environments_without_states_refuse_to_restore_them(case: Case) -> None:
    env = case.make(2, MAX_STEPS)
    before, _ = env.reset(seed=0)
    with pytest.raises(ValueError, match="states cannot be restored"):
        env.reset(options={"states": np.zeros((2, 3))})
    with pytest.raises(NotImplementedError, match="no state in common"):
        _ = env.states
    np.testing.assert_array_equal(env._observe(), before)


# The end of an episode.


def test_the_time_limit_truncates_on_its_last_step_and_not_before(case: Case) -> None:
    env = case.make(2, 5)
    env.reset(seed=0)
    action = idle(env)
    flags = [env.step(action)[3].tolist() for _ in range(6)]
    assert flags == [[False] * 2] * 4 + [[True] * 2] + [[False] * 2]  # and a resting slot is not truncated again


def test_a_reset_gives_a_slot_its_whole_time_again(case: Case) -> None:
    env = case.make(2, 5)
    env.reset(seed=0)
    action = idle(env)
    for _ in range(3):
        env.step(action)
    env.reset(options={"reset_mask": np.array([True, False])})
    flags = [env.step(action)[3].tolist() for _ in range(5)]
    assert flags == [[False, False], [False, True], [False, False], [False, False], [True, False]]


@pytest.mark.parametrize("finished", [False, True], ids=["never reset", "finished"])
def test_a_slot_at_rest_does_not_move_whatever_its_action(case: Case, finished: bool) -> None:
    env = case.make(2, 3)
    first = np.array([True, False])
    env.reset(seed=0, options={"reset_mask": first})
    if finished:
        env.reset(seed=0)
        play(env, random_actions(env, 0, 3))
        env.reset(options={"reset_mask": first})
    states = where(env)
    actions = random_actions(env, 1, 3)
    actions[:, 1] = np.nan
    for action in actions:
        _, rewards, terminated, truncated, info = env.step(action)
        np.testing.assert_array_equal(where(env)[1], states[1])
        assert not terminated[1]
        assert not truncated[1]
        assert [rewards[1], *(info[name][1] for name in env.signals)] == [0.0] * (1 + len(env.signals))


# What it refuses.


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_action_that_is_not_finite_is_refused_naming_the_slot(case: Case, value: float) -> None:
    env = case.make(3, MAX_STEPS)
    env.reset(seed=0)
    states = where(env)
    action = idle(env)
    action[1, 0] = value
    with pytest.raises(ValueError, match="slot 1"):
        env.step(action)
    np.testing.assert_array_equal(where(env), states)


@pytest.mark.parametrize(("rows", "columns"), [(None, 0), (-2, 0), (1, 0), (0, -1), (0, 1)])
def test_actions_of_another_shape_are_refused(case: Case, rows: int | None, columns: int) -> None:
    env = case.make(3, MAX_STEPS)
    env.reset(seed=0)
    act_dim = idle(env).shape[1]
    shape = (act_dim,) if rows is None else (3 + rows, act_dim + columns)
    with pytest.raises(ValueError, match="actions have shape"):
        env.step(np.zeros(shape))


@pytest.mark.parametrize(("rows", "columns"), [(1, 0), (0, 1)], ids=["more states than slots", "wider states"])
def test_states_that_do_not_fit_are_refused(restoring: Case, rows: int, columns: int) -> None:
    env = restoring.make(3, MAX_STEPS)
    env.reset(seed=0)
    states = env.states
    with pytest.raises(ValueError, match="states have shape"):
        env.reset(options={"states": np.zeros((3 + rows, env.state_dim + columns))})
    np.testing.assert_array_equal(env.states, states)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reset_mask": np.ones(2, dtype=bool)}, "3 booleans"),
        ({"reset_mask": np.ones(3, dtype=int)}, "3 booleans"),
        ({"state": np.zeros(3)}, "unknown reset option 'state'"),
    ],
    ids=["short mask", "mask of integers", "unknown option"],
)
def test_reset_options_that_do_not_fit_are_refused(case: Case, options: Info, message: str) -> None:
    env = case.make(3, MAX_STEPS)
    env.reset(seed=0)
    states = where(env)
    with pytest.raises(ValueError, match=message):
        env.reset(options=options)
    np.testing.assert_array_equal(where(env), states)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_state_that_is_not_finite_is_refused_naming_the_slot(restoring: Case, value: float) -> None:
    env = restoring.make(3, MAX_STEPS)
    env.reset(seed=0)
    states = env.states
    broken = states.copy()
    broken[1, 0] = value
    with pytest.raises(ValueError, match="slot 1"):
        env.reset(options={"states": broken})
    np.testing.assert_array_equal(env.states, states)


@pytest.mark.parametrize("count", [0, 2, 4])
def test_a_wrong_number_of_seeds_is_refused(case: Case, count: int) -> None:
    with pytest.raises(ValueError, match="seeds for 3 slots"):
        case.make(3, MAX_STEPS).reset(seed=list(range(count)))


@pytest.mark.parametrize(("num_envs", "max_steps"), [(0, 5), (-1, 5), (2, 0)])
def test_no_slots_or_no_steps_are_refused(case: Case, num_envs: int, max_steps: int) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        case.make(num_envs, max_steps)
