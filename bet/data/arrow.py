"""Columns of a parquet file as checked arrays: what every format made of parquet is read with."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bet.data.episodes import DataError


def read_table(path: Path, columns: Sequence[str]) -> pa.Table:
    """Those of the columns that a parquet file has. Raises `DataError` when it is absent or damaged."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            return file.read([column for column in columns if column in file.schema_arrow.names])
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: not a readable parquet file: {str(error).splitlines()[0]}") from error


def integers(table: pa.Table, column: str, path: Path) -> NDArray[np.int64]:
    """A column of whole numbers, (n,). Raises `DataError` when it is missing, of another type or has nulls."""
    values = _column(table, column, path)
    if not pa.types.is_integer(values.type) or values.null_count:
        raise DataError(f"{path}: column {column!r} is {values.type} with {values.null_count} nulls, expected integers")
    return values.to_numpy().astype(np.int64)


def vectors(table: pa.Table, column: str, path: Path, size: int | None = None) -> NDArray[np.floating[Any]]:
    """A column of lists of floats, all of one length, (n, size); a value that is null reads as NaN.

    Raises `DataError` when it is missing, of another type, of another length than `size` (None: any) or of several.
    """
    values = _column(table, column, path).combine_chunks()
    kind = values.type
    fixed, varying = pa.types.is_fixed_size_list(kind), pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not (fixed or varying) or not pa.types.is_floating(kind.value_type):
        raise DataError(f"{path}: column {column!r} is {kind}, expected lists of floats")
    if values.null_count:
        raise DataError(f"{path}: column {column!r} has {values.null_count} rows without a value")
    lengths = np.full(len(values), kind.list_size) if fixed else values.value_lengths().to_numpy()
    expected = size if size is not None else lengths[0] if len(lengths) else 0
    if (lengths != expected).any():
        row = int(np.argmax(lengths != expected))
        raise DataError(f"{path}: column {column!r} row {row} has {lengths[row]} numbers, expected {expected}")
    return values.flatten().to_numpy(zero_copy_only=False).reshape(len(values), expected)


def _column(table: pa.Table, column: str, path: Path) -> pa.ChunkedArray:
    count = table.column_names.count(column)
    if count != 1:
        raise DataError(f"{path}: {'no column' if count == 0 else f'{count} columns'} {column!r}")
    return table.column(column)
