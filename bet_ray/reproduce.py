"""Reproduce an experiment: a sweep of a size that there is time for, then every setting measured on `report`.

A curve chooses nothing, so all of its settings are measured, each after its last epoch, and each interval holds by
itself, as it should beside a published number. The sweep in the run's manifest is the plan: an interrupted reproduction
continues as the same one, and a sweep that was run from a file of the same settings is taken up as it is.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray

from bet import tasks
from bet.arithmetic import threads
from bet.config import Config, ConfigError, Split, canonical_json, parse_dotlist
from bet.data.episodes import Episodes
from bet.measure import Measurement
from bet.metrics import SUCCESS
from bet.policy import BEST
from bet.stats import Interval
from bet.training import Training
from bet_ray.autotune import measure
from bet_ray.budget import Cost, Machine, Pins, estimate, plan, unlimited
from bet_ray.evaluation import Evaluation, LazyPool, PoolShape, Progress, evaluate_all, measurement, recipe_of
from bet_ray.experiments import Experiment, Size, by_section
from bet_ray.manifest import earlier_manifest
from bet_ray.published import By
from bet_ray.results import REPRODUCTION, REPRODUCTION_PARQUET, write_table
from bet_ray.session import session
from bet_ray.sweep import Search, Sweep, parse_sweep
from bet_ray.trials import TrialRecord, read_trials
from bet_ray.tuning import divide
from bet_ray.values import spelled

PROBE_SECONDS = 1.0  # of training steps, and as many of rollouts
LEAST_STEPS = 3
_PINNED = {"train.epochs": "epochs", "eval.winner_episodes": "episodes", "seeds_per_trial": "seeds"}

Probing = Callable[[int, int], None]
"""Called with settings measured and settings in all."""


@dataclass(frozen=True)
class Planned:
    """What is about to run."""

    experiment: Experiment
    sweep: Sweep
    demonstrations: int
    seconds: float | None
    """That it is expected to take; None for one that goes on."""

    @property
    def departures(self) -> list[str]:
        """In what it is not as published."""
        return self.experiment.departures(self.sweep, self.demonstrations)

    @property
    def label(self) -> str:
        """What every table of it is headed with."""
        return f"scaled: {', '.join(self.departures)}" if self.departures else "as published"


def prepare(
    experiment: Experiment,
    run: Path,
    *,
    changes: Sequence[str] = (),
    budget: float | None = None,
    resume: bool = False,
    probing: Probing = lambda done, count: None,
) -> Planned:
    """Plan an experiment, or read the plan of one that is under way in `run`.

    Measures this machine, or the cluster, for some seconds; they count. Raises `ConfigError`, `DataError`, `RunError`,
    and `UsageError` for a budget that is too short.
    """
    manifest, began = earlier_manifest(run, resume), time.monotonic()
    if manifest is not None:
        sweep = _continued(experiment, manifest, run, changes)
        return Planned(experiment, sweep, len(_demonstrations(sweep)), None)
    published, pins = experiment.published_size, _pins(changes)
    others = _unpinned(changes)

    def sweep_of(size: Size, scaled: bool) -> Sweep:
        return experiment.sweep(size, scaled=scaled, changes=others)

    size, scaled = unlimited(published, pins)
    episodes = _demonstrations(sweep_of(size, scaled))
    prices: dict[bool, list[Cost]] = {}
    spent = 0.0  # on measuring

    def seconds(size: Size, scaled: bool) -> float:
        nonlocal spent
        sweep = sweep_of(size, scaled)
        shares = divide(sweep, cpus)
        if scaled not in prices:
            prices[scaled] = _probe_all(sweep, episodes, shares.trials_at_once, shares.cpus_per_trial, probing)
            spent = time.monotonic() - began
        machine = Machine(shares.trials_at_once, shares.seeds_at_once, shares.actors)
        settings = prices[scaled] * (sweep.trial_count if sweep.search.method is Search.TPE else 1)
        return estimate(size, settings, machine, sweep.eval.episodes) + spent

    with session() as cpus:
        if budget is None:
            return Planned(experiment, sweep_of(size, scaled), len(episodes), seconds(size, scaled))
        found = plan(budget, published, experiment.setup.epochs, pins, seconds)
    return Planned(experiment, sweep_of(found.size, found.scaled), len(episodes), found.seconds)


def _demonstrations(sweep: Sweep) -> Episodes:
    return tasks.simulated(sweep.task).load(sweep.config({}).data)


def _pins(changes: Sequence[str]) -> Pins:
    """The parts of the size that are given. Raises `ConfigError` for one that is no positive number."""
    given = {key: value for key, value in parse_dotlist(changes).items() if key in _PINNED}
    for key, value in given.items():
        if type(value) is not int or value < 1:
            raise ConfigError(f"{key}: expected a positive number, got {value!r}")
    return Pins(**{_PINNED[key]: value for key, value in given.items()})


def _unpinned(changes: Sequence[str]) -> list[str]:
    return [change for change in changes if change.partition("=")[0] not in _PINNED]


def _continued(experiment: Experiment, manifest: Mapping[str, Any], run: Path, changes: Sequence[str]) -> Sweep:
    """The sweep that a run began with. Raises `ConfigError` where it is not of the experiment, or not as asked."""
    tree = manifest.get("sweep")
    sweep = parse_sweep(tree, str(run)) if tree else None
    if sweep is None or not experiment.is_of(sweep):
        raise ConfigError(f"{run}: is not a run of {experiment.name}; choose another --out")
    size = Size(sweep.config({}).train.epochs, sweep.eval.winner_episodes, sweep.seeds_per_trial)
    asked = _pins(changes).over(size)
    if (asked.epochs, asked.seeds) != (size.epochs, size.seeds):
        raise ConfigError(f"{run}: began with {size}; only eval.winner_episodes can be another when it continues")
    tree = sweep.model_dump(mode="json")
    tree["eval"]["winner_episodes"] = asked.episodes
    for (section, key), value in by_section(_unpinned(changes), experiment.name).items():
        if section == "base" and sweep.base.get(key) != value:
            raise ConfigError(f"{run}: began with {key}={spelled(sweep.base.get(key))}; choose another --out")
        tree.setdefault(section, {})[key] = value
    return parse_sweep(tree, str(run))


def _probe_all(sweep: Sweep, episodes: Episodes, at_once: int, cpus: float, probing: Probing) -> list[Cost]:
    """What every setting costs, measured with as many at once as there will be; of a search the costliest alone."""
    if sweep.search.method is Search.TPE:
        ends = {key: one[-1] if isinstance(one, list) else one.low for key, one in sweep.choices.items()}
        settings: list[dict[str, Any]] = [ends]
    else:
        settings = list(sweep.enumerated())
    probe = ray.remote(_probe).options(num_cpus=cpus)
    demonstrations = ray.put(episodes)
    waiting = {}
    costs: dict[int, Cost] = {}
    for place, setting in enumerate(settings):
        waiting[probe.remote(sweep.config(setting), demonstrations, sweep.resources.slots)] = place
        while len(waiting) >= at_once or (waiting and place == len(settings) - 1):
            (done,), _ = ray.wait(list(waiting), num_returns=1)
            costs[waiting.pop(done)] = ray.get(done)
            probing(len(costs), len(settings))
    return [costs[place] for place in range(len(settings))]


def _probe(config: Config, episodes: Episodes, slots: int) -> Cost:
    """What a setting costs, by some seconds of it at its real size."""
    began = time.perf_counter()
    training = Training(config, episodes)
    training.step()  # the first is slower
    ready = time.perf_counter()
    steps = 0
    while steps < LEAST_STEPS or time.perf_counter() - ready < PROBE_SECONDS:
        training.step()
        steps += 1
    step = (time.perf_counter() - ready) / steps
    validated = 1 / config.data.train_fraction  # at most: it needs no gradients
    policy = training.policy()
    with threads(1):
        cost = measure(policy, recipe_of(policy), Split.TUNE, slots)
    longest = replace(cost, length=recipe_of(policy).protocol.max_steps)
    return Cost(ready - began, training.steps_per_epoch * step * validated, longest.step * longest.length / slots)


def search_over(run: Path) -> bool:
    """Whether all trials of a run are trained and judged, and the winner is named."""
    return (run / "trials.parquet").exists() and (run / "policies" / BEST).exists()


@dataclass(frozen=True)
class Reproduced:
    """A setting's numbers."""

    trial: TrialRecord
    epoch: int | None
    found: Measurement | None
    """None where its training failed."""

    def metrics(self, task: tasks.SimulatedTask) -> dict[str, Interval]:
        """The primary metric, then the rates that tables have; success where there are none."""
        if self.found is None:
            return {}
        rates = self.found.rates or {SUCCESS: self.found.success}
        return {task.protocol.primary: self.found.primary, **rates}


