"""The page of an evaluation shows its episodes, kept or walked again, and loads nothing."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from plotly.offline import get_plotlyjs

from bet import tasks
from bet.config import Split
from bet.policy import Policy
from bet.rollout import EpisodeResult
from bet_ray.evaluation import recipe_of
from bet_ray.results import EpisodeSource, episodes_table
from bet_ray.show.rollouts import DRAWN, FAILED, look, show_rollouts

from ..pages import assert_self_contained
from ..recording import record, roll_out

EPISODES = DRAWN + 10
TASK = tasks.get("pointmass2")


@pytest.fixture(scope="module")
def policy(trained: Path) -> Policy:
    return Policy.load(trained)


@pytest.fixture(scope="module")
def results(policy: Policy) -> list[EpisodeResult]:
    return roll_out(policy, EPISODES)


@pytest.fixture(scope="module")
def source(policy: Policy) -> EpisodeSource:
    return EpisodeSource.of(policy, recipe_of(policy).protocol, Split.REPORT)


def test_every_episode_has_a_label_and_the_first_ones_their_paths(
    policy: Policy, results: list[EpisodeResult], source: EpisodeSource, tmp_path: Path
) -> None:
    table = episodes_table(TASK, source, results)
    found = look(policy, recipe_of(policy), Split.REPORT, table, tmp_path)
    won = table.column("success").to_numpy(zero_copy_only=False)
    assert_array_equal(found.labels == FAILED, ~won)
    assert_array_equal(found.labels[won], np.array(table.column("route").to_pylist())[won])
    assert list(found.drawn) == list(range(DRAWN))
    for index, path in found.drawn.items():
        trajectory = results[index].trajectory
        assert trajectory is not None
        assert_array_equal(path, trajectory.observations)


def test_kept_steps_are_read_and_not_walked_again(
    policy: Policy, results: list[EpisodeResult], source: EpisodeSource, tmp_path: Path
) -> None:
    first = results[0].trajectory
    assert first is not None
    marked = replace(results[0], trajectory=replace(first, observations=first.observations + 1))
    record(tmp_path, policy, results, [marked])
    table = episodes_table(TASK, source, results)
    found = look(policy, recipe_of(policy), Split.REPORT, table, tmp_path)
    assert_array_equal(found.drawn[0], first.observations + 1)
    assert len(found.drawn) == DRAWN


def test_the_page_loads_nothing_and_names_the_command(
    policy: Policy, results: list[EpisodeResult], source: EpisodeSource, tmp_path: Path
) -> None:
    table = episodes_table(TASK, source, results)
    path = show_rollouts(policy, recipe_of(policy), Split.REPORT, table, tmp_path, "bet-ray eval '<b>' --plot")
    page = path.read_text()
    assert path == tmp_path / "rollouts.html"
    assert_self_contained(page)
    assert "bet-ray eval &#39;&lt;b&gt;&#39; --plot" in page
    assert f"The first {DRAWN} of {EPISODES} episodes" in page
    assert page.replace(get_plotlyjs(), "").count("Plotly.newPlot(") == 2  # paths and lengths
