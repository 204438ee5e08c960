"""A real HTTP server on loopback that misbehaves on request: what `bet.data.fetch` must survive."""

import hashlib
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Asked:
    """A request as it arrived, and what became of it."""

    path: str
    headers: Mapping[str, str]
    status: int = 0
    body_bytes: int = 0


@dataclass
class File:
    """What is served at a path. A status, or bytes to send before the line is cut, are used up one by one."""

    content: bytes
    etag: str | None = None
    """None: derived from the content; empty: not sent."""
    last_modified: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    ranges: bool = True
    if_range: bool = True
    """False: a range is given whatever `If-Range` says."""
    length: bool = True
    """False: no Content-Length; the end of the connection ends the body."""
    statuses: list[int] = field(default_factory=list)
    cut_after: list[int] = field(default_factory=list)
    stall_after: int | None = None
    redirect: str | None = None
    pause: float = 0.0
    """Seconds between pieces of 64 KiB."""

    @property
    def tag(self) -> str:
        return f'"{hashlib.sha256(self.content).hexdigest()[:16]}"' if self.etag is None else self.etag


@dataclass
class Server:
    """Files by path, and every request so far."""

    url: str
    files: dict[str, File]
    asked: list[Asked]

    @property
    def sent(self) -> int:
        """Body bytes sent so far."""
        return sum(request.body_bytes for request in self.asked)

    def ranges(self) -> list[str | None]:
        return [request.headers.get("Range") for request in self.asked]


@contextmanager
def serving(**files: File) -> Iterator[Server]:
    """Serve files at /NAME."""
    with serving_paths({f"/{name}": file for name, file in files.items()}) as server:
        yield server


@contextmanager
def serving_paths(files: dict[str, File]) -> Iterator[Server]:
    """Serve files at their paths."""
    asked: list[Asked] = []
    stopping = threading.Event()
    http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(files, asked, stopping.wait))
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield Server(f"http://127.0.0.1:{http.server_address[1]}", files, asked)
    finally:
        stopping.set()
        http.shutdown()
        http.server_close()
        thread.join()


def _handler(
    files: dict[str, File], asked: list[Asked], stall: Callable[[float], bool]
) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            request = Asked(self.path, dict(self.headers))
            asked.append(request)
            file = files.get(self.path)
            if file is None:
                return self._answer(request, 404, {})
            if file.statuses:
                return self._answer(request, file.statuses.pop(0), file.headers)
            if file.redirect is not None:
                return self._answer(request, 302, {"Location": file.redirect, **file.headers})
            return self._send(request, file)

        def _answer(self, request: Asked, status: int, headers: Mapping[str, str]) -> None:
            request.status = status
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.send_header("Connection", "close")
            self.end_headers()

        def _send(self, request: Asked, file: File) -> None:
            content, start = file.content, 0
            asked_range = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
            current = {file.tag, file.last_modified}
            fresh = request.headers.get("If-Range") in current or not file.if_range
            if asked_range and file.ranges and fresh:
                start = int(asked_range[1])
                if start >= len(content):
                    return self._answer(request, 416, {"Content-Range": f"bytes */{len(content)}"})
            request.status = 206 if start else 200
            self.send_response(request.status)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            if file.tag:
                self.send_header("ETag", file.tag)
            if file.last_modified:
                self.send_header("Last-Modified", file.last_modified)
            if file.length:
                self.send_header("Content-Length", str(len(content) - start))
            for name, value in file.headers.items():
                self.send_header(name, value)
            self.send_header("Connection", "close")
            self.end_headers()
            cut = file.cut_after.pop(0) if file.cut_after else len(content)
            for place in range(start, start + min(cut, len(content) - start), 1 << 16):
                if file.stall_after is not None and request.body_bytes >= file.stall_after:
                    stall(60)
                    return None
                piece = content[place : min(place + (1 << 16), start + cut)]
                try:
                    self.wfile.write(piece)
                except OSError:  # the client went away
                    return None
                request.body_bytes += len(piece)
                if file.pause:
                    time.sleep(file.pause)
            return None

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler
