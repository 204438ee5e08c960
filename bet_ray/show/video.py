"""Demonstrations side by side, drawn by the task's own simulator."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from bet.data.episodes import DataError, Episodes
from bet.tasks import SimulatedTask
from bet_ray.page.style import FAINT, INK
from bet_ray.video import Line, grid, tile


def frame_count(episodes: Episodes, chosen: Sequence[int]) -> int:
    """Frames of the video: as many as the longest of the chosen demonstrations has steps."""
    return int(episodes.lengths[list(chosen)].max())


def frames(
    episodes: Episodes, task: SimulatedTask, layout: str, chosen: Sequence[int], colours: Mapping[int, str]
) -> Iterator[NDArray[np.uint8]]:
    """One picture per step (height, width, 3): the chosen demonstrations in a grid, restored state by state.

    Each has its number and step above it, beside its colour. One that is over stays, faded. The layout's view must be
    complete. Raises `DataError` for a state that the simulator does not take.
    """
    scene, env = task.view(layout).scene, task.make_env(len(chosen), layout)
    starts, last = episodes.episode_starts[list(chosen)], episodes.lengths[list(chosen)] - 1  # (n,)
    try:
        for step in range(frame_count(episodes, chosen)):
            now = np.minimum(step, last)  # (n,)
            try:
                env.reset(options={"states": scene(episodes.observations[starts + now]), "reset_mask": step <= last})
            except ValueError as error:
                raise DataError(f"{episodes.source}: step {step} cannot be drawn: {error}") from error
            tiles = []
            for picture, number, at, end in zip(env.render(), chosen, now, last, strict=True):
                over = step > end
                told = f"step {at} of {end}{', over' if over else ''}"
                line = Line(colours[number], f"episode {number}", told, FAINT if over else INK)
                tiles.append(tile(picture, [line], over=over))
            yield grid(tiles)
    finally:
        env.close()
