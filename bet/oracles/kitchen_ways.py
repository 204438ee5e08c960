"""The way-points of the kitchen's demonstrator: where its gripper goes to do a task, one after the other.

They are given from the task's handle, a site of the model, and so follow it: where it is seen when the way begins, or
where it would be if what it opens stood differently (`stands`). Metres and radians; x is to the right, y away from the
arm's base, z up.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from bet.envs.kitchen import ELEMENTS

OPEN, SHUT = 0.04, 0.0  # metres, of each finger


@dataclass(frozen=True)
class Way:
    """To one way-point."""

    offset: tuple[float, float, float]
    """Of the gripper from the handle."""
    stands: tuple[float, ...] | None = None
    """The positions of what is moved for which the handle is meant. None: as they are."""
    fingers: float = SHUT
    near: float = 0.05
    """It ends when the gripper is that near,"""
    until: float | None = None
    """or what is moved has come so far (away from 0),"""
    steps: int = 40
    """or time is up."""
    waits: bool = False
    """It takes all of its steps."""
    lead: float = 0.16
    """How far ahead of the gripper its reference is at most: sets speed and force."""
    pitch: float = 0.0
    """The gripper points forwards, and up by this."""
    spread: float = 0.004
    """Standard deviation, in each direction, of where the way-point is from one demonstration to another."""


@dataclass(frozen=True)
class Handle:
    """What is moved, and by what."""

    site: str
    columns: slice
    """Its positions among observations and states."""
    progress: int
    """The one of them that says how far it has come."""
    ways: tuple[Way, ...]


AWAY = 0.02  # metres: spread of way-points in free space


def _pulled(height: float, opening: tuple[float, float, float], *back: tuple[float, float, float]) -> tuple[Way, ...]:
    """Grip an upright bar at some height from the middle of it, pull its door open to these angles, and go back."""
    grip = (0.0, -0.005, height)
    first, second, third = opening
    return (
        Way((0, -0.14, height), fingers=OPEN, near=0.03, spread=0.01),
        Way(grip, fingers=OPEN, near=0.02, steps=20, lead=0.06),
        Way(grip, steps=3, waits=True),
        Way(grip, (first,), until=0.6 * first, steps=20, lead=0.12),
        Way(grip, (second,), until=0.8 * second, steps=20, lead=0.12),
        Way(grip, (third,), until=0.85 * third, steps=25, lead=0.12),
        Way((0, -0.02, height), fingers=OPEN, steps=3, waits=True),
        *(Way(offset, fingers=OPEN, steps=10, spread=AWAY) for offset in back),
    )


_KETTLE = ELEMENTS["kettle"].goal

HANDLES: Mapping[str, Handle] = MappingProxyType(
    {
        "microwave": Handle(
            "microhandle_site", slice(22, 23), 22, _pulled(0.06, (-0.3, -0.6, -0.8), (0.05, -0.1, 0.06))
        ),
        # The fingers go below its bar, lift it and carry it.
        "kettle": Handle(
            "kettle_site",
            slice(23, 30),
            24,
            (
                Way((0, -0.16, -0.07), spread=AWAY),
                Way((0, 0.02, -0.07), near=0.02, steps=20, lead=0.08),
                Way((0, 0.02, -0.015), near=0.02, steps=8, lead=0.06, pitch=0.2),
                Way((0, 0.02, -0.015), _KETTLE, near=0.03, until=0.66, steps=35, lead=0.09, pitch=0.2),
                Way((0, 0.02, -0.07), _KETTLE, near=0.02, steps=10, lead=0.05),
                Way((0, -0.24, -0.07), steps=25, spread=AWAY),
            ),
        ),
        "light switch": Handle(
            "light_site",
            slice(17, 18),
            17,
            (
                Way((0.08, -0.11, 0), near=0.03, spread=0.01),
                Way((0.07, 0, 0), near=0.02, steps=15),
                Way((0, 0, 0), (-0.75,), near=0.02, until=-0.6, steps=20, lead=0.1),
                Way((0.1, -0.1, 0), steps=10, spread=AWAY),
            ),
        ),
        # Pushed at the lower end of its bar, from below: an open hinge cabinet is in the way of all else.
        "slide cabinet": Handle(
            "slide_site",
            slice(19, 20),
            19,
            (
                Way((-0.06, -0.12, -0.28), near=0.03, spread=0.01, pitch=0.85),
                Way((-0.055, -0.01, -0.14), near=0.02, steps=15, lead=0.1, pitch=0.85),
                Way((-0.02, -0.01, -0.14), (0.42,), near=0.03, until=0.33, lead=0.12, pitch=0.85),
                Way((-0.08, -0.12, -0.2), steps=10, pitch=0.85),
            ),
        ),
        # Afterwards the gripper goes below the door: it is between the cabinet and everything to its right.
        "hinge cabinet": Handle(
            "hinge_site2",
            slice(21, 22),
            21,
            _pulled(-0.1, (0.5, 1.0, 1.53), (0, -0.14, -0.1), (-0.1, -0.14, -0.35)),
        ),
    }
)
