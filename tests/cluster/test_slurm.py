"""The Slurm script, run to its end on two machines made of namespaces, with a stand-in for `srun` alone."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from bet import tasks
from bet_ray.ledger import Ledger
from tests.bet.test_rollout import pointmass
from tests.cluster.files import CLUSTER, ROOT

pytestmark = pytest.mark.slow

LONG = 10_000_000  # episodes that nobody waits for
JOB_ID = str(10_000_000 + os.getpid())
CPUS = 2  # of each node
STARTED = f"2 nodes, {2 * CPUS - 1} CPUs"  # one is the driver's

NETWORK = """
set -euo pipefail
hostname node1
ip link set lo up
unshare --net --uts sleep 600 &
while [[ $(readlink /proc/$!/ns/uts) == $(readlink /proc/$$/ns/uts) ]]; do sleep 0.05; done
ip link add node2 type veth peer name node1 netns $!
ip address add 10.77.0.1/24 dev node2
ip link set node2 up
nsenter --target $! --net --uts bash -c '
    hostname node2 && ip link set lo up && ip address add 10.77.0.2/24 dev node1 && ip link set node1 up
'
printf '127.0.0.1 localhost\n10.77.0.1 node1\n10.77.0.2 node2\n' > "$1"
mount --bind "$1" /etc/hosts
echo $!
wait
"""
"""A node with its own name and network, and in it a second one, on the other end of its only cable."""

SRUN = """#!{python}
import ctypes, os, signal, subprocess, sys

import psutil

words = sys.argv[1:]
options = {{}}
while words[0].startswith("--"):
    name, _, options[name] = words.pop(0).partition("=")
nodes = options["--nodelist"].split(",") if "--nodelist" in options else ["node1", "node2"]
nodes = [node for node in nodes if node != options.get("--exclude")]
if not (options["--nodes"] == options["--ntasks"] == str(len(nodes))):
    sys.exit(f"srun: error: of {{nodes}}, {{options['--nodes']}} nodes and {{options['--ntasks']}} tasks are asked for")
if int(options.get("--cpus-per-task", 1)) > {cpus}:
    sys.exit("srun: error: no node has so many CPUs")

PR_SET_CHILD_SUBREAPER = 36
ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)  # as its cgroup, a step holds what its tasks leave behind


def end(*_):
    for process in psutil.Process().children(recursive=True):
        try:
            process.kill()
        except psutil.NoSuchProcess:
            pass


signal.signal(signal.SIGTERM, end)  # srun forwards it as SIGKILL
on = {{"node1": [], "node2": ["nsenter", "--target={second}", "--net", "--uts"]}}
tasks = [subprocess.Popen(on[node] + words) for node in nodes]
code = max(abs(task.wait()) for task in tasks)
end()
sys.exit(code)
"""


@dataclass(frozen=True)
class Slurm:
    """Two nodes, and a folder that both see."""

    first: int
    """A process on the first node."""
    folder: Path

    def sbatch(self, *arguments: str | Path) -> "Job":
        """A job whose Ray has started. Ray gives up after 30 s, which a busy machine may take."""
        job = self._sbatch(*arguments)
        job.wait_for(lambda: STARTED in job.said)
        return self.sbatch(*arguments) if "timed out during startup" in job.said else job

    def _sbatch(self, *arguments: str | Path) -> "Job":
        """Run the script on the first node, as a job of both."""
        environment = os.environ | {
            "BET_RAY_VENV": sys.prefix,
            "PATH": f"{self.folder}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "SLURM_CPUS_PER_TASK": str(CPUS),
            "SLURM_JOB_ID": JOB_ID,
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_SUBMIT_DIR": str(self.folder),
        }
        for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"):
            environment.pop(name, None)
        enter = ["nsenter", f"--target={self.first}", "--user", "--net", "--uts", "--mount", f"--wd={self.folder}"]
        log = self.folder / "job.log"
        with log.open("wb") as file:
            command = [*enter, "bash", str(CLUSTER / "slurm.sh"), *map(str, arguments)]
            return Job(subprocess.Popen(command, env=environment, stdout=file, stderr=file), log)


@dataclass(frozen=True)
class Job:
    script: subprocess.Popen[bytes]
    log: Path

    @property
    def said(self) -> str:
        return self.log.read_text()

    def wait_for(self, what: Callable[[], object], seconds: float = 300.0) -> None:
        """Until something is the case, or the job has ended."""
        until = time.monotonic() + seconds
        while self.script.poll() is None and not what():
            assert time.monotonic() < until, self.said
            time.sleep(0.3)

    def ended(self) -> tuple[int, str]:
        """Its exit code, and what it said."""
        return self.script.wait(300), self.said


def of_the_job() -> list[psutil.Process]:
    """Whatever runs in it, on both nodes."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("SLURM_JOB_ID") == JOB_ID:
                found.append(process)
    return found


def nodes_of(run: Path) -> set[str]:
    """On which episodes ran."""
    ledger = Ledger(run, tasks.simulated("pointmass2"), watched=True)
    return set(ledger.execution.read().column("node").to_pylist())


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[Slurm]:
    unshare = ["unshare", "--map-root-user", "--net", "--uts", "--mount", "bash", "-c", NETWORK, "bash"]
    if not all(map(shutil.which, ("unshare", "nsenter", "ip", "hostname", "mount"))):
        pytest.skip("no unshare or ip to make nodes with")
    nodes = subprocess.Popen([*unshare, str(tmp_path / "hosts")], stdout=subprocess.PIPE, text=True)
    try:
        assert nodes.stdout is not None
        second = nodes.stdout.readline().strip()
        if not second:
            pytest.skip("this machine lets us have no networks of our own")
        srun = tmp_path / "srun"
        srun.write_text(SRUN.format(python=sys.executable, cpus=CPUS, second=second))
        srun.chmod(0o700)
        yield Slurm(nodes.pid, tmp_path)
    finally:
        for process in [*of_the_job(), *psutil.Process(nodes.pid).children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        nodes.wait(10)
        shutil.rmtree(f"/tmp/ray-{JOB_ID}", ignore_errors=True)


def test_a_job_runs_on_all_its_nodes_is_told_of_its_end_and_goes_on_in_the_next(slurm: Slurm, tmp_path: Path) -> None:
    pointmass().save(tmp_path / "policy")
    command = ("eval", tmp_path / "policy", "--actors", "3", "--slots", "8", "--out", tmp_path / "run")

    job = slurm.sbatch(*command, "--episodes", str(LONG))
    job.wait_for(lambda: len(nodes_of(tmp_path / "run")) == 2)
    job.script.send_signal(signal.SIGTERM)  # by --signal=B:TERM@120, to the script alone
    code, said = job.ended()
    assert (code, STARTED in said) == (130, True), said
    assert f"interrupted: finished episodes are kept in {tmp_path}/run/episodes; continue with: bet-ray eval" in said
    assert "Traceback" not in said
    assert of_the_job() == []
    assert not Path(f"/tmp/ray-{JOB_ID}").exists()

    rows = pq.read_table(tmp_path / "run" / "episodes").num_rows
    job = slurm.sbatch(*command, "--episodes", str(rows + 300))
    code, said = job.ended()
    assert code == 0, said
    assert f"{rows} recorded already" in said.replace(",", "")
    assert len(nodes_of(tmp_path / "run")) > 2  # a node of the next job is another
    assert of_the_job() == []
