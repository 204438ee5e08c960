"""A real S3 server for tests: moto's, a process on loopback."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pyarrow import fs

ENVIRONMENT = Path(__file__).parents[2] / ".venv-s3"  # of its own: see tests/s3-server.txt
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}


class Server:
    """It keeps its objects in memory: stopped and continued it has them, restarted it has none."""

    def __init__(self, port: int, process: subprocess.Popen[bytes]) -> None:
        self.port, self.process = port, process

    def location(self, path: str) -> str:
        return f"s3://{path}?endpoint_override=127.0.0.1:{self.port}&scheme=http"

    @property
    def filesystem(self) -> fs.FileSystem:
        return fs.FileSystem.from_uri(self.location("any") + "&allow_bucket_creation=true")[0]

    def files(self, path: str) -> list[str]:
        """What is below a path, relative to it."""
        found = self.filesystem.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
        return sorted(info.path.removeprefix(f"{path}/") for info in found if info.type is fs.FileType.File)


@contextmanager
def s3_server(port: int = 0) -> Iterator[Server]:
    """On a free port, or on that of one before. Skips the test where there is none to start."""
    python = ENVIRONMENT / "bin" / "python"
    if not python.exists():
        if shutil.which("moto_server") is None:
            pytest.skip("needs moto's S3 server: make .venv-s3/.ready")
        command = ["moto_server"]
    else:
        command = [str(python), "-m", "moto.server"]
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind(("127.0.0.1", port))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [*command, "-H", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                assert process.poll() is None, "the S3 server ended"
                assert time.monotonic() < deadline, "the S3 server does not start"
                time.sleep(0.1)
        yield Server(port, process)
    finally:
        process.kill()
        process.wait()


def on_machine(cache: Path) -> dict[str, str]:
    """The environment of a process on a machine with this cache."""
    return {**os.environ, **CREDENTIALS, "BET_RUN_CACHE": str(cache)}


def python(code: str, *arguments: str | int, cache: Path) -> subprocess.Popen[str]:
    """A process on the machine with this cache."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=on_machine(cache),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
