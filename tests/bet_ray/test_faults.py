"""Real faults: whatever dies, hangs, fills up or is torn, every episode is recorded once, and its row is the same to
the last bit. Faults of an episode's own end that episode alone, as an error.
"""

import os
import resource
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import ray
from ray.util.metrics import Counter

from bet import tasks
from bet.envs.pointmass import PointMassVersion
from bet.oracles.pointmass import demonstrations
from bet.rollout import NOT_FINITE, NOT_FINITE_STEP, End
from bet_ray import dispatch, evaluate, meter
from bet_ray import pool as pools
from bet_ray.evaluation import Evaluation, LazyPool, PoolShape, evaluate_all
from bet_ray.ledger import PARTS, Ledger
from bet_ray.manifest import RunError
from bet_ray.pool import Pool
from bet_ray.results import KEY
from bet_ray.service import RolloutService
from bet_ray.worker import PoolError
from tests.bet.test_rollout import broken_in_one_bin
from tests.bet_ray.commands import at_a_terminal, eventually
from tests.bet_ray.faulty import FAULTS_FILE, FAULTY, Fault, Lame, walker, write_faults
from tests.bet_ray.test_pool import drain, here, job_of

pytestmark = pytest.mark.slow

EPISODES = 1500  # of the point mass: some seconds of work
MANY = 200_000  # never finished before a fault


@pytest.fixture(scope="module")
def undisturbed(trained: Path, ray_session: int) -> pa.Table:
    """What the episodes are where nothing goes wrong."""
    return here(job_of(trained), EPISODES)


def rollout_workers(family: psutil.Process | None = None) -> list[psutil.Process]:
    """The rollout workers that a process has had Ray start; of this one by default."""
    found = []
    for process in (family or psutil.Process()).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if process.name().startswith("ray::RolloutWor") and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def published(run: Path, table: str = "episodes") -> pa.Table:
    """What a reader finds who knows nothing of parts, in key order: rows that are there twice are seen twice."""
    files = sorted((run / table).glob("*.parquet"))
    return pa.concat_tables([pq.read_table(file) for file in files]).sort_by([(name, "ascending") for name in KEY])


def parts_of(run: Path) -> list[Path]:
    return list((run / "episodes" / PARTS).glob("*.parquet"))


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Mapping[str, float]:
    """By how much pools have raised the counters of the Prometheus endpoint."""
    sums: defaultdict[str, float] = defaultdict(float)

    class Recorded(Counter):
        def inc(self, value: float = 1.0, tags: Any = None) -> None:
            super().inc(value, tags)
            sums[self.info["name"]] += value

    monkeypatch.setattr(meter, "Counter", Recorded)
    return sums


# Workers and nodes that die, hang or never start.


def test_workers_killed_with_kill_9_one_after_the_other_change_no_row_and_are_counted(
    trained: Path, undisturbed: pa.Table, tmp_path: Path, told: Mapping[str, float], caplog: pytest.LogCaptureFixture
) -> None:
    killed: list[int] = []

    def kill(done: int, total: int, before: int) -> None:
        del total, before
        workers = rollout_workers()
        if done >= EPISODES // 5 * (len(killed) + 1) and len(killed) < 4 and workers:
            victim = workers[len(killed) % len(workers)]
            victim.kill()
            killed.append(victim.pid)

    table = evaluate(trained, episodes=EPISODES, actors=2, slots=8, out=tmp_path, progress=kill)
    assert len(set(killed)) == 4
    assert table.equals(undisturbed)
    assert published(tmp_path).equals(undisturbed)
    execution = published(tmp_path, "execution")
    assert execution.column("index").to_pylist() == list(range(EPISODES))
    attempts = execution.column("attempts").to_pylist()
    assert max(attempts) > 1
    assert execution.column("error").null_count == EPISODES
    assert told["bet_episodes"] == EPISODES
    assert told["bet_workers_lost"] == caplog.text.count("a rollout worker was lost") > 0
    assert told["bet_retries"] >= sum(attempts) - EPISODES  # and those that no slot had begun


