"""Single `.npy` files as checked arrays: what the releases made of them are read and written with."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bet.data.episodes import DataError
from bet.files import replacing


def read_npy(path: Path, shape: tuple[str | int, ...]) -> NDArray[Any]:
    """A numeric array; `shape` names the free dimensions and gives the fixed ones, such as `("E", "T", 2)`.

    Raises `DataError` when the file is absent, cut short, of another shape, or holds anything but real numbers. Nothing
    is unpickled.
    """
    try:
        with path.open("rb") as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (OSError, EOFError, ValueError, OverflowError, MemoryError) as error:  # the last two: of a damaged shape
        if "allow_pickle" in str(error):
            raise DataError(f"{path}: holds pickled objects, which are never loaded; save plain numbers") from error
        raise DataError(f"{path}: not a readable .npy file: {str(error).splitlines()[0]}") from error
    expected = f"({', '.join(map(str, shape))})"
    if array.ndim != len(shape) or any(isinstance(n, int) and n != m for n, m in zip(shape, array.shape, strict=True)):
        raise DataError(f"{path}: has shape {array.shape}, expected {expected}")
    if array.dtype.kind not in "fiub":
        raise DataError(f"{path}: holds {array.dtype}, expected numbers of shape {expected}")
    return array


def write_npy(path: Path, array: NDArray[Any]) -> None:
    """Write an array; a reader never sees half a file."""
    with replacing(path) as file:
        np.lib.format.write_array(file, array, allow_pickle=False)
