"""How people read a task's numbers: names of columns, bodies in the plane, and the state behind an observation."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from bet.envs.blockpush import at_rest
from bet.envs.blockpush_scene import HALF_BLOCK
from bet.envs.kitchen import at_rest as kitchen_at_rest
from bet.envs.pointmass import TARGET_RADIUS, PointMassVersion
from bet.envs.pusht_scene import GOAL, OUTLINE
from bet.layouts import PUSHT_SIZE, PushTLayout, pusht_states

SQUARE = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], dtype=np.float64)  # corners
POSE = ("x", "y", "yaw")
BLOCKPUSH_SQUARE = (-0.5, 0.7)  # metres; holds the workspace, x 0.15..0.7 and y -0.5..0.5
BURNERS = ("bottom right", "bottom left", "top right", "top left")


class Meaning(Enum):
    """What an action is, where a task takes place in a plane."""

    PLACE = auto()
    """Where to go."""
    STEP = auto()
    """The change of the whole observation."""


@dataclass(frozen=True, eq=False)
class Body:
    """Something that moves in the plane, as columns of what `View.scene` gives."""

    name: str
    position: tuple[int, int]
    """Columns of x and y."""
    angle: int | None = None
    """Column of its angle in radians, from x towards y."""
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


def unchanged(observations: NDArray[np.float32]) -> NDArray[np.float64]:
    """The scene that an observation itself is."""
    return observations.astype(np.float64)


@dataclass(frozen=True, eq=False)
class View:
    """One observation layout of a task, and its actions."""

    columns: tuple[str, ...]
    """Names of the observation's columns, (obs_dim,)."""
    action_columns: tuple[str, ...]
    """Names of the action's, (act_dim,)."""
    scene: Callable[[NDArray[np.float32]], NDArray[np.float64]] = unchanged
    """Observations (n, obs_dim) -> what they tell of the simulator's state, (n, scene_dim)."""
    complete: bool = False
    """Whether that is all of the state, as the simulator's reset takes it."""
    plane: Plane | None = None
    """None: the task does not take place in a plane, and there are no bodies."""
    bodies: tuple[Body, ...] = ()
    """The one that acts first."""
    meaning: Meaning | None = None


def placed(outline: NDArray[np.float64], x: float, y: float, angle: float) -> NDArray[np.float64]:
    """An outline (C, 2), turned by an angle in radians and moved."""
    cosine, sine = np.cos(angle), np.sin(angle)
    return outline @ np.array([[cosine, sine], [-sine, cosine]]) + (x, y)


def plain_view(obs_dim: int, act_dim: int) -> View:
    """Numbers that nobody has named."""
    return View(
        tuple(f"observation {column}" for column in range(obs_dim)),
        tuple(f"action {column}" for column in range(act_dim)),
    )


def pusht_view(name: str) -> View:
    """PushT through one of its layouts."""
    layout = PushTLayout(name)
    agent, block = Body("agent", (0, 1)), Body("block", (2, 3), angle=4, outline=OUTLINE)
    points = [f"keypoint {point} {axis}" for point in range((layout.dim - 2) // 2) for axis in "xy"]
    shown = ["block x", "block y", "block cos", "block sin"] if layout is PushTLayout.STATE else points
    complete = layout is not PushTLayout.AGENT
    landmarks = MappingProxyType({"goal": placed(OUTLINE, *GOAL)})
    return View(
        columns=("agent x", "agent y", *shown),
        action_columns=("target x", "target y"),
        scene=partial(pusht_states, layout=layout) if complete else unchanged,
        complete=complete,
        plane=Plane(0.0, PUSHT_SIZE, "pixels", y_down=True, landmarks=landmarks),
        bodies=(agent, block) if complete else (agent,),
        meaning=Meaning.PLACE,
    )


def pointmass_view(version: PointMassVersion, name: str) -> View:
    """Point mass through its only layout."""
    maze = version.maze
    target = placed(TARGET_RADIUS * SQUARE, *maze.target, angle=0.0)
    return View(
        columns=("x", "y"),
        action_columns=("step x", "step y"),
        complete=True,
        plane=Plane(maze.low, maze.high, "cells", y_down=False, landmarks=MappingProxyType({"target": target})),
        bodies=(Body("point", (0, 1)),),
        meaning=Meaning.STEP,
    )


def blockpush_view(name: str) -> View:
    """Block push through its only layout: metres and radians. Velocities, which the state holds too, are taken as zero.

    The order of the columns is the original environment's (notmahi/bet, `envs/block_pushing`); the effector target is
    the place that the actions have added up to. Blocks are cubes of 4 cm.
    """

    cube = HALF_BLOCK * SQUARE
    poses = {"block": 0, "block 2": 3, "target": 10, "target 2": 13}
    columns = {first + axis: f"{body} {what}" for body, first in poses.items() for axis, what in enumerate(POSE)}
    columns |= {6: "effector x", 7: "effector y", 8: "effector target x", 9: "effector target y"}
    return View(
        columns=tuple(columns[column] for column in sorted(columns)),
        action_columns=("effector target step x", "effector target step y"),
        scene=at_rest,
        complete=True,
        plane=Plane(*BLOCKPUSH_SQUARE, "m", y_down=False, landmarks=MappingProxyType({})),
        bodies=(
            Body("effector", (6, 7)),
            Body("block", (0, 1), angle=2, outline=cube),
            Body("block 2", (3, 4), angle=5, outline=cube),
        ),
    )


def kitchen_view(name: str) -> View:
    """The kitchen through its only layout: positions of the arm's joints and of what can be moved, then 30 zeros.

    The columns of objects have the order of Gymnasium-Robotics' Franka kitchen (`envs/franka_kitchen/kitchen_env.py`),
    the same simulation; in the demonstrations its velocities and noise are absent, and the goal is zeros. Velocities,
    which the state holds too, are taken as zero.
    """
    burners = [f"{place} burner{what}" for place in BURNERS for what in (" knob", "")]
    joints = [*(f"joint {number}" for number in range(1, 8)), "finger 1", "finger 2"]
    doors = ["light switch", "light", "slide cabinet", "left hinge cabinet", "right hinge cabinet", "microwave"]
    kettle = [f"kettle {axis}" for axis in ("x", "y", "z", "qw", "qx", "qy", "qz")]
    goal = [f"goal {number}" for number in range(30)]
    return View(
        columns=(*joints, *burners, *doors, *kettle, *goal),
        action_columns=tuple(f"{joint} velocity" for joint in joints),
        scene=kitchen_at_rest,
        complete=True,
    )
