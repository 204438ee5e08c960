"""A small sweep on disk, left there by the code that a real one leaves it with, only without Ray around it."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from bet import tasks
from bet.config import DataConfig, Split
from bet.data.episodes import Episodes
from bet.data.store import save_episodes
from bet.envs.pointmass import PointMassVersion
from bet.oracles import blockpush
from bet.oracles.pointmass import demonstrations
from bet.policy import Policy
from bet.protocol import Recipe
from bet.rollout import rollout
from bet.tasks import SimulatedTask
from bet_ray.ledger import Ledger
from bet_ray.manifest import write_manifest, write_text
from bet_ray.results import episodes_table, execution_table, trajectories_table
from bet_ray.selection import Contest
from bet_ray.sweep import Objective, Sweep, parse_sweep
from bet_ray.trainable import simulated
from bet_ray.training import SeedRun, set_best, trial_id
from bet_ray.trials import TRIAL_JSON, Rung, Status, TrialRecord, read_trials, write_trials
from bet_ray.worker import Job

TASK = tasks.get("pointmass2")
TUNE_EPISODES, REPORT_EPISODES = 40, 50
TRAIN_SECONDS, EPISODE_SECONDS = 1.0, 0.5


@dataclass(frozen=True)
class SmallSweep:
    """Writes a sweep's run directory piece by piece, in the order a sweep does."""

    run: Path
    sweep: Sweep
    episodes: Episodes

    @property
    def task(self) -> SimulatedTask:
        return tasks.simulated(self.sweep.task)

    def begin(self) -> None:
        what = {"sweep": self.sweep.model_dump(mode="json"), "dataset_digest": self.episodes.digest}
        write_manifest(self.run, "sweep", self.task.name, what)

    def train(self, setting: Mapping[str, Any]) -> TrialRecord:
        """One trial: trained, exported, rolled out on tune but where a loss chooses, put on record."""
        full = {**dict.fromkeys(self.sweep.searched), **setting}
        seeds = range(self.sweep.seeds_per_trial)
        trainings = [SeedRun(self.run, self.sweep.config(full, seed), self.episodes) for seed in seeds]
        for training in trainings:
            training.train_to(1)
            training.save()
        policies = [training.export(1)[0] for training in trainings]
        loss = trainings[0].training.history[0].val_loss
        rung = Rung(epoch=1, objective=loss, val_loss=loss, by_seed=dict.fromkeys(seeds))
        if self.sweep.objective is not Objective.VAL_LOSS:
            tables = [self.roll_out(policy, Split.TUNE, self.sweep.eval.episodes) for policy in policies]
            rung = simulated(self.sweep, rung, pa.concat_tables(tables))
        return self.record(full, Status.DONE, [rung])

    def record(
        self, setting: Mapping[str, Any], status: Status, rungs: list[Rung], error: str | None = None, **more: Any
    ) -> TrialRecord:
        trial = TrialRecord(
            trial=trial_id(self.sweep.config(setting)),
            setting=dict(setting),
            status=status,
            rungs=rungs,
            error=error,
            **{"train_seconds": TRAIN_SECONDS, **more},
        )
        write_text(self.run / "policies" / trial.trial / TRIAL_JSON, trial.model_dump_json())
        return trial

    def finish(self) -> TrialRecord:
        """The search is over; the winner is named, it and other finalists are measured."""
        self.end_search()
        winner, *_ = Contest(self.sweep, self.run, self._roll_out_all).decide()
        set_best(self.run, f"{winner.trial}/0/1")
        self.end_search()
        return winner

    def complete(self) -> Path:
        """All of it; returns the run."""
        for setting in self.sweep.enumerated():
            self.train(setting)
        self.finish()
        return self.run

    def _roll_out_all(self, jobs: Sequence[Job], count: int) -> list[pa.Table]:
        return [self.roll_out(Policy.unpack(*job.packed), Split(job.source.split), count) for job in jobs]

    def end_search(self) -> None:
        write_trials(self.run, self.sweep, read_trials(self.run, self.sweep.objective))

    def roll_out(self, policy: Policy, split: Split, count: int) -> pa.Table:
        task, recipe = self.task, Recipe(self.task.protocol)
        job, ledger = Job.of(policy, recipe, split), Ledger(self.run, task)
        known = set(ledger.of(job.source).column("index").to_pylist())
        missing = [index for index in range(count) if index not in known]
        results = list(rollout(policy, recipe, split, missing, max(len(missing), 1)))
        table = episodes_table(task, job.source, results)
        paths = trajectories_table(task, job.source, results, policy.bin_centers) if split is Split.REPORT else None
        node = job.source.key | {"node": "node", "actor": "actor", "wall_seconds": EPISODE_SECONDS, "attempts": 1}
        ledger.append(table, execution_table([node | {"index": index} for index in missing]), paths)
        return ledger.of(job.source).filter(pc.field("index") < count)