def test_a_worker_killed_while_it_starts_is_replaced_and_blamed_on_no_episode(
    trained: Path, undisturbed: pa.Table
) -> None:
    eventually(lambda: not rollout_workers())  # those of an earlier test have gone
    with Pool(2, 8) as pool:
        pool.submit(job_of(trained), range(200))
        eventually(rollout_workers)
        assert not pool.whereabouts
        rollout_workers()[0].kill()
        assert drain(pool).sort_by("index").equals(undisturbed.slice(0, 200))


class _LamePool(Pool):
    def __init__(self, lock: Path) -> None:
        self._lame = ray.remote(num_cpus=0)(Lame)
        self._lock = lock
        super().__init__(3, 8)

    def _start(self) -> Any:
        return self._lame.remote(8, self._lock)


@pytest.mark.usefixtures("ray_session")
def test_workers_that_cannot_start_do_not_end_a_pool_in_which_others_work(
    trained: Path, undisturbed: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "FAILED_STARTS", 2)
    with _LamePool(tmp_path / "taken") as pool:
        eventually(lambda: pool.poll() or pool.whereabouts)
        pool.submit(job_of(trained), range(200))
        assert drain(pool).sort_by("index").equals(undisturbed.slice(0, 200))
        assert len(pool.whereabouts) == 1


def test_a_stopped_worker_is_replaced_and_its_episodes_run_again(
    trained: Path, undisturbed: pa.Table, caplog: pytest.LogCaptureFixture
) -> None:
    one = Evaluation.of(trained, None)
    stopped: list[psutil.Process] = []

    def stop(done: int, total: int, before: int) -> None:
        del total, before
        if done >= 300 and not stopped:
            stopped.append(rollout_workers()[0])
            stopped[0].suspend()

    with LazyPool(PoolShape(2, 8, patience=3)) as lazy:
        (table,) = evaluate_all([one], EPISODES, lazy, progress=stop).tables
    assert table.equals(undisturbed)
    assert "a rollout worker was lost (it said nothing for 3 seconds)" in caplog.text


def test_a_driver_that_was_stopped_itself_takes_no_worker_for_hung(
    trained: Path, undisturbed: pa.Table, caplog: pytest.LogCaptureFixture
) -> None:
    """As after Ctrl-Z and fg, which stop all of them. What passed before a worker was asked counts as little."""
    with Pool(2, 8, patience=3) as pool:
        eventually(lambda: pool.poll() or len(pool.whereabouts) == 2)
        pool.submit(job_of(trained), range(200))
        tables = [drain(pool)]
        time.sleep(1.5)  # nothing is asked of them
        pool.submit(job_of(trained), range(200, EPISODES))
        workers = rollout_workers()
        for worker in workers:
            worker.suspend()
        tables += [finished.episodes for finished in pool.poll(timeout=0)]
        time.sleep(3.5)
        resumed_at = time.monotonic() + 1.1  # the driver goes on at once, they a moment later
        while time.monotonic() < resumed_at:
            tables += [finished.episodes for finished in pool.poll(timeout=0.1)]
        for worker in workers:
            worker.resume()
        table = pa.concat_tables([*tables, drain(pool)])
        assert {worker.pid for worker in workers} == {here.pid for here in pool.whereabouts}
    assert table.sort_by("index").equals(undisturbed)
    assert "was lost" not in caplog.text


# Episodes that are themselves at fault.


