"""Trajectories that an evaluation kept, read back as the rollout had them."""

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bet import tasks
from bet.rollout import End, EpisodeResult
from bet.tasks import SimulatedTask
from bet.trajectory import Trajectory
from bet_ray.ledger import Ledger
from bet_ray.manifest import RunError
from bet_ray.results import KEY, EpisodeSource, episodes_table

EpisodeKey = tuple[str | int, ...]
"""Values of `KEY`."""


def saved_trajectories(
    run: Path, task: SimulatedTask, wanted: pc.Expression | None = None
) -> dict[EpisodeKey, Trajectory]:
    """The episodes of a run whose steps were kept, in key order; `wanted` is over the columns of `STEP_KEY`.

    Raises `RunError` for a file of another task.
    """
    table = Ledger(run, task).trajectories.read(wanted)
    steps = table.column("step").to_numpy()
    starts = np.flatnonzero(steps == 0)
    stops = [*starts[1:], len(steps)][: len(starts)]  # of no rows: none
    return {
        tuple(table.column(name)[int(start)].as_py() for name in KEY): _trajectory(
            task, table.slice(start, stop - start)
        )
        for start, stop in zip(starts, stops, strict=True)
    }


def _trajectory(task: SimulatedTask, rows: pa.Table) -> Trajectory:
    """Of the rows of one episode; the last one has an observation only."""
    steps = rows.slice(0, rows.num_rows - 1)

    def vectors(table: pa.Table, name: str) -> NDArray[np.float32]:
        flat = table.column(name).combine_chunks().flatten().to_numpy()
        return flat.reshape(table.num_rows, -1)

    return Trajectory(
        vectors(rows, "observation"),
        vectors(steps, "action"),
        steps.column("reward").to_numpy(),
        {name: steps.column(f"signal_{name}").to_numpy() for name in task.signals},
        steps.column("bin").to_numpy(),
    )


@dataclass(frozen=True)
class Rescored:
    """Episodes of one policy under one protocol, numerics and split, whose steps were kept."""

    policy_digest: str
    split: str
    recorded: pa.Table
    computed: pa.Table
    """The same rows, their numbers computed anew from the steps."""

    @property
    def different(self) -> dict[str, int]:
        """Columns that are not the recorded ones, and in how many episodes."""
        pairs = {
            name: zip(self.recorded.column(name).to_pylist(), self.computed.column(name).to_pylist(), strict=True)
            for name in self.recorded.column_names
        }
        counts = {name: sum(old != new for old, new in values) for name, values in pairs.items()}
        return {name: count for name, count in counts.items() if count}


def rescore(run: Path) -> tuple[SimulatedTask, list[Rescored]]:
    """Compute every episode of a run anew from its steps, where they were kept.

    What steps do not say is taken from the recorded row: whose episode it is, its seed, and whether the task ended it.
    Raises `RunError` for a directory without episodes or without steps.
    """
    task = _task_of(run)
    rows = Ledger(run, task).read()
    trajectories = saved_trajectories(run, task)
    groups: dict[tuple[str | int, ...], list[tuple[int, pa.Table]]] = {}
    for number, row in enumerate(rows.to_pylist()):
        key = tuple(row[name] for name in KEY)
        if key not in trajectories:
            continue
        source = EpisodeSource(**{field.name: row[field.name] for field in fields(EpisodeSource)})
        terminated = row["end"] == End.TERMINATED.value
        result = EpisodeResult.of(task, trajectories[key], row["index"], row["seed"], terminated=terminated)
        groups.setdefault(key[:-1], []).append((number, episodes_table(task, source, [result])))
    if not groups:
        raise RunError(f"{run}: no episode has its steps; bet-ray eval {run} --save-trajectories keeps them")
    return task, [
        Rescored(
            str(key[0]),
            str(key[KEY.index("split")]),
            rows.take([number for number, _ in found]),
            pa.concat_tables([table for _, table in found]),
        )
        for key, found in groups.items()
    ]


def _task_of(run: Path) -> SimulatedTask:
    for file in sorted((run / "episodes").rglob("*.parquet")):
        try:
            names = pq.read_table(file, columns=["task"]).column("task")
        except (OSError, pa.ArrowInvalid, KeyError):  # the ledger sets torn files aside, and refuses others
            continue
        if len(names):
            return tasks.simulated(names[0].as_py())
    raise RunError(f"{run}: no episodes; run bet-ray eval {run} --save-trajectories first")
