"""Demonstrations side by side, drawn by the task's own simulator."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from bet.data.episodes import DataError, Episodes
from bet.tasks import SimulatedTask

LABEL = 30  # pixels above each picture
_PAPER, _INK, _ENDED = "#ffffff", "#222222", "#8a8f94"


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
            yield _grid(
                [
                    _tile(picture, number, at, end, colours[number], ended=step > end)
                    for picture, number, at, end in zip(env.render(), chosen, now, last, strict=True)
                ]
            )
    finally:
        env.close()


def _tile(
    picture: NDArray[np.uint8], number: int, step: int, end: int, colour: str, *, ended: bool
) -> NDArray[np.uint8]:
    height, width, _ = picture.shape
    tile = Image.new("RGB", (width, height + LABEL), _PAPER)
    shown = Image.fromarray(picture)
    tile.paste(Image.blend(shown, Image.new("RGB", shown.size, _PAPER), 0.55) if ended else shown, (0, LABEL))
    pen, font = ImageDraw.Draw(tile), ImageFont.load_default(size=16)
    pen.rectangle((0, 0, 10, LABEL - 1), fill=colour)
    pen.text((18, LABEL / 2), f"episode {number}", fill=_INK, font=font, anchor="lm")
    text = f"step {step} of {end}" + (", over" if ended else "")
    pen.text((width - 8, LABEL / 2), text, fill=_ENDED if ended else _INK, font=font, anchor="rm")
    return np.asarray(tile)


def _grid(tiles: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Tiles (h, w, 3) in rows, as nearly square as can be, with a little room between them; even sides, for H.264."""
    columns = int(np.ceil(np.sqrt(len(tiles))))
    rows = -(-len(tiles) // columns)
    (height, width, _), gap = tiles[0].shape, 8
    grid = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for place, tile in enumerate(tiles):
        top, left = place // columns * (height + gap), place % columns * (width + gap)
        grid[top : top + height, left : left + width] = tile
    return np.pad(grid, ((0, grid.shape[0] % 2), (0, grid.shape[1] % 2), (0, 0)), constant_values=255)