NewSweep = Callable[..., SmallSweep]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny networks: threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def demos(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Episodes]:
    path = tmp_path_factory.mktemp("data") / "demonstrations.parquet"
    episodes = demonstrations(PointMassVersion.TWO, 300, seed=0)
    save_episodes(episodes, path)
    return path, episodes


def _new_sweep(demos: tuple[Path, Episodes], run: Path, **changes: Any) -> SmallSweep:
    path, episodes = demos
    tree = {
        "question": "Do the bins carry the modes?",
        "task": TASK.name,
        "base": {"data.path": str(path), "train.epochs": 1, "train.lr": 3e-3},
        "space": {"bins": [1, 3], "gamma": [0, 2]},
        "search": "grid",
        "eval": {"episodes": TUNE_EPISODES, "winner_episodes": REPORT_EPISODES, "finalists": 1},
    }
    tree = {key: value for key, value in (tree | changes).items() if value is not None}
    small = SmallSweep(run, parse_sweep(tree, "test"), episodes)
    small.begin()
    return small


@pytest.fixture
def new_sweep(demos: tuple[Path, Episodes], tmp_path: Path) -> NewSweep:
    """Makes a sweep that has just begun; keywords change its file, None takes a key out."""
    return functools.partial(_new_sweep, demos, tmp_path / "run")


@pytest.fixture(scope="session")
def finished(demos: tuple[Path, Episodes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a finished sweep: 2 x 2 settings, a winner measured. Read only."""
    small = _new_sweep(demos, tmp_path_factory.mktemp("runs") / "finished")
    return small.complete()


@pytest.fixture
def cooked(tmp_path: Path) -> Path:
    """The run of a finished kitchen sweep of one setting, which has learnt nothing, from an arm that rests."""
    with closing(tasks.get("kitchen").make_env(3)) as env:
        observations, _ = env.reset(seed=[0, 1, 2])  # (3, obs_dim)
    save_episodes(
        Episodes(
            np.repeat(observations, 8, axis=0).astype(np.float32),
            np.random.default_rng(0).uniform(-1, 1, (24, 9)).astype(np.float32),
            np.array([8, 16, 24]),
            "kitchen",
        ),
        tmp_path / "demonstrations.parquet",
    )
    episodes = tasks.get("kitchen").load(DataConfig(path=str(tmp_path / "demonstrations.parquet")))
    small = _new_sweep(
        (tmp_path / "demonstrations.parquet", episodes),
        tmp_path / "run",
        task="kitchen",
        space={"bins": [2]},
        base=_tiny(tmp_path / "demonstrations.parquet"),
        eval={"episodes": 1, "winner_episodes": 2, "finalists": 1},
    )
    return small.complete()


def _tiny(demonstrations: Path) -> dict[str, Any]:
    """What is quickly trained."""
    return {
        "data.path": str(demonstrations),
        "data.train_fraction": 0.7,
        "model": {"layers": 1, "heads": 2, "width": 16},
        "train.epochs": 1,
    }


@pytest.fixture(scope="session")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a finished BlockPush sweep: two listed settings that have learnt next to nothing. Read only."""
    folder = tmp_path_factory.mktemp("blockpush")
    episodes, _ = blockpush.demonstrations(range(3), seed=0)
    save_episodes(episodes, folder / "demonstrations.parquet")
    small = _new_sweep(
        (folder / "demonstrations.parquet", episodes),
        folder / "run",
        task="blockpush",
        space=None,
        settings=[{}, {"bins": 1}],
        base=_tiny(folder / "demonstrations.parquet"),
        eval={"episodes": 3, "winner_episodes": 4, "finalists": 1},
    )
    return small.complete()