def measure_all(planned: Planned, run: Path, progress: Progress | None = None) -> list[Reproduced]:
    """Measure every setting of a run on `report` after its last epoch, and write `reproduction.parquet`.

    Recorded episodes are not run again. Settings come in the order of the grid, of a search the best first.
    """
    sweep = planned.sweep
    trials = read_trials(run, sweep.objective)
    if sweep.search.method is Search.GRID:
        order = [canonical_json(setting) for setting in sweep.enumerated()]
        trials.sort(key=lambda trial: order.index(canonical_json(trial.setting)))
    policies = {
        trial.trial: [
            run / "policies" / trial.trial / str(seed) / str(last.epoch)
            for last in trial.rungs[-1:]
            for seed in sorted(last.by_seed)
        ]
        for trial in trials
    }
    evaluations = [
        Evaluation.of(policy, run, Split.REPORT, trajectories=False) for paths in policies.values() for policy in paths
    ]
    with LazyPool(PoolShape(sweep.resources.actors, sweep.resources.slots)) as pool:
        tables = iter(evaluate_all(evaluations, sweep.eval.winner_episodes, pool, progress=progress).tables)
    task, rows = tasks.simulated(sweep.task), []
    for trial in trials:
        mine = [next(tables) for _ in policies[trial.trial]]
        found = measurement(task, pa.concat_tables(mine)) if mine else None
        rows.append(Reproduced(trial, trial.rungs[-1].epoch if mine else None, found))
    write_table(_table(planned, rows), run / REPRODUCTION_PARQUET)
    return rows


