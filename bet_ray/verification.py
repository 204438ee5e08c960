"""The invariance promise, kept to: a sample of recorded episodes runs again in other ways, and every bit is compared.

Within one `numerics` (torch version, CPU capability or GPU model, device, dtype, and what the CPU makes of a fixed
computation) the rows and steps of an episode are the same whatever the number of actors and slots, the order of work,
crashes, and whether Ray runs it at all. Nothing is promised across them: another torch, another CPU capability (AVX2 in
place of AVX512) or vendor, or a GPU may compute other last bits, and their rows carry another `numerics` and never
share a table silently.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from itertools import zip_longest
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bet.errors import FailedRunError
from bet.rollout import raised, rollout
from bet.wording import counted
from bet_ray import pool as pools
from bet_ray.evaluation import Evaluation, LazyPool, PoolShape, check_numerics, evaluate_all
from bet_ray.manifest import CERTIFICATE, RunError, amend_manifest, package_versions
from bet_ray.pool import Pool
from bet_ray.results import STEP_KEY, different_columns, episodes_table, trajectories_table, unique_rows
from bet_ray.session import session
from bet_ray.worker import Job, Whereabouts, to_ipc

KILL_AFTER = 0.1  # seconds that a worker has worked when it is killed, at first: longer than a short sample may take
KILL_TRIES = 6


class Order(StrEnum):
    """In which order the episodes are asked for."""

    ASCENDING = "ascending"
    REVERSED = "reversed"
    SHUFFLED = "shuffled"


@dataclass(frozen=True)
class Variant:
    """A way to run the sample."""

    actors: int
    """0: in this process, without Ray."""
    slots: int
    order: Order = Order.ASCENDING
    kills: int = 0
    """Workers to end with kill -9 while they work. Fewer than it takes to give an episode up."""
    most: int | None = None
    """Episodes, where it is slow."""

    @property
    def name(self) -> str:
        words = [counted(self.actors, "actor") if self.actors else "this process", counted(self.slots, "slot")]
        words += [self.order.value] if self.order is not Order.ASCENDING else []
        words += ["kill -9"] if self.kills else []
        return ", ".join(words)

    def ordered(self, indices: Sequence[int]) -> list[int]:
        """Which of the sampled episodes are run, in this order."""
        if self.order is Order.SHUFFLED:
            return np.random.default_rng(0).permutation(indices).tolist()[: self.most]
        chosen = list(indices[: self.most])
        return chosen[::-1] if self.order is Order.REVERSED else chosen


VARIANTS = (
    Variant(0, 16),
    Variant(1, 1, most=8),
    Variant(2, 8),
    Variant(2, 64, Order.REVERSED),
    Variant(2, 3, Order.SHUFFLED),
    Variant(2, 8, kills=2),
)


@dataclass(frozen=True)
class Verdict:
    """How the episodes of a variant compare with the reference."""

    variant: Variant
    episodes: int
    steps: int
    killed: int
    """Workers that were."""
    again: int
    """Episodes that were under way in them, and ran again."""
    different: Mapping[int, tuple[str, ...]]
    """Episode -> what is not the same."""


@dataclass(frozen=True)
class Verified:
    """What a verification came to."""

    verdicts: list[Verdict]
    episodes: int
    """Compared, each with every variant that ran it."""
    sha256: str
    """Of their rows: `rows_digest`."""

    @property
    def different(self) -> dict[int, tuple[str, ...]]:
        """Episode -> what is not the same in any of the variants."""
        return merged(*(verdict.different for verdict in self.verdicts))

    @property
    def holds(self) -> bool:
        return not self.different


@dataclass(frozen=True)
class _Ran:
    """What a variant gave."""

    episodes: pa.Table
    steps: pa.Table
    killed: int = 0
    again: int = 0


def verify(
    one: Evaluation,
    episodes: int,
    variants: Sequence[Variant] = VARIANTS,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Verified:
    """Run a sample of the recorded episodes again in every variant, compare all bits, and certify it in the manifest.

    Missing episodes are evaluated and recorded first. Steps are compared with those the run kept, else with those of
    the first variant. Nothing of the variants is recorded. Where a bit differs, a certificate that is there is removed.
    `progress` is called with the episodes run and in all. Raises `MixedNumericsError`, `RunError` where every episode
    ended in an error, `PoolError`, and `FailedRunError` where no kill hit a working worker.
    """
    assert one.ledger is not None
    with session(max(variant.actors for variant in variants)):
        sample = _sample(one, episodes)
        indices = sample.column("index").to_pylist()
        kept = one.ledger.trajectories.read(one.job.source.rows & pc.field("index").isin(indices))
        job = Job.of(one.policy, one.recipe, one.job.split, keep_trajectories=True)
        total, done = sum(len(variant.ordered(indices)) for variant in variants), 0
        verdicts = []
        for variant in variants:
            chosen, before = variant.ordered(indices), done
            ran = _run(one, job, variant, chosen, lambda count, before=before: progress(before + count, total))
            done += len(chosen)
            known = pc.field("index").isin(kept.column("index").unique())
            kept = pa.concat_tables([kept, ran.steps.filter(~known)])
            mine = pc.field("index").isin(chosen)
            rows, steps = sample.filter(mine), unique_rows(kept.filter(mine), STEP_KEY)
            different = merged(differences(rows, ran.episodes), step_differences(steps, ran.steps))
            count = ran.steps.num_rows - len(chosen)  # the observation after the last step is none
            verdicts.append(Verdict(variant, len(chosen), count, ran.killed, ran.again, different))
    found = Verified(verdicts, len(indices), rows_digest(sample))
    _certify(one, found, indices)
    return found


def sampled(digest: str, indices: Sequence[int], count: int) -> list[int]:
    """So many of the indices, ascending; the same ones whenever a policy of this digest is asked about."""
    generator = np.random.default_rng(int(digest[:16], 16))
    return sorted(generator.choice(indices, min(count, len(indices)), replace=False).tolist())


def rows_digest(rows: pa.Table) -> str:
    """sha256 over rows by index, each as the line that `json.dumps` makes of it; of equal bits it is equal."""
    lines = (json.dumps(row) + "\n" for row in rows.sort_by("index").to_pylist())
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def differences(reference: pa.Table, found: pa.Table) -> dict[int, tuple[str, ...]]:
    """Episode -> columns that are not the same to the last bit: NaN is NaN, and 0.0 is not -0.0."""
    if to_ipc(reference) == to_ipc(found):
        return {}
    old, new = ({row["index"]: row for row in table.to_pylist()} for table in (reference, found))
    return {index: columns for index in {**old, **new} if (columns := _columns(old.get(index), new.get(index)))}


def step_differences(reference: pa.Table, found: pa.Table) -> dict[int, tuple[str, ...]]:
    """Episode -> the first step that is not the same to the last bit, and its columns. Tables are in key order."""
    if to_ipc(reference) == to_ipc(found):
        return {}
    old, new = (_by_episode(table) for table in (reference, found))
    different = {}
    for index in {**old, **new}:
        pairs = enumerate(zip_longest(old.get(index, []), new.get(index, [])))
        told = (f"step {step}: {' '.join(columns)}" for step, (a, b) in pairs if (columns := _columns(a, b)))
        if (first := next(told, None)) is not None:
            different[index] = (first,)
    return different


def merged(*found: Mapping[int, tuple[str, ...]]) -> dict[int, tuple[str, ...]]:
    """What is different in any of the tables, by episode."""
    indices = sorted({index for different in found for index in different})
    return {index: tuple(dict.fromkeys(name for one in found for name in one.get(index, ()))) for index in indices}


def _columns(old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> tuple[str, ...]:
    if old is None or new is None:
        return ("missing",) if new is None else ("not in the reference",)
    return different_columns(old, new)


def _by_episode(steps: pa.Table) -> dict[int, list[dict[str, Any]]]:
    found: dict[int, list[dict[str, Any]]] = {}
    for row in steps.to_pylist():
        found.setdefault(row["index"], []).append(row)
    return found


def _sample(one: Evaluation, episodes: int) -> pa.Table:
    """The recorded rows to compare with, by index."""
    assert one.ledger is not None
    # An error without any step says what happened to a worker, or in a simulator: that is not promised to come again.
    rows = one.ledger.of(one.job.source).filter(pc.field("length") > 0)
    if rows.num_rows < episodes:
        check_numerics(one.ledger, one.job)
        with LazyPool(PoolShape()) as pool:
            (rows,) = evaluate_all([one], episodes, pool).tables
        rows = rows.filter(pc.field("length") > 0)
    if not rows.num_rows:
        raise RunError(f"{one.ledger.run}: every episode of this policy ended in an error; there is nothing to compare")
    chosen = sampled(one.policy.digest, rows.column("index").to_pylist(), episodes)
    return unique_rows(rows.filter(pc.field("index").isin(chosen)))


def _run(one: Evaluation, job: Job, variant: Variant, indices: Sequence[int], tick: Callable[[int], None]) -> _Ran:
    if not variant.actors:
        return _run_here(one, variant, indices, tick)
    if not variant.kills:
        return _run_on_pool(job, variant, indices, tick)
    for attempt in range(KILL_TRIES):
        delay = KILL_AFTER / 4**attempt if attempt < KILL_TRIES - 1 else 0.0
        ran = _run_on_pool(job, variant, indices, tick, delay)
        if ran.again:
            return ran
    raise FailedRunError("every episode was over before a worker could be killed; take more --episodes")


def _run_here(one: Evaluation, variant: Variant, indices: Sequence[int], tick: Callable[[int], None]) -> _Ran:
    results = []
    try:
        for result in rollout(one.policy, one.recipe, one.job.split, indices, variant.slots):
            results.append(result)
            tick(len(results))
    except MemoryError:
        raise
    except Exception as error:  # whatever a simulator may raise
        raise FailedRunError(f"among episodes that had ended without an error, {raised(error)}") from error
    rows = episodes_table(one.task, one.job.source, results)
    steps = trajectories_table(one.task, one.job.source, results, one.policy.bin_centers)
    return _Ran(unique_rows(rows), unique_rows(steps, STEP_KEY))


def _run_on_pool(
    job: Job, variant: Variant, indices: Sequence[int], tick: Callable[[int], None], delay: float = 0.0
) -> _Ran:
    """`delay`: seconds between the start of a worker and its end, where the variant kills some."""
    episodes, steps, again, done = [], [], 0, 0
    seen: dict[Whereabouts, float] = {}  # since when
    killed: set[Whereabouts] = set()
    log = logging.getLogger(pools.__name__)
    level = log.level
    if variant.kills:
        log.setLevel(logging.ERROR)  # that workers are lost is what is asked for
    try:
        with Pool(variant.actors, variant.slots) as pool:
            pool.submit(job, indices)
            while not pool.idle:
                waits = variant.kills > len(killed)
                for finished in pool.poll(0.01 if waits and seen else 1.0):
                    episodes.append(finished.episodes)
                    steps += [finished.trajectories] if finished.trajectories is not None else []
                    again += sum(attempts > 1 for attempts in finished.execution.column("attempts").to_pylist())
                    done += len(finished)
                    tick(done)
                for where in pool.whereabouts if waits else ():
                    since = seen.setdefault(where, time.monotonic())
                    if where not in killed and time.monotonic() - since >= delay and len(killed) < variant.kills:
                        pool.crash(where)
                        killed.add(where)
    finally:
        log.setLevel(level)
    return _Ran(
        unique_rows(pa.concat_tables(episodes)), unique_rows(pa.concat_tables(steps), STEP_KEY), len(killed), again
    )


def _certify(one: Evaluation, found: Verified, indices: Iterable[int]) -> None:
    """Leave a certificate in the manifest in place of an older one, or where a bit differs, none."""
    assert one.ledger is not None
    key = one.job.source.key
    entry = key | {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "episodes": list(indices),
        "rows_sha256": found.sha256,
        "variants": [
            {
                "actors": verdict.variant.actors,
                "slots": verdict.variant.slots,
                "order": verdict.variant.order.value,
                "killed": verdict.killed,
                "started_again": verdict.again,
                "episodes": verdict.episodes,
                "steps": verdict.steps,
            }
            for verdict in found.verdicts
        ],
        "versions": package_versions(),
    }

    def replace(manifest: dict[str, Any]) -> None:
        others = [old for old in manifest.get(CERTIFICATE, []) if {name: old.get(name) for name in key} != key]
        manifest[CERTIFICATE] = [*others, *([entry] if found.holds else [])]

    amend_manifest(one.ledger.run, one.task.name, replace)
