"""Run directories on object stores: s3:// and gs://, through `pyarrow.fs`.

A run at a location has a working copy on each machine, a directory like any other; the store's copy is what counts.
What is written goes to the store first, whole or not at all, and then appears in the working copy (`bet.files`); what
is removed leaves the store first. So the store has all that any working copy shows, and a process killed at any moment
loses nothing that it called safe. `pull` makes a working copy what the store is.

Stores have no locks. Processes of one machine share a working copy, and take turns as in any directory. Those of
several machines do not: tables are made for that (see `bet_ray.ledger`), of the small files the last one written stays.
"""

import hashlib
import logging
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing, suppress
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlsplit
from uuid import uuid4

from bet import files
from bet.errors import FailedRunError, UsageError

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

log = logging.getLogger(__name__)

RUN_CACHE = "BET_RUN_CACHE"  # where working copies are, in place of ~/.cache/bet-ray/runs
PATIENCE = 300.0  # seconds to wait for a store that is away
LOOKS = 1.0  # seconds between looks whether it is back
LARGE = 1 << 20  # bytes from which a file has a single writer; small ones that were written here are fetched once more
SETTLED = 10.0  # seconds after which a time of change tells versions apart; stores give it in whole ones
BY_NAME = frozenset({"study.db", "checkpoint.pt"})  # large, or in use: they come when asked for
UNWATCHED = frozenset({"wandb", "tensorboard"})  # folders that other libraries write; they are pushed

_LOCATION = re.compile(r"(s3|gs|gcs|file):/+(.*)", re.DOTALL)  # a `Path` of one has lost a slash
_T = TypeVar("_T")
_Stamp = tuple[int | None, int]  # time of change in ns, bytes


class StoreError(FailedRunError, OSError):
    """A store does not do what it is asked to; the message names the location."""


def local(location: str | Path) -> Path:
    """Where to read and write a run: for a location its working copy, as the store is now; a path is its own.

    Raises `UsageError` for what is no location, or has no bucket, `StoreError` for a store that does not answer.
    """
    found = _LOCATION.fullmatch(str(location))
    if found is None:
        return Path(location)
    scheme, rest = found.groups()
    if scheme == "file":
        return Path("/", unquote(rest))
    store = _attached(f"{scheme}://{rest}")
    store.pull()
    return store.folder


def is_location(word: str) -> bool:
    """Whether a word of a command is a location."""
    return _LOCATION.fullmatch(word) is not None


def pull(path: Path) -> None:
    """Make a file or folder of a working copy what the store has; whatever is no working copy stays as it is."""
    if found := _store_of(path):
        found[0].pull(found[1])


def push(folder: Path) -> None:
    """Keep in the store what another library wrote into a working copy."""
    if found := _store_of(folder):
        store, _ = found
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                store.put(file, file.absolute().relative_to(store.folder).as_posix())


def push_database(path: Path) -> None:
    """Keep in the store a consistent copy of an SQLite file that is in use."""
    if found := _store_of(path):
        store, name = found
        with TemporaryDirectory() as folder:
            copy = Path(folder) / path.name
            with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
                source.backup(target)
            store.put(copy, name)


def portable(path: Path) -> Path:
    """The same path; sent to another process, on any machine, it is that of the working copy there."""
    return _WorkingPath(path) if _store_of(path) else path


def named(text: str) -> str:
    """A text for people: with locations in place of the working copies."""
    for store in _stores.values():
        text = text.replace(str(store.folder), store.address)
    return text


_stores: dict[str, "Store"] = {}  # by location


