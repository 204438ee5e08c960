"""How often each route is taken, demonstrated against rolled out; of the point mass also the paths."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from bet.config import Split
from bet.data.episodes import Episodes
from bet.data.summary import paths_of, routes_taken
from bet.envs.pointmass import Maze, PointMassVersion
from bet.metrics import FAILED, NO_ROUTE
from bet.policy import Policy
from bet.rollout import rollout
from bet.stats import mean_interval, rate_interval
from bet.tasks import SimulatedTask
from bet_ray.evaluation import measurement, recipe_of
from bet_ray.report.records import Records
from bet_ray.results import KEY
from bet_ray.saved import saved_trajectories
from bet_ray.trials import Rung, TrialRecord
from bet_ray.values import Estimate, setting_text

DRAWN = 60  # paths in a panel: enough to see shares, few enough to see paths


class Origin(StrEnum):
    """Whose paths they are, as the page says it."""

    DEMONSTRATED = "demonstrated"
    WINNER = "winner"
    ONE_BIN = "best with one bin"


@dataclass(frozen=True)
class Paths:
    """Some paths of one origin."""

    origin: Origin
    setting: str
    by_label: dict[str, list[NDArray[np.float32]]]
    """Each (T + 1, 2)."""


@dataclass(frozen=True)
class Shares:
    """How often each label comes up."""

    origin: Origin
    by_label: dict[str, Estimate]
    """For the demonstrations without an interval: their shares are given, not measured. Empty without episodes."""
    entropy: float | None
    """Of the routes of the successes, in nats; None without any."""


@dataclass(frozen=True)
class Routes:
    """What the drawings and bars show."""

    maze: Maze | None
    """None where paths are not drawn."""
    labels: tuple[str, ...]
    """The demonstrated routes; where all episodes are counted also `NO_ROUTE` and `FAILED`."""
    paths: tuple[Paths, ...]
    shares: tuple[Shares, ...]


def routes(records: Records) -> Routes | None:
    """None for a task without named routes, or before a trial has a result. Raises `PolicyError`.

    Where the primary metric is of routes, all episodes count; else the successes, so that how often and how are apart.
    """
    winner, task = records.winner, records.task
    if not task.modes or winner is None:
        return None
    maze = PointMassVersion(task.name).maze if task.name in list(PointMassVersion) else None
    names = [name for name in task.modes if name != NO_ROUTE]
    labels = (*names, NO_ROUTE, FAILED) if task.by_modes else tuple(names)
    episodes = records.demonstrations if maze else None
    paths = [] if episodes is None else [_demonstrated(records, episodes)]
    given = {label: Estimate(*3 * [task.modes.get(label, 0.0)]) for label in labels}
    shares = [Shares(Origin.DEMONSTRATED, given, task.mode_entropy)]
    if winner.measured:
        if maze:
            paths.append(Paths(Origin.WINNER, setting_text(winner.trial.setting), _recorded(records, winner.rows)))
        shares.append(_shares(task, Origin.WINNER, winner.rows, labels))
    single = _one_bin(records)
    if single is not None and (not winner.measured or single[0].trial != winner.trial.trial):
        trial, rung = single
        if maze:
            paths.append(_rolled_out_again(records, trial, rung))
        shares.append(_shares(task, Origin.ONE_BIN, records.rows_of(trial, rung), labels))
    return Routes(maze, labels, tuple(paths), tuple(shares))


def _one_bin(records: Records) -> tuple[TrialRecord, Rung] | None:
    single = (one for one in records.judged() if records.sweep.config(one.trial.setting).codebook.bins == 1)
    return next(((one.trial, one.rung) for one in single), None)


def _label(route: str, success: bool) -> str:
    return route if success else FAILED


def _shares(task: SimulatedTask, origin: Origin, table: pa.Table, labels: Sequence[str]) -> Shares:
    spread = measurement(task, table).mode_entropy
    if not task.by_modes:
        table = table.filter(pc.field("success"))
    success = table.column("success").to_pylist()
    taken = [_label(*pair) for pair in zip(table.column("route").to_pylist(), success, strict=True)]
    seeds = table.column("train_seed").to_numpy()
    shares = {}
    for label in labels if taken else ():
        hits = np.array([name == label for name in taken], dtype=np.float64)
        several = len(set(seeds.tolist())) > 1
        interval = mean_interval(hits, seeds) if several else rate_interval(int(hits.sum()), len(hits))
        shares[label] = Estimate.of(interval)
    return Shares(origin, shares, spread)


def _demonstrated(records: Records, episodes: Episodes) -> Paths:
    layout = records.sweep.config({}).data.observation
    some = episodes.select(np.unique(np.linspace(0, len(episodes) - 1, DRAWN).astype(int)))  # may be in order of routes
    taken = routes_taken(some, records.task, layout)
    return Paths(Origin.DEMONSTRATED, "", _labelled(zip(taken, paths_of(some, records.task.view(layout)), strict=True)))


def _recorded(records: Records, rows: pa.Table) -> dict[str, list[NDArray[np.float32]]]:
    """The winner's first paths, from the stored trajectories."""
    policies, numerics = set(rows.column("policy_digest").to_pylist()), set(rows.column("numerics").to_pylist())
    wanted = (
        pc.field("policy_digest").isin(list(policies))
        & pc.field("numerics").isin(list(numerics))
        & (pc.field("split") == Split.REPORT.value)
        & (pc.field("index") < -(-DRAWN // len(policies)))
    )
    label = {
        tuple(row[name] for name in KEY): _label(row["route"], row["success"])
        for row in rows.select([*KEY, "route", "success"]).to_pylist()
    }
    found = saved_trajectories(records.run, records.task, wanted)
    return _labelled((label[key], trajectory.observations) for key, trajectory in found.items() if key in label)


def _rolled_out_again(records: Records, trial: TrialRecord, rung: Rung) -> Paths:
    """Paths on `tune` are not stored, but an episode is the same whenever it runs."""
    policy = Policy.load(records.run / "policies" / trial.policies(rung)[0])
    found = []
    for result in sorted(
        rollout(policy, recipe_of(policy), Split.TUNE, range(DRAWN), DRAWN), key=lambda result: result.index
    ):
        if result.trajectory is not None:
            route = getattr(result.outcome, "route", NO_ROUTE)
            found.append((_label(route, result.success), result.trajectory.observations))
    return Paths(Origin.ONE_BIN, setting_text(trial.setting), _labelled(found))


def _labelled(pairs: Iterable[tuple[str, NDArray[np.float32]]]) -> dict[str, list[NDArray[np.float32]]]:
    by_label: dict[str, list[NDArray[np.float32]]] = {}
    for label, path in pairs:
        by_label.setdefault(label, []).append(path)
    return by_label
