"""What ran, and the commands that run it again."""

import shlex
from collections import Counter
from dataclasses import dataclass

from bet.wording import counted
from bet_ray import storage
from bet_ray.manifest import SWEEP_YAML
from bet_ray.report.records import Records
from bet_ray.sweep import sweep_yaml


@dataclass(frozen=True)
class Provenance:
    """The section at the bottom."""

    facts: tuple[tuple[str, str], ...]
    versions: tuple[tuple[str, str], ...]
    commands: tuple[tuple[str, str], ...]
    """What for, and the command line."""
    sweep_yaml: str
    """The sweep as it was resolved: a sweep file."""


def provenance(records: Records) -> Provenance:
    manifest, sweep, task = records.manifest, records.sweep, records.task
    host = manifest.get("host", {})
    seed = sweep.config({}).train.seed
    seeds = ", ".join(str(seed + k) for k in range(sweep.seeds_per_trial))
    named = f"{records.protocol.name}, {records.protocol.digest[:12]}: success when {records.protocol.success}"
    facts = [
        ("task", f"{task.name}: {task.summary}"),
        ("protocol", ", ".join((named, *records.protocol.variations))),
        ("primary metric", records.protocol.primary),
        ("search", _search(records)),
        ("training seeds", f"{seeds} of each setting"),
        ("data set", f"sha256 {manifest.get('dataset_digest', 'unknown')}"),
        ("episodes on record", _episodes(records)),
        ("numerics", _distinct(records, "numerics")),
    ]
    if records.winner is not None and records.winner.rows.num_rows:
        digests = records.winner.rows.column("policy_digest").unique().to_pylist()
        facts.append(("winner's policies", f"{', '.join(records.winner.policies)}"))
        facts.append(("their digests", ", ".join(digest[:16] for digest in digests)))
    facts += [
        ("git revision", manifest.get("git") or "not a git checkout"),
        ("machine", f"{host.get('system', 'unknown')}, {host.get('cpus', '?')} CPUs"),
    ]
    return Provenance(
        facts=tuple(facts),
        versions=(("python", manifest.get("python", "?")), *sorted(manifest.get("versions", {}).items())),
        commands=_commands(records),
        sweep_yaml=sweep_yaml(sweep),
    )


def _search(records: Records) -> str:
    sweep = records.sweep
    if sweep.settings is not None:
        return f"each of {counted(sweep.trial_count, 'listed setting')}"
    return f"{sweep.search.method} over {counted(sweep.trial_count, 'setting')}, seed {sweep.search.seed}"


def _episodes(records: Records) -> str:
    counts = Counter(records.episodes.column("split").to_pylist())
    return ", ".join(f"{number:,} on {split}" for split, number in sorted(counts.items())) or "none yet"


def _distinct(records: Records, column: str) -> str:
    return "; ".join(sorted(set(records.episodes.column(column).to_pylist()))) or "none yet"


def _commands(records: Records) -> tuple[tuple[str, str], ...]:
    run = shlex.quote(storage.named(str(records.run)))
    kept = records.run / SWEEP_YAML
    # Earlier versions kept none: it is printed below.
    file = shlex.quote(storage.named(str(kept))) if kept.exists() else SWEEP_YAML
    again = ("Run it again", f"bet-ray sweep {file} --out runs/again")
    if records.winner is None or not records.winner.measured:
        return (("Continue it", f"bet-ray sweep {file} --out {run} --resume"), again)
    more = 2 * records.sweep.eval.winner_episodes
    return (
        again,
        (
            f"Extend the winner to {counted(more, 'fresh episode')}, none of them twice",
            f"bet-ray eval {run} --episodes {more}",
        ),
        ("Watch one of its episodes, bit for bit", f"bet-ray replay {run} --episode 0 --video episode.mp4"),
        ("Write this page anew", f"bet-ray report {run}"),
    )