def _table(planned: Planned, rows: Sequence[Reproduced]) -> pa.Table:
    """Rows of `REPRODUCTION`."""
    task, written = tasks.simulated(planned.sweep.task), []
    for row in rows:
        cited = planned.experiment.cited(planned.sweep, row.trial.setting)
        common = {
            "experiment": planned.experiment.name,
            "trial": row.trial.trial,
            "setting": canonical_json(row.trial.setting),
            "seeds": planned.sweep.seeds_per_trial,
            "demonstrations": planned.demonstrations,
            "scaled": bool(planned.departures),
            "departures": ", ".join(planned.departures) or None,
            "error": row.trial.error,
        }
        if row.found is None:
            written.append(common | {"metric": task.protocol.primary})
            continue
        for metric, one in row.metrics(task).items():
            beside = {by: cited[by, metric] for by in By if (by, metric) in cited}
            numbers = {"estimate": one.estimate, "low": one.low, "high": one.high}
            amounts = {"epoch": row.epoch, "episodes": row.found.episodes, "seeds": row.found.seeds}
            published: dict[str, Any] = {by.value: number.value for by, number in beside.items()}
            published["source"] = "; ".join(number.source for number in beside.values()) or None
            written.append(common | {"metric": metric} | numbers | amounts | published)
    return pa.Table.from_pylist(written, schema=REPRODUCTION)