class Store:
    """The store's copy of a run, and the working copy that it is the mirror of."""

    def __init__(self, location: str, filesystem: "FileSystem", base: str, folder: Path) -> None:
        self.location, self.filesystem, self.base, self.folder = location, filesystem, base, folder
        self.address = location.partition("?")[0]
        self._answers = {False: False, True: False}  # whether it has been read, and written

    def put(self, source: Path, name: str) -> None:
        """As `bet.files.Mirror`; waits for a store that is away."""
        content, target = source.read_bytes(), self._full(name)

        def write() -> int | None:
            with self.filesystem.open_output_stream(target) as stream:
                stream.write(content)
            return self.filesystem.get_file_info(target).mtime_ns if len(content) >= LARGE else None

        changed = self._tried(write, writes=True)
        if changed is not None:
            os.utime(source, ns=(changed, changed))

    def remove(self, name: str) -> None:
        """As `bet.files.Mirror`; of a folder, what names other files goes first."""
        for each in reversed(_in_order(self._listed(name))):
            with suppress(FileNotFoundError):
                self._tried(lambda each=each: self.filesystem.delete_file(self._full(each)), writes=True)

    def pull(self, name: str = "") -> None:
        """Make what is below `name` in the working copy as it is in the store, but for what is to be asked for."""
        # First here, then there: what is here was there before, so what is not there then has been removed.
        here = self._here(name)
        had = dict(here)
        listed: Mapping[str, _Stamp] | None = None
        # Others publish meanwhile: rows move from file to file, and one listing may miss both. Two equal ones did not.
        while (there := {each: s for each, s in self._listed(name).items() if _wanted(each, name)}) != listed:
            listed = there
            for each in _in_order(there):
                if here.get(each) != there[each]:
                    self._fetch(each, there[each], had.get(each))
                    here[each] = there[each]
        for gone in had.keys() - there.keys():
            if self._stamp(gone) == had[gone]:
                (self.folder / gone).unlink(missing_ok=True)

    def check(self) -> None:
        """Raises `UsageError` where there is no such bucket: its listing is empty, no error."""
        from pyarrow.fs import FileType

        bucket = self.base.partition("/")[0]
        if self._tried(lambda: self.filesystem.get_file_info(bucket).type) is FileType.NotFound:
            raise UsageError(f"{self.address}: no bucket {bucket!r}")

    def _fetch(self, name: str, stamp: _Stamp, had: _Stamp | None) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}")
        try:
            with suppress(FileNotFoundError):  # removed meanwhile
                temporary.write_bytes(self._tried(lambda: self._read(name)))
                changed = stamp[0]
                if changed is not None and time.time() - changed / 1e9 > SETTLED:
                    os.utime(temporary, ns=(changed, changed))
                if self._stamp(name) == had:  # else it was written here meanwhile, and is newer
                    temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def _read(self, name: str) -> bytes:
        with self.filesystem.open_input_file(self._full(name)) as file:
            return file.read()

    def _listed(self, name: str) -> dict[str, _Stamp]:
        """The files at or below a name, relative to the run."""
        from pyarrow.fs import FileSelector, FileType

        def look() -> Iterable[Any]:
            one = self.filesystem.get_file_info(self._full(name))
            if one.type is FileType.File:
                return [one]
            return self.filesystem.get_file_info(FileSelector(self._full(name), recursive=True, allow_not_found=True))

        return {
            info.path.removeprefix(self.base).strip("/"): (info.mtime_ns, info.size)
            for info in self._tried(look)
            if info.type is FileType.File
        }

    def _here(self, name: str) -> dict[str, _Stamp]:
        top = self.folder / name
        found = {}
        for path in [top] if top.is_file() else top.rglob("*"):
            each = path.relative_to(self.folder).as_posix()
            if _wanted(each, name) and path.is_file() and (stamp := self._stamp(each)):
                found[each] = stamp
        return found

    def _stamp(self, name: str) -> _Stamp | None:
        try:
            status = (self.folder / name).stat()
        except FileNotFoundError:
            return None
        return status.st_mtime_ns, status.st_size

    def _full(self, name: str) -> str:
        return f"{self.base}/{name}" if name not in ("", ".") else self.base

    def _tried(self, what: Callable[[], _T], *, writes: bool = False) -> _T:
        """Waits where what has worked before does not. Raises `StoreError`, and `FileNotFoundError` at once."""
        until, waits = time.monotonic() + (PATIENCE if self._answers[writes] else 0.0), False
        worked = False
        try:
            while True:
                try:
                    done = what()
                except FileNotFoundError:
                    worked = True
                    raise
                except OSError as error:
                    reason = _reason(error)
                    if time.monotonic() >= until:
                        raise StoreError(f"{self.address}: {reason}{_MEND if waits else ''}") from error
                    if not waits:
                        log.warning("%s: the store is away (%s); waiting for it", self.address, reason)
                    waits = True
                    time.sleep(LOOKS)
                else:
                    if waits:
                        log.warning("%s: the store is back", self.address)
                    worked = True
                    return done
        finally:
            self._answers[writes] = worked  # one that was given up, or broken off, is not waited for again


