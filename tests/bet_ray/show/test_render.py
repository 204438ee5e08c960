"""The page is one file that loads nothing, with figures, numbers and a video inside."""

from base64 import b64decode
from dataclasses import replace
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
from plotly.offline import get_plotlyjs

from bet import tasks
from bet.config import make_config
from bet.data.episodes import Episodes
from bet.data.summary import routes_taken
from bet.envs.pointmass import PointMassVersion
from bet.oracles.pointmass import demonstrations
from bet.views import plain_view
from bet_ray.show import figures, show
from bet_ray.show.compute import find

from ..pages import Page, assert_self_contained

HOSTILE = "<script>alert(1)</script><img src=x onerror='alert(2)'>{{ 7 * 7 }}"
TASK, CONFIG = tasks.get("pointmass2"), make_config("pointmass2")
EPISODES = demonstrations(PointMassVersion.TWO, 100, seed=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("show")
    show(EPISODES, TASK, CONFIG, out, wanted=[3, 1, 4], named="d/p m.parquet")
    return out


def pusht(layout: str) -> Episodes:
    generator = np.random.default_rng(0)
    columns = len(tasks.get("pusht").view(layout).columns)
    observations = generator.uniform(0.1, 1, (60, columns)).astype(np.float32)
    return Episodes(observations, generator.uniform(0, 512, (60, 2)).astype(np.float32), np.array([30, 60]), "pusht")


def plots(page: str) -> int:
    return page.replace(get_plotlyjs(), "").count("Plotly.newPlot(")


def test_the_page_is_self_contained(folder: Path) -> None:
    assert_self_contained((folder / "demonstrations.html").read_text())


def test_the_video_beside_the_page_is_the_one_inside_and_has_every_step(folder: Path) -> None:
    page = Page((folder / "demonstrations.html").read_text())
    (source,) = (attributes["src"] or "" for tag, attributes in page.tags if tag == "video")
    kind, _, content = source.partition(",")
    assert kind == "data:video/mp4;base64"
    assert b64decode(content) == (folder / "demonstrations.mp4").read_bytes()
    assert len(iio.imread(folder / "demonstrations.mp4")) == EPISODES.lengths[[3, 1, 4]].max()


def test_the_page_says_what_there_is(folder: Path) -> None:
    text = (folder / "demonstrations.html").read_text()
    words = Page(text).words
    assert f"100, {len(EPISODES.observations):,} steps" in words
    assert EPISODES.digest[:12] in words
    assert "finds nothing wrong and nothing odd" in words
    assert "the 3 chosen ones (3, 1, 4)" in words
    assert "3 bins, as a training would fit them" in words
    assert "bet-ray data show 'd/p m.parquet' --observation state --episodes 3,1,4 --bins 3" in words
    assert plots(text) == 4  # paths, bins, histograms, lengths


def test_routes_are_counted(folder: Path) -> None:
    text = (folder / "demonstrations.html").read_text()
    taken = routes_taken(EPISODES, TASK, "state")
    for route, title in (("right_first", "right first"), ("diagonal", "diagonal"), ("none", "no known route")):
        assert f'<tr><td>{title}</td><td class="right">{taken.count(route)}</td>' in text


def test_a_layout_without_the_state_has_no_video_and_says_why(tmp_path: Path) -> None:
    config = make_config("pusht", {"data.observation": "agent", "codebook.bins": 4})
    shown = show(pusht("agent"), tasks.get("pusht"), config, tmp_path)
    assert shown.video is None
    assert [path.name for path in tmp_path.iterdir()] == ["demonstrations.html"]
    page = Page(shown.page.read_text())
    assert "No video: the layout 'agent' does not tell the simulator's whole state" in page.words
    assert not any(tag == "video" for tag, _ in page.tags)


def test_pushts_page_has_paths_of_both_bodies_and_a_trace_of_every_column(tmp_path: Path) -> None:
    heard = []
    config = make_config("pusht", {"codebook.bins": 4})
    shown = show(
        pusht("state"),
        tasks.get("pusht"),
        config,
        tmp_path,
        wanted=[1],
        progress=lambda done, total: heard.append((done, total)),
    )
    text = shown.page.read_text()
    assert heard == [(done, 30) for done in range(1, 31)]
    assert plots(text) == 5
    assert "Strokes show which way the block is turned" in Page(text).words
    for column in ("agent x", "block sin"):
        assert f'"text":"{column}"' in text


def test_problems_are_on_the_page_and_bins_that_cannot_be_are_explained(tmp_path: Path) -> None:
    two = EPISODES.select(np.array([0, 0]))
    broken = Episodes(two.observations, np.zeros_like(two.actions), two.episode_ends, "pointmass2")
    words = Page(show(broken, TASK, CONFIG, tmp_path).page.read_text()).words
    assert "episodes 0, 1 are the same" in words
    assert "No bins: codebook.bins=3 but the demonstrations have only 1 distinct action" in words


def test_a_hostile_file_name_is_shown_not_obeyed(tmp_path: Path) -> None:
    named = Episodes(EPISODES.observations, EPISODES.actions, EPISODES.episode_ends, "pointmass2", HOSTILE)
    text = show(named, TASK, CONFIG, tmp_path).page.read_text()
    found = Page(text)
    assert HOSTILE in found.text
    assert not any("onerror" in attributes for _, attributes in found.tags)
    assert "<script>alert" not in text.replace(get_plotlyjs(), "")


def test_numbers_that_nobody_has_named_are_shown_without_a_plane(tmp_path: Path) -> None:
    nameless = replace(tasks.get("pusht"), _view=lambda _: plain_view(6, 2))
    config = make_config("pusht", {"codebook.bins": 4})
    shown = show(pusht("state"), nameless, config, tmp_path)
    text = shown.page.read_text()
    assert_self_contained(text)
    assert "does not tell the simulator's whole state" in shown.no_video
    assert plots(text) == 4  # bins, histograms, lengths, traces
    assert '"text":"observation 5"' in text


def test_bins_of_actions_that_are_not_flat_are_shown_by_their_shares() -> None:
    found = find(EPISODES, TASK, CONFIG, (0,))
    figure = figures.bins_figure(found.view, None, found.bins)
    bars: Any = next(figure.select_traces())
    assert found.bins is not None
    assert list(bars.y) == sorted(found.bins.shares, reverse=True)
