"""One file over HTTPS, resumable: what has arrived stays on disk, and only a whole file of the right digest is used.

On its way `NAME` is `NAME.part`; `NAME.part.json` says of which content, so that the rest is asked for with `Range` and
`If-Range` (RFC 9110, sections 13.1.5 and 14.2) and halves of two versions are never joined.
"""

import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import requests
from pydantic import ValidationError
from urllib3.exceptions import HTTPError, ReadTimeoutError

from bet.config import Frozen
from bet.errors import FailedRunError
from bet.files import replacing

_CHUNK = 1 << 18
_REDIRECTS = 10
_LONGEST_PAUSE = 30.0
_PASSING = {408, 425, 429, 500, 502, 503, 504}  # statuses that another try may cure
_LOOPBACK = {"127.0.0.1", "::1", "localhost"}
_SHA256 = re.compile(r'(?:W/)?"?([0-9a-f]{64})"?')
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")

Progress = Callable[[int, int | None], None]
"""Called with the bytes on disk and, where the server tells, the bytes in all."""


class DownloadError(FailedRunError):
    """A file could not be had; the message names the URL, and what has arrived is kept."""


@dataclass(frozen=True)
class Patience:
    """How long a server may take, and how often it is asked again."""

    connect_seconds: float = 10.0
    read_seconds: float = 60.0
    """Longest silence in the middle of a file."""
    tries: int = 5
    """Attempts in a row that bring nothing new."""
    pause_seconds: float = 1.0
    """Before the second attempt; doubles from one to the next, up to half a minute."""


@dataclass(frozen=True)
class Expected:
    """The digest a file must have, and how we know."""

    sha256: str
    known_from: str


class _Part(Frozen):
    """What a partial file is a part of."""

    url: str
    validator: str | None
    """Strong ETag, else Last-Modified. None: this server's files cannot be resumed."""
    total: int | None
    announced: str | None
    """sha256 that the server announced."""


class _PassingError(Exception):
    """A failure that another try may cure, at once or after `wait` seconds. None: the usual pause."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


def fetch(
    url: str,
    path: Path,
    expected: Expected | None = None,
    progress: Progress | None = None,
    patience: Patience | None = None,
) -> str:
    """Bring `url` to `path`, continuing what an earlier call left there, and return its sha256.

    A file of another digest than `expected`, or than Hugging Face announces in `X-Linked-Etag`, is set aside as
    `NAME.rejected`. Raises `DownloadError`, also for a disk that is full or cannot be written.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        announced = _complete(url, part, expected, progress or (lambda done, total: None), patience or Patience())
        found = sha256_of(part)
        for known in (expected, announced):
            if known is not None and known.sha256 != found:
                rejected = path.with_name(f"{path.name}.rejected")
                part.replace(rejected)
                _sidecar(part).unlink(missing_ok=True)
                raise DownloadError(
                    f"{url}: its sha256 is {found}, expected {known.sha256} ({known.known_from}); "
                    f"set aside as {rejected}"
                )
        part.replace(path)
        _sidecar(part).unlink(missing_ok=True)
    except OSError as error:
        raise DownloadError(
            f"{error.filename or part}: {error.strerror}; the same command goes on from there"
        ) from error
    return found


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _complete(
    url: str, part: Path, expected: Expected | None, progress: Progress, patience: Patience
) -> Expected | None:
    """Transfer until the partial file is whole; returns the digest that the server announced."""
    tries, reached = 0, 0
    while True:
        try:
            announced = _transfer(url, part, expected, progress, patience).announced
            return None if announced is None else Expected(announced, "announced by the server")
        except _PassingError as error:
            size = part.stat().st_size if part.exists() else 0
            tries = 1 if size > reached else tries + 1
            reached = max(size, reached)
            if tries >= patience.tries:
                raise DownloadError(
                    f"{url}: {error}, tried {tries} times; what arrived is kept, the same command goes on from there"
                ) from error
            usual = patience.pause_seconds * 2 ** (tries - 1)
            time.sleep(min(usual if error.wait is None else error.wait, _LONGEST_PAUSE))


