"""Train one policy into a run directory: rungs exported, checkpoints kept, resumable after kill -9."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa

from bet import files
from bet.config import Config
from bet.data.episodes import Episodes
from bet.errors import FailedRunError, UsageError
from bet.policy import BEST, POLICY_JSON, Policy
from bet.training import Epoch, FittedActions, Training, TrainingDivergedError
from bet.workers import ALONE, Workers
from bet_ray.manifest import RunError, earlier_manifest, write_manifest, write_text
from bet_ray.results import HISTORY, write_table
from bet_ray.storage import pull

CHECKPOINT = "checkpoint.pt"
HISTORY_JSON = "history.json"
CHECKPOINT_SECONDS = 30.0

Progress = Callable[[float, Epoch | None], None]
"""Called with the epochs done, a fraction within one, and with the epoch when one is complete."""


@dataclass(frozen=True)
class WorkerCount:
    """How many workers: between `least` and `most`, as the cluster has room for."""

    least: int
    most: int

    @classmethod
    def parse(cls, text: str) -> "WorkerCount":
        """`"2"` or `"2-4"`. Raises `UsageError`."""
        least, dash, most = text.partition("-")
        try:
            count = cls(int(least), int(most if dash else least))
        except ValueError:
            raise UsageError(f"--num-workers: expected a number like 2 or a range like 2-4, got {text!r}") from None
        if not 1 <= count.least <= count.most:
            raise UsageError(f"--num-workers: {text!r} is no range of at least one worker")
        return count


def trial_id(config: Config) -> str:
    """Names a setting, whatever its training seed: the same setting has the same directory in any order of trials."""
    setting = config.model_copy(
        update={
            "train": config.train.model_copy(update={"seed": 0, "device": "cpu", "threads": 1}),
            "eval": type(config.eval)(),
            "pool": type(config.pool)(),
        }
    )
    return setting.digest[:8]


class SeedRun:
    """One training of one setting with one seed, in `policies/TRIAL/SEED/` of a run directory.

    Continues from the checkpoint there, if any; ends bit-identical to a run that was never interrupted. Of several
    workers, the first alone writes.
    """

    def __init__(
        self,
        run: Path,
        config: Config,
        episodes: Episodes,
        workers: Workers = ALONE,
        actions: FittedActions | None = None,
    ) -> None:
        self.config = config
        self.name = f"{trial_id(config)}/{config.train.seed}"
        self.directory = run / "policies" / self.name
        self.training = Training(config, episodes, workers, actions)
        self._written = time.monotonic()
        pull(self.directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self._checkpoint = self.directory / CHECKPOINT
        if self._checkpoint.exists():
            self.training.restore(self._checkpoint)

    def train_to(self, epoch: int, progress: Progress | None = None) -> None:
        """Train until `epoch` passes are done, checkpointing now and then; `save` when their policy is exported."""
        while self.training.epochs_done < epoch:
            finished = self.training.step()
            if progress:
                progress(self.training.steps_done / self.training.steps_per_epoch, finished)
            if time.monotonic() - self._written > CHECKPOINT_SECONDS:
                self.save()

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
        self._written = time.monotonic()
        if self.training.workers.rank > 0:
            return
        self.training.save(self._checkpoint)
        rows = [asdict(epoch) for epoch in self.training.history]
        write_text(self.directory / HISTORY_JSON, json.dumps(rows))


def set_best(run: Path, name: str) -> None:
    """Make TRIAL/SEED/EPOCH what `Policy.load(run)` gives."""
    write_text(run / "policies" / BEST, name + "\n")


def begin(run: Path, config: Config, episodes: Episodes, resume: bool) -> None:
    """Write the manifest of a training. Raises `RunError` for a directory in use, or the resume of another."""
    what = {"config": config.model_dump(mode="json"), "dataset_digest": episodes.digest}
    before = earlier_manifest(run, resume)
    if before is not None and any(before.get(key) != value for key, value in what.items()):
        raise RunError(f"{run}: cannot resume with other settings or demonstrations; choose another --out")
    write_manifest(run, "train", config.task, what)


def train(
    run: Path,
    config: Config,
    episodes: Episodes,
    progress: Progress | None = None,
    workers: Workers = ALONE,
    *,
    keep_epochs: bool = False,
) -> Epoch:
    """Train one policy in this process, or as one of several; returns the epoch of its lowest validation loss.

    Keeps the policies of that epoch, which `best` names, and of the last, or of every one. Raises
    `TrainingDivergedError`; the best policy so far is kept.
    """
    seed_run = SeedRun(run, config, episodes, workers)
    training = seed_run.training
    best = min(training.history, key=lambda row: row.val_loss, default=None)
    while not training.done:
        try:
            seed_run.train_to(training.epochs_done + 1, progress)
        except TrainingDivergedError as error:
            kept = "no policy yet" if best is None else f"{run} keeps the policy of epoch {best.epoch}"
            raise TrainingDivergedError(f"{error} ({kept})") from error
        last, previous = training.history[-1], best
        if best is None or last.val_loss < best.val_loss:
            best = last
            if workers.rank == 0:
                set_best(run, seed_run.export(best.epoch)[1])
        if workers.rank == 0 and keep_epochs:
            seed_run.export(last.epoch)
        seed_run.save()
        if workers.rank == 0 and not keep_epochs and previous is not None and previous is not best:
            files.remove_folder(seed_run.directory / str(previous.epoch))
    assert best is not None
    if workers.rank == 0:
        seed_run.export(training.epochs_done)
        write_history(run)
    return best


def kept_digest(directory: Path) -> str | None:
    """What a policy directory says it holds, without opening the weights; None where there is none."""
    kept = directory / POLICY_JSON
    return json.loads(kept.read_text())["policy_digest"] if kept.exists() else None


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
            digest = kept_digest(file.parent / str(epoch["epoch"]))
            row = {"trial": trial, "train_seed": seed, "policy_digest": digest}
            rows.append(epoch | row | {"primary": primary, "success_rate": success})
    write_table(pa.Table.from_pylist(rows, schema=HISTORY), run / "history.parquet")
