"""The geometry of PushT, without its physics: the T, its goal, how much of it is covered, and a picture.

Pixels are the unit of length, y points down, a pose is (x, y, angle). The T is a bar of 120 x 30 and a stem of 30 x 90;
its origin is the middle of the bar's outer edge (source: gym_pusht/envs/pusht.py, `add_tee` and `_get_coverage`).
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from bet.layouts import PUSHT_SIZE

GOAL = (256.0, 256.0, np.pi / 4)
AGENT_RADIUS = 15.0
WALL_RADIUS = 2.0
WALLS = (((5, 506), (5, 5)), ((5, 5), (506, 5)), ((506, 5), (506, 506)), ((5, 506), (506, 506)))
BAR = ((-60, 30), (60, 30), (60, 0), (-60, 0))
STEM = ((-15, 30), (-15, 120), (15, 120), (15, 30))

OUTLINE = np.array([(-60, 0), (60, 0), (60, 30), (15, 30), (15, 120), (-15, 120), (-15, 30), (-60, 30)], dtype=float)
_RING_X, _RING_Y = np.append(OUTLINE, OUTLINE[:1], axis=0).T[..., None]  # (9, 1) each: closed
_AREA = 120.0 * 30.0 + 30.0 * 90.0
# The two rectangles in the T's frame, as columns to broadcast: |x| <= half width, top <= y <= bottom.
_HALF_WIDTH = np.array([60.0, 15.0])[:, None, None]  # (2, 1, 1)
_TOP = np.array([0.0, 30.0])[:, None, None]
_BOTTOM = np.array([30.0, 120.0])[:, None, None]
_ROUNDING = 1e-12  # shares below this are left over from cancelling terms
_GOAL_COS, _GOAL_SIN = float(np.cos(GOAL[2])), float(np.sin(GOAL[2]))


def coverage(poses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of the goal that a T at each pose (n, 3) covers, (n,) in [0, 1]; 0 for Ts that do not meet.

    Each row depends on its own pose only, to the bit. Agrees with gym-pusht's polygons to 1e-9.
    """
    # The block seen from the goal, where the goal's two rectangles are upright.
    offset_x, offset_y = poses[:, 0] - GOAL[0], poses[:, 1] - GOAL[1]  # (n,)
    x, y = _GOAL_COS * offset_x + _GOAL_SIN * offset_y, _GOAL_COS * offset_y - _GOAL_SIN * offset_x
    turn = poses[:, 2] - GOAL[2]
    c, s = np.cos(turn), np.sin(turn)
    shares = _area_inside_goal(c * _RING_X - s * _RING_Y + x, s * _RING_X + c * _RING_Y + y) / _AREA
    return np.where(shares < _ROUNDING, 0.0, np.minimum(shares, 1.0))


def _area_inside_goal(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Area (n,) that closed outlines with corners x, y (9, n) share with the two upright rectangles.

    Green's theorem: the area of P inside a rectangle is the integral of (clamped x) dy along those parts of P's outline
    whose y is within the rectangle. Only P's own edges are cut, so nothing special happens where edges coincide.
    """
    run, rise = x[1:] - x[:-1], y[1:] - y[:-1]  # (8, n)
    slope = run / np.where(rise == 0.0, 1.0, rise)  # a level edge encloses nothing
    inside_y = np.minimum(np.maximum(y, _TOP), _BOTTOM)  # (2, 9, n)
    from_y, to_y = inside_y[:, :-1], inside_y[:, 1:]  # (2, 8, n)
    from_x = x[:-1] + (from_y - y[:-1]) * slope
    to_x = x[1:] + (to_y - y[1:]) * slope
    # Along an edge, clamped x is constant (u), then runs from u to w, then is constant (w).
    u = np.minimum(np.maximum(from_x, -_HALF_WIDTH), _HALF_WIDTH)
    w = np.minimum(np.maximum(to_x, -_HALF_WIDTH), _HALF_WIDTH)
    span = to_x - from_x
    imbalance = ((u - from_x) - (to_x - w)) / np.where(span == 0.0, 1.0, span)  # share spent at u less that at w
    twice_mean = u + w + imbalance * (u - w)
    terms = (twice_mean * (to_y - from_y)).reshape(16, -1)
    while len(terms) > 1:  # not `sum`, whose order of additions depends on how many slots there are
        terms = terms[: len(terms) // 2] + terms[len(terms) // 2 :]
    return 0.5 * terms[0]


def draw(
    states: NDArray[np.float64], *, size: int = 384, targets: NDArray[np.float64] | None = None
) -> tuple[NDArray[np.uint8], ...]:
    """A picture (size, size, 3) of each state (n, 5), in gym-pusht's colours and orientation.

    `targets` (n, 2) marks where each action sends the agent; rows that are not finite are left unmarked.
    """
    if targets is None:
        targets = np.full((len(states), 2), np.nan)
    return tuple(_picture(state, target, size) for state, target in zip(states, targets, strict=True))


_FINER = 3  # drawn so many times larger, then averaged: smooth edges
_WHITE, _WALL, _GOAL_COLOUR, _TARGET = (255, 255, 255), (211, 211, 211), (144, 238, 144), (255, 0, 0)
_BLOCK, _BLOCK_FILL = (119, 136, 153), (143, 163, 184)  # slate gray, and gym-pusht's lighter inside
_AGENT, _AGENT_FILL = (65, 105, 225), (78, 126, 255)  # royal blue


def _picture(state: NDArray[np.float64], target: NDArray[np.float64], size: int) -> NDArray[np.uint8]:
    scale = _FINER * size / PUSHT_SIZE
    image = _background(size).copy()
    pen = ImageDraw.Draw(image)
    block = _corners(tuple(state[2:5]), scale)
    pen.polygon(block, fill=_BLOCK_FILL)
    pen.line([*block, *block[:2]], fill=_BLOCK, width=round(4 * scale), joint="curve")
    centre = (state[0] * scale, state[1] * scale)
    pen.circle(centre, AGENT_RADIUS * scale, fill=_AGENT)
    pen.circle(centre, (AGENT_RADIUS - 4) * scale, fill=_AGENT_FILL)
    if np.isfinite(target).all():
        x, y, arm = target[0] * scale, target[1] * scale, 12 * scale
        for line in ((x - arm, y, x + arm, y), (x, y - arm, x, y + arm)):
            pen.line(line, fill=_TARGET, width=round(4 * scale))
    return np.array(image.reduce(_FINER))


@lru_cache(maxsize=4)
def _background(size: int) -> Image.Image:
    """Walls and goal, at the fine scale."""
    scale = _FINER * size / PUSHT_SIZE
    image = Image.new("RGB", (_FINER * size, _FINER * size), _WHITE)
    pen = ImageDraw.Draw(image)
    pen.polygon(_corners(GOAL, scale), fill=_GOAL_COLOUR)
    for start, end in WALLS:
        line = [(x * scale, y * scale) for x, y in (start, end)]
        pen.line(line, fill=_WALL, width=round(2 * WALL_RADIUS * scale))
        for corner in line:
            pen.circle(corner, WALL_RADIUS * scale, fill=_WALL)
    return image


def _corners(pose: tuple[float, ...], scale: float) -> list[tuple[float, float]]:
    """The outline of a T at a pose, in image coordinates."""
    x, y, angle = pose
    c, s = np.cos(angle), np.sin(angle)
    return [((c * px - s * py + x) * scale, (s * px + c * py + y) * scale) for px, py in OUTLINE.tolist()]
