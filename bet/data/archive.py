"""Unpacking archives from elsewhere: only plain files, only below one folder, only so many bytes.

Stricter than `tarfile`'s data filter (PEP 706), which allows links and is absent from Python 3.11.0 to 3.11.3.
"""

import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from gzip import BadGzipFile
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

from bet.data.episodes import DataError

_CHUNK = 1 << 20
_UNREADABLE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    EOFError,
    BadGzipFile,
    zlib.error,
    lzma.LZMAError,
    RuntimeError,  # zipfile: encrypted, or compressed in a way it does not know
)


@dataclass(frozen=True)
class _Member:
    name: str
    kind: str
    size: int
    file: IO[bytes] | None
    """Open only until the next member."""


def extract(archive: Path, into: Path, keep: tuple[str, ...], limit: int) -> None:
    """Unpack the folders `keep` of a zip or tar (gzip, bzip2, xz) into a new folder.

    Raises `DataError` for a member anywhere in the archive that is absolute, climbs with `..` or is neither a file nor
    a folder, for more than `limit` bytes unpacked, and for an archive that cannot be read.
    """
    try:
        with _opened(archive) as members:
            left = limit
            for member in members:
                path = _checked(archive, member)
                if member.file is None or not any(path.is_relative_to(folder) for folder in keep):
                    continue
                target = into / path
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("xb") as file:
                    while chunk := member.file.read(_CHUNK):
                        left -= len(chunk)  # counted as they come: a header can lie
                        if left < 0:
                            raise DataError(f"{archive}: unpacks to more than {limit:,} bytes; refused")
                        file.write(chunk)
                if target.stat().st_size != member.size:
                    raise DataError(f"{archive}: {member.name} is cut short; download it again")
    except _UNREADABLE as error:
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(":")
        raise DataError(f"{archive}: not a readable archive ({reason}); download it again") from error
    except (FileExistsError, NotADirectoryError) as error:
        raise DataError(f"{archive}: holds two members in place of one, {error.filename}; refused") from error


def _checked(archive: Path, member: _Member) -> PurePosixPath:
    path, windows = PurePosixPath(member.name), PureWindowsPath(member.name)
    if path.is_absolute() or ".." in path.parts or windows.drive or "\\" in member.name or "\0" in member.name:
        raise DataError(f"{archive}: member {member.name!r} points outside the archive; refused")
    if member.kind:
        raise DataError(f"{archive}: member {member.name!r} is a {member.kind}; only files and folders are taken")
    return path


@contextmanager
def _opened(archive: Path) -> Iterator[Iterator[_Member]]:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            yield _zip_members(file)
    else:
        with tarfile.open(archive) as file:
            yield _tar_members(file)


def _zip_members(file: zipfile.ZipFile) -> Iterator[_Member]:
    for info in file.infolist():
        mode = stat.S_IFMT(info.external_attr >> 16)  # 0 where it was not made on Unix
        kind = "" if mode in (0, stat.S_IFREG, stat.S_IFDIR) else "link" if mode == stat.S_IFLNK else "special file"
        if info.is_dir() or kind:
            yield _Member(info.filename, kind, 0, None)
        else:
            with file.open(info) as content:
                yield _Member(info.filename, kind, info.file_size, content)


def _tar_members(file: tarfile.TarFile) -> Iterator[_Member]:
    for info in file:
        kind = "" if info.isreg() or info.isdir() else "link" if info.issym() or info.islnk() else "special file"
        yield _Member(info.name, kind, info.size, file.extractfile(info) if info.isreg() else None)
