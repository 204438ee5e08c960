"""The numbers behind the page's figures are those of the demonstrations."""

import numpy as np
import pytest
import torch

from bet import tasks
from bet.codebook import encode
from bet.config import ConfigError, make_config
from bet.data.episodes import Episodes
from bet.envs.pointmass import PointMassVersion
from bet.layouts import PushTLayout, pusht_observations
from bet.oracles.pointmass import demonstrated_routes, demonstrations
from bet.training import Training
from bet_ray.show.compute import MOST_CHOSEN, bins_of, chosen_episodes, density, find

TASK = tasks.get("pointmass2")
EPISODES = demonstrations(PointMassVersion.TWO, 200, seed=1)
CONFIG = make_config("pointmass2")
FOUND = find(EPISODES, TASK, CONFIG, (0, 9))


def pusht(layout: PushTLayout) -> tuple[Episodes, np.ndarray]:
    """Three short demonstrations of a block that turns, and their states."""
    generator = np.random.default_rng(0)
    states = np.column_stack([generator.uniform(50, 450, (30, 4)), np.linspace(0, 6, 30)])
    actions = generator.uniform(0, 512, (30, 2)).astype(np.float32)
    return Episodes(pusht_observations(states, layout), actions, np.array([8, 20, 30]), "pusht"), states


@pytest.mark.parametrize("normalize", ["none", "minmax"])
def test_the_bins_are_those_that_a_training_starts_from(normalize):
    config = make_config("pointmass2", {"data.normalize": normalize, "codebook.bins": 7})
    policy = Training(config, EPISODES).policy()
    expected = policy.action_normalizer.denormalize(policy.centers.numpy())
    np.testing.assert_array_equal(bins_of(EPISODES, config).centers, expected)


def test_shares_and_distances_are_of_the_training_actions():
    bins = bins_of(EPISODES, CONFIG)
    train, _ = EPISODES.split(0.95, 0)
    numbers, offsets = encode(torch.tensor(train.actions), torch.tensor(bins.centers))
    np.testing.assert_allclose(bins.shares, np.bincount(numbers) / len(numbers))
    distances = np.linalg.norm(offsets.numpy(), axis=1)
    assert bins.median == pytest.approx(np.median(distances), rel=1e-5)
    assert np.mean(distances <= bins.far) == pytest.approx(0.95, abs=1e-3)


def test_too_few_distinct_actions_leave_a_page_without_bins():
    config = make_config("pointmass2", {"codebook.bins": 10_000})
    found = find(EPISODES, TASK, config, (0,))
    assert found.bins is None
    assert "codebook.bins=10000" in found.no_bins


def test_histograms_count_every_action_once():
    for histogram, values in zip(FOUND.actions, EPISODES.actions.T, strict=True):
        assert histogram.counts.sum() == len(values)
        third = values[(values >= histogram.edges[2]) & (values < histogram.edges[3])]
        assert histogram.counts[2] == len(third)
    assert [histogram.name for histogram in FOUND.actions] == ["step x", "step y"]


@pytest.mark.parametrize("scale", [(1, 1), (1, 0.1), (0, 3), (0, 0), (1e-6, 1e6)])
def test_the_density_counts_every_action_once_in_square_cells(scale):
    actions = np.random.default_rng(0).uniform(-1, 1, (500, 2)).astype(np.float32) * np.float32(scale)
    found = density(actions)
    assert found.counts.shape == (len(found.y_edges) - 1, len(found.x_edges) - 1)
    assert found.counts.sum() == 500
    assert max(found.counts.shape) <= 65
    np.testing.assert_allclose(np.diff(found.x_edges)[0], np.diff(found.y_edges)[0], rtol=1e-6)


def test_the_density_has_x_along_its_second_axis():
    found = density(np.array([[0, 0], [4, 1], [4, 1]], np.float32))
    assert found.counts[0, 0] == 1
    row, column = np.argwhere(found.counts == 2)[0]
    assert found.x_edges[column] <= 4 <= found.x_edges[column + 1]
    assert found.y_edges[row] <= 1 <= found.y_edges[row + 1]


def test_lengths_are_counted_in_whole_steps():
    counts = dict(zip((FOUND.lengths.edges[:-1] + 0.5).tolist(), FOUND.lengths.counts.tolist(), strict=True))
    for length in set(EPISODES.lengths.tolist()):
        assert counts[length] == np.sum(EPISODES.lengths == length)
    assert sum(counts.values()) == 200


def test_tracks_are_the_paths_of_the_chosen_and_of_others_from_first_to_last():
    (tracks,) = FOUND.tracks
    assert [track.episode for track in tracks.chosen] == [0, 9]
    numbers = [track.episode for track in tracks.others]
    assert not {0, 9} & set(numbers)
    assert len(numbers) + 2 in (60, 61)
    assert numbers[-1] == 199
    start, end = EPISODES.episode_starts[9], EPISODES.episode_ends[9]
    np.testing.assert_array_equal(tracks.chosen[1].points[:-1], EPISODES.observations[start:end])
    assert tracks.chosen[1].angles is None


def test_drawn_episodes_are_labelled_with_the_route_they_were_drawn_for():
    drawn = demonstrated_routes(PointMassVersion.TWO, 200, seed=1)
    assert FOUND.labels
    for episode, label in FOUND.labels.items():
        assert label == PointMassVersion.TWO.maze.routes[drawn[episode]].name


def test_pushts_block_has_a_track_with_angles():
    episodes, states = pusht(PushTLayout.STATE)
    found = find(episodes, tasks.get("pusht"), make_config("pusht", {"codebook.bins": 4}), (1,))
    agent, block = found.tracks
    assert (agent.body.name, block.body.name) == ("agent", "block")
    (track,) = block.chosen
    np.testing.assert_allclose(track.points, states[8:20, 2:4], atol=1e-4)
    assert track.angles is not None
    np.testing.assert_allclose(track.angles, states[8:20, 4], atol=1e-5)


def test_traces_are_of_every_column_that_changes():
    episodes, _ = pusht(PushTLayout.STATE)
    still = episodes.observations.copy()
    still[:, 3] = 100
    episodes = Episodes(still, episodes.actions, episodes.episode_ends, "pusht")
    found = find(episodes, tasks.get("pusht"), make_config("pusht", {"codebook.bins": 4}), (0, 2))
    assert [trace.name for trace in found.traces] == ["agent x", "agent y", "block x", "block cos", "block sin"]
    first, second = found.traces[2].values
    np.testing.assert_array_equal(first, still[:8, 2])
    np.testing.assert_array_equal(second, still[20:, 2])


def test_two_columns_that_are_a_path_need_no_traces():
    assert FOUND.traces == ()


def test_episodes_are_chosen_from_first_to_last_where_nobody_chooses():
    assert chosen_episodes(None, EPISODES) == (0, 40, 80, 119, 159, 199)
    assert chosen_episodes(None, EPISODES.select(np.arange(3))) == (0, 1, 2)


def test_wanted_episodes_keep_their_order_and_come_once():
    assert chosen_episodes([5, 0, 5], EPISODES) == (5, 0)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ([200], "no episode 200; there are 0 to 199"),
        ([-1], "no episode -1"),
        (range(MOST_CHOSEN + 1), "17 are too many"),
    ],
)
def test_episodes_that_cannot_be_shown_are_refused(wanted, message):
    with pytest.raises(ConfigError, match=message):
        chosen_episodes(wanted, EPISODES)
