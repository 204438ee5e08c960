"""Many episodes at once: no result shows how many slots there were, in which order they ran, or beside what.

Bits are compared: whole results, trajectories included.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bet import tasks
from bet.config import BinSource, ConfigError, Normalize, Split, make_config
from bet.errors import UsageError
from bet.layouts import PushTLayout, pusht_observations
from bet.metrics import PointMassOutcome, PushTOutcome
from bet.model import Model
from bet.normalizer import fit_normalizer
from bet.policy import Policy
from bet.priors import make_model
from bet.protocol import Protocol, Recipe, episode_randomness, states_digest
from bet.rollout import NOT_FINITE, End, EpisodeResult, Rollout, failed, rollout
from bet.trajectory import Trajectory

SMALL = {"model.layers": 1, "model.heads": 2, "model.width": 20}


def pointmass(seed: int = 0, **settings: Any) -> Policy:
    """Long steps up and right, at random: some episodes reach the target, some leave the grid, some do neither."""
    config = make_config("pointmass2", {"bins": 4, "window": 3}, settings)
    centers = torch.tensor([[1.0, 1.0], [2.0, 2.0], [2.0, 0.0], [0.0, 0.6]])[: config.codebook.bins]
    unit = fit_normalizer(np.zeros((2, 2), np.float32), Normalize.NONE)
    return Policy(config, network(config, 2, seed), centers, unit, unit, "none")


def pusht(seed: int = 0, layout: str = "state") -> Policy:
    """Wanders between six places of the square."""
    config = make_config("pusht", SMALL, {"bins": 6, "window": 4, "data.observation": layout})
    env = tasks.get("pusht").make_env(1, layout)
    low_high = np.stack([env.single_observation_space.low, env.single_observation_space.high])  # pyright: ignore
    square = np.array([[0, 0], [512, 512]], np.float32)
    centers = 0.8 * torch.randn(6, 2, generator=torch.Generator().manual_seed(seed))
    return Policy(
        config,
        network(config, low_high.shape[1], seed),
        centers,
        fit_normalizer(low_high, Normalize.MINMAX),
        fit_normalizer(square, Normalize.MINMAX),
        "none",
    )


def car(seed: int = 0) -> Policy:
    """Pushes a car of gymnasium's both ways, hard and softly; the observations are blown up to matter."""
    config = make_config("MountainCarContinuous-v0", SMALL, {"bins": 4, "window": 3})
    unit = fit_normalizer(np.zeros((2, 1), np.float32), Normalize.NONE)
    seen = fit_normalizer(np.array([[-0.6, -0.01], [-0.4, 0.01]], np.float32), Normalize.MINMAX)
    centers = torch.tensor([[-1.5], [-0.3], [0.3], [1.5]])  # the outer ones are clipped
    return Policy(config, network(config, 2, seed, act_dim=1), centers, seen, unit, "none")


