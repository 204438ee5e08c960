"""A run on an object store is a run in a directory: nothing lost, nothing twice, whoever is killed and where."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import cloudpickle
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bet import files
from bet.errors import FailedRunError
from bet_ray import storage
from bet_ray.ledger import PARTS, Ledger
from bet_ray.manifest import amend_manifest, read_manifest, write_text
from bet_ray.results import unique_rows, write_table
from tests.bet_ray.commands import Command
from tests.bet_ray.stores import CREDENTIALS, Server, python, s3_server
from tests.bet_ray.test_ledger import TASK, indices, rows

pytestmark = pytest.mark.slow

Machine = Callable[[str], None]
"""This process goes on as one on another machine: of a run it knows what the store has."""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with s3_server() as server:
        server.filesystem.create_dir("bucket")
        yield server


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)

    def go(name: str) -> None:
        monkeypatch.setenv(storage.RUN_CACHE, str(tmp_path / name))
        storage._stores.clear()
        files.mirrors.clear()

    go("here")
    yield go
    storage._stores.clear()
    files.mirrors.clear()


@pytest.fixture
def where(server: Server, machine: Machine) -> str:
    """A location with nothing there."""
    return server.location(f"bucket/runs/{uuid4().hex}")


def below(where: str) -> str:
    return where.removeprefix("s3://").partition("?")[0]


def stored(server: Server, where: str) -> pa.Table:
    """What an analyst finds who reads the published files on the store."""
    return pq.read_table(below(where) + "/episodes", filesystem=server.filesystem, ignore_prefixes=["_"])


def test_a_run_on_a_store_is_found_again_on_another_machine(server: Server, machine: Machine, where: str) -> None:
    ledger = Ledger(storage.local(where), TASK)
    ledger.append(*rows([0, 1]))
    ledger.publish()
    ledger.append(*rows([2]))
    amend_manifest(ledger.run, "pusht", lambda manifest: manifest.update(evaluations=[1]))
    machine("there")
    run = storage.local(where)
    assert Ledger(run, TASK).read().equals(rows([0, 1, 2])[0])
    assert read_manifest(run)["evaluations"] == [1]
    assert run.name == below(where).rpartition("/")[2]
    Ledger(run, TASK).publish()
    assert stored(server, where).sort_by("index").equals(rows([0, 1, 2])[0])
    assert not [file for file in server.files(below(where)) if PARTS in file]


def test_what_is_changed_or_removed_elsewhere_is_so_here_after_a_pull(machine: Machine, where: str) -> None:
    """Also where a file has the same length, and is changed within a second, as times on a store are in seconds."""
    run = storage.local(where)
    for name in ("best", "gone", "policies/a/policy.json"):
        write_text(run / name, "1")
    machine("there")
    other = storage.local(where)
    assert (other / "best").read_text() == "1"
    write_text(other / "best", "2")
    files.remove(other / "gone")
    files.remove_folder(other / "policies" / "a")
    machine("here")
    assert storage.local(where) == run
    assert (run / "best").read_text() == "2"
    assert not (run / "gone").exists()
    assert not (run / "policies" / "a" / "policy.json").exists()


def test_what_did_not_change_is_not_fetched_again(
    machine: Machine, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = storage.local(where)
    write_text(run / "small", "1")
    write_text(run / "large", "1" * storage.LARGE)
    fetched: list[str] = []
    usual = storage.Store._fetch

    def fetch(self: storage.Store, name: str, stamp: Any, had: Any) -> None:
        fetched.append(name)
        usual(self, name, stamp, had)

    monkeypatch.setattr(storage.Store, "_fetch", fetch)
    storage.pull(run)
    assert fetched == ["small"]  # which another may have written in the same second
    monkeypatch.setattr(storage, "SETTLED", -1e9)
    storage.pull(run)
    storage.pull(run)
    assert fetched == ["small", "small"]


def test_checkpoints_come_with_the_training_they_are_of(machine: Machine, where: str) -> None:
    run = storage.local(where)
    for name in ("policies/a/0/checkpoint.pt", "policies/b/0/checkpoint.pt", "study.db"):
        write_text(run / name, name)
    machine("there")
    run = storage.local(where)
    assert not run.exists()
    storage.pull(run / "policies" / "a" / "0")
    storage.pull(run / "study.db")
    assert [path.name for path in sorted(run.rglob("*")) if path.is_file()] == ["checkpoint.pt", "study.db"]


def test_two_machines_that_merge_at_once_lose_no_row_of_each_other(
    server: Server, machine: Machine, where: str
) -> None:
    """Each knows two published files that share a row, and makes one of them; neither knows of the other's."""
    run = storage.local(where)
    for name, batch in (("a", [0, 1]), ("b", [1, 2])):
        write_table(rows(batch)[0], run / "episodes" / f"{name}.parquet")
    for name in ("one", "two"):
        machine(name)
        storage.local(where)
    for name, index in (("one", 3), ("two", 4)):
        machine(name)
        ledger = Ledger(storage._attached(where).folder, TASK)  # without a look at what is there now
        ledger.append(*rows([index]))
        ledger.publish()
    machine("reader")
    assert indices(Ledger(storage.local(where), TASK)) == [0, 1, 2, 3, 4]
    assert len(server.files(f"{below(where)}/episodes")) == 2
    assert unique_rows(stored(server, where)).equals(rows([0, 1, 2, 3, 4])[0])


