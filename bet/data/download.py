"""Published demonstrations: where they are, under which licence, and bringing them here whole.

A data set is fetched and unpacked beside its place, loaded, and only then renamed into place. The file
`downloads.json` in the data folder keeps the digests: a source without a published one is trusted at its first download
and compared ever after, and what is installed is compared file by file.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from filelock import FileLock, Timeout
from pydantic import TypeAdapter, ValidationError

from bet.config import ConfigError, Frozen, did_you_mean
from bet.data.archive import extract
from bet.data.episodes import DataError
from bet.data.fetch import DownloadError, Expected, Patience, fetch, sha256_of
from bet.data.formats import load
from bet.files import replacing

DOWNLOADS_JSON = "downloads.json"

Progress = Callable[[str, int, int | None], None]
"""Called with a file's name, its bytes on disk and, where the server tells, its bytes in all."""


@dataclass(frozen=True)
class Remote:
    """A file to fetch."""

    url: str
    path: str
    """Its place in the data set, or the archive's name."""
    sha256: str | None = None
    """None: nobody publishes it; trusted at the first download."""


@dataclass(frozen=True)
class Unpack:
    """How an archive becomes a data set."""

    inside: str
    """The folder of the archive that becomes the data set."""
    keep: tuple[str, ...]
    """The folders that are unpacked; the others are left out."""
    limit: int
    """Most bytes they may unpack to."""


@dataclass(frozen=True)
class Source:
    """A published data set."""

    name: str
    summary: str
    licence: str
    homepage: str
    tasks: Mapping[str, str]
    """The tasks it serves -> the file or folder of each in it."""
    target: str
    """Its folder below the data folder."""
    files: tuple[Remote, ...]
    unpack: Unpack | None = None
    """None: the files are the data set."""


@dataclass(frozen=True)
class Downloaded:
    """A data set in place."""

    path: Path
    digests: Mapping[str, str]
    """URL -> sha256 of what was fetched."""
    fresh: bool
    """False: it was there already, unchanged."""


class _Record(Frozen):
    """What `downloads.json` keeps of a source."""

    target: str
    downloads: dict[str, str]
    """URL -> sha256."""
    files: dict[str, str]
    """File below the target -> sha256."""


_RECORDS = TypeAdapter(dict[str, _Record])


def source(name: str) -> Source:
    """The source of a name. Raises `ConfigError` with a did-you-mean."""
    if name not in SOURCES:
        raise ConfigError(f"no data set {name!r} to download{did_you_mean(name, SOURCES)}")
    return SOURCES[name]


def download(
    wanted: Source,
    root: Path,
    *,
    force: bool = False,
    progress: Progress | None = None,
    patience: Patience | None = None,
) -> Downloaded:
    """Bring a data set into the data folder `root`; what is there already and unchanged is left alone.

    Interrupted, it goes on where it was. `force` downloads again and replaces what is there. Raises `DownloadError`
    when it cannot be had, `DataError` when it is not what it should be or what is there was changed or not downloaded.
    """
    target = root / wanted.target
    try:
        if target.exists() and not force:
            return Downloaded(target, _unchanged(target, _read_records(root).get(wanted.name)).downloads, fresh=False)
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{DOWNLOADS_JSON}.lock", timeout=0):
            return _install(wanted, root, target, progress or (lambda *_: None), patience)
    except Timeout:
        raise DownloadError(f"{root}: another download into it is running") from None
    except OSError as error:
        raise DownloadError(f"{error.filename or target}: {error.strerror or error}") from error


def _install(wanted: Source, root: Path, target: Path, progress: Progress, patience: Patience | None) -> Downloaded:
    record = _read_records(root).get(wanted.name)
    work = target.with_name(f".{target.name}.download")  # beside it, so that a rename puts it in place
    fetched, unpacked = work / "fetched", work / "unpacked"
    digests = {
        remote.url: _fetch(remote, fetched / remote.path, root, record, progress, patience) for remote in wanted.files
    }
    candidate = fetched
    try:
        if wanted.unpack is not None:
            shutil.rmtree(unpacked, ignore_errors=True)  # of a start that was interrupted
            extract(fetched / wanted.files[0].path, unpacked, wanted.unpack.keep, wanted.unpack.limit)
            candidate = unpacked / wanted.unpack.inside
            if not candidate.is_dir():
                raise DataError(f"{wanted.files[0].url}: has no folder {wanted.unpack.inside}")
        else:
            _remove_strays(fetched, wanted.files)
        _check(wanted, candidate)
    except DataError as error:
        rejected = work.with_name(f"{work.name}.rejected")
        shutil.rmtree(rejected, ignore_errors=True)
        work.replace(rejected)
        raise DataError(f"{error} (what was downloaded is set aside in {rejected})") from error
    # The record first: should this process die in between, the next call finds that the target is not what it says.
    _write_record(root, wanted.name, _Record(target=wanted.target, downloads=digests, files=_digests(candidate)))
    if target.exists():
        shutil.rmtree(work / "replaced", ignore_errors=True)
        target.replace(work / "replaced")
    candidate.replace(target)
    shutil.rmtree(work, ignore_errors=True)
    return Downloaded(target, digests, fresh=True)


