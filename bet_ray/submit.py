"""Commands of ours as jobs of somebody's cluster, by Ray's job client: what is shipped, where results go, who asks.

A job runs in a copy of the working directory, which is removed with it. Run directories must therefore lie where they
outlive the job, and where all nodes see them.
"""

import asyncio
import logging
import os
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from time import sleep

import aiohttp
import requests
from ray._private.authentication.authentication_token_setup import AUTH_MODE_ENV_VAR
from ray._private.ray_constants import (
    RAY_API_SERVER_ADDRESS_ENVIRONMENT_VARIABLE,
    get_runtime_env_default_excludes,
)
from ray._private.runtime_env.packaging import _dir_travel, _get_excludes
from ray._raylet import AuthenticationTokenLoader  # pyright: ignore[reportAttributeAccessIssue]
from ray.exceptions import AuthenticationError, RpcError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient, JobType

from bet.errors import FailedRunError, UsageError
from bet.wording import counted
from bet_ray.manifest import GIT_REVISION, git_revision
from bet_ray.session import reach

MOST_BYTES = 100 * 2**20  # a tree of code is one or two; Ray itself refuses 512 MiB, after it has read them
ENTRYPOINT = "python -m bet_ray "
LARGEST = 4  # entries of a tree too large that are named
LOOKS = 0.5  # seconds between looks whether a job whose log has ended has ended, too
NOT_SHIPPED = ("/data", "/runs", ".*_cache", ".hypothesis", "*.egg-info")
"""Besides what Ray leaves out: .git, virtual environments, __pycache__, and what .gitignore and .rayignore name."""
_WRITES = ("--out", "--video")  # options whose value is where results go
_BEGINS_A_RUN = ("train", "sweep", "reproduce", "demo")
_NOISY = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
    "ray._private.runtime_env.working_dir",
    "ray._private.authentication.http_token_authentication",
)
for _name in _NOISY:  # they tell of every upload, and warn that .git stays here
    logging.getLogger(_name).setLevel(logging.ERROR)


@dataclass(frozen=True)
class Tree:
    """What a job brings along: the files of a directory, without what is ignored."""

    folder: Path
    sizes: Mapping[PurePosixPath, int]
    """Bytes of each file, by its path inside."""

    @classmethod
    def of(cls, folder: Path) -> "Tree":
        """Raises `UsageError` for one that is too large for a job, naming what is large."""
        folder, sizes = folder.absolute(), {}

        def measure(path: Path) -> None:
            if path.is_file():
                sizes[PurePosixPath(path.relative_to(folder))] = path.stat().st_size

        ignored = [_get_excludes(folder, [*get_runtime_env_default_excludes(), *NOT_SHIPPED])]
        _dir_travel(folder, ignored, measure, include_gitignore=True)  # as Ray itself will
        tree = cls(folder, sizes)
        if tree.bytes > MOST_BYTES:
            by_entry = Counter[str]()
            for path, size in sizes.items():
                by_entry[path.parts[0]] += size
            large = ", ".join(f"{name} ({_megabytes(size)})" for name, size in by_entry.most_common(LARGEST))
            raise UsageError(
                f"{folder}: {_megabytes(tree.bytes)} are more than the {_megabytes(MOST_BYTES)} that a job may bring "
                f"along; largest are {large}; name what is no code in .gitignore or .rayignore"
            )
        return tree

    def check(self, command: Sequence[str]) -> None:
        """Raises `UsageError` for a file that a command names and that is here, but does not come along."""
        for word in command:
            _, equals, value = word.rpartition("=")
            path = PurePosixPath(value)
            named = bool(equals or "/" in value) and not _outlives(value) and (self.folder / path).exists()
            if named and not any(path in (file, *file.parents) for file in self.sizes):
                raise UsageError(
                    f"{word}: is here, but does not go along with a job, as nothing does below data/ and runs/ or that "
                    ".gitignore names; put it where all nodes see it, and give that path"
                )

    @property
    def bytes(self) -> int:
        return sum(self.sizes.values())

    def __str__(self) -> str:
        return f"{counted(len(self.sizes), 'file')} of {self.folder}, {_megabytes(self.bytes)}"


def placed(command: Sequence[str], storage: str | None) -> list[str]:
    """A command with its relative run directories and videos below `storage`, and one where it would make its own.

    Raises `UsageError` where that needs a storage and there is none.
    """
    words, out = list(command), None
    for place, word in enumerate(words):
        option, equals, value = word.partition("=")
        if option in _WRITES and (equals or place + 1 < len(words)):
            moved = _inside(storage, value if equals else words[place + 1])
            words[place if equals else place + 1] = f"{option}={moved}" if equals else moved
            out = moved if option == "--out" else out
        elif PurePosixPath(word).parts[:1] == ("runs",):
            words[place] = _inside(storage, word)
    if out is None and words[0] in _BEGINS_A_RUN:
        name = PurePosixPath(words[1]).stem if len(words) > 1 and not words[1].startswith("-") else words[0]
        words += ["--out", _inside(storage, f"runs/{name}-{datetime.now():%Y%m%d-%H%M%S}")]
    if out is None and words[0] == "eval" and not any(_outlives(word) for word in words[1:]):
        raise UsageError("eval: its episodes would go with the job's copy of the policy; add --out")
    return words


def _outlives(path: str) -> bool:
    """Whether a path is not relative to a job's copy of the tree."""
    return path.startswith("/") or "://" in path


