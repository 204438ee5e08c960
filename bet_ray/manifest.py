"""`manifest.json`: what ran. Resolved settings, digests, versions, git revision and a host summary."""

import json
import os
import platform
import subprocess
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock

from bet.errors import UsageError
from bet.files import replacing
from bet_ray.driver import this_process

MANIFEST = "manifest.json"
SWEEP_YAML = "sweep.yaml"  # the sweep as it was resolved: what repeats it
WANDB, TENSORBOARD = "wandb", "tensorboard"  # folders of trackers
EVALUATIONS, CERTIFICATE = "evaluations", "certificate"  # keys that are added after a run began
UNDER_WAY = "under_way"  # the same: evaluations that have begun; one that stays was interrupted, or killed
DRIVER = "driver"  # of a run, and of an evaluation under way: the process
LOCK, SWEEP_LOCK = ".lock", ".sweep.lock"
GIT_REVISION = "BET_GIT_REVISION"  # environment variable: of the checkout that a job's copy was made of
TURN_SECONDS = 60.0  # to wait for another process
_PACKAGES = ("bet-ray", "ray", "torch", "optuna", "scikit-learn", "numpy", "gymnasium", "mujoco", "pymunk")


class RunError(UsageError):
    """A run directory is not what the command needs; the message names it."""


def write_text(path: Path, text: str) -> None:
    """Write a small file; a reader sees all of it or none."""
    with replacing(path) as file:
        file.write(text.encode())


def write_manifest(run: Path, kind: str, task: str, what: dict[str, Any]) -> None:
    """Record what is about to run. `kind` is train, sweep, eval or import; `what` its resolved settings and digests."""
    run.mkdir(parents=True, exist_ok=True)
    with FileLock(run / LOCK, timeout=TURN_SECONDS):
        _write_manifest(run, kind, task, what)


def _write_manifest(run: Path, kind: str, task: str, what: dict[str, Any]) -> None:
    manifest = {
        **_added(run),
        "kind": kind,
        "task": task,
        **what,
        "versions": package_versions(),
        "python": platform.python_version(),
        "git": git_revision(Path(__file__).parent),
        "host": {"system": platform.platform(), "cpus": os.cpu_count()},
        DRIVER: this_process(),
    }
    write_text(run / MANIFEST, json.dumps(manifest, indent=2) + "\n")


def amend_manifest(run: Path, task: str, amend: Callable[[dict[str, Any]], None]) -> None:
    """Change the manifest of a run; one that holds evaluations alone gets its first.

    Raises `RunError` for a damaged one.
    """
    with FileLock(run / LOCK, timeout=TURN_SECONDS):
        if not (run / MANIFEST).exists():
            _write_manifest(run, "eval", task, {})
        manifest = read_manifest(run)
        amend(manifest)
        write_text(run / MANIFEST, json.dumps(manifest, indent=2) + "\n")


def package_versions() -> dict[str, str]:
    """Of what a result may depend on."""
    return {name: version(name) for name in _PACKAGES}


def _added(run: Path) -> dict[str, Any]:
    """What was added to the manifest that is there, if any: to be kept when a run is resumed."""
    try:
        manifest = read_manifest(run)
    except RunError:
        return {}
    return {key: manifest[key] for key in (EVALUATIONS, UNDER_WAY, CERTIFICATE) if key in manifest}


def holds_a_run(run: Path) -> bool:
    """Whether there is anything to lose or continue; what is written first, alone, is of a run that never began."""
    first = (MANIFEST, SWEEP_YAML, WANDB, TENSORBOARD, LOCK, SWEEP_LOCK)
    return run.exists() and any(path.name not in first for path in run.iterdir())


def earlier_manifest(run: Path, resume: bool) -> dict[str, Any] | None:
    """What a run directory began with, to be continued; None for a fresh one. Raises `RunError` for one in use."""
    if not holds_a_run(run):
        return None
    if not resume:
        raise RunError(f"{run}: holds a run already; continue it with --resume or choose another --out")
    return read_manifest(run)


def read_manifest(run: Path) -> dict[str, Any]:
    """Raises `RunError` for a directory that is not a run."""
    path = run / MANIFEST
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        problem = "no such directory" if not run.exists() else f"not a run directory (no {MANIFEST})"
        raise RunError(f"{run}: {problem}") from error
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: not readable: {error}") from error


def git_revision(folder: Path) -> str | None:
    """The revision of the code in a folder, where it is a git checkout, or came from one as a job."""
    if GIT_REVISION in os.environ:
        return os.environ[GIT_REVISION]
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