def _fetch(
    remote: Remote,
    path: Path,
    root: Path,
    record: _Record | None,
    progress: Progress,
    patience: Patience | None,
) -> str:
    """A file's sha256 once it is at `path`; one that an interrupted start left there whole is not fetched again."""
    expected = None
    if remote.sha256 is not None:
        expected = Expected(remote.sha256, "as published")
    elif record is not None and remote.url in record.downloads:
        known_from = (
            f"as at the first download; if its publisher changed it, remove its entry in {root / DOWNLOADS_JSON}"
        )
        expected = Expected(record.downloads[remote.url], known_from)
    if path.exists():
        found = sha256_of(path)
        if expected is None or found == expected.sha256:
            return found
        path.unlink()
    return fetch(remote.url, path, expected, lambda done, total: progress(remote.path, done, total), patience)


def _remove_strays(folder: Path, files: tuple[Remote, ...]) -> None:
    """Leave the named files alone: earlier starts may have set some aside, or been killed in the middle of writing."""
    named = {folder / remote.path for remote in files}
    for path in folder.rglob("*"):
        if path.is_file() and path not in named:
            path.unlink()


def _unchanged(target: Path, record: _Record | None) -> _Record:
    """The record of a folder that is, file by file, what was downloaded. Raises `DataError` for another."""
    if record is None:
        raise DataError(f"{target}: is there already, but not by a download; move it away, or replace it with --force")
    found = _digests(target)
    for file in sorted(record.files.keys() | found.keys()):
        if record.files.get(file) != found.get(file):
            what = "is missing" if file not in found else "was added" if file not in record.files else "was changed"
            raise DataError(f"{target / file}: {what} since the download; download it again with --force")
    return record


def _digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): sha256_of(path) for path in sorted(folder.rglob("*")) if path.is_file()
    }