def _inside(storage: str | None, path: str) -> str:
    if _outlives(path):
        return path
    if storage is None:
        raise UsageError(
            f"{path}: would go with the job's copy of this directory; name the folder that all nodes see with "
            "--storage FOLDER (or BET_STORAGE), or give an absolute --out"
        )
    return f"{storage.rstrip('/')}/{path}"


@dataclass(frozen=True)
class Job:
    """A job of a cluster, as it is now."""

    id: str
    status: JobStatus
    command: str
    began: datetime | None
    ended: datetime | None
    exit_code: int | None
    """As a shell has it; None while it runs."""
    message: str
    """What Ray says of it."""

    @classmethod
    def of(cls, details: JobDetails) -> "Job":
        code = details.driver_exit_code
        if details.status is JobStatus.SUCCEEDED:
            code = 0
        elif code is not None and code < 0:
            code = 128 - code  # ended by a signal
        elif details.status.is_terminal():
            code = code or 1  # also of one that never began
        return cls(
            details.submission_id or "",
            details.status,
            details.entrypoint.replace(ENTRYPOINT, "bet-ray ", 1),
            _moment(details.start_time),
            _moment(details.end_time),
            code,
            (details.message or "").partition(", last available logs")[0],
        )


class Jobs:
    """The jobs of a cluster. Made by `jobs`, whose errors are those of all methods."""

    def __init__(self, client: JobSubmissionClient) -> None:
        self._client = client

    def submit(self, command: Sequence[str], tree: Tree, environment: Mapping[str, str]) -> str:
        """Run `bet-ray COMMAND` in a copy of a tree; returns the job's name."""
        revision = git_revision(tree.folder) if (tree.folder / "bet_ray").is_dir() else None
        told = {GIT_REVISION: revision} if revision else {}
        return self._client.submit_job(
            entrypoint=ENTRYPOINT + shlex.join(command),
            runtime_env={
                "working_dir": str(tree.folder),
                "excludes": list(NOT_SHIPPED),
                "env_vars": {**told, **environment},
            },
        )

    def all(self) -> list[Job]:
        """Those that were submitted, the last first."""
        found = [Job.of(one) for one in self._client.list_jobs() if one.type is JobType.SUBMISSION]
        return sorted(found, key=lambda job: job.began or datetime.max.replace(tzinfo=UTC), reverse=True)

    def get(self, name: str) -> Job:
        return Job.of(self._client.get_job_info(name))

    def follow(self, name: str, write: Callable[[str], object]) -> Job:
        """What the job prints, from its beginning to its end."""

        async def copy() -> None:
            async for text in self._client.tail_job_logs(name):
                write(text)

        self.get(name)  # or there is none
        try:
            asyncio.run(copy())
        except (aiohttp.ClientError, RuntimeError) as error:
            raise FailedRunError(f"job {name}: the connection was lost ({error}); the job goes on") from error
        while not (job := self.get(name)).status.is_terminal():
            sleep(LOOKS)
        return job

    def stop(self, name: str) -> bool:
        """As Ctrl-C; False for one that has ended."""
        return self._client.stop_job(name)


@contextmanager
def jobs(address: str | None) -> Iterator[Jobs]:
    """The jobs of a cluster, by the address of its dashboard; None: that of RAY_API_SERVER_ADDRESS or RAY_ADDRESS.

    The token that Ray finds goes with every request: RAY_AUTH_TOKEN, the file of RAY_AUTH_TOKEN_PATH, or
    ~/.ray/auth_token; but not with RAY_AUTH_MODE=disabled. Raises `UsageError` for a cluster that does not answer or
    refuses us, and for an unknown job; `FailedRunError` for what the cluster cannot do.
    """
    if address:
        os.environ[RAY_API_SERVER_ADDRESS_ENVIRONMENT_VARIABLE] = address  # which for Ray wins over RAY_ADDRESS
    asked = os.environ.get(RAY_API_SERVER_ADDRESS_ENVIRONMENT_VARIABLE) or os.environ.get("RAY_ADDRESS", "")
    where = asked or "the cluster"
    try:
        if not asked.startswith("http"):  # which may go through a proxy
            reach(asked)
        headers = {}
        if os.environ.get(AUTH_MODE_ENV_VAR, "token").lower() == "token":  # Ray's client sends none where it is unset
            headers = AuthenticationTokenLoader.instance().get_token_for_http_header(ignore_auth_mode=True)
        yield Jobs(JobSubmissionClient(address, headers=headers))
    except AuthenticationError as error:
        raise UsageError(
            f"{where}: refused us; put its token (on its head: ray get-auth-token) into RAY_AUTH_TOKEN, or the path "
            "of a file with it into RAY_AUTH_TOKEN_PATH"
        ) from error
    except BrokenPipeError:  # of our own output
        raise
    except (ConnectionError, RpcError, requests.ConnectionError, requests.exceptions.InvalidURL) as error:
        raise UsageError(f"{where}: no Ray dashboard answers; give its URL with --address http://HEAD:8265") from error
    except RuntimeError as error:
        if isinstance(error, FailedRunError):
            raise
        said = str(error).strip().splitlines()[0]
        if "status code 404" in said:
            raise UsageError(f"{where}: has no such job (bet-ray jobs list)") from error
        raise FailedRunError(f"{where}: {said}") from error


def _moment(milliseconds: int | None) -> datetime | None:
    return None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
