"""What one finished episode amounts to: the columns its task adds to the episode table, and the number to maximise.

Every primary metric lies in [0, 1]. Push-T's is a mean over episodes of a per-episode score. Point mass's is an
*aggregate*: success rate times mode coverage. Each of its rows carries the success (0 or 1), and `mode_coverage` takes
counts of routes, of one table or of many bootstrap resamples at once.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import scipy  # its parts when they are used: rollout workers need no statistics, which take a second to import
from numpy.typing import ArrayLike, NDArray

from bet.envs.blockpush import BLOCK_XY, TOLERANCE, block_distances
from bet.envs.kitchen import ELEMENTS, ENOUGH, at_goals
from bet.envs.pointmass import PointMassVersion
from bet.envs.pusht import SUCCESS_COVERAGE
from bet.trajectory import Trajectory

ROUTE = "route"  # the column that names an episode's mode
NO_ROUTE = "none"
FAILED = "failed"  # in place of a route, to label an episode that did not succeed; no value of the column
SUCCESS = "success"  # the primary metric of tasks that have no other: the success rate
BY_MODES = "success x mode coverage"  # the primary metric that is one of many episodes, not a mean over them
NEVER = -1  # in place of the step of an event
IN_ORDER = ", "  # between the names in a column that says what was done in which order


def route_name(route: str) -> str:
    """A value of the column `route`, for people."""
    return "no known route" if route == NO_ROUTE else route.replace("_", " ")


@dataclass(frozen=True)
class Outcome:
    """Base of the tasks' outcomes: each field, a str, float, int or bool, is a column of the episode table."""


def success_primary(trajectory: Trajectory) -> float:
    """1 on success, else 0: an episode's share in the success rate (for point mass one factor of the aggregate)."""
    return float(trajectory.success)


@dataclass(frozen=True)
class PushTOutcome(Outcome):
    """Columns of a Push-T episode."""

    best_coverage: float
    """Largest share of the goal that the block covered after any step, 0 to 1."""


def pusht_outcome(trajectory: Trajectory) -> PushTOutcome:
    return PushTOutcome(best_coverage=float(trajectory.signals["coverage"].max()))


def pusht_primary(trajectory: Trajectory) -> float:
    """min(best coverage / 0.95, 1): like success it is 1 when solved, unlike success it ranks weak policies."""
    return min(pusht_outcome(trajectory).best_coverage / SUCCESS_COVERAGE, 1.0)


@dataclass(frozen=True)
class BlockPushOutcome(Outcome):
    """Columns of a BlockPush episode. Steps count from 1; -1: it never happened.

    A block has been reached when its distance from the origin has changed by over 1 mm (the original's rule). Pushed
    blocks *enter* targets at any time, or *stay*: are in them at the end; two count only in different targets.
    """

    reached: int
    """Blocks reached, 0 to 2; at least n of them is the paper's Rn."""
    pushed: int
    """Blocks that entered targets (5 cm), 0 to 2; at least n of them is the paper's Pn."""
    stayed: int
    """Blocks in targets at the end."""
    pushed_4cm: int
    """As `pushed`, nearer than 4 cm. An episode that ends in success at 5 cm gives its last block no time for it."""
    stayed_4cm: int
    route: str
    """Of a success: the block that entered first, and each block's target then; else "none"."""
    first_push: str
    """The first block in a target, and which: "block_to_target2"; "none" where none came."""
    first_reached_at: int
    second_reached_at: int
    first_pushed_at: int
    second_pushed_at: int


BLOCKPUSH_TIGHT = 0.04  # metres: the demonstrator's tolerance, and the study's other one
REACHED = 1e-3  # metres
BLOCKPUSH_ROUTES = tuple(
    f"{first}_first_{pairing}" for first in ("block", "block2") for pairing in ("straight", "crossed")
)
"""Which block comes into a target first, and whether each goes to the target of its own number."""
BLOCKPUSH_FIRST = tuple(f"{block}_to_{target}" for block in ("block", "block2") for target in ("target", "target2"))