def _read_records(root: Path) -> dict[str, _Record]:
    path = root / DOWNLOADS_JSON
    try:
        return _RECORDS.validate_json(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValidationError as error:
        raise DataError(f"{path}: not readable; remove it to trust the next downloads anew") from error


def _write_record(root: Path, name: str, record: _Record) -> None:
    records = _read_records(root) | {name: record}
    with replacing(root / DOWNLOADS_JSON) as file:
        file.write(_RECORDS.dump_json(records, indent=1) + b"\n")


def _check(wanted: Source, folder: Path) -> None:
    """Load the demonstrations of every task. Raises `DataError` where they are damaged, or of another task."""
    for task, place in wanted.tasks.items():
        found = load(folder / place).task
        if found != task:
            raise DataError(f"{folder / place}: holds demonstrations of {found!r}, expected {task!r}")


def _hugging_face(repository: str, revision: str, digests: Mapping[str, str | None]) -> tuple[Remote, ...]:
    base = f"https://huggingface.co/datasets/{repository}/resolve/{revision}"
    return tuple(Remote(f"{base}/{path}", path, digest) for path, digest in digests.items())


_PUSHT_MIT = "MIT, Columbia Artificial Intelligence and Robotics Lab"

_BET_RELEASE = Remote("https://osf.io/download/4g53p/", "bet_data_release.tar.gz")

SOURCES: Mapping[str, Source] = MappingProxyType(
    {
        found.name: found
        for found in (
            Source(
                name="pusht",
                summary="206 human demonstrations of PushT, from Diffusion Policy",
                licence=_PUSHT_MIT,
                homepage="https://diffusion-policy.cs.columbia.edu/data/",
                tasks={"pusht": ""},
                target="pusht/pusht_cchi_v7_replay.zarr",
                # URL and folder: real-stanford/diffusion_policy, README.md ("Download Training Data") and
                # diffusion_policy/config/task/pusht_lowdim.yaml. No digest is published.
                files=(Remote("https://diffusion-policy.cs.columbia.edu/data/training/pusht.zip", "pusht.zip"),),
                unpack=Unpack(
                    inside="pusht/pusht_cchi_v7_replay.zarr",
                    keep=("pusht/pusht_cchi_v7_replay.zarr",),
                    limit=8 << 30,  # its images alone are 2.8 GB before compression
                ),
            ),
            Source(
                name="lerobot/pusht",
                summary="the same demonstrations by LeRobot: the pusher's position and actions, without videos",
                licence=_PUSHT_MIT,
                homepage="https://huggingface.co/datasets/lerobot/pusht",
                tasks={"pusht": ""},
                target="lerobot/pusht",
                # Revision and digests as two who fetched it published them, in agreement: yecankun/baseline_vla_pi05,
                # docs/pusht-dataset-source-v1.json; wxx7777/EmbodiScope, data/open_source/lerobot_pusht/SOURCE.json.
                files=_hugging_face(
                    "lerobot/pusht",
                    "7628202a2180972f291ba1bc6723834921e72c19",
                    {
                        "data/chunk-000/file-000.parquet": (
                            "9abc0431f12d10c33b5b37b1bf1e6e557c8ae1c8c29fb86658969e48fcbbbf01"
                        ),
                        "meta/episodes/chunk-000/file-000.parquet": (
                            "bc1226f33d3d1635ec1954f9942073709be8e106fde5f4f16b9d52edc4e0ebc4"
                        ),
                        "meta/info.json": "0b46becc21ad92b117da1e95daf44110bb21d0bde75638b4ad167c8ccd959d38",
                        "meta/stats.json": "2a58f97df48893274c587fdf09f5cecb31fe385b1e188a82197a8972ccfb9d6d",
                        "meta/tasks.parquet": "95535f5152771bc0a6ab0fd93d23d7c1fecd9b7a13dc117852dfdd94f5b2c711",
                    },
                ),
            ),
            Source(
                name="lerobot/pusht_keypoints",
                summary="the same demonstrations by LeRobot, with the block's keypoints",
                licence=_PUSHT_MIT,
                homepage="https://huggingface.co/datasets/lerobot/pusht_keypoints",
                tasks={"pusht": ""},
                target="lerobot/pusht_keypoints",
                # The files of the v3.0 layout (lerobot docs, "LeRobotDataset v3.0") at the tag that LeRobot gives every
                # data set of that format; no commit or digest of it is published where we could read it.
                files=_hugging_face(
                    "lerobot/pusht_keypoints",
                    "v3.0",
                    {
                        "data/chunk-000/file-000.parquet": None,
                        "meta/episodes/chunk-000/file-000.parquet": None,
                        "meta/info.json": None,
                        "meta/stats.json": None,
                        "meta/tasks.parquet": None,
                    },
                ),
            ),
            Source(
                name="bet-release",
                summary="block push and Franka kitchen demonstrations of the BeT paper (its CARLA data are left out)",
                licence="MIT for the code; see the homepage for the data",
                homepage="https://osf.io/983qz/",
                tasks={"blockpush": "blockpush", "kitchen": "kitchen"},
                target="bet_data_release",
                # Homepage: notmahi/bet, README.md ("Getting the training datasets"); the file and its folders:
                # skandermoalla/bet-reproduction, README.md ("Datasets") and configs/env/. No digest is published.
                # Point mass is not in it: there, too, those demonstrations are generated.
                files=(_BET_RELEASE,),
                unpack=Unpack(
                    inside="bet_data_release",
                    keep=("bet_data_release/blockpush", "bet_data_release/kitchen"),
                    limit=8 << 30,
                ),
            ),
            Source(
                name="kitchen",
                summary="of the same archive the Franka kitchen alone: people's demonstrations (Relay Policy Learning)",
                licence="MIT for the code; see the homepage for the data",
                homepage="https://osf.io/983qz/",
                tasks={"kitchen": ""},
                target="kitchen",
                files=(_BET_RELEASE,),
                unpack=Unpack(inside="bet_data_release/kitchen", keep=("bet_data_release/kitchen",), limit=8 << 30),
            ),
        )
    }
)
