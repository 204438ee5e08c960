"""What `torch.save` wrote: a tree of records, and the numbers of its tensors. Both of its file formats.

Since torch 1.6 a zip of `data.pkl` and one entry for each storage; before, pickles one after another, then the storages
(torch/serialization.py). Entries are stored as they are, so nothing is ever larger than the file.
"""

import hashlib
import math
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from bet.snapshots.records import PARAMETERS, STORAGES, TENSOR, Record, SnapshotError, Storage, read_pickle

_DTYPES = dict(
    zip(
        STORAGES,
        (torch.float32, torch.float64, torch.float16, torch.int64, torch.int32, torch.uint8, torch.bool),
        strict=True,
    )
)
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


class Archive:
    """A snapshot file, open for reading its tensors.

    Raises `SnapshotError` for what is not one, and `OSError`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = path.stat().st_size
        self._left = self.size  # bytes that tensors may still take
        self._read: Callable[[Storage], bytes]
        if zipfile.is_zipfile(path):
            self.tree, self._read = self._open_zip()
        else:
            with path.open("rb") as file:
                self.tree, self._read = self._open_legacy(file)

    @cached_property
    def sha256(self) -> str:
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def tensor(self, value: Any, name: str) -> Tensor:
        """The tensor or parameter that a record describes, on the CPU. Raises `SnapshotError` naming it."""
        match value:
            case Record(path=path, arguments=(parameter, *_)) if path in PARAMETERS:
                value = parameter
        match value:
            case Record(path=path, arguments=(Storage() as storage, int(offset), tuple(shape), tuple(strides), *_)) if (
                path == TENSOR
            ):
                pass
            case _:
                raise SnapshotError(f"{self.path}: {name} is no tensor")
        sizes = [*shape, *strides, offset]
        if len(shape) != len(strides) or not all(type(number) is int and number >= 0 for number in sizes):
            raise SnapshotError(f"{self.path}: {name} has no sound shape")
        dtype = _DTYPES[storage.type]
        last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        self._left -= math.prod(shape) * dtype.itemsize
        # Also views that repeat their numbers without end, and strides that are never taken and too large for torch.
        if 0 in shape or max([last + 1, *strides]) > storage.size or self._left < 0:
            raise SnapshotError(f"{self.path}: {name} of shape {shape} is not within the file")
        data = self._read(storage)
        if len(data) != storage.size * dtype.itemsize:
            raise SnapshotError(f"{self.path}: {name} is cut short")
        return torch.frombuffer(bytearray(data), dtype=dtype).as_strided(shape, strides, offset).clone()

    @contextmanager
    def _zip(self) -> Iterator[zipfile.ZipFile]:
        try:
            with zipfile.ZipFile(self.path) as archive:
                yield archive
        except (KeyError, EOFError, RuntimeError, UnicodeDecodeError, struct.error, zipfile.BadZipFile) as error:
            raise SnapshotError(f"{self.path}: damaged: {error}") from error

    def _open_zip(self) -> tuple[Any, Callable[[Storage], bytes]]:
        def read(name: str) -> bytes:
            with self._zip() as archive:
                about = archive.getinfo(name)
                if about.compress_type != zipfile.ZIP_STORED or about.file_size > self.size:
                    raise SnapshotError(f"{self.path}: not a snapshot: {name} is compressed")
                return archive.read(about)

        with self._zip() as archive:
            names = archive.namelist()
        roots = [name.removesuffix("/data.pkl") for name in names if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise SnapshotError(f"{self.path}: not a snapshot: a zip without one data.pkl")
        if f"{roots[0]}/byteorder" in names and read(f"{roots[0]}/byteorder") != b"little":
            raise SnapshotError(f"{self.path}: its numbers are big-endian; save it again on a little-endian machine")
        tree, _ = read_pickle(BytesIO(read(f"{roots[0]}/data.pkl")), self.path)
        return tree, lambda storage: read(f"{roots[0]}/data/{storage.key}")

    def _open_legacy(self, file: BinaryIO) -> tuple[Any, Callable[[Storage], bytes]]:
        magic, _ = read_pickle(file, self.path)
        if magic != _LEGACY_MAGIC:
            raise SnapshotError(f"{self.path}: not a file of torch.save")
        read_pickle(file, self.path)  # the version of the format
        read_pickle(file, self.path)  # about the machine
        tree, storages = read_pickle(file, self.path)
        keys, _ = read_pickle(file, self.path)
        data: dict[str, bytes] = {}
        for key in keys if isinstance(keys, list) else []:
            if not isinstance(key, str) or key not in storages:
                raise SnapshotError(f"{self.path}: damaged: a storage that nothing refers to")
            length = int.from_bytes(file.read(8), "little") * _DTYPES[storages[key].type].itemsize
            data[key] = file.read(min(length, self.size))
            if len(data[key]) < length:
                raise SnapshotError(f"{self.path}: damaged: it is cut short")
        return tree, lambda storage: data.get(storage.key, b"")