_MEND = "; what is recorded is safe: run the same command again, and it is not run twice"


class _WorkingPath(type(Path())):
    """A path in a working copy."""

    def __reduce__(self) -> Any:
        found = _store_of(Path(self))
        return (_arrived, (found[0].location, found[1])) if found else super().__reduce__()


def _arrived(location: str, name: str) -> Path:
    return _WorkingPath(_attached(location).folder / name)


def _attached(location: str) -> Store:
    """The store of a location; from now on its working copy is mirrored there."""
    from pyarrow import ArrowInvalid
    from pyarrow.fs import FileSystem

    parts = urlsplit(location)
    bucket, key = parts.netloc, parts.path.strip("/")
    location = f"{parts.scheme}://{'/'.join(filter(None, (bucket, key)))}{parts.query and '?'}{parts.query}"
    if location in _stores:
        return _stores[location]
    if "@" in bucket:
        raise UsageError(f"{parts.scheme}://...@{bucket.rpartition('@')[2]}: credentials belong in the environment")
    if not bucket:
        raise UsageError(f"{location}: names no bucket")
    try:
        filesystem, base = FileSystem.from_uri(location)
        if parts.scheme == "s3" and "allow_delayed_open" not in parts.query:  # with it a small file is one request
            filesystem, base = FileSystem.from_uri(f"{location}{'&' if parts.query else '?'}allow_delayed_open=true")
    except ArrowInvalid as error:
        raise UsageError(f"{location}: {error}") from error
    except OSError as error:
        raise StoreError(f"{location}: {_reason(error)}") from error
    where = f"{location} {os.environ.get('AWS_ENDPOINT_URL_S3') or os.environ.get('AWS_ENDPOINT_URL')}"
    folder = _cache() / hashlib.sha256(where.encode()).hexdigest()[:12] / PurePosixPath(base).name
    store = Store(location, filesystem, base.rstrip("/"), folder)
    store.check()
    _stores[location] = files.mirrors[folder] = store
    return store


def _cache() -> Path:
    usual = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "bet-ray" / "runs"
    return Path(os.environ.get(RUN_CACHE) or usual).expanduser().resolve()


def _store_of(path: Path) -> tuple[Store, str] | None:
    found = files.mirror_of(path)
    return (found[0], found[1]) if found and isinstance(found[0], Store) else None


def _wanted(file: str, asked: str) -> bool:
    """Whether a pull of `asked` is about a file: not temporary ones and locks, nor what comes by name alone."""
    parts = PurePosixPath(file).parts
    if any(part.startswith(".") for part in parts):
        return False
    return bool(asked) or not (parts and (parts[0] in UNWATCHED or parts[-1] in BY_NAME))


def _in_order(names: Iterable[str]) -> list[str]:
    """What names other files (policy.json, best) comes after them."""
    return sorted(names, key=lambda name: (PurePosixPath(name).suffix in ("", ".json"), name))


def _reason(error: OSError) -> str:
    """What pyarrow says of a failed request, in a line."""
    text = str(error).splitlines()[0]
    return text.rpartition("AWS Error ")[2].partition(" (Request ID")[0]
