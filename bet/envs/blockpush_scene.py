"""A picture of BlockPush from above: y to the right, as the blocks are pushed, and x downwards, away from the arm."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

FRAME = (224, 384)  # pixels, height and width
_METRE = 352  # pixels
_CORNER = (0.15 - 0.03, -0.5 - 0.045)  # x and y of the picture's first pixel
_OVERSAMPLING = 3  # pillow draws without anti-aliasing: draw large, then shrink
_SQUARE = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], dtype=np.float64)
HALF_BLOCK, _ZONE = 0.02, 0.05  # metres: half a block's side, and how near a block has to be to a target
_PAPER, _TABLE, _INK = "#e8e6e3", "#ffffff", "#222222"
_TARGETS = ("#cfe3cf", "#d9d3ec")
_BLOCKS = ("#d1495b", "#2e8b57")


def draw(states: NDArray[np.float64]) -> tuple[NDArray[np.uint8], ...]:
    """A picture (224, 384, 3) of each state (n, 16); a small cross marks the effector's target."""
    return tuple(_picture(state) for state in states)


def _picture(state: NDArray[np.float64]) -> NDArray[np.uint8]:
    height, width = FRAME
    image = Image.new("RGB", (width * _OVERSAMPLING, height * _OVERSAMPLING), _PAPER)
    canvas = ImageDraw.Draw(image)
    (left, top), (right, bottom) = _pixels(np.array([(0.15, -0.5), (0.7, 0.5)])).tolist()
    canvas.rectangle((left, top, right, bottom), fill=_TABLE)
    for first, colour in zip((10, 13), _TARGETS, strict=True):
        x, y = _pixels(state[None, first : first + 2])[0]
        radius = _ZONE * _METRE * _OVERSAMPLING
        canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
        canvas.polygon(_outline(state[first : first + 3], 0.6 * _ZONE), outline="#ffffff", width=4)
    for first, colour in zip((0, 3), _BLOCKS, strict=True):
        canvas.polygon(_outline(state[first : first + 3], HALF_BLOCK), fill=colour)
    x, y = _pixels(state[None, 6:8])[0]
    radius = 0.008 * _METRE * _OVERSAMPLING
    canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=_INK)
    x, y = _pixels(state[None, 8:10])[0]
    for dx, dy in ((9, 0), (0, 9)):
        canvas.line((x - dx, y - dy, x + dx, y + dy), fill="#e07a1f", width=3)
    return np.asarray(image.resize((width, height), Image.Resampling.BOX))


def _outline(pose: NDArray[np.float64], half: float) -> list[tuple[float, float]]:
    cosine, sine = np.cos(pose[2]), np.sin(pose[2])
    corners = half * _SQUARE @ np.array([[cosine, sine], [-sine, cosine]]) + pose[:2]  # (4, 2)
    return [(x, y) for x, y in _pixels(corners).tolist()]


def _pixels(places: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where places (k, 2) in metres are in the oversampled picture, right and down."""
    return ((places - _CORNER) * _METRE * _OVERSAMPLING)[:, ::-1]
