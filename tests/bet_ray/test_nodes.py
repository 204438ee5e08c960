"""Several machines: nodes that join and die during an evaluation or a sweep change no row."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from bet import files
from bet_ray import storage
from bet_ray.ledger import PARTS
from bet_ray.pool import NO_ROLLOUTS
from bet_ray.results import KEY
from bet_ray.storage import local
from bet_ray.sweep import parse_sweep
from bet_ray.trials import read_trials
from bet_ray.tuning import run_sweep
from tests.bet_ray.clusters import Node, cluster
from tests.bet_ray.commands import eventually
from tests.bet_ray.stores import CREDENTIALS, Server, s3_server
from tests.bet_ray.test_pool import here, job_of
from tests.bet_ray.test_tuning import TREE, outcome

pytestmark = pytest.mark.slow

EPISODES = 1500
SWEEP = TREE | {
    "space": {"bins": [1, 6]},
    "eval": {"episodes": 300, "rungs": 2, "winner_episodes": 30},
    "resources": {"actors": 2, "cpus": 5},
}


def rows(run: Path, table: str = "episodes") -> pa.Table:
    return pq.read_table(run / table).sort_by([(name, "ascending") for name in KEY])


def test_nodes_that_join_and_die_during_an_evaluation_change_no_row(trained: Path, tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", "tests.bet_ray.elastic", str(trained), str(tmp_path / "run"), str(EPISODES)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert here(job_of(trained), EPISODES).equals(rows(tmp_path / "run"))
    execution = rows(tmp_path / "run", "execution")
    assert len(set(execution.column("node").to_pylist())) == 3  # of four: one is for training
    assert max(execution.column("attempts").to_pylist()) > 1


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """An object store, which is all that the nodes and this process share."""
    with s3_server() as server:
        server.filesystem.create_dir("lab")
        for name, value in CREDENTIALS.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.port}")
        monkeypatch.setenv(storage.RUN_CACHE, str(tmp_path / "here"))
        yield server
    storage._stores.clear()
    files.mirrors.clear()


@pytest.mark.timeout(1800)  # four starts of Ray, on a machine that may be busy
def test_a_submitted_sweep_whose_node_dies_ends_with_the_table_of_an_undisturbed_one(
    server: Server, tmp_path: Path
) -> None:
    """Two nodes: the head, which has the driver and trainings, and one with all rollouts and a training, which dies
    when the first rows are recorded. Another takes its place.
    """
    sweep, file = parse_sweep(SWEEP, "test"), tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump(SWEEP))
    with cluster(NO_ROLLOUTS) as head:

        def join(name: str) -> Node:
            return head.join("--num-cpus=3", **{storage.RUN_CACHE: str(tmp_path / name)})

        doomed = join("doomed")
        job = head.start("submit", "--wait", "--storage", "s3://lab", "--", "sweep", file, "--out", "runs/s")
        eventually(lambda: job.poll() is not None or any(PARTS in name for name in server.files("lab/runs/s/episodes")))
        assert job.poll() is None, job.communicate()[0]
        doomed.kill()
        join("another")
        said, _ = job.communicate(timeout=900)
        assert job.returncode == 0, said
        assert ": finished" in head.command("status", "s3://lab/runs/s").stdout
    disturbed, undisturbed = local("s3://lab/runs/s"), tmp_path / "undisturbed"
    run_sweep(parse_sweep(SWEEP | {"resources": {"actors": 1}}, "test"), undisturbed)  # on the CPUs that there are
    trials = [read_trials(run, sweep.objective) for run in (disturbed, undisturbed)]
    assert [outcome(trial) for trial in trials[0]] == [outcome(trial) for trial in trials[1]]
    assert rows(disturbed).equals(rows(undisturbed))
    lost = sum(trial.failures for trial in trials[0]) + max(rows(disturbed, "execution")["attempts"].to_pylist()) - 1
    assert lost > 0  # the node had something to lose
