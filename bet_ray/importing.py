"""Snapshots of the original code as a run directory, for `eval`, `replay`, `verify` and `compare`."""

from pathlib import Path

from bet.config import changed
from bet.snapshots.convert import Imported, find_snapshots, import_snapshot
from bet.snapshots.records import SnapshotError
from bet.snapshots.settings import NOT_IN_A_SNAPSHOT
from bet_ray.manifest import earlier_manifest, write_manifest
from bet_ray.training import set_best, trial_id


def import_run(path: Path, task: str, run: Path) -> dict[str, Imported]:
    """Write the snapshots of a file or directory as `policies/TRIAL/SEED/EPOCH`; returns them by these names.

    The last one is the run's best: of one seed the latest, and of several seeds the highest. Nothing is written unless
    all can be read. Raises `SnapshotError`, `ConfigError`, and `RunError` for a directory in use.
    """
    earlier_manifest(run, resume=False)
    found: dict[str, Imported] = {}
    for file in find_snapshots(path):
        one = import_snapshot(file, task)
        name = policy_name(one)
        if name in found and found[name].policy.digest != one.policy.digest:
            other = found[name].file
            raise SnapshotError(f"{file}: another epoch {one.epoch} of the training of {other}; import one of them")
        found.setdefault(name, one)
    *_, last = found.values()
    snapshots = [
        {
            "policy": name,
            "policy_digest": one.policy.digest,
            "file": one.file.relative_to(path).as_posix() if path.is_dir() else one.file.name,
            "sha256": one.sha256,
        }
        for name, one in found.items()
    ]
    what = {
        "config": last.policy.config.model_dump(mode="json"),
        "dataset_digest": last.policy.dataset_digest,
        "snapshots": snapshots,
        "from_preset": from_preset(last),
    }
    write_manifest(run, "import", task, what)
    for name, one in found.items():
        one.policy.save(run / "policies" / name)
    set_best(run, list(found)[-1])
    return found


def policy_name(one: Imported) -> str:
    """TRIAL/SEED/EPOCH. The original draws its split from the training seed, so a setting is one whatever its split."""
    config = one.policy.config
    return f"{trial_id(changed(config, {'data.split_seed': 0}))}/{config.train.seed}/{one.epoch}"


def from_preset(one: Imported) -> list[str]:
    """Settings of the training that neither the snapshot nor hydra's record has: what they say is the task's preset."""
    return [key for key in NOT_IN_A_SNAPSHOT if key not in one.settings]
