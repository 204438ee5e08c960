"""Replays as people see them: pictures under labels, and what was done with the bins."""

from collections.abc import Iterator, Sequence
from colorsys import hls_to_rgb
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from bet.rollout import End
from bet.tasks import SimulatedTask
from bet.trajectory import Trajectory
from bet_ray.page.style import BLUE, FAINT, GRID, INK, VERMILION
from bet_ray.replay import Replay
from bet_ray.video import Line, grid, tile

_GOLDEN = (5**0.5 - 1) / 2  # hues that many parts of a turn apart never meet


@cache
def bin_colour(number: int) -> str:
    """A bin's, always the same; those of neighbouring numbers are far apart."""
    red, green, blue = hls_to_rgb(number * _GOLDEN % 1, (0.42, 0.56, 0.7)[number % 3], 0.6)
    return f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"


def frames(replays: Sequence[Replay], task: SimulatedTask) -> Iterator[NDArray[np.uint8]]:
    """One picture (height, width, 3) per state of the longest: the episodes side by side, each under its label.

    A label tells the bin chosen in the state that is shown; the strip below it, those of the steps until then. An
    episode that is over stays, faded.
    """
    for state in range(max(len(one.film) for one in replays)):
        yield grid([_tile(one, task, state) for one in replays])


def _tile(replay: Replay, task: SimulatedTask, state: int) -> NDArray[np.uint8]:
    result, last = replay.result, len(replay.film) - 1
    step, over = min(state, last), state > last
    bins = [] if result.trajectory is None else result.trajectory.bins.tolist()  # an error leaves none
    colour = BLUE if result.success else VERMILION
    worth = f", {task.protocol.primary} {result.primary:.2f}" if task.scored and not result.success else ""
    end = "failure" if not result.success and result.end is not End.ERROR else result.end.value
    if step < len(bins):
        below, what = bin_colour(bins[step]), f"bin {bins[step]}"
    else:
        below, what = FAINT, "over" if result.success else result.end.value.replace("_", " ")
    label = (
        Line(colour, f"episode {result.index}", end + worth, colour),
        Line(below, what, f"step {step} of {last}", FAINT if over else INK),
    )
    strip = [bin_colour(number) if at <= step else GRID for at, number in enumerate(bins)]
    return tile(replay.film[step], label, strip or [GRID], over=over)


@dataclass(frozen=True, eq=False)
class BinUse:
    """What an episode did with one bin."""

    number: int
    steps: int
    visits: int
    """How many times it was turned to."""
    longest: int
    """Steps of the longest visit."""
    center: NDArray[np.float32]  # (act_dim,) in action units
    offsets: NDArray[np.float64]  # (steps,) how far the actions were from the centre


def bin_uses(trajectory: Trajectory, centers: NDArray[np.float32]) -> list[BinUse]:
    """The bins of an episode, the most used first; `centers` (bins, act_dim) are the policy's in action units."""
    bins = trajectory.bins
    offsets = np.linalg.norm(trajectory.actions.astype(np.float64) - centers[bins], axis=1)  # (T,)
    starts = np.flatnonzero(np.diff(bins, prepend=-1))  # of visits
    lengths = np.diff(starts, append=len(bins))
    uses = []
    for number in np.unique(bins).tolist():
        visits = lengths[bins[starts] == number]
        uses.append(
            BinUse(number, int(visits.sum()), len(visits), int(visits.max()), centers[number], offsets[bins == number])
        )
    return sorted(uses, key=lambda use: -use.steps)
