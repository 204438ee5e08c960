"""From demonstrations to a page and a video beside it."""

import shlex
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bet.config import Config
from bet.data.episodes import DataError, Episodes
from bet.envs.vector import RenderError
from bet.tasks import SimulatedTask, Task, no_simulator
from bet_ray.manifest import write_text
from bet_ray.page import render_page
from bet_ray.show import figures
from bet_ray.show.compute import Findings, chosen_episodes, find
from bet_ray.show.video import frame_count, frames
from bet_ray.video import FPS, write_video

PAGE, VIDEO = "demonstrations.html", "demonstrations.mp4"
TEMPLATE = Path(__file__).with_name("demonstrations.html.jinja")


@dataclass(frozen=True)
class Shown:
    """What was written."""

    page: Path
    video: Path | None
    no_video: str
    """Why there is none; empty where there is one."""


def show(
    episodes: Episodes,
    task: Task,
    config: Config,
    out: Path,
    *,
    wanted: Sequence[int] | None = None,
    named: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Shown:
    """Write `demonstrations.html` and, where the observations tell the simulator's state, `demonstrations.mp4`.

    `wanted` are the episodes to look at closely, `named` is what the command line calls the demonstrations, `progress`
    hears of frames. Raises `DataError` when the demonstrations are not the task's, `ConfigError` for an episode that is
    not there.
    """
    findings = find(episodes, task, config, chosen_episodes(wanted, episodes))
    video, no_video = out / VIDEO, ""
    try:
        write_video(_frames(findings, progress), video, FPS)
    except (DataError, RenderError) as error:
        video, no_video = None, str(error)
    mp4 = b64encode(video.read_bytes()).decode() if video else ""
    write_text(out / PAGE, render(findings, mp4, no_video, named or episodes.source))
    return Shown(out / PAGE, video, no_video)


def render(findings: Findings, mp4: str, no_video: str, named: str) -> str:
    """The page; `mp4` is base64, or empty where `no_video` says why."""
    layout = findings.config.data.observation
    chosen = ",".join(map(str, findings.chosen))
    options = f"--observation {layout} --episodes {chosen} --bins {findings.config.codebook.bins}"
    return render_page(
        TEMPLATE,
        filters={"number": _number},
        title=f"Demonstrations of {findings.task.name}",
        found=findings,
        layout=layout,
        drawn=len(findings.tracks[0].chosen + findings.tracks[0].others) if findings.tracks else 0,
        mp4=mp4,
        no_video=no_video,
        paths=figures.paths_figure(findings) if findings.tracks else None,
        bins=figures.bins_figure(findings.view, findings.density, findings.bins)
        if findings.density or findings.bins
        else None,
        histograms=figures.histograms_figure(findings),
        lengths=figures.lengths_figure(findings),
        traces=figures.traces_figure(findings) if findings.traces else None,
        command=f"bet-ray data show {shlex.quote(named)} {options}",
    )


def _frames(findings: Findings, progress: Callable[[int, int], None]) -> Iterator[NDArray[np.uint8]]:
    task = findings.task
    if not isinstance(task, SimulatedTask):
        raise DataError(no_simulator(task))
    if not findings.view.complete:
        raise DataError(
            f"the layout {findings.config.data.observation!r} does not tell the simulator's whole state, "
            "so the simulator cannot be put into it"
        )
    total = frame_count(findings.episodes, findings.chosen)
    pictures = frames(
        findings.episodes,
        task,
        findings.config.data.observation,
        findings.chosen,
        figures.episode_colours(findings),
    )
    for done, picture in enumerate(pictures, start=1):
        yield picture
        progress(done, total)


def _number(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1e5 else f"{value:,.0f}"
