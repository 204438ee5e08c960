"""How people read a task's numbers: names of columns, bodies in the plane, and the state behind an observation."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from bet.envs.pointmass import TARGET_RADIUS, PointMassVersion
from bet.envs.pusht_scene import GOAL, OUTLINE
from bet.layouts import PUSHT_SIZE, PushTLayout, pusht_states


class Meaning(Enum):
    """What an action is, where a task takes place in a plane."""

    PLACE = auto()
    """Where to go."""
    STEP = auto()
    """The change of the first body's position."""


@dataclass(frozen=True, eq=False)
class Body:
    """Something that moves in the plane, as columns of an observation."""

    name: str
    position: tuple[int, int]
    """Columns of x and y."""
    heading: tuple[int, int] | None = None
    """Columns of the cosine and sine of its angle."""
    outline: NDArray[np.float64] | None = None
    """Its corners (C, 2) at angle 0, seen from its position."""


@dataclass(frozen=True, eq=False)
class Plane:
    """The square that a task takes place in."""

    low: float
    high: float
    unit: str
    y_down: bool
    """Whether y points down, as in images."""
    landmarks: Mapping[str, NDArray[np.float64]]
    """Outlines (C, 2) of what stands still."""


@dataclass(frozen=True, eq=False)
class View:
    """One observation layout of a task, and its actions."""

    columns: tuple[str, ...]
    """Names of the observation's columns, (obs_dim,)."""
    action_columns: tuple[str, ...]
    """Names of the action's, (act_dim,)."""
    plane: Plane | None = None
    """None: the task does not take place in a plane, and there are no bodies."""
    bodies: tuple[Body, ...] = ()
    """What acts first."""
    meaning: Meaning | None = None
    states: Callable[[NDArray[np.float32]], NDArray[np.float64]] | None = None
    """Observations (n, obs_dim) -> states (n, state_dim) as a simulator takes them at reset. None: they do not tell."""


def placed(outline: NDArray[np.float64], position: NDArray, heading: NDArray) -> NDArray[np.float64]:
    """An outline (C, 2) moved to a position (2,) and turned by an angle with the cosine and sine `heading`, (2,)."""
    cosine, sine = heading
    return outline @ np.array([[cosine, sine], [-sine, cosine]]) + position


def pusht_view(layout: str) -> View:
    """PushT through one of its layouts."""
    whole = PushTLayout(layout) is PushTLayout.STATE
    goal = placed(OUTLINE, np.array(GOAL[:2]), np.array([np.cos(GOAL[2]), np.sin(GOAL[2])]))
    block = Body("block", (2, 3), heading=(4, 5), outline=OUTLINE)
    return View(
        columns=PushTLayout(layout).columns,
        action_columns=("target x", "target y"),
        plane=Plane(0.0, PUSHT_SIZE, "pixels", y_down=True, landmarks=MappingProxyType({"goal": goal})),
        bodies=(Body("agent", (0, 1)), block) if whole else (Body("agent", (0, 1)),),
        meaning=Meaning.PLACE,
        states=pusht_states if whole else None,
    )


def pointmass_view(version: PointMassVersion, layout: str) -> View:
    """Point mass through its only layout."""
    maze = version.maze
    corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], dtype=np.float64)
    target = np.array(maze.target) + TARGET_RADIUS * corners
    return View(
        columns=("x", "y"),
        action_columns=("step x", "step y"),
        plane=Plane(maze.low, maze.high, "cells", y_down=False, landmarks=MappingProxyType({"target": target})),
        bodies=(Body("point", (0, 1)),),
        meaning=Meaning.STEP,
        states=lambda observations: observations.astype(np.float64),
    )