def blockpush_outcome(trajectory: Trajectory) -> BlockPushOutcome:
    away = np.linalg.norm(trajectory.observations[:, BLOCK_XY].astype(np.float64), axis=2)  # (T + 1, 2) from the origin
    reached = np.logical_or.accumulate(np.abs(away[1:] - away[0]) > REACHED).sum(axis=1)  # (T,) blocks so far
    distances = block_distances(trajectory.observations[1:])  # (T, 2 blocks, 2 targets)
    # The simulator finds a success before observations are rounded to float32.
    success = trajectory.signals["success"] > 0  # (T,)
    nearest = distances == distances.min(axis=2, keepdims=True)
    inside, tight = (distances < TOLERANCE) | (success[:, None, None] & nearest), distances < BLOCKPUSH_TIGHT
    pushed = _placed(np.logical_or.accumulate(inside))  # (T,) blocks so far
    entry = inside[inside.any(axis=(1, 2)).argmax()].ravel()  # (4,) block and target, of the first to be inside
    first = int(entry.argmax())
    targets = distances[success.argmax()].argmin(axis=1)  # (2,) the nearest to each block, at the success
    found = trajectory.success and targets[0] != targets[1]
    return BlockPushOutcome(
        reached=int(reached[-1]),
        pushed=int(pushed[-1]),
        stayed=int(_placed(inside[-1])),
        pushed_4cm=int(_placed(np.any(tight, axis=0))),
        stayed_4cm=int(_placed(tight[-1])),
        route=BLOCKPUSH_ROUTES[first // 2 * 2 + targets[0]] if found else NO_ROUTE,
        first_push=BLOCKPUSH_FIRST[first] if entry.any() else NO_ROUTE,
        first_reached_at=_first_step(reached >= 1),
        second_reached_at=_first_step(reached >= 2),
        first_pushed_at=_first_step(pushed >= 1),
        second_pushed_at=_first_step(pushed >= 2),
    )


def blockpush_primary(trajectory: Trajectory) -> float:
    """Share of the blocks pushed: 0, 0.5 or 1."""
    return blockpush_outcome(trajectory).pushed / 2


def _first_step(happened: NDArray[np.bool_]) -> int:
    """The first step, from 1, at which something (T,) happened, or `NEVER`."""
    return int(happened.argmax()) + 1 if happened.any() else NEVER


def _placed(inside: NDArray[np.bool_]) -> NDArray[np.int64]:
    """How many blocks are in targets of their own: (..., 2 blocks, 2 targets) -> (...)."""
    apart = (inside[..., 0, 0] & inside[..., 1, 1]) | (inside[..., 0, 1] & inside[..., 1, 0])
    return np.where(apart, 2, inside.any(axis=(-2, -1)))


@dataclass(frozen=True)
class KitchenOutcome(Outcome):
    """Columns of a kitchen episode. Steps count from 1; -1: it never happened.

    A task is done when its element is *observed* at its goal after a step, whatever becomes of it later.
    """

    done: int
    """Tasks done, 0 to 7; at least n of them is the paper's pn."""
    sequence: str
    """Their names as they were done, "microwave, kettle"; those of one step in the original's order."""
    bottom_burner_at: int
    top_burner_at: int
    light_switch_at: int
    slide_cabinet_at: int
    hinge_cabinet_at: int
    microwave_at: int
    kettle_at: int


def kitchen_outcome(trajectory: Trajectory) -> KitchenOutcome:
    there = at_goals(trajectory.observations[1:])  # (T, 7)
    steps = {name: _first_step(there[:, column]) for column, name in enumerate(ELEMENTS)}
    done = sorted((name for name, step in steps.items() if step != NEVER), key=steps.__getitem__)
    columns = {f"{name.replace(' ', '_')}_at": step for name, step in steps.items()}
    return KitchenOutcome(done=len(done), sequence=IN_ORDER.join(done), **columns)


def kitchen_primary(trajectory: Trajectory) -> float:
    """Share of four tasks, as many as each demonstrator was asked for; more are not counted."""
    return min(kitchen_outcome(trajectory).done, ENOUGH) / ENOUGH


def sequence_entropies(sequences: Sequence[str]) -> dict[str, float]:
    """How diverse what was done is, in bits: single tasks, and whole sequences, over all of the episodes (n,), n > 0.

    The reproduction study's definitions (bet-reproduction, `utils/metrics.py`): each task short of five in an episode
    counts as another task, "none". There the entropy of tasks is over the *distinct* sequences, each counted once.
    """
    done = [sequence.split(IN_ORDER) if sequence else [] for sequence in sequences]
    tasks = Counter(name for names in done for name in names)
    tasks[NO_ROUTE] = sum(max(5 - len(names), 0) for names in done)
    counts = {"task entropy": tasks, "sequence entropy": Counter(sequences)}
    return {what: float(scipy.stats.entropy(list(taken.values()), base=2)) for what, taken in counts.items()}


@dataclass(frozen=True)
class PointMassOutcome(Outcome):
    """Columns of a point-mass episode."""

    route: str
    """The demonstrated route that a successful episode followed; "none" when it failed, or followed none of them."""
    route_distance: float
    """How far apart, in cells, the path and the nearest route get (Hausdorff distance); also for failed episodes."""


def pointmass_outcome(trajectory: Trajectory, version: PointMassVersion) -> PointMassOutcome:
    """Names the route that a path followed.

    Nearness is a Hausdorff distance: the larger of how far a visited point strays from the route and how far a part of
    the route is from the path. A path follows the nearest route when that is less than half of what separates the two
    most similar routes: 1.118 cells in version 1, 1.414 in version 2. Merely *nearest* would not do. In version 2 all
    routes meet at (4, 4), and a path that enters on one and leaves on another, or in version 1 one that cuts straight
    through the middle, is equally near to two routes, has reproduced neither, and is "none".
    """
    routes, separation = _geometry(version)
    distances = routes.distances(trajectory.observations.astype(np.float64))  # (R,)
    nearest = int(np.argmin(distances))
    # On the grid a path can be exactly half-way (1.414 cells off the diagonal): rounding must not decide.
    follows = distances[nearest] < separation / 2 - 1e-6
    return PointMassOutcome(
        route=version.maze.routes[nearest].name if follows and trajectory.success else NO_ROUTE,
        route_distance=float(distances[nearest]),
    )


def route_labels(version: PointMassVersion) -> tuple[str, ...]:
    """The R + 1 values that the column `route` can have: the version's routes, then "none"."""
    return (*(route.name for route in version.maze.routes), NO_ROUTE)


def route_shares(version: PointMassVersion) -> NDArray[np.float64]:
    """Demonstrated share of each of `route_labels`, (R + 1,): none of the demonstrations took "none"."""
    return np.append(version.maze.shares, 0.0)


def mode_coverage(counts: ArrayLike, shares: ArrayLike) -> NDArray[np.float64]:
    """1 - total-variation distance between counted and demonstrated routes; 0 where nothing is counted.

    `counts` (..., R) of successful episodes by route, `shares` (R,) that sum to 1 -> (...). 1 means that every route is
    taken as often as in the demonstrations; a policy that knows one route gets that route's share.

    Raises `ValueError` when the shapes disagree or the shares do not sum to 1.
    """
    counts, shares = np.asarray(counts, dtype=np.float64), np.asarray(shares, dtype=np.float64)
    if shares.ndim != 1 or counts.shape[-1:] != shares.shape:
        raise ValueError(f"counts have shape {counts.shape} but shares {shares.shape}")
    if not np.isclose(shares.sum(), 1.0):
        raise ValueError(f"shares sum to {shares.sum():g}, not to 1")
    total = counts.sum(axis=-1, keepdims=True)  # (..., 1)
    taken = counts / np.where(total > 0, total, 1.0)  # (..., R)
    # 1 - sum(|p - q|) / 2 is the overlap sum(min(p, q)), in which nothing cancels.
    return np.minimum(np.minimum(taken, shares).sum(axis=-1), 1.0)


@dataclass(frozen=True, eq=False)
class _Routes:
    """The routes of a maze in flat arrays, all measured at once: L legs, D points along them, R routes."""

    begins: NDArray[np.float64]  # (L, 2)
    ends: NDArray[np.float64]  # (L, 2)
    first_legs: NDArray[np.intp]  # (R,) where each route's legs begin
    points: NDArray[np.float64]  # (D, 2)
    first_points: NDArray[np.intp]  # (R,)

    def distances(self, path: NDArray[np.float64]) -> NDArray[np.float64]:
        """Hausdorff distance, in cells, of visited points (P, 2) from each route, (R,)."""
        strays = np.minimum.reduceat(_to_legs(path, self.begins, self.ends), self.first_legs, axis=1)  # (P, R)
        misses = _to_legs(self.points, path[:-1], path[1:]).min(axis=1)  # (D,)
        return np.maximum(strays.max(axis=0), np.maximum.reduceat(misses, self.first_points))


@cache
def _geometry(version: PointMassVersion) -> tuple[_Routes, float]:
    """The routes of a version, and the distance in cells between the two most similar ones."""
    lines = [np.array(route.waypoints, dtype=np.float64) for route in version.maze.routes]
    dense = [_densified(line) for line in lines]
    routes = _Routes(
        begins=np.concatenate([line[:-1] for line in lines]),
        ends=np.concatenate([line[1:] for line in lines]),
        first_legs=_starts([len(line) - 1 for line in lines]),
        points=np.concatenate(dense),
        first_points=_starts([len(points) for points in dense]),
    )
    apart = np.stack([routes.distances(points) for points in dense])  # (R, R)
    return routes, float(apart[~np.eye(len(lines), dtype=bool)].min())


def _densified(line: NDArray[np.float64]) -> NDArray[np.float64]:
    """A polyline (C, 2) with every leg in eight pieces, corners kept, (8 (C - 1) + 1, 2)."""
    legs = np.linspace(line[:-1], line[1:], 8, endpoint=False, axis=1)  # (C - 1, 8, 2)
    return np.concatenate([legs.reshape(-1, 2), line[-1:]])


def _starts(lengths: list[int]) -> NDArray[np.intp]:
    return np.cumsum([0, *lengths[:-1]])


def _to_legs(
    points: NDArray[np.float64], begins: NDArray[np.float64], ends: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Distance of points (P, 2) from straight legs (L, 2) to (L, 2) -> (P, L)."""
    legs = ends - begins  # (L, 2)
    squares = np.maximum((legs**2).sum(axis=1), np.finfo(np.float64).tiny)  # a leg may be a single point
    away = points[:, None] - begins  # (P, L, 2)
    along = np.clip((away * legs).sum(axis=2) / squares, 0, 1)  # (P, L)
    return np.linalg.norm(away - along[..., None] * legs, axis=2)