def cook(seed: int = 0) -> Policy:
    """Throws the arm of the kitchen about; what it sees, and where it goes from there, is noisy."""
    config = make_config("kitchen", SMALL, {"bins": 4, "window": 3})
    unit = fit_normalizer(np.zeros((2, 9), np.float32), Normalize.NONE)
    seen = fit_normalizer(np.array([np.full(60, -2), np.full(60, 2)], np.float32), Normalize.MINMAX)
    centers = torch.rand(4, 9, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return Policy(config, network(config, 60, seed, act_dim=9), centers, seen, unit, "none")


def network(config: Any, obs_dim: int, seed: int, act_dim: int = 2) -> Model:
    """Initial weights, a little stronger, so that what is seen matters."""
    model = make_model(config.model, obs_dim, act_dim, config.codebook.bins)
    generator = torch.Generator().manual_seed(seed)
    model.initialize(generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    return model


def protocol(task: str, max_steps: int, **changes: Any) -> Protocol:
    return tasks.simulated(task).protocol.model_copy(update={"max_steps": max_steps} | changes)


GRID = protocol("pointmass2", 8)  # right_first to (8, 8) takes eight steps of 1, or fewer long ones
TABLE = protocol("pusht", 15)
CASES: dict[str, tuple[Callable[[], Policy], Protocol]] = {
    "pointmass2": (pointmass, GRID),
    "pusht": (pusht, TABLE),
    "pusht, agent only": (lambda: pusht(layout="agent"), TABLE),
    "kitchen": (cook, protocol("kitchen", 4)),
    "gymnasium": (car, protocol("MountainCarContinuous-v0", 20)),
}
EPISODES = 24


@dataclasses.dataclass(frozen=True)
class Case:
    policy: Policy
    protocol: Protocol
    expected: dict[int, EpisodeResult]  # by index, from one slot

    def run(self, indices: Iterable[int], slots: int) -> dict[int, EpisodeResult]:
        return by_index(rollout(self.policy, Recipe(self.protocol), Split.TUNE, indices, slots))


def by_index(results: Iterable[EpisodeResult]) -> dict[int, EpisodeResult]:
    table: dict[int, EpisodeResult] = {}
    for result in results:
        assert result.index not in table
        table[result.index] = result
    return table


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    make, recipe = CASES[request.param]
    policy = make()
    return Case(policy, recipe, by_index(rollout(policy, Recipe(recipe), Split.TUNE, range(EPISODES), 1)))


def assert_same(left: EpisodeResult, right: EpisodeResult) -> None:
    assert dataclasses.replace(left, trajectory=None) == dataclasses.replace(right, trajectory=None)
    assert (left.trajectory is None) == (right.trajectory is None)
    if left.trajectory is not None and right.trajectory is not None:
        for name in ("observations", "actions", "rewards", "bins"):
            np.testing.assert_array_equal(getattr(left.trajectory, name), getattr(right.trajectory, name), strict=True)
        assert left.trajectory.signals.keys() == right.trajectory.signals.keys()
        for name, values in left.trajectory.signals.items():
            np.testing.assert_array_equal(values, right.trajectory.signals[name], strict=True)


def assert_all_same(actual: dict[int, EpisodeResult], expected: dict[int, EpisodeResult]) -> None:
    assert actual.keys() <= expected.keys()
    for index, result in actual.items():
        assert_same(result, expected[index])


# No result shows how it was run.


@pytest.mark.parametrize("slots", [1, 3, 32, 40])  # more slots than rows of a forward, too
def test_the_number_of_slots_and_the_order_change_no_bit(case: Case, slots: int) -> None:
    shuffled = np.random.default_rng(slots).permutation(EPISODES).tolist()
    actual = case.run(shuffled, slots)
    assert sorted(actual) == list(range(EPISODES))
    assert_all_same(actual, case.expected)


@settings(max_examples=6)
@given(indices=st.lists(st.integers(0, EPISODES - 1), min_size=1, max_size=8, unique=True), slots=st.integers(1, 9))
def test_any_selection_of_episodes_gives_the_same_rows(case: Case, indices: list[int], slots: int) -> None:
    actual = case.run(indices, slots)
    assert sorted(actual) == sorted(indices)
    assert_all_same(actual, case.expected)


def test_what_ran_in_a_slot_before_leaves_nothing_behind(case: Case) -> None:
    engine = Rollout(case.policy, Recipe(case.protocol), Split.TUNE, slots=3)
    seen: dict[int, EpisodeResult] = {}
    for wave in ([0, 1, 2], [3, 0, 4], [1], [2, 0]):  # the same episodes again, in other slots, some left unused
        engine.start(wave)
        while engine.busy:
            finished = by_index(engine.step())
            assert_all_same(finished, case.expected)
            seen |= finished
    engine.close()
    assert sorted(seen) == [0, 1, 2, 3, 4]


def test_a_saved_and_loaded_policy_gives_the_same_rows(case: Case) -> None:
    again = Policy.unpack(*case.policy.pack())
    assert_all_same(by_index(rollout(again, Recipe(case.protocol), Split.TUNE, range(6), 4)), case.expected)


def test_the_splits_meet_other_initial_states(case: Case) -> None:
    report = by_index(rollout(case.policy, Recipe(case.protocol), Split.REPORT, range(4), 4))
    seeds = {result.seed for result in [*report.values(), *case.expected.values()]}
    assert len(seeds) == 4 + EPISODES


# Pairing.


@pytest.mark.parametrize(
    ("make", "recipe"),
    [(pointmass, GRID), (pusht, TABLE), (car, CASES["gymnasium"][1])],
    ids=["pointmass2", "pusht", "gymnasium"],
)
def test_two_policies_meet_the_same_initial_states(make: Callable[..., Policy], recipe: Protocol) -> None:
    first, second = (by_index(rollout(make(seed), Recipe(recipe), Split.REPORT, range(6), 4)) for seed in (0, 1))
    for index in range(6):
        assert first[index].seed == second[index].seed
        one, other = first[index].trajectory, second[index].trajectory
        assert one is not None
        assert other is not None
        np.testing.assert_array_equal(one.observations[0], other.observations[0])
        assert len(one) != len(other) or (one.actions != other.actions).any()


def test_an_episode_begins_where_its_seed_puts_the_environment(case: Case) -> None:
    env = tasks.simulated(case.protocol.task).make_env(1, case.policy.config.data.observation)
    for index in range(3):
        result = case.expected[index]
        assert result.seed == episode_randomness(case.protocol, Split.TUNE, index)[0]
        observations, _ = env.reset(seed=[result.seed])
        assert result.trajectory is not None
        np.testing.assert_array_equal(result.trajectory.observations[0], observations[0])


def test_the_recorded_actions_replay_to_the_recorded_episode(case: Case) -> None:
    env = tasks.simulated(case.protocol.task).make_env(1, case.policy.config.data.observation)
    for index in range(3):
        result = case.expected[index]
        assert result.trajectory is not None
        env.reset(seed=[result.seed])
        for step, action in enumerate(result.trajectory.actions):
            observations, rewards, *_, info = env.step(action[None])
            np.testing.assert_array_equal(observations[0], result.trajectory.observations[step + 1])
            assert rewards[0] == result.trajectory.rewards[step]
            for name, values in result.trajectory.signals.items():
                assert info[name][0] == values[step]


def test_each_step_draws_its_bin_with_the_episodes_next_uniform() -> None:
    policy = pointmass()
    policy.model.head.weight[:4] = 0  # four bins, alike
    for result in rollout(policy, Recipe(GRID), Split.TUNE, range(10), 4):
        _, uniforms = episode_randomness(GRID, Split.TUNE, result.index)
        assert result.trajectory is not None
        np.testing.assert_array_equal(result.trajectory.bins, (4 * uniforms[: result.length]).astype(int))


# What a row says.


def test_a_row_agrees_with_its_trajectory(case: Case) -> None:
    for result in case.expected.values():
        trajectory = result.trajectory
        assert trajectory is not None
        assert result.length == len(trajectory) <= case.protocol.max_steps
        assert result.total_reward == trajectory.rewards.sum()
        assert result.max_reward == trajectory.rewards.max()
        assert result.success == trajectory.success == (result.end is End.SUCCESS)
        assert isinstance(result.outcome, tasks.simulated(case.protocol.task).outcome_type)
        assert 0 <= result.primary <= 1
        assert 0 <= result.seed < 2**64


def test_point_mass_episodes_end_for_every_reason_there_is() -> None:
    results = list(rollout(pointmass(), Recipe(GRID), Split.TUNE, range(200), 32))
    assert {result.end for result in results} == {End.SUCCESS, End.TERMINATED, End.TIME_LIMIT}
    for result in results:
        assert isinstance(result.outcome, PointMassOutcome)
        assert result.primary == float(result.success)
        assert result.total_reward == {End.SUCCESS: 1, End.TERMINATED: -1, End.TIME_LIMIT: 0}[result.end]
        assert (result.length == GRID.max_steps) or result.end is not End.TIME_LIMIT


def test_pusht_scores_partial_success() -> None:
    (result,) = rollout(pusht(), Recipe(TABLE), Split.TUNE, [0], 1)
    assert result.end is End.TIME_LIMIT
    assert result.length == 15
    assert isinstance(result.outcome, PushTOutcome)
    assert result.primary == pytest.approx(result.outcome.best_coverage / 0.95)


def test_the_protocols_time_limit_holds() -> None:
    for steps in (1, 2, 5):
        results = rollout(pointmass(bins=1), Recipe(protocol("pointmass2", steps)), Split.TUNE, range(3), 2)
        assert [result.length for result in results] == [steps] * 3


def test_a_longer_limit_only_adds_steps() -> None:
    (short,), (long,) = (rollout(pusht(), Recipe(protocol("pusht", steps)), Split.TUNE, [3], 1) for steps in (6, 12))
    assert short.trajectory is not None
    assert long.trajectory is not None
    np.testing.assert_array_equal(long.trajectory.observations[:7], short.trajectory.observations)
    np.testing.assert_array_equal(long.trajectory.actions[:6], short.trajectory.actions)


# A policy that breaks.


def broken_in_one_bin() -> Policy:
    """The healthy policy, but the offset of its last bin is not a number."""
    policy = pointmass()
    policy.model.head.weight[-2:] = torch.nan
    return policy


@pytest.mark.parametrize("slots", [1, 5, 32])
def test_an_action_of_nan_ends_its_episode_in_an_error_and_the_others_finish(slots: int) -> None:
    healthy = by_index(rollout(pointmass(), Recipe(GRID), Split.TUNE, range(40), 32))
    results = by_index(rollout(broken_in_one_bin(), Recipe(GRID), Split.TUNE, range(40), slots))
    assert sorted(results) == list(range(40))
    ends = {result.end for result in results.values()}
    assert End.ERROR in ends
    assert len(ends) > 1
    for index, result in results.items():
        trajectory = healthy[index].trajectory
        assert trajectory is not None
        drawn = np.flatnonzero(trajectory.bins == 3)
        if len(drawn):
            assert_same(result, failed(GRID, Split.TUNE, index, NOT_FINITE, int(drawn[0]) + 1))
        else:
            assert_same(result, healthy[index])


def test_a_policy_of_nan_ends_every_episode_in_an_error() -> None:
    policy = pusht()
    policy.model.get_parameter("embed.weight")[0, 0] = torch.nan
    for result in rollout(policy, Recipe(TABLE), Split.TUNE, range(5), 3):
        assert result.end is End.ERROR
        assert result.length == 1


def test_a_policy_without_offsets_that_breaks_is_an_error_too() -> None:
    """Its actions are bin centres, finite whatever the probabilities."""
    policy = pointmass(**{"model.offsets": False})
    policy.model.head.weight[0] = torch.nan
    assert {result.end for result in rollout(policy, Recipe(GRID), Split.TUNE, range(5), 3)} == {End.ERROR}


def test_a_failed_episode_scores_nothing_and_keeps_its_identity() -> None:
    row = failed(GRID, Split.REPORT, 7, "it hung", length=3)
    assert (row.index, row.seed) == (7, episode_randomness(GRID, Split.REPORT, 7)[0])
    assert (row.success, row.primary, row.total_reward, row.max_reward) == (False, 0.0, 0.0, 0.0)
    assert (row.length, row.end, row.outcome, row.trajectory) == (3, End.ERROR, None, None)


# What is refused.


def test_a_policy_of_another_task_is_refused_with_both_shapes() -> None:
    with pytest.raises(ValueError, match=r"\(6,\) and \(2,\).*pointmass2 \(state\) have \(2,\) and \(2,\)"):
        Rollout(pusht(), Recipe(GRID), Split.TUNE, 2)


def test_a_layout_that_the_task_lacks_is_refused() -> None:
    with pytest.raises(ConfigError, match="pointmass2 has no layout 'agent'"):
        Rollout(pusht(layout="agent"), Recipe(GRID), Split.TUNE, 2)


def test_more_episodes_than_free_slots_are_refused() -> None:
    engine = Rollout(pointmass(), Recipe(GRID), Split.TUNE, 2)
    with pytest.raises(ValueError):
        engine.start([0, 1, 2])


def test_free_and_running_slots_are_counted() -> None:
    engine = Rollout(pointmass(bins=1), Recipe(protocol("pointmass2", 3)), Split.TUNE, 4)
    assert (engine.free, engine.running) == (4, [])
    assert engine.step() == []
    engine.start([])
    engine.start([5, 9])
    assert (engine.free, engine.running) == (2, [5, 9])
    assert engine.step() == []
    engine.start([7])
    assert engine.step() == []
    assert sorted(result.index for result in engine.step()) == [5, 9]
    assert (engine.free, engine.running) == (3, [7])


def test_no_episodes_are_no_work() -> None:
    assert list(rollout(pointmass(), Recipe(GRID), Split.TUNE, [], 4)) == []


# Where an episode's randomness comes from.


EPISODE = st.tuples(st.sampled_from(Split), st.integers(0, 2**40))


@settings(max_examples=25)
@given(episodes=st.lists(EPISODE, min_size=2, max_size=8, unique=True), seed=st.integers(0, 2**64))
def test_no_two_episodes_share_their_randomness(episodes: list[tuple[Split, int]], seed: int) -> None:
    recipe = protocol("pointmass2", 4, seed=seed)
    drawn = [episode_randomness(recipe, split, index) for split, index in episodes]
    assert len({env_seed for env_seed, _ in drawn}) == len(episodes)
    assert len({uniforms.tobytes() for _, uniforms in drawn}) == len(episodes)
    for env_seed, uniforms in drawn:
        assert 0 <= env_seed < 2**64
        assert uniforms.shape == (4,)
        assert ((uniforms >= 0) & (uniforms < 1)).all()


@settings(max_examples=25)
@given(episode=EPISODE, few=st.integers(1, 20), more=st.integers(0, 20))
def test_randomness_depends_on_the_seed_the_split_and_the_index_alone(
    episode: tuple[Split, int], few: int, more: int
) -> None:
    env_seed, uniforms = episode_randomness(GRID, *episode)
    others = protocol("pusht", few + more), protocol("pointmass1", few + more, name="other", batch_size=64)
    short = episode_randomness(protocol("pusht", few), *episode)[1]
    for other in others:
        other_seed, other_uniforms = episode_randomness(other, *episode)
        assert other_seed == env_seed
        np.testing.assert_array_equal(other_uniforms[:few], short)
    np.testing.assert_array_equal(uniforms[:few][: len(short)], short[: len(uniforms)])
    assert episode_randomness(protocol("pusht", few, seed=1), *episode)[0] != env_seed


def test_the_splits_first_thousand_seeds_are_all_different() -> None:
    seeds = {episode_randomness(GRID, split, index)[0] for split in Split for index in range(1000)}
    assert len(seeds) == 2000


# The evaluation settings of the originals.


def varied(recipe: Protocol, **changes: Any) -> Recipe:
    return Recipe(recipe.model_copy(update=changes))


def trajectories_of(policy: Policy, recipe: Recipe, slots: int = 5) -> list[Trajectory]:
    results = by_index(rollout(policy, recipe, Split.TUNE, range(6), slots))
    paths = [results[index].trajectory for index in range(6)]
    assert None not in paths
    return [path for path in paths if path is not None]


def test_a_held_bin_stays_while_its_offset_moves() -> None:
    policy = pusht()
    for path in trajectories_of(policy, varied(TABLE, hold_bins=4)):
        starts = np.arange(len(path)) // 4 * 4
        assert (path.bins == path.bins[starts]).all()
        offsets = path.actions - policy.bin_centers[path.bins]
        assert len(np.unique(offsets, axis=0)) > len(path) // 2
    assert any(len(set(path.bins[:4])) > 1 for path in trajectories_of(policy, Recipe(TABLE)))


def test_holding_bins_for_one_step_is_not_holding_them() -> None:
    usual, held = trajectories_of(pusht(), Recipe(TABLE)), trajectories_of(pusht(), varied(TABLE, hold_bins=1))
    for a, b in zip(usual, held, strict=True):
        np.testing.assert_array_equal(a.actions, b.actions)


def test_the_codebook_alone_draws_every_bin_alike_and_adds_no_offset() -> None:
    policy = pusht()
    paths = trajectories_of(policy, varied(TABLE, bins=BinSource.CODEBOOK))
    for path in paths:
        np.testing.assert_array_equal(path.actions, policy.bin_centers[path.bins])
    counts = np.bincount(np.concatenate([path.bins for path in paths]), minlength=len(policy.centers))
    assert counts.min() > 0.5 * counts.mean()


def test_a_smaller_window_is_a_policy_that_forgot() -> None:
    """A window of 1 makes every action a function of the last observation alone."""
    policy = pusht()
    for path in trajectories_of(policy, varied(TABLE, window=1)):
        history = np.repeat(path.observations[:-1, None], policy.window, axis=1)  # (T, W, obs_dim), the first is read
        ones = np.ones(len(path), np.int64)
        actions, _ = policy.act(history, ones, np.zeros(len(path)), held=path.bins)
        np.testing.assert_array_equal(actions, path.actions)


def test_a_window_wider_than_the_training_s_is_refused() -> None:
    with pytest.raises(UsageError, match=r"eval\.window: 99 is more than the \d+ of the policy's training"):
        Rollout(pusht(), varied(TABLE, window=99), Split.TUNE, 2)


@pytest.mark.parametrize("changes", [{"hold_bins": 3}, {"bins": BinSource.CODEBOOK, "hold_bins": 2}, {"window": 2}])
def test_variations_are_invariant_too(changes: dict[str, Any]) -> None:
    few, many = (trajectories_of(pusht(), varied(TABLE, **changes), slots) for slots in (1, 6))
    for a, b in zip(few, many, strict=True):
        np.testing.assert_array_equal(a.actions, b.actions)
        np.testing.assert_array_equal(a.observations, b.observations)


def test_episodes_begin_in_the_states_given() -> None:
    states = np.array([[100.0, 120, 200, 210, 0.5], [300, 310, 250, 260, 2.0], [50, 400, 300, 200, 4.0]])
    recipe = Recipe(TABLE.model_copy(update={"starts": states_digest(states)}), states)
    shown = pusht_observations(states, PushTLayout.STATE)
    firsts = [path.observations[0] for path in trajectories_of(pusht(), recipe)]
    assert all((first == shown).all(axis=1).any() for first in firsts)
    assert len(np.unique(firsts, axis=0)) > 1
    again = [path.observations[0] for path in trajectories_of(pusht(seed=1), recipe, slots=2)]
    np.testing.assert_array_equal(firsts, again)  # another policy meets the same ones


def test_a_recipe_whose_states_are_not_its_protocol_s_is_refused() -> None:
    with pytest.raises(ValueError, match="other states"):
        Rollout(pusht(), Recipe(TABLE, np.zeros((1, 5))), Split.TUNE, 2)
