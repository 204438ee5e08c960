"""A picture of BlockPush from above: y to the right, as the blocks are pushed, and x downwards, away from the arm."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

FRAME = (224, 384)  # pixels, height and width
_METRE = 352  # pixels
_CORNER = (0.12, -0.545)  # x and y of the picture's first pixel
_OVERSAMPLING = 3  # pillow draws without anti-aliasing: draw large, then shrink
_SQUARE = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], dtype=np.float64)

HALF_BLOCK = 0.02  # metres, of a block's side
TOLERANCE = 0.05  # metres: a block nearer than this to a target is in it
WORKSPACE = np.array([(0.15, -0.5), (0.7, 0.5)])  # metres: least and greatest x and y of the effector's target

# Columns of states and observations.
BLOCKS = ((0, 1, 2), (3, 4, 5))  # x, y and yaw of each
EFFECTOR, EFFECTOR_TARGET = slice(6, 8), slice(8, 10)
TARGETS = ((10, 11, 12), (13, 14, 15))

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
    (left, top), (right, bottom) = _pixels(WORKSPACE).tolist()
    canvas.rectangle((left, top, right, bottom), fill=_TABLE)
    for columns, colour in zip(TARGETS, _TARGETS, strict=True):
        pose = state[list(columns)]
        x, y = _pixels(pose[None, :2])[0]
        radius = TOLERANCE * _METRE * _OVERSAMPLING
        canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
        canvas.polygon(_outline(pose, 0.6 * TOLERANCE), outline="#ffffff", width=4)
    for columns, colour in zip(BLOCKS, _BLOCKS, strict=True):
        canvas.polygon(_outline(state[list(columns)], HALF_BLOCK), fill=colour)
    x, y = _pixels(state[None, EFFECTOR])[0]
    radius = 0.008 * _METRE * _OVERSAMPLING
    canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=_INK)
    x, y = _pixels(state[None, EFFECTOR_TARGET])[0]
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
