"""Demonstrations of the point mass: noisy walks along the routes.

The study's generator (github.com/skandermoalla/bet-reproduction, `envs/multi_route/multi_route.py`, step size 1), with
its spacing: a leg between two way-points of length L is cut into floor(L) equal steps, but the *last* leg of a route,
which includes its end, into floor(L) - 1 (at least one). Steps are therefore not all of length 1: the last four cells
of version 2's outer routes are three steps of 4/3, and the first half of its diagonal five of 0.8 in x and y.

Noise is on the points, not on the actions, so every action leads back to the route: demonstrations that correct.
Unlike the study, which takes floor(share * n) of each route in turn, the route of each demonstration is drawn.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from bet.data.episodes import Episodes
from bet.envs.pointmass import PointMassVersion, Route

BLOCK = 20_000  # episodes made at once


def demonstrations(
    version: PointMassVersion,
    episodes: int,
    seed: int,
    noise: float = 0.1,
    progress: Callable[[int], None] = lambda done: None,
) -> Episodes:
    """Demonstrations of one version; the study uses 20,000.

    Observations are points, (N, 2) in cells, and actions the way to the next point; a route's last point is only ever
    reached. `noise` is the deviation, in cells, of the normal noise on every point (0: the study's "deterministic").
    The first demonstrations of a larger number are the same ones. `progress` hears how many are done.

    Raises `ValueError` for fewer than one episode or a negative noise.
    """
    if not noise >= 0:
        raise ValueError(f"noise must not be negative, got {noise}")
    paths = [route_points(route) for route in version.maze.routes]
    longest = max(len(path) for path in paths)
    padded = np.stack([np.pad(path, ((0, longest - len(path)), (0, 0)), mode="edge") for path in paths])  # (R, P, 2)
    lengths = np.array([len(path) - 1 for path in paths])  # (R,) steps

    routes = demonstrated_routes(version, episodes, seed)  # (E,)
    generator = _generators(seed)[1]
    observations, actions = [], []
    for first in range(0, episodes, BLOCK):
        block = routes[first : first + BLOCK]  # (B,)
        points = padded[block] + noise * generator.standard_normal((len(block), longest, 2))  # (B, P, 2)
        real = np.arange(longest - 1) < lengths[block, None]  # (B, P - 1) steps that are not padding
        observations.append(points[:, :-1][real].astype(np.float32))
        actions.append(np.diff(points, axis=1)[real].astype(np.float32))
        progress(first + len(block))
    return Episodes(
        observations=np.concatenate(observations),
        actions=np.concatenate(actions),
        episode_ends=np.cumsum(lengths[routes]),
        task=version.value,
        source=f"{version.value} demonstrations",
    )


def demonstrated_routes(version: PointMassVersion, episodes: int, seed: int) -> NDArray[np.int64]:
    """Which route, as an index into `version.maze.routes`, each of the same demonstrations takes, (E,).

    Raises `ValueError` for fewer than one episode.
    """
    if episodes < 1:
        raise ValueError(f"episodes must be at least 1, got {episodes}")
    shares = version.maze.shares
    return _generators(seed)[0].choice(len(shares), size=episodes, p=shares)


def route_points(route: Route) -> NDArray[np.float64]:
    """The points of a route before noise, (P, 2) in cells, both ends included."""
    corners = np.array(route.waypoints, dtype=np.float64)  # (C, 2)
    steps = np.floor(np.linalg.norm(np.diff(corners, axis=0), axis=1)).astype(int)  # (C - 1,)
    steps[-1] = max(steps[-1] - 1, 1)
    legs = [
        np.linspace(begin, end, count, endpoint=False)
        for begin, end, count in zip(corners[:-1], corners[1:], steps, strict=True)
    ]
    return np.concatenate([*legs, corners[-1:]])


def _generators(seed: int) -> list[np.random.Generator]:
    """One for the choice of routes, one for the noise: apart, so that more episodes leave the first ones alone."""
    return np.random.default_rng(seed).spawn(2)