WRITER = """
import os, signal, sys
from bet_ray import storage
from bet_ray.ledger import Ledger
from tests.bet_ray.test_ledger import TASK, rows

where, first, last = sys.argv[1], *map(int, sys.argv[2:4])
deaths = sys.argv[4:]

def write(dies):
    asked = 0
    def tried(self, what, *, writes=False, usual=storage.Store._tried):
        global asked
        asked = asked + 1 if writes else asked
        if writes and asked == dies:
            os.kill(os.getpid(), signal.SIGKILL)
        return usual(self, what, writes=writes)
    globals()["asked"] = 0
    storage.Store._tried = tried
    ledger = Ledger(storage.local(where), TASK)
    for index in range(first, last):
        ledger.append(*rows([index]))
        print(index, flush=True)
    ledger.publish()
    print("published", flush=True)

if not deaths:
    write(0)
for death in deaths:  # each in a process of its own, which has not spoken to the store
    child = os.fork()
    if child == 0:
        where = f"{where.partition('?')[0]}-{death}?{where.partition('?')[2]}"
        os.environ["BET_RUN_CACHE"] += f"-{death}"
        write(int(death))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print("died" if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL else "lived", flush=True)
"""


def test_a_writer_killed_before_any_request_loses_no_episode_that_was_safe(
    server: Server, machine: Machine, where: str, tmp_path: Path
) -> None:
    """Two parts of two tables, a published file of each, four parts removed: ten requests that change something."""
    moments = range(1, 12)
    writer = python(WRITER, where, 0, 2, *moments, cache=tmp_path / "writer")
    out, err = writer.communicate(timeout=300)
    assert writer.returncode == 0, err
    told = out.split()
    assert told.count("died") == 10, err
    assert told[-2:] == ["published", "lived"]
    for moment in moments:
        end = [place for place, word in enumerate(told) if word in ("died", "lived")]
        start = end[moment - 2] + 1 if moment > 1 else 0
        safe = [int(word) for word in told[start : end[moment - 1]] if word.isdigit()]
        here = f"{where.partition('?')[0]}-{moment}?{where.partition('?')[2]}"
        machine(f"reader-{moment}")
        ledger = Ledger(storage.local(here), TASK)
        found = indices(ledger)
        assert set(safe) <= set(found)
        assert ledger.read().equals(rows(found)[0])
        ledger.append(*rows([index for index in range(5) if index not in found]))
        ledger.publish()
        machine(f"again-{moment}")
        assert Ledger(storage.local(here), TASK).read().equals(rows([0, 1, 2, 3, 4])[0])
        assert unique_rows(stored(server, here)).equals(rows([0, 1, 2, 3, 4])[0])


UPLOAD = """
import sys
from bet.files import replacing
from bet_ray import storage

run = storage.local(sys.argv[1])
with replacing(run / "weights") as file:
    file.write(bytes(50_000_000))
    print("begins", flush=True)
print("done", flush=True)
"""


def test_a_writer_killed_in_the_middle_of_an_upload_leaves_the_file_before(
    server: Server, machine: Machine, where: str, tmp_path: Path
) -> None:
    write_text(storage.local(where) / "weights", "before")
    for number, seconds in enumerate((0.1, 0.4, 0.8)):
        writer = python(UPLOAD, where, cache=tmp_path / f"writer-{number}")
        assert writer.stdout is not None
        assert writer.stdout.readline() == "begins\n"
        time.sleep(seconds)
        writer.kill()
        assert "done" not in writer.communicate()[0]
        machine(f"reader-{number}")
        assert (storage.local(where) / "weights").read_text() == "before"
    assert server.files(below(where)) == ["weights"]


def test_two_writers_on_two_machines_both_finish(server: Server, machine: Machine, where: str, tmp_path: Path) -> None:
    writers = [python(WRITER, where, *span, cache=tmp_path / f"writer-{span[0]}") for span in ((0, 6), (3, 9))]
    for writer in writers:
        out, err = writer.communicate(timeout=120)
        assert out.split()[-1] == "published", err
    machine("reader")
    assert Ledger(storage.local(where), TASK).read().equals(rows(list(range(9)))[0])
    assert unique_rows(stored(server, where)).equals(rows(list(range(9)))[0])


