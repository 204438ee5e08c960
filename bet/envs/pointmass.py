"""A point that walks a grid to a target by one of several routes: the smallest task with several modes.

The reproduction study's "multipath" (github.com/skandermoalla/bet-reproduction, `envs/multi_route`), which lays the
original paper's point mass (github.com/notmahi/bet) on integers. One step: state += action, *then* every coordinate is
rounded (half to even), *then* target and bounds are looked at, both closed. Rounded states make "within ±0.5 of the
target" mean "on it". Only the start, which has normal noise, is off the grid; the first step snaps it.

The study fails an assertion on an action beyond ±2; here it is clipped, so that one wild sample cannot end a sweep.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from types import MappingProxyType

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from bet.envs.vector import Info, SlotVectorEnv

Point = tuple[float, float]

ACTION_LIMIT = 2.0  # cells a step, per coordinate
TARGET_RADIUS = 0.5  # cells, per coordinate


@dataclass(frozen=True)
class Route:
    """One way to the target."""

    name: str
    """What tables call it."""
    share: float
    """Fraction of the demonstrations that take it."""
    waypoints: tuple[Point, ...]
    """Corners, from the start to the target."""


@dataclass(frozen=True)
class Maze:
    """One version of the task. Lengths are in cells; there are no walls, only bounds."""

    routes: tuple[Route, ...]
    """Every demonstrated route; they share their first and last way-point."""
    low: float
    """Least legal value of either coordinate."""
    high: float
    """Greatest legal value of either coordinate."""

    @property
    def start(self) -> Point:
        return self.routes[0].waypoints[0]

    @property
    def target(self) -> Point:
        return self.routes[0].waypoints[-1]

    @property
    def shares(self) -> NDArray[np.float64]:  # (R,)
        return np.array([route.share for route in self.routes])


class PointMassVersion(StrEnum):
    """The two published versions; the value is the task's name."""

    ONE = "pointmass1"
    TWO = "pointmass2"

    @property
    def maze(self) -> Maze:
        return MAZES[self]


MAZES: Mapping[PointMassVersion, Maze] = MappingProxyType(
    {
        PointMassVersion.ONE: Maze(
            routes=(
                Route("upper", 0.5, ((1, 2), (2, 2), (2, 3), (2, 4), (3, 4), (4, 4), (4, 3), (4, 2), (5, 2))),
                Route("lower", 0.5, ((1, 2), (2, 2), (2, 1), (2, 0), (3, 0), (4, 0), (4, 1), (4, 2), (5, 2))),
            ),
            low=-1,
            high=6,
        ),
        PointMassVersion.TWO: Maze(
            routes=(
                Route("right_first", 0.3, ((0, 0), (4, 0), (4, 4), (4, 8), (8, 8))),
                Route("diagonal", 0.4, ((0, 0), (4, 4), (8, 8))),
                Route("up_first", 0.3, ((0, 0), (0, 4), (4, 4), (8, 4), (8, 8))),
            ),
            low=-2,
            high=10,
        ),
    }
)


