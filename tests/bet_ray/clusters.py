"""Clusters of several nodes on this machine: real raylets on loopback, that ask for a token."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import requests

from tests.bet_ray.commands import at_a_terminal, eventually

REPOSITORY = Path(__file__).parents[2]
# `ray start`, that lets a node join where RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 keeps all of them on loopback.
RAY = """
from types import SimpleNamespace
from ray.scripts import scripts
scripts.ray_constants = SimpleNamespace(**vars(scripts.ray_constants) | {"ENABLE_RAY_CLUSTER": True})
scripts.main()
"""
NO_LABELS: Mapping[str, str] = {}
STARTED = b"Ray runtime started"
STARTS = 3  # Ray gives up after 30 s, which a busy machine may take


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Node:
    """A node's processes, from `ray start` on. `kill` ends all of them at once, as a machine that loses power."""

    def __init__(self, environment: dict[str, str], folder: Path, *arguments: str) -> None:
        """`folder` is its own disk: nodes that shared one would unpack a job's code on top of each other."""
        self._command = [sys.executable, "-c", RAY, "start", "--block", "--node-ip-address=127.0.0.1"]
        self._command += [f"--temp-dir={folder}", *arguments]
        self._environment, self._log = environment, folder / "start.log"
        self._processes: list[subprocess.Popen[bytes]] = []

    def started(self) -> bool:
        """Starts it, unless it is under way."""
        if not self._processes or self._processes[-1].poll() is not None:
            assert len(self._processes) < STARTS, self._log.read_text()
            with self._log.open("ab") as log:
                begun = subprocess.Popen(
                    self._command, env=self._environment, stdout=log, stderr=log, start_new_session=True
                )
            self._processes.append(begun)
        return STARTED in self._log.read_bytes()

    def kill(self) -> None:
        for process in self._processes:
            begun = []
            with suppress(ProcessLookupError, psutil.NoSuchProcess):
                begun = psutil.Process(process.pid).children(recursive=True)  # in groups of their own, as a job is
                os.killpg(process.pid, signal.SIGKILL)
            for one in begun:
                with suppress(psutil.NoSuchProcess):
                    one.kill()
            process.wait(30)


@dataclass(frozen=True)
class Head:
    """A cluster's head, of two CPUs, and how to reach it."""

    address: str
    metrics: str
    ray_address: str
    environment: dict[str, str]
    folder: Path
    nodes: list[Node] = field(default_factory=list)

    def join(self, *arguments: str, **environment: str) -> Node:
        """One more node, with variables of its own, which is there when this returns."""
        folder = self.folder / str(len(self.nodes))
        folder.mkdir()
        node = Node(self.environment | environment, folder, f"--address={self.ray_address}", *arguments)
        self.nodes.append(node)
        eventually(node.started)
        return node

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """`bet-ray ...` at another terminal, what it says in one stream."""
        environment = self.environment | {"RAY_API_SERVER_ADDRESS": self.address}
        return at_a_terminal(*arguments, env=environment, cwd=REPOSITORY, stderr=subprocess.STDOUT)

    def command(self, *arguments: str | Path, token: bool = True) -> subprocess.CompletedProcess[str]:
        """The same, until it ends, its streams apart."""
        environment = self.environment if token else self.environment | {"RAY_AUTH_TOKEN": secrets.token_hex(32)}
        return subprocess.run(
            [sys.executable, "-m", "bet_ray", *map(str, arguments)],
            env=environment | {"RAY_API_SERVER_ADDRESS": self.address},
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )


@contextmanager
def cluster(labels: Mapping[str, str] = NO_LABELS) -> Iterator[Head]:
    """A cluster of one node, with labels, for others to join."""
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # short: Ray makes sockets in it
    names = ("port", "dashboard-port", "dashboard-agent-listen-port", "metrics-export-port", "ray-client-server-port")
    ports = {name: free_port() for name in names}
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # loopback alone
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_metrics_report_interval_ms": "1000",
    }
    arguments = ["--head", "--num-cpus=2", "--dashboard-host=127.0.0.1"]
    arguments += [f"--labels={','.join(f'{name}={value}' for name, value in labels.items())}"] if labels else []
    arguments += [f"--{name}={port}" for name, port in ports.items()]
    node = Node(environment, folder, *arguments)
    head = Head(
        f"http://127.0.0.1:{ports['dashboard-port']}",
        f"http://127.0.0.1:{ports['metrics-export-port']}/metrics",
        f"127.0.0.1:{ports['port']}",
        environment,
        folder,
        [node],
    )

    def answers() -> bool:
        if not node.started():
            return False
        try:
            return requests.get(head.metrics, timeout=5).ok
        except requests.ConnectionError:
            return False

    try:
        eventually(answers)
        yield head
    finally:
        for one in head.nodes:
            one.kill()
        shutil.rmtree(folder, ignore_errors=True)
