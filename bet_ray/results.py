"""The tables a run leaves behind: every parquet schema, and the only place that names a column."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import reduce
from operator import and_
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bet.config import Split
from bet.files import replacing
from bet.policy import Policy
from bet.protocol import Protocol
from bet.rollout import EpisodeResult
from bet.tasks import SimulatedTask

KEY = ("policy_digest", "protocol_digest", "numerics", "split", "index")
"""What identifies an episode; rows of equal keys are equal. Equal policies have equal digests, and so share rows."""

STEP_KEY = (*KEY, "step")
"""What identifies a row of the trajectories."""

END, ERROR = "end", "error"
"""The columns that say why an episode ended, and why it could not be finished."""

_FAILED = "_failed"
_ROWS_IN_GROUP = 2**14  # of a file: whoever asks for one policy, or one episode's steps, reads no more than that

_ARROW = {str: pa.string(), float: pa.float64(), int: pa.int64(), bool: pa.bool_()}


def episodes_schema(task: SimulatedTask) -> pa.Schema:
    """One row per episode; the task's own columns come last."""
    return pa.schema(
        [
            ("policy_digest", pa.string()),
            ("protocol_digest", pa.string()),
            ("numerics", pa.string()),
            ("split", pa.string()),
            ("index", pa.int64()),
            ("task", pa.string()),
            ("protocol", pa.string()),
            ("train_seed", pa.int64()),
            ("seed", pa.uint64()),  # the environment's
            ("success", pa.bool_()),
            ("primary", pa.float64()),  # the episode's share in the primary metric
            ("return", pa.float64()),
            ("max_reward", pa.float64()),
            ("length", pa.int32()),
            (END, pa.string()),
            *((field.name, _arrow_type(field.type)) for field in fields(task.outcome_type)),
        ]
    )


EXECUTION = pa.schema(
    [
        *((name, pa.int64() if name == "index" else pa.string()) for name in KEY),
        ("node", pa.string()),
        ("actor", pa.string()),
        ("wall_seconds", pa.float64()),
        ("attempts", pa.int32()),
        (ERROR, pa.string()),  # why the episode could not be finished
    ]
)
"""Where and how an episode ran: what may differ between two runs of the same table."""


def trajectories_schema(task: SimulatedTask) -> pa.Schema:
    """One row per step; the observation is the one before the action, and the last row of an episode has no action."""
    signals = [(f"signal_{name}", pa.float64()) for name in task.signals]
    return pa.schema(
        [
            *((name, pa.int64() if name == "index" else pa.string()) for name in KEY),
            ("step", pa.int32()),
            ("observation", pa.list_(pa.float32())),
            ("action", pa.list_(pa.float32())),
            ("bin", pa.int64()),
            ("offset", pa.list_(pa.float32())),  # action - centre of the bin
            ("reward", pa.float64()),
            *signals,
        ]
    )


HISTORY = pa.schema(
    [
        ("trial", pa.string()),
        ("train_seed", pa.int64()),
        ("epoch", pa.int32()),
        ("policy_digest", pa.string()),  # where this epoch's policy was kept; joins with the episodes
        *(
            (name, pa.float64())
            for name in (
                "train_loss",
                "train_focal",
                "train_offset",
                "val_loss",
                "val_focal",
                "val_offset",
                "val_accuracy",
                "lr",
            )
        ),
        ("primary", pa.float64()),  # on `tune`, where this epoch was rolled out
        ("success_rate", pa.float64()),
    ]
)
"""One row per trial, training seed and epoch."""


def trials_schema(space: Sequence[str]) -> pa.Schema:
    """One row per trial; a column for each swept key, its value as JSON."""
    numbers = ("objective", "primary", "primary_low", "primary_high", "success_rate", "success_low", "success_high")
    return pa.schema(
        [
            ("trial", pa.string()),
            ("status", pa.string()),
            *((key, pa.string()) for key in space),
            ("seeds", pa.int32()),
            ("epoch", pa.int32()),  # the rung that counts: the best on `tune`
            ("episodes", pa.int64()),
            *((name, pa.float64()) for name in numbers),
            ("val_loss", pa.float64()),
            ("train_seconds", pa.float64()),
            ("act_seconds", pa.float64()),  # of the policy, for a batch of observations on one core
            ("began", pa.timestamp("us", "UTC")),
            ("ended", pa.timestamp("us", "UTC")),
            ("failures", pa.int32()),
            ("error", pa.string()),
            ("tied", pa.bool_()),  # not known to be worse than the winner
            *((f"race_{name}", pa.float64()) for name in ("primary", "low", "high")),  # on fresh episodes of `tune`
            ("race_episodes", pa.int64()),
            ("beaten_by", pa.string()),
            *((f"report_{name}", pa.float64()) for name in ("primary", "low", "high")),
            ("report_episodes", pa.int64()),
            ("report_confidence", pa.float64()),
        ]
    )


