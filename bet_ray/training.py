"""Train one policy into a run directory: rungs exported, checkpoints kept, resumable after kill -9."""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa

from bet.config import Config, ConfigError
from bet.data.episodes import Episodes
from bet.errors import FailedRunError
from bet.policy import BEST, POLICY_JSON, Policy
from bet.training import Epoch, Training
from bet_ray.manifest import holds_a_run, read_manifest, write_manifest, write_text
from bet_ray.results import HISTORY, write_table

CHECKPOINT = "checkpoint.pt"
HISTORY_JSON = "history.json"
CHECKPOINT_SECONDS = 30.0

Progress = Callable[[Training, Epoch | None], None]
"""Called after every step; with the epoch when the step completed one."""


def trial_id(config: Config) -> str:
    """Names a setting, whatever its training seed: the same setting has the same directory in any order of trials."""
    setting = config.model_copy(
        update={
            "train": config.train.model_copy(update={"seed": 0, "device": "cpu"}),
            "eval": type(config.eval)(),
            "pool": type(config.pool)(),
        }
    )
    return setting.digest[:8]


class SeedRun:
    """One training of one setting with one seed, in `policies/TRIAL/SEED/` of a run directory.

    Continues from the checkpoint there, if any; ends bit-identical to a run that was never interrupted.
    """

    def __init__(self, run: Path, config: Config, episodes: Episodes) -> None:
        self.config = config
        self.name = f"{trial_id(config)}/{config.train.seed}"
        self.directory = run / "policies" / self.name
        self.training = Training(config, episodes)
        self.directory.mkdir(parents=True, exist_ok=True)
        self._checkpoint = self.directory / CHECKPOINT
        if self._checkpoint.exists():
            self.training.restore(self._checkpoint)

    def train_to(self, epoch: int, progress: Progress | None = None) -> None:
        """Train until `epoch` passes are done, checkpointing now and then; `save` when their policy is exported."""
        written = time.monotonic()
        while self.training.epochs_done < epoch:
            finished = self.training.step()
            if progress:
                progress(self.training, finished)
            if time.monotonic() - written > CHECKPOINT_SECONDS:
                self.save()
                written = time.monotonic()

    def export(self, epoch: int) -> tuple[Policy, str]:
        """The policy after `epoch` passes, which the training is at or has exported before, and its TRIAL/SEED/EPOCH.

        Raises `FailedRunError` when the training has gone past an epoch that was not exported.
        """
        directory, name = self.directory / str(epoch), f"{self.name}/{epoch}"
        if (directory / POLICY_JSON).exists():
            return Policy.load(directory), name
        if self.training.steps_done != epoch * self.training.steps_per_epoch:
            raise FailedRunError(
                f"{directory}: the training went past this epoch; remove {self._checkpoint} to repeat it"
            )
        policy = self.training.policy()
        policy.save(directory)
        return policy, name

    def save(self) -> None:
        """Write a checkpoint. After an export, so that a training never comes back past a policy that was not kept."""
        self.training.save(self._checkpoint)
        rows = [asdict(epoch) for epoch in self.training.history]
        write_text(self.directory / HISTORY_JSON, json.dumps(rows))


def set_best(run: Path, name: str) -> None:
    """Make TRIAL/SEED/EPOCH what `Policy.load(run)` gives."""
    write_text(run / "policies" / BEST, name + "\n")


def begin(run: Path, config: Config, episodes: Episodes, resume: bool) -> None:
    """Write the manifest of a training. Raises `ConfigError` for a directory in use, or the resume of another."""
    what = {"config": config.model_dump(mode="json"), "dataset_digest": episodes.digest}
    if holds_a_run(run):
        if not resume:
            raise ConfigError(f"{run}: holds a run already; continue it with --resume or choose another --out")
        before = read_manifest(run)
        if any(before.get(key) != value for key, value in what.items()):
            raise ConfigError(f"{run}: cannot resume with other settings or demonstrations; choose another --out")
    write_manifest(run, "train", config.task, what)


def train(run: Path, config: Config, episodes: Episodes, progress: Progress | None = None) -> tuple[Policy, Epoch]:
    """Train one policy in this process; returns it as it was at its lowest validation loss, and that epoch.

    Keeps the policies of that epoch, which `best` names, and of the last. Raises `TrainingDivergedError`; the best
    policy so far is kept.
    """
    seed_run = SeedRun(run, config, episodes)
    training = seed_run.training
    best = min(training.history, key=lambda row: row.val_loss, default=None)
    while not training.done:
        seed_run.train_to(training.epochs_done + 1, progress)
        last, previous = training.history[-1], best
        if best is None or last.val_loss < best.val_loss:
            best = last
            set_best(run, seed_run.export(best.epoch)[1])
        seed_run.save()
        if previous is not None and previous is not best:
            shutil.rmtree(seed_run.directory / str(previous.epoch), ignore_errors=True)
    assert best is not None
    seed_run.export(training.epochs_done)
    write_history(run)
    return Policy.load(run), best


def write_history(run: Path, rungs: dict[tuple[str, int, int], tuple[float, float]] | None = None) -> None:
    """Gather `history.parquet` from the trainings of a run.

    `rungs` maps (trial, seed, epoch) to the primary metric and success rate on `tune`.
    """
    rungs = rungs or {}
    rows = []
    for file in sorted((run / "policies").glob(f"*/*/{HISTORY_JSON}")):
        trial, seed = file.parts[-3], int(file.parts[-2])
        for epoch in json.loads(file.read_text()):
            primary, success = rungs.get((trial, seed, epoch["epoch"]), (None, None))
            kept = file.parent / str(epoch["epoch"]) / POLICY_JSON
            digest = json.loads(kept.read_text())["policy_digest"] if kept.exists() else None
            row = {"trial": trial, "train_seed": seed, "policy_digest": digest}
            rows.append(epoch | row | {"primary": primary, "success_rate": success})
    write_table(pa.Table.from_pylist(rows, schema=HISTORY), run / "history.parquet")
