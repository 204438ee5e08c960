"""Writing files so that a reader sees the whole of one or nothing, and a crash leaves the old.

A folder may have a mirror elsewhere. It gets each file before the folder does and loses it before, so that whatever a
crash cuts short, the mirror has all that the folder showed.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Protocol
from uuid import uuid4


class Mirror(Protocol):
    """Another place that has what is written and removed here. Names are relative to the folder, with slashes."""

    def put(self, source: Path, name: str) -> None:
        """Keep the content of `source`, whole or not at all, in place of what has this name. Raises `OSError`."""

    def remove(self, name: str) -> None:
        """Forget a file, or all files of a folder; none there is no error. Raises `OSError`."""


mirrors: dict[Path, Mirror] = {}
"""By the resolved folder."""


def mirror_of(path: Path) -> tuple[Mirror, str] | None:
    """The mirror that a path belongs to, and its name there."""
    path = path.absolute() if mirrors else path
    found = ((mirror, folder) for folder, mirror in mirrors.items() if path.is_relative_to(folder))
    return next(((mirror, path.relative_to(folder).as_posix()) for mirror, folder in found), None)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `path` when the block ends well: temporary name, fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if mirrored := mirror_of(path):
            mirrored[0].put(temporary, mirrored[1])
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error  # a full disk names no file by itself
    finally:
        with suppress(OSError):  # the file is of no use; what went wrong is
            temporary.unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Remove a file, if it is there."""
    _forget(path)
    path.unlink(missing_ok=True)


def remove_folder(path: Path) -> None:
    """Remove a folder, as far as that can be done here."""
    _forget(path)
    shutil.rmtree(path, ignore_errors=True)


def rename(path: Path, target: Path) -> None:
    """Raises `FileNotFoundError`."""
    if mirrored := mirror_of(target):
        mirrored[0].put(path, mirrored[1])
    _forget(path)
    path.rename(target)


def _forget(path: Path) -> None:
    if mirrored := mirror_of(path):
        mirrored[0].remove(mirrored[1])


def _sync_folder(path: Path) -> None:
    """Make the names in a folder safe from a loss of power, which a file's own fsync does not do."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill that appears as `path` when the block ends well; only an empty folder is replaced."""
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}")
    temporary.mkdir()
    try:
        yield temporary
        for name in temporary.rglob("*"):
            if name.is_file():
                with name.open("rb") as file:
                    os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