@pytest.fixture(scope="module")
def walkers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy directory for the simulator with faults."""
    path = tmp_path_factory.mktemp("walker")
    walker().save(path)
    return path


@pytest.fixture
def faults(ray_session: int) -> Iterator[Path]:
    """The file in which the simulator with faults finds them; it has none before and after."""
    path = Path(os.environ[FAULTS_FILE])
    yield path
    path.unlink(missing_ok=True)


def walked(
    walkers: Path, out: Path | None, episodes: int, pool: LazyPool | PoolShape, *, retry_errors: bool = False
) -> pa.Table:
    if isinstance(pool, PoolShape):
        with LazyPool(pool) as lazy:
            return walked(walkers, out, episodes, lazy, retry_errors=retry_errors)
    return evaluate_all([Evaluation.of(walkers, out)], episodes, pool, retry_errors=retry_errors).tables[0]


def errors(walkers: Path, out: Path) -> dict[int, str]:
    one = Evaluation.of(walkers, out)
    assert one.ledger is not None
    return one.ledger.errors(one.job.source)


def test_an_episode_at_fault_ends_alone_with_its_reason_and_a_retry_makes_it_good(
    walkers: Path, faults: Path, tmp_path: Path
) -> None:
    died, raised = "the 3 workers that ran it alone died", f"{FAULTY} raised ValueError: the block left the table"
    reasons = {3: raised, 17: died, 18: died, 29: NOT_FINITE_STEP, 41: raised}
    good = ~pc.field("index").isin(list(reasons))
    with LazyPool(PoolShape(2, 2)) as pool:
        healthy = walked(walkers, None, 60, pool)
        assert End.ERROR not in healthy.column("end").to_pylist()
        write_faults(faults, {3: Fault.RAISE, 17: Fault.DIE, 18: Fault.DIE, 29: Fault.NAN, 41: Fault.RAISE})
        table = walked(walkers, tmp_path, 60, pool)
        assert errors(walkers, tmp_path) == reasons
        assert table.filter(good).equals(healthy.filter(good))
        assert set(table.filter(~good).column("end").to_pylist()) == {End.ERROR}
        assert not any(table.filter(~good).column("success").to_pylist())

        faults.unlink()
        assert walked(walkers, tmp_path, 60, pool).equals(table)  # errors are not run again unasked
        assert walked(walkers, tmp_path, 60, pool, retry_errors=True).equals(healthy)
    assert published(tmp_path).equals(healthy)
    assert errors(walkers, tmp_path) == {}


def test_an_episode_that_always_hangs_ends_as_an_error_and_the_others_finish(
    walkers: Path, faults: Path, tmp_path: Path
) -> None:
    write_faults(faults, {2: Fault.HANG})
    table = walked(walkers, tmp_path, 8, PoolShape(2, 2, patience=4))
    assert [index for index, end in enumerate(table.column("end").to_pylist()) if end == End.ERROR] == [2]
    assert errors(walkers, tmp_path) == {2: "the 2 workers that ran it alone hung"}


@pytest.mark.usefixtures("ray_session")
def test_actions_of_nan_end_their_episodes_as_errors_of_the_policy(tmp_path: Path) -> None:
    policy, run = tmp_path / "policy", tmp_path / "run"
    broken_in_one_bin().save(policy)
    ends = evaluate(policy, episodes=200, actors=1, out=run).column("end").to_pylist()
    told = errors(policy, run)
    assert 0 < len(told) < 200
    assert [index for index, end in enumerate(ends) if end == End.ERROR] == sorted(told)
    assert set(told.values()) == {NOT_FINITE}


def test_where_every_episode_kills_its_worker_the_run_ends_and_says_so(
    walkers: Path, faults: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "FRUITLESS_DEATHS", 2)
    write_faults(faults, dict.fromkeys(range(200), Fault.DIE))
    with pytest.raises(PoolError, match="rollout workers do nothing but die, and no episode ends"):
        walked(walkers, None, 200, PoolShape(1, 8))


def test_all_who_wait_for_a_service_hear_that_its_pool_failed(
    walkers: Path, faults: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "FRUITLESS_DEATHS", 1)
    write_faults(faults, dict.fromkeys(range(200), Fault.DIE))
    one = Evaluation.of(walkers, tmp_path)
    episodes = demonstrations(PointMassVersion.TWO, 5, seed=0)
    service = RolloutService(tmp_path, one.task.name, episodes, 1, 8, 1.0)
    heard: list[Exception] = []

    def ask() -> None:
        try:
            service.evaluate(one.job, 200)
        except PoolError as error:
            heard.append(error)

    waiting = [threading.Thread(target=ask) for _ in range(2)]  # the second waits for its twin
    for thread in waiting:
        thread.start()
    for thread in waiting:
        thread.join(timeout=60)
    ask()  # and who asks later
    assert len(heard) == 3
    with pytest.raises(PoolError):
        service.check()
    service.close()


# The driver: killed, interrupted, doubled.


def test_a_killed_driver_and_files_torn_meanwhile_cost_time_and_no_row(
    trained: Path, undisturbed: pa.Table, tmp_path: Path
) -> None:
    ledger = Ledger(tmp_path, tasks.get("pointmass2"))
    ledger.episodes.append(undisturbed.slice(0, 50))
    ledger.publish()
    process = at_a_terminal(
        "eval", trained, "--episodes", EPISODES, "--save-trajectories", "--actors", "1", "--out", tmp_path
    )
    eventually(lambda: ledger.read().num_rows > 50, process)  # the 50 without steps run again, and may come first
    process.kill()
    process.communicate()
    survived = ledger.read()
    assert 50 < survived.num_rows < EPISODES
    assert survived.equals(undisturbed.filter(pc.field("index").isin(survived.column("index").to_pylist())))
    for table in ("trajectories", "execution", "episodes"):
        for torn in (*(tmp_path / table).glob("*.parquet"), *list((tmp_path / table / PARTS).glob("*.parquet"))[:1]):
            os.truncate(torn, torn.stat().st_size // 2)
    with pytest.warns(UserWarning, match="set aside"):
        resumed = evaluate(trained, episodes=EPISODES, actors=2, out=tmp_path, trajectories=True)
    assert resumed.equals(undisturbed)
    assert published(tmp_path).equals(undisturbed)
    steps = published(tmp_path, "trajectories")
    assert steps.num_rows == sum(undisturbed.column("length").to_pylist()) + EPISODES
    assert len(list(tmp_path.rglob("*.corrupt"))) == 4


def test_what_a_driver_left_that_was_killed_before_it_published_is_published_by_the_next(
    trained: Path, undisturbed: pa.Table, tmp_path: Path
) -> None:
    Ledger(tmp_path, tasks.get("pointmass2")).episodes.append(undisturbed)
    assert evaluate(trained, episodes=EPISODES, out=tmp_path).equals(undisturbed)
    assert published(tmp_path).equals(undisturbed)


def test_a_file_torn_while_its_episodes_are_measured_is_no_silent_loss(
    trained: Path, undisturbed: pa.Table, tmp_path: Path
) -> None:
    def tear(done: int, total: int, before: int) -> None:
        del done, total, before
        for file in (tmp_path / "episodes").glob("*.parquet"):
            os.truncate(file, 100)

    ledger = Ledger(tmp_path, tasks.get("pointmass2"))
    ledger.episodes.append(undisturbed.slice(0, 10))
    ledger.publish()
    again = "10 recorded episodes were in files damaged since; the same command runs them again"
    with pytest.warns(UserWarning, match="set aside"), pytest.raises(RuntimeError, match=again):
        evaluate(trained, episodes=20, actors=1, out=tmp_path, progress=tear)
    assert ledger.read().equals(undisturbed.slice(10, 10))


@pytest.mark.parametrize(
    "signals", [[signal.SIGINT] * 3, [signal.SIGTERM]], ids=["an impatient Ctrl-C", "a scheduler's SIGTERM"]
)
def test_an_interrupted_command_leaves_a_sound_table_and_no_process(
    trained: Path, undisturbed: pa.Table, tmp_path: Path, signals: list[signal.Signals]
) -> None:
    typed = ["eval", str(trained), "--episodes", str(MANY), "--actors", "1", "--out", str(tmp_path)]
    process = at_a_terminal(*typed)
    eventually(lambda: parts_of(tmp_path), process)
    family = psutil.Process(process.pid).children(recursive=True)
    for number in signals:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        time.sleep(0.1)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert "***" not in said  # Ray's stack
    kept = f"finished episodes are kept in {tmp_path}/episodes"
    assert said.splitlines()[-1] == f"interrupted: {kept}; continue with: {shlex.join(['bet-ray', *typed])}"
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not alive
    table = Ledger(tmp_path, tasks.get("pointmass2")).read()
    assert table.num_rows > 0
    both = set(table.column("index").to_pylist()) & set(range(EPISODES))
    assert table.filter(pc.field("index") < EPISODES).equals(undisturbed.filter(pc.field("index").isin(both)))


def test_two_processes_on_one_run_directory_leave_one_row_of_each_episode(
    trained: Path, undisturbed: pa.Table, tmp_path: Path
) -> None:
    process = at_a_terminal("eval", trained, "--episodes", EPISODES, "--actors", "1", "--out", tmp_path)
    eventually(lambda: parts_of(tmp_path), process)
    ours = evaluate(trained, episodes=EPISODES, actors=1, out=tmp_path)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert ours.equals(undisturbed)
    assert published(tmp_path).equals(undisturbed)
    assert published(tmp_path, "execution").column("index").to_pylist() == list(range(EPISODES))
    assert not parts_of(tmp_path)


# The disk.


class Disk:
    """A directory whose file system is full from `fill` to `free`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._mounted = False
        with suppress(OSError, subprocess.CalledProcessError):
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", path], check=True, capture_output=True)
            self._mounted = True

    def fill(self, process: subprocess.Popen[str]) -> None:
        """For this process at least: where nothing can be mounted it may write no file of more than 2 kB."""
        if self._mounted:
            with suppress(OSError), (self.path / "ballast").open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(2**12))
        else:
            psutil.Process(process.pid).rlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))

    def free(self, process: subprocess.Popen[str]) -> None:
        if self._mounted:
            (self.path / "ballast").unlink()
        elif process.poll() is None:
            psutil.Process(process.pid).rlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    def close(self) -> None:
        if self._mounted:
            subprocess.run(["umount", "--lazy", self.path], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    (tmp_path / "disk").mkdir()
    disk = Disk(tmp_path / "disk")
    yield disk
    disk.close()


def test_a_full_disk_is_waited_for_and_what_finished_before_and_meanwhile_is_kept(
    disk: Disk, trained: Path, undisturbed: pa.Table
) -> None:
    run = disk.path / "run"
    arguments = ["eval", trained, "--episodes", EPISODES, "--actors", "1", "--slots", "8", "--out", run]
    impatient = at_a_terminal(*arguments, before="from bet_ray import recorder; recorder.ROOM_SECONDS = 2")
    eventually(lambda: parts_of(run), impatient)
    disk.fill(impatient)
    _, said = impatient.communicate(timeout=60)
    assert impatient.returncode == 1, said
    assert said.count("waiting for room") == 1
    assert f"error: {run}: the disk is full, " in said.splitlines()[-1]
    assert said.endswith("make room and run the same command again: what is recorded is not run twice\n")
    kept = Ledger(run, tasks.get("pointmass2")).read()
    assert 0 < kept.num_rows < EPISODES
    assert kept.equals(undisturbed.filter(pc.field("index").isin(kept.column("index").to_pylist())))
    disk.free(impatient)

    patient = at_a_terminal(*arguments)
    before = len(parts_of(run))
    eventually(lambda: len(parts_of(run)) != before, patient)
    disk.fill(patient)
    assert patient.stderr is not None
    assert patient.stderr.readline() == f"WARNING: {run}: the disk is full; waiting for room\n"
    time.sleep(1.5)
    disk.free(patient)
    _, said = patient.communicate(timeout=60)
    assert patient.returncode == 0, said
    assert said == f"WARNING: {run}: there is room again\n"
    assert published(run).equals(undisturbed)


def test_a_run_directory_that_cannot_be_written_to_is_refused_before_anything_is_run(
    trained: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=f"{tmp_path}/file: cannot be written to; choose another --out"):
        evaluate(trained, out=tmp_path / "file" / "run", progress=lambda *_: pytest.fail("too late"))


def test_everything_is_still_readable_where_nothing_can_be_written(
    trained: Path, undisturbed: pa.Table, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    Ledger(run, tasks.get("pointmass2")).episodes.append(undisturbed)
    if subprocess.run(["mount", "--bind", run, run], check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", run], check=True)
        assert evaluate(trained, episodes=EPISODES, out=run).equals(undisturbed)
        with pytest.raises(RunError, match="cannot be written to"):
            evaluate(trained, episodes=EPISODES + 1, out=run)
    finally:
        subprocess.run(["umount", run], check=True)
        shutil.rmtree(run)