REPRODUCTION_PARQUET = "reproduction.parquet"
REPRODUCTION = pa.schema(
    [
        ("experiment", pa.string()),
        ("trial", pa.string()),
        ("setting", pa.string()),  # its values of the swept keys, as JSON
        ("metric", pa.string()),
        ("estimate", pa.float64()),  # on `report`, after the last epoch
        ("low", pa.float64()),  # of an interval at 95%
        ("high", pa.float64()),
        ("epoch", pa.int32()),
        ("episodes", pa.int64()),
        ("seeds", pa.int32()),
        ("demonstrations", pa.int64()),
        ("original", pa.float64()),
        ("study", pa.float64()),
        ("source", pa.string()),  # of what was published
        ("scaled", pa.bool_()),
        ("departures", pa.string()),  # in what it is not as published
        ("error", pa.string()),  # why there is no estimate
    ]
)
"""One row per setting and metric of a reproduced experiment."""


@dataclass(frozen=True)
class EpisodeSource:
    """What the rows of one policy under one protocol and split have in common; also which episodes they are."""

    policy_digest: str
    protocol_digest: str
    numerics: str
    split: str
    task: str
    protocol: str
    train_seed: int

    @classmethod
    def of(cls, policy: Policy, protocol: Protocol, split: Split) -> "EpisodeSource":
        return cls(
            policy_digest=policy.digest,
            protocol_digest=protocol.digest,
            numerics=policy.numerics,
            split=split.value,
            task=protocol.task,
            protocol=protocol.name,
            train_seed=policy.config.train.seed,
        )

    @property
    def key(self) -> dict[str, str]:
        """The columns of `KEY` that all its rows share."""
        return {name: getattr(self, name) for name in KEY if name != "index"}

    @property
    def rows(self) -> pc.Expression:
        """Which rows of a run's tables are its own."""
        return self.rows_of_any_numerics & (pc.field("numerics") == self.numerics)

    @property
    def rows_of_any_numerics(self) -> pc.Expression:
        """Which rows are its own, or would be but for where they were computed."""
        shared = {name: value for name, value in self.key.items() if name != "numerics"}
        return reduce(and_, (pc.field(name) == value for name, value in shared.items()))


def episodes_table(task: SimulatedTask, source: EpisodeSource, results: Sequence[EpisodeResult]) -> pa.Table:
    """Rows of `episodes_schema`."""
    common = asdict(source)
    rows = [
        common
        | {
            "index": result.index,
            "seed": result.seed,
            "success": result.success,
            "primary": result.primary,
            "return": result.total_reward,
            "max_reward": result.max_reward,
            "length": result.length,
            END: result.end.value,
        }
        | (asdict(result.outcome) if result.outcome is not None else {})
        for result in results
    ]
    return _table(rows, episodes_schema(task))


def execution_table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Rows of `EXECUTION`."""
    return _table(rows, EXECUTION)


def trajectories_table(
    task: SimulatedTask, source: EpisodeSource, results: Sequence[EpisodeResult], centers: NDArray[np.float32]
) -> pa.Table:
    """Rows of `trajectories_schema`; `centers` (bins, act_dim) are the policy's bins in action units."""
    common = source.key
    rows = []
    for result in results:
        path = result.trajectory
        if path is None:
            continue
        for step, observation in enumerate(path.observations):
            row = common | {"index": result.index, "step": step, "observation": observation}
            if step < len(path):
                row |= {"action": path.actions[step], "bin": int(path.bins[step]), "reward": float(path.rewards[step])}
                row["offset"] = path.actions[step] - centers[path.bins[step]]
                row |= {f"signal_{name}": float(values[step]) for name, values in path.signals.items()}
            rows.append(row)
    return _table(rows, trajectories_schema(task))


def unique_rows(table: pa.Table, key: Sequence[str] = KEY) -> pa.Table:
    """One row per key, in key order. Rows are deterministic, so which of two equal keys stays does not matter.

    But for one case: an episode that ended in an error and was run again counts with its other end.
    """
    order = [(name, "ascending") for name in key]
    if END in table.column_names:
        order.append((END, "descending"))  # "error" is the first of all ends
    if ERROR in table.column_names:
        table = table.append_column(_FAILED, table.column(ERROR).is_valid())
        order.append((_FAILED, "ascending"))
    table = table.sort_by(order).combine_chunks()
    if ERROR in table.column_names:
        table = table.drop_columns(_FAILED)
    if table.num_rows < 2:
        return table
    fresh = np.zeros(table.num_rows, dtype=bool)
    fresh[0] = True
    for name in key:
        column = table.column(name)
        fresh[1:] |= pc.call_function("not_equal", [column.slice(1), column.slice(0, len(column) - 1)]).to_numpy()
    return table.filter(pa.array(fresh))


def different_columns(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, ...]:
    """Columns of two rows that are not the same to the last bit: NaN is NaN, and 0.0 is not -0.0."""
    return tuple(name for name in {**old, **new} if repr(old.get(name)) != repr(new.get(name)))


def write_table(table: pa.Table, path: Path) -> None:
    """Write parquet; a reader sees the whole file or none."""
    with replacing(path) as file:
        pq.write_table(table, file, compression="zstd", write_page_checksum=True, row_group_size=_ROWS_IN_GROUP)


def _table(rows: Sequence[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=schema)


def _arrow_type(annotation: Any) -> pa.DataType:
    return _ARROW[annotation]