def _transfer(url: str, part: Path, expected: Expected | None, progress: Progress, patience: Patience) -> _Part:
    """One request for what is missing. Raises `_PassingError`, `DownloadError` and, for the disk alone, `OSError`."""
    before = _read_sidecar(part, url)
    have = part.stat().st_size if before else 0
    if before and before.total == have:
        return before
    asked = {"Range": f"bytes={have}-", "If-Range": before.validator} if before and have and before.validator else {}
    with _response(url, asked, patience) as (response, announced):
        length = response.headers.get("Content-Length")
        validator = _validator(response)
        if response.status_code == 200:
            have = 0
            now = _Part(url=url, validator=validator, total=int(length) if length else None, announced=announced)
        else:
            assert before is not None, "a range is only asked for to continue"
            span = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            same = span and (int(span[1]), int(span[2])) == (have, before.total)
            if response.status_code == 416 or not same or validator not in (None, before.validator):
                _sidecar(part).unlink()
                raise _PassingError("the content changed in the middle", wait=0.0)
            now = before
        if expected is not None and now.announced not in (None, expected.sha256):
            raise DownloadError(
                f"{url}: the server announces sha256 {now.announced}, expected {expected.sha256} "
                f"({expected.known_from}); nothing was downloaded"
            )
        free = shutil.disk_usage(part.parent).free
        if now.total is not None and now.total - have > free:
            raise DownloadError(f"{part}: needs {now.total - have:,} bytes more, {free:,} are free on the disk")
        with part.open("r+b" if have else "wb") as file:
            if not have:
                with replacing(_sidecar(part)) as sidecar:
                    sidecar.write(now.canonical_json().encode())
            file.seek(have)
            progress(have, now.total)
            for chunk in _chunks(response):
                file.write(chunk)
                file.flush()  # what kill -9 leaves can be continued
                have += len(chunk)
                progress(have, now.total)
            os.fsync(file.fileno())
    if now.total is not None and have != now.total:
        raise _PassingError(f"the connection ended after {have:,} of {now.total:,} bytes")
    return now


def _chunks(response: requests.Response) -> Iterator[bytes]:
    """The body as it arrives. `iter_content` would hold back, and lose with the connection, what fills no chunk."""
    try:
        while chunk := response.raw.read1(_CHUNK, decode_content=False):
            yield chunk
    except (HTTPError, requests.RequestException) as error:
        raise _PassingError(_reason(error)) from error


@contextmanager
def _response(url: str, asked: dict[str, str], patience: Patience) -> Iterator[tuple[requests.Response, str | None]]:
    """The answer at the end of the redirects, and the sha256 that one of them announced."""
    # identity: a compressed body could neither be continued nor compared with a digest
    headers = {"Accept-Encoding": "identity", "User-Agent": "bet-ray", **asked}
    origin, announced = url, None
    _check_scheme(url, url, origin)
    with requests.Session() as session:
        session.trust_env = not _is_loopback(url)  # proxies of the environment are for other machines
        for _ in range(_REDIRECTS):
            try:
                response = session.get(
                    url,
                    headers=headers,
                    stream=True,
                    allow_redirects=False,
                    timeout=(patience.connect_seconds, patience.read_seconds),
                )
            except (requests.exceptions.SSLError, requests.exceptions.InvalidURL) as error:
                raise DownloadError(f"{origin}: {_reason(error)}") from error
            except requests.RequestException as error:
                raise _PassingError(_reason(error)) from error
            # Hugging Face tells an LFS file's sha256 with the redirect to where its bytes are
            # (huggingface_hub, src/huggingface_hub/constants.py: HUGGINGFACE_HEADER_X_LINKED_ETAG).
            linked = _SHA256.fullmatch(response.headers.get("X-Linked-Etag", ""))
            announced = linked[1] if linked else announced
            if not response.is_redirect:
                break
            response.close()
            target = urljoin(url, response.headers["Location"])
            _check_scheme(target, url, origin)
            url = target
        else:
            raise DownloadError(f"{origin}: more than {_REDIRECTS} redirects")
        with response:
            _check_answer(response, origin, bool(asked))
            yield response, announced


def _check_answer(response: requests.Response, url: str, ranged: bool) -> None:
    status = response.status_code
    said = f"the server says {status} {response.reason}".rstrip()
    if status in _PASSING:
        wait = response.headers.get("Retry-After", "")
        raise _PassingError(said, wait=float(wait) if wait.isdecimal() else None)
    if status != 200 and not (ranged and status in (206, 416)):
        raise DownloadError(f"{url}: {said}")
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding != "identity":
        raise DownloadError(f"{url}: the server sends it compressed ({encoding}) though asked not to")


def _check_scheme(url: str, came_from: str, origin: str) -> None:
    """Raises `DownloadError` for anything but https, or http from this machine to itself."""
    local = _is_loopback(url) and _is_loopback(came_from)
    if urlsplit(url).scheme != "https" and not (urlsplit(url).scheme == "http" and local):
        leads = "" if url == came_from else f" leads to {url}, which"
        raise DownloadError(f"{origin}:{leads} is not https; refused")


def _is_loopback(url: str) -> bool:
    return urlsplit(url).hostname in _LOOPBACK


def _validator(response: requests.Response) -> str | None:
    """What `If-Range` may carry: a strong ETag, else a date."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified")


def _sidecar(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _read_sidecar(part: Path, url: str) -> _Part | None:
    """What `part` is a part of, if that is known and of this URL."""
    if not part.exists() or not _sidecar(part).exists():
        return None
    try:
        found = _Part.model_validate_json(_sidecar(part).read_bytes())
    except ValidationError:
        return None
    return found if found.url == url else None


def _reason(error: BaseException) -> str:
    """A few words for what requests says in many."""
    if isinstance(error, requests.Timeout | ReadTimeoutError):
        return "no answer in time"
    root = error
    while (inner := root.__cause__ or root.__context__) is not None:
        root = inner
    return (root.strerror if isinstance(root, OSError) else None) or str(root) or type(root).__name__