def test_a_store_that_is_away_for_a_while_is_waited_for(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(storage, "LOOKS", 0.1)
    with s3_server() as server:
        server.filesystem.create_dir("bucket")
        where = server.location("bucket/run")
        ledger = Ledger(storage.local(where), TASK)
        ledger.append(*rows([0]))
        server.process.kill()
        server.process.wait()
        done = threading.Thread(target=lambda: ledger.append(*rows([1])))
        done.start()
        while "waiting for it" not in caplog.text:
            assert done.is_alive()
            time.sleep(0.1)
        monkeypatch.setattr(storage, "PATIENCE", 0.0)
        done.join(1)
        assert done.is_alive()
        # The server is back, on its port; it has forgotten what it had.
        with s3_server(server.port) as again:
            again.filesystem.create_dir("bucket")
            done.join(60)
            assert not done.is_alive()
            assert len(again.files("bucket/run")) == 2
        assert "the store is back" in caplog.text
        with pytest.raises(FailedRunError, match=r"^s3://bucket/run: NETWORK_CONNECTION .*$") as told:
            ledger.append(*rows([2]))
        assert isinstance(told.value, OSError)
    assert indices(ledger) == [0, 1]


def test_what_is_wrong_with_a_location_is_one_line(server: Server, machine: Machine, command: Command) -> None:
    def told(location: str) -> str:
        done = command("report", location)
        assert done.code == 2
        (line,) = done.err.splitlines()
        return line

    assert told(server.location("nobody/run")) == "error: s3://nobody/run: no bucket 'nobody'"
    assert told("s3://key:secret@bucket/run") == "error: s3://...@bucket: credentials belong in the environment"
    assert told("s3://") == "error: s3://: names no bucket"
    assert "Unexpected query parameter in S3 URI: 'colour'" in told("s3://bucket/run?colour=red")
    assert told(server.location("bucket/nothing")) == "error: s3://bucket/nothing: no such directory"
    done = command("report", "s3://bucket/run?endpoint_override=127.0.0.1:1&scheme=http")
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "error: s3://bucket/run: NETWORK_CONNECTION" in done.err


@pytest.mark.usefixtures("machine")
def test_a_path_and_a_file_location_are_directories_that_nobody_mirrors(tmp_path: Path) -> None:
    assert storage.local(tmp_path) == storage.local(f"file://{tmp_path}") == tmp_path
    assert storage.local("runs/a") == Path("runs/a")
    assert storage.portable(tmp_path) is tmp_path
    Ledger(tmp_path, TASK).append(*rows([0]))
    assert not files.mirrors


ARRIVES = """
import cloudpickle, sys
from bet.files import mirror_of
from bet_ray.manifest import write_text

path = cloudpickle.loads(bytes.fromhex(sys.argv[1]))
write_text(path, "from afar")
print(path)
"""


def test_a_path_sent_to_another_machine_is_the_one_in_its_working_copy(
    machine: Machine, where: str, tmp_path: Path
) -> None:
    run = storage.portable(storage.local(where))
    sent = cloudpickle.dumps(run / "policies" / "note")
    done = python(ARRIVES, sent.hex(), cache=tmp_path / "afar")
    out, err = done.communicate(timeout=120)
    assert out.startswith(str(tmp_path / "afar")), err
    assert not (run / "policies" / "note").exists()
    storage.pull(run / "policies" / "note")
    assert (run / "policies" / "note").read_text() == "from afar"


@pytest.mark.usefixtures("ray_session")
def test_train_and_eval_on_a_store_from_end_to_end(
    server: Server, machine: Machine, where: str, command: Command
) -> None:
    """Trained on one machine, evaluated on a second, extended on a third: none of the episodes is run twice."""
    quick = ("train.epochs=1", "train.lr=3e-3", "train.batch_size=256")
    done = command("train", "pointmass2", *quick, "--out", where)
    assert done.code == 0, done.err
    assert f"next: bet-ray eval {where.partition('?')[0]} --episodes 200" in done.out
    machine("second")
    assert command("eval", where, "--episodes", "200", "--actors", "1").code == 0
    first = stored(server, where)
    machine("third")
    done = command("eval", where, "--episodes", "500", "--actors", "1")
    assert done.code == 0, done.err
    assert "300" in done.out
    whole = stored(server, where).sort_by("index")
    assert whole.column("index").to_pylist() == list(range(500))
    assert whole.slice(0, 200).equals(first.sort_by("index"))
    counts = read_manifest(storage.local(where))["evaluations"]
    assert [entry["ran"] for entry in counts] == [200, 300]