class PointMassVectorEnv(SlotVectorEnv):
    """Many points at once, each on its own grid.

    State and observation: x and y in cells, `(n, 2)`, float64 and float32. Action: the change of both, clipped to ±2.
    Reward 1 on the target and -1 out of bounds, both final; 0 otherwise. Signal `success`: 1.0 on the target.
    `start_noise` is the deviation, in cells, of the normal noise on the start (0: the study's "fixed start").

    Raises `ValueError` for a negative noise, and on restoring a state more than one action beyond the bounds.
    """

    state_dim = 2
    signals = ("success",)

    def __init__(self, num_envs: int, version: PointMassVersion, max_steps: int = 50, start_noise: float = 0.1) -> None:
        if not start_noise >= 0:
            raise ValueError(f"start_noise must not be negative, got {start_noise}")
        self.maze = version.maze
        self.start_noise = start_noise
        # An episode may end one action beyond the bounds, and that last observation counts too.
        reach = (self.maze.low - ACTION_LIMIT, self.maze.high + ACTION_LIMIT)
        super().__init__(
            num_envs,
            observation_space=spaces.Box(*reach, shape=(2,), dtype=np.float32),
            action_space=spaces.Box(-ACTION_LIMIT, ACTION_LIMIT, shape=(2,), dtype=np.float32),
            max_steps=max_steps,
        )
        self._points = np.tile(np.array(self.maze.start, dtype=np.float64), (num_envs, 1))  # (n, 2)

    def _draw_state(self, generator: np.random.Generator) -> NDArray[np.float64]:
        noise = self.start_noise * generator.standard_normal(2)
        return np.clip(np.array(self.maze.start) + noise, self.maze.low, self.maze.high)  # (2,)

    def _place(self, slot: int, state: NDArray[np.float64], *, restore: bool) -> None:
        low, high = self.maze.low - ACTION_LIMIT, self.maze.high + ACTION_LIMIT
        if not ((state >= low) & (state <= high)).all():
            raise ValueError(f"the state of slot {slot} is {state.tolist()}, not within {low:g}..{high:g}")
        self._points[slot] = state

    def _advance(
        self, slots: NDArray[np.intp], actions: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_], Info]:
        points = np.round(self._points[slots] + np.clip(actions, -ACTION_LIMIT, ACTION_LIMIT))  # (k, 2)
        self._points[slots] = points
        on_target = np.abs(points - np.array(self.maze.target)) <= TARGET_RADIUS  # (k, 2)
        outside = (points < self.maze.low) | (points > self.maze.high)  # (k, 2)
        success, lost = on_target[:, 0] & on_target[:, 1], outside[:, 0] | outside[:, 1]  # (k,)
        rewards = success.astype(np.float64) - lost  # a target lies inside the bounds: never both
        return rewards, success | lost, {"success": success.astype(np.float64)}

    def _observe(self) -> NDArray[np.float32]:
        return self._points.astype(np.float32)

    @property
    def states(self) -> NDArray[np.float64]:
        return self._points.copy()

    def render(self) -> tuple[NDArray[np.uint8], ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return tuple(draw(self.maze, point) for point in self._points)


FRAME_SIZE = 256  # pixels, both ways
_OVERSAMPLING = 3  # pillow draws without anti-aliasing: draw large, then shrink
_PAPER, _OUTSIDE, _GRID, _INK = "#ffffff", "#e8e6e3", "#f1efec", "#222222"
_TARGET = "#cfe8cf"
_ROUTE_COLOURS = ("#a9c4e6", "#e9bfa5", "#c3b1dd")  # faint: the point is what matters


def draw(maze: Maze, point: NDArray[np.floating]) -> NDArray[np.uint8]:
    """The maze seen from above (y upwards), its routes, and the point, (2,), as a frame (256, 256, 3)."""
    image = _background(maze).copy()
    x, y = _pixels(maze, (float(point[0]), float(point[1])))
    radius = 0.22 * _pixels_per_cell(maze)
    ImageDraw.Draw(image).ellipse((x - radius, y - radius, x + radius, y + radius), fill=_INK)
    return np.asarray(image.resize((FRAME_SIZE, FRAME_SIZE), Image.Resampling.BOX))


@cache
def _background(maze: Maze) -> Image.Image:
    """Everything that stands still, oversampled."""
    cell, side = _pixels_per_cell(maze), FRAME_SIZE * _OVERSAMPLING
    image = Image.new("RGB", (side, side), _OUTSIDE)
    canvas = ImageDraw.Draw(image)

    def rectangle(low: Point, high: Point, fill: str) -> None:
        (left, bottom), (right, top) = _pixels(maze, low), _pixels(maze, high)
        canvas.rectangle((left, top, right, bottom), fill=fill)

    rectangle((maze.low, maze.low), (maze.high, maze.high), _PAPER)
    for line in np.arange(np.ceil(maze.low), maze.high + 1):
        canvas.line((*_pixels(maze, (line, maze.low)), *_pixels(maze, (line, maze.high))), fill=_GRID, width=3)
        canvas.line((*_pixels(maze, (maze.low, line)), *_pixels(maze, (maze.high, line))), fill=_GRID, width=3)
    x, y = maze.target
    rectangle((x - TARGET_RADIUS, y - TARGET_RADIUS), (x + TARGET_RADIUS, y + TARGET_RADIUS), _TARGET)
    for index, route in enumerate(maze.routes):
        colour = _ROUTE_COLOURS[index % len(_ROUTE_COLOURS)]
        corners = [_pixels(maze, corner) for corner in route.waypoints]
        canvas.line(corners, fill=colour, width=round(0.1 * cell), joint="curve")
        for x, y in corners:
            canvas.ellipse((x - 0.13 * cell, y - 0.13 * cell, x + 0.13 * cell, y + 0.13 * cell), fill=colour)
    return image


def _pixels_per_cell(maze: Maze) -> float:
    return FRAME_SIZE * _OVERSAMPLING / (maze.high - maze.low + 1)  # half a cell of margin on every side


def _pixels(maze: Maze, point: Point) -> tuple[float, float]:
    cell = _pixels_per_cell(maze)
    return (point[0] - maze.low + 0.5) * cell, (maze.high - point[1] + 0.5) * cell
