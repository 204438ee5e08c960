"""A sweep judges every setting, measures its winner on fresh episodes, and survives kill -9 of its driver."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pyarrow.parquet as pq
import pytest
import ray
import torch
from filelock import FileLock
from psutil import Process
from ray.tune.schedulers import ASHAScheduler

from bet import Policy
from bet.config import ConfigError, DataConfig, changed
from bet.errors import FailedRunError
from bet.tasks import get
from bet.training import fit_actions
from bet_ray.manifest import SWEEP_LOCK, RunError
from bet_ray.report import write_report
from bet_ray.results import KEY
from bet_ray.status import status
from bet_ray.study import STUDY_DB
from bet_ray.sweep import Sweep, parse_sweep
from bet_ray.training import trial_id
from bet_ray.trials import Rung, Status, TrialRecord, read_trials
from bet_ray.tuning import SETTING, Halving, divide, run_sweep
from bet_ray.values import Estimate
from tests.bet_ray.commands import eventually
from tests.bet_ray.trackers import tensorboard_scalars

QUICK = {"lr": 3e-3, "batch_size": 512}
TREE: dict[str, Any] = {
    "question": "Which?",
    "task": "pointmass2",
    "base": {"train": {"epochs": 2, **QUICK}},
    "space": {"bins": [1, 6], "window": [1, 2]},
    "search": "grid",
    "eval": {"episodes": 20, "rungs": 2, "winner_episodes": 30},
    "resources": {"actors": 1, "trials_at_once": 1},
}


def sweep_of(**changes: Any) -> Sweep:
    return parse_sweep(TREE | changes, "test")


@pytest.fixture(scope="module")
def swept(ray_session: int, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep."""
    run = tmp_path_factory.mktemp("sweep") / "run"
    run_sweep(sweep_of(), run)
    return run


@pytest.mark.slow
def test_every_setting_is_trained_and_judged_at_every_rung(swept: Path) -> None:
    trials = read_trials(swept, sweep_of().objective)
    assert len(trials) == 4
    assert all(trial.status is Status.DONE for trial in trials)
    assert all([rung.epoch for rung in trial.rungs] == [1, 2] for trial in trials)
    values = [rung.objective for trial in trials if (rung := trial.best(sweep_of().objective))]
    assert values == sorted(values, reverse=True)


@pytest.mark.slow
def test_a_finished_sweep_has_the_status_of_one(swept: Path) -> None:
    found = status(swept)
    assert found.finished
    assert found.search is not None
    assert dict(found.search.counts) == {Status.DONE: 4}
    assert found.search.best is not None
    assert found.search.best.trial == read_trials(swept, sweep_of().objective)[0].trial
    assert not found.trainings


@pytest.mark.slow
def test_the_parquet_tables_agree_with_each_other(swept: Path) -> None:
    trials = pq.read_table(swept / "trials.parquet").to_pylist()
    history = pq.read_table(swept / "history.parquet").to_pylist()
    episodes = pq.read_table(swept / "episodes").to_pandas()
    assert len(trials) == 4
    assert {(row["trial"], row["epoch"]) for row in history} == {(t["trial"], e) for t in trials for e in (1, 2)}
    tune = episodes[episodes["split"] == "tune"]
    assert len(tune) == 4 * 2 * 20
    digests = {(row["trial"], row["epoch"]): row["policy_digest"] for row in history}
    for row in trials:
        mine = tune[tune["policy_digest"] == digests[row["trial"], row["epoch"]]]
        assert row["success_rate"] == pytest.approx(mine["success"].mean())
    assert not episodes.duplicated(["policy_digest", "protocol_digest", "numerics", "split", "index"]).any()


@pytest.mark.slow
def test_the_winner_is_measured_on_episodes_that_did_not_choose_it(swept: Path) -> None:
    episodes = pq.read_table(swept / "episodes").to_pandas()
    report = episodes[episodes["split"] == "report"]
    finalists = [trial for trial in read_trials(swept, sweep_of().objective) if trial.report]
    assert [trial.report.episodes for trial in finalists if trial.report] == [30] * 3
    assert (report.groupby("policy_digest").size() == [30] * 3).all()
    assert not set(report["seed"]) & set(episodes[episodes["split"] == "tune"]["seed"])
    winner = report[report["policy_digest"] == Policy.load(swept).digest]
    assert finalists[0].report is not None
    assert finalists[0].report.success[0] == pytest.approx(winner["success"].mean())


@pytest.mark.slow
def test_resuming_a_finished_sweep_runs_nothing_and_finds_the_same(swept: Path) -> None:
    before = pq.read_table(swept / "episodes"), (swept / "trials.parquet").read_bytes()
    executed = pq.read_table(swept / "execution").num_rows
    result = run_sweep(sweep_of(), swept, resume=True)
    assert pq.read_table(swept / "episodes").equals(before[0])
    assert pq.read_table(swept / "execution").num_rows == executed
    assert result.report.episodes == 30


@pytest.mark.slow
def test_a_run_directory_is_not_overwritten_nor_resumed_with_another_sweep(swept: Path) -> None:
    with pytest.raises(RunError, match="--resume"):
        run_sweep(sweep_of(), swept)
    with pytest.raises(ConfigError, match="'space' is not what the run began with"):
        run_sweep(sweep_of(space={"bins": [2]}), swept, resume=True)


@pytest.mark.slow
def test_a_setting_that_cannot_work_is_an_error_row_and_the_others_go_on(ray_session: int, tmp_path: Path) -> None:
    demonstrations = tmp_path / "few.parquet"
    from bet.data.store import save_episodes
    from bet.envs.pointmass import PointMassVersion
    from bet.oracles.pointmass import demonstrations as demonstrate

    save_episodes(demonstrate(PointMassVersion.TWO, 20, seed=0, noise=0.0), demonstrations)
    base = {"train": {"epochs": 1}, "data": {"path": str(demonstrations)}}
    sweep = sweep_of(base=base, space={"bins": [2, 4096]}, eval={"episodes": 5, "winner_episodes": 5})
    result = run_sweep(sweep, tmp_path / "run")
    assert [trial.status for trial in result.trials] == [Status.DONE, Status.ERROR]
    assert "distinct actions" in (result.trials[1].error or "")


@pytest.mark.slow
def test_listed_settings_are_each_tried_once_also_when_resumed(ray_session: int, tmp_path: Path) -> None:
    base = {"train": {"epochs": 1, **QUICK}}
    tree = {key: value for key, value in TREE.items() if key not in ("space", "search")} | {"base": base}
    sweep = parse_sweep(tree | {"settings": [{"trunk": "mlp", "bins": 2}, {}]}, "test")
    trials = run_sweep(sweep, tmp_path / "run").trials
    assert sorted((trial.setting["model.trunk"], trial.setting["codebook.bins"]) for trial in trials) == [
        ("mlp", 2),
        ("transformer", 3),
    ]
    table = pq.read_table(tmp_path / "run/trials.parquet").to_pylist()
    assert {(row["model.trunk"], row["codebook.bins"]) for row in table} == {('"mlp"', "2"), ('"transformer"', "3")}
    executed = pq.read_table(tmp_path / "run/execution").num_rows
    assert run_sweep(sweep, tmp_path / "run", resume=True).trials == trials
    assert pq.read_table(tmp_path / "run/execution").num_rows == executed
    other = parse_sweep(tree | {"settings": [{"trunk": "mlp", "bins": 3}, {}]}, "test")
    with pytest.raises(ConfigError, match="'settings' is not what the run began with"):
        run_sweep(other, tmp_path / "run", resume=True)


@pytest.mark.slow
def test_tpe_asks_optuna_and_keeps_its_study(ray_session: int, tmp_path: Path) -> None:
    space = {"bins": {"low": 1, "high": 12}, "train.lr": {"low": 1e-3, "high": 1e-2, "log": True}}
    base = {"train": {"epochs": 2, "batch_size": 512}}
    sweep = sweep_of(search="tpe", trials=3, base=base, space=space, scheduler="asha")
    result = run_sweep(sweep, tmp_path / "run")
    study = optuna.load_study(study_name="run", storage=f"sqlite:///{tmp_path / 'run' / STUDY_DB}")
    assert len(result.trials) == 3
    told = sorted(trial.value for trial in study.get_trials() if trial.value is not None)
    assert len(told) == 3
    assert max(told) <= max(rung.objective for trial in result.trials for rung in trial.rungs)


@pytest.mark.slow
def test_workers_that_share_a_training_are_judged_at_every_rung(ray_session: int, tmp_path: Path) -> None:
    sweep = sweep_of(
        space={"train.lr": [3e-3, 1e-6]},
        base={"train": {"epochs": 12, "batch_size": 512}},
        objective="val_loss",
        eval={"episodes": 20, "rungs": 4, "winner_episodes": 30},
        resources={"actors": 1, "workers_per_trial": 2, "trials_at_once": 1},
        scheduler="asha",
    )
    best, stopped = run_sweep(sweep, tmp_path / "run").trials
    assert (best.status, [rung.epoch for rung in best.rungs]) == (Status.DONE, [3, 6, 9, 12])
    assert stopped.status is Status.STOPPED
    assert best.train_seconds > 0
    eventually(lambda: ray.available_resources().get("CPU") == ray_session)  # the stopped trial's workers' among them


BY_LOSS: dict[str, Any] = {
    "objective": "val_loss",
    "space": {"train.lr": [3e-3, 1e-6], "window": [1, 2]},
    "base": {"train": {"epochs": 4, "batch_size": 512}},
    "eval": {"episodes": 20, "rungs": 4, "winner_episodes": 30},
}


@pytest.mark.slow
def test_a_search_by_loss_simulates_only_the_rungs_that_count(ray_session: int, tmp_path: Path) -> None:
    run, sweep, seen = tmp_path / "run", sweep_of(**BY_LOSS), []
    result = run_sweep(sweep, run, on_trials=lambda trials: seen.append(_simulated(trials)))
    assert set(seen[:-1]) == {0}
    assert seen[-1] == 4
    losses = [rung.objective for trial in result.trials if (rung := trial.best(sweep.objective))]
    assert losses == sorted(losses)
    assert all([rung.epoch for rung in trial.rungs] == [1, 2, 3, 4] for trial in result.trials)
    _check_by_loss(run, sweep, result.trials)
    weights = {path: path.stat().st_mtime_ns for path in run.rglob("*.safetensors")}
    assert _ran_on_tune(run) == 4 * 20
    more = sweep_of(**BY_LOSS | {"eval": BY_LOSS["eval"] | {"episodes": 25}})
    _check_by_loss(run, more, run_sweep(more, run, resume=True).trials)
    assert {path: path.stat().st_mtime_ns for path in weights} == weights
    assert _ran_on_tune(run) == 4 * 25


@pytest.mark.slow
def test_a_service_that_dies_blames_no_setting_and_halving_by_loss_goes_on_when_resumed(
    ray_session: int, tmp_path: Path
) -> None:
    changes = {
        "eval": BY_LOSS["eval"] | {"rungs": 2},
        "scheduler": "asha",
        "resources": {"actors": 1, "trials_at_once": 1, "retries": 0},
        "track": {"tensorboard": True},
    }
    run, sweep = tmp_path / "run", sweep_of(**BY_LOSS | changes)
    killed: list[Process] = []

    def kill(trials: list[TrialRecord]) -> None:
        if not killed and any(trial.status is Status.STOPPED for trial in trials):
            everyone = Process().children(recursive=True)
            killed.extend(each for each in everyone if "RolloutService" in " ".join(each.cmdline()))
            killed[0].kill()

    with pytest.raises(FailedRunError, match="--resume continues the sweep"):
        run_sweep(sweep, run, on_trials=kill)
    before = read_trials(run, sweep.objective)
    assert _simulated(before) == 0
    assert [trial.failures for trial in before] == [0] * len(before)
    assert {Status.DONE, Status.STOPPED} <= {trial.status for trial in before}
    assert Status.ERROR not in {trial.status for trial in before}
    assert "Best so far" in write_report(run).read_text()
    trials = run_sweep(sweep, run, resume=True).trials
    assert {trial.status for trial in trials} == {Status.DONE, Status.STOPPED}
    _check_by_loss(run, sweep, trials)
    for trial in trials:  # one that is stopped trains no further than to its rung
        told = tensorboard_scalars(run / "tensorboard" / f"trial-{trial.trial}")
        epochs = [epoch for name, epoch in told if name.endswith("/val_loss")]
        assert max(epochs) == trial.rungs[-1].epoch == (4 if trial.status is Status.DONE else 2)
    assert "Does the validation loss tell?" in write_report(run).read_text()


def _simulated(trials: list[TrialRecord]) -> int:
    """Rungs that were."""
    return sum(rung.primary is not None for trial in trials for rung in trial.rungs)


def _ran_on_tune(run: Path) -> int:
    return pq.read_table(run / "execution").column("split").to_pylist().count("tune")


def _check_by_loss(run: Path, sweep: Sweep, trials: list[TrialRecord]) -> None:
    """Of each of four settings the rung that counts was simulated, and no other; the tables say so."""
    assert len(trials) == 4
    best = [(trial, rung) for trial in trials if (rung := trial.best(sweep.objective))]
    assert [rung.episodes for _, rung in best] == [sweep.eval.episodes] * 4
    assert _simulated(trials) == 4
    episodes = pq.read_table(run / "episodes").to_pandas()
    tune = episodes[episodes["split"] == "tune"]
    digests = [Policy.load(run / "policies" / name).digest for pair in best for name in pair[0].policies(pair[1])]
    assert tune.groupby("policy_digest").size().to_dict() == dict.fromkeys(digests, sweep.eval.episodes)
    history = pq.read_table(run / "history.parquet").to_pandas().dropna(subset="primary")
    assert sorted(zip(history["trial"], history["epoch"], strict=True)) == sorted((t.trial, r.epoch) for t, r in best)
    for row, digest in zip(pq.read_table(run / "trials.parquet").to_pylist(), digests, strict=True):
        assert row["success_rate"] == pytest.approx(tune[tune["policy_digest"] == digest]["success"].mean())


@pytest.mark.slow
def test_seeds_are_judged_together_and_side_by_side_are_those_trained_one_after_another(
    ray_session: int, tmp_path: Path
) -> None:
    """Each on its own split of the demonstrations, as the reproduction study cross-validates."""
    base = {"train": {"epochs": 1, **QUICK}, "data": {"split_seed": None}}
    tree = {"space": {"bins": [3]}, "seeds_per_trial": 3, "base": base}
    found = []
    for at_once in (1, 2):
        resources = {"actors": 1, "trials_at_once": 1, "seeds_at_once": at_once}
        result = run_sweep(sweep_of(**tree, resources=resources), tmp_path / str(at_once))
        assert set(result.tune.by_seed) == {0, 1, 2}
        assert result.tune.episodes == 60
        assert (result.report.seeds, result.report.episodes) == (3, 90)
        found.append(result.winner.rungs)
    assert found[0] == found[1]
    config, demonstrations = sweep_of(**tree).config({"bins": 3}), get("pointmass2").load(DataConfig())
    for seed, name in enumerate(result.winner.policies(result.winner.rungs[-1])):
        alone = changed(config, {"train.seed": seed, "data.split_seed": seed})
        train, _ = demonstrations.split(*alone.split)
        _, centers = fit_actions(alone, demonstrations, train)
        assert torch.equal(Policy.load(tmp_path / "2" / "policies" / name).centers, centers)


def test_the_rungs_of_successive_halving_survive_a_resume() -> None:
    """Three of four earlier trials were better at the first rung: a new one that is worse stops there."""
    sweep = sweep_of(scheduler="asha", base={"train": {"epochs": 8, **QUICK}}, eval={"episodes": 20, "rungs": 4})
    earlier = [_judged(sweep, bins, value) for bins, value in ((1, 0.8), (2, 0.7), (3, 0.6))]
    for records, decision in (([], ASHAScheduler.CONTINUE), (earlier, ASHAScheduler.STOP)):
        scheduler: Any = Halving(sweep, records)
        new = _of_tune(9)
        scheduler.on_trial_add(None, new)
        assert scheduler.on_trial_result(None, new, {"epoch": 2, "objective": 0.5}) == decision


def test_a_trial_that_goes_on_is_not_stopped_at_a_rung_that_it_passed() -> None:
    """Killed after its third rung, the best of all; at its first it had been below the others."""
    sweep = sweep_of(scheduler="asha", base={"train": {"epochs": 8, **QUICK}}, eval={"episodes": 20, "rungs": 4})
    late = _judged(sweep, 9, 0.3, 0.5, 0.9).model_copy(update={"status": Status.RUNNING})
    scheduler: Any = Halving(sweep, [_judged(sweep, bins, 0.4) for bins in (1, 2, 3)] + [late])
    again = _of_tune(9)
    scheduler.on_trial_add(None, again)
    for epoch, objective in ((2, 0.3), (4, 0.5), (6, 0.9)):
        result = {"epoch": epoch, "objective": objective}
        assert scheduler.on_trial_result(None, again, result) == ASHAScheduler.CONTINUE


def _of_tune(bins: int) -> Any:
    """A trial, as Tune hands it to a scheduler."""
    return SimpleNamespace(trial_id="tune's", config={SETTING: {"codebook.bins": bins}})


def _judged(sweep: Sweep, bins: int, *values: float) -> TrialRecord:
    rungs = [
        Rung(
            epoch=2 * place,
            objective=v,
            primary=Estimate(v, v, v),
            success=Estimate(v, v, v),
            episodes=20,
            val_loss=1,
            by_seed={},
        )
        for place, v in enumerate(values, start=1)
    ]
    setting = {"codebook.bins": bins}
    name = trial_id(sweep.config(setting))
    return TrialRecord(trial=name, setting=setting, status=Status.STOPPED, rungs=rungs, train_seconds=1.0)


def test_two_sweeps_do_not_share_a_run(tmp_path: Path) -> None:
    with FileLock(tmp_path / SWEEP_LOCK), pytest.raises(RunError, match="a sweep is under way in it"):
        run_sweep(sweep_of(), tmp_path)
    assert not (tmp_path / "policies").exists()


TWELVE = {
    "space": {"bins": [1, 2, 3, 4, 6, 8], "window": [1, 2]},
    "eval": {"episodes": 20, "rungs": 2, "winner_episodes": 30},
}


@pytest.mark.slow
@pytest.mark.timeout(1800)  # seven starts of Ray, on a machine that may be busy
def test_a_sweep_of_twelve_trials_killed_five_times_ends_as_the_undisturbed_one(
    ray_session: int, tmp_path: Path
) -> None:
    """Four times its driver is killed with kill -9, once a trial's process as well, at moments that a seed chooses. The
    undisturbed one tries one setting after the other.
    """
    run, said, sweep = tmp_path / "run", tmp_path / "said.txt", sweep_of(**TWELVE)
    disturbed = TREE | TWELVE | {"resources": {"actors": 1, "trials_at_once": 2}}
    script = (
        "import json, sys; from pathlib import Path\n"
        "from bet_ray.sweep import parse_sweep; from bet_ray.tuning import run_sweep\n"
        f"run_sweep(parse_sweep(json.loads({json.dumps(disturbed)!r}), 'test'), Path({str(run)!r}), resume=True)\n"
    )
    generator = np.random.default_rng(0)
    done, settled = 0, dict[str, int]()
    for kill in range(5):
        with said.open("wb") as file:
            process = subprocess.Popen([sys.executable, "-c", script], stdout=file, stderr=file, start_new_session=True)
        eventually(lambda: _finished(run) > done, process, said.read_text)  # noqa: B023
        time.sleep(generator.uniform(0, 0.5))
        if kill == 2:
            victims = [child for child in Process(process.pid).children(recursive=True) if "Implicit" in child.name()]
            victims[0].kill()
            eventually(lambda: any(record["failures"] for record in _records(run)), process, said.read_text)
        process.send_signal(signal.SIGKILL)
        process.wait()
        weights = {path: path.stat().st_mtime_ns for path in run.rglob("*.safetensors")}
        assert settled.items() <= {str(path): time for path, time in weights.items()}.items()  # nothing was redone
        settled = {str(path): time for path, time in weights.items()}
        done = _finished(run)
    resumed = run_sweep(sweep, run, resume=True)
    undisturbed = run_sweep(sweep, tmp_path / "undisturbed")
    assert [outcome(trial) for trial in resumed.trials] == [outcome(trial) for trial in undisturbed.trials]
    assert resumed.report == undisturbed.report
    keys = [*KEY, "success", "primary", "length", "max_reward"]
    tables = [
        pq.read_table(each / "episodes").sort_by([(key, "ascending") for key in KEY])
        for each in (run, tmp_path / "undisturbed")
    ]
    assert tables[0].select(keys).equals(tables[1].select(keys))
    study = optuna.load_study(study_name="run", storage=f"sqlite:///{run / STUDY_DB}")
    assert sorted(trial.user_attrs["trial"] for trial in study.trials) == sorted(t.trial for t in resumed.trials)


def outcome(trial: TrialRecord) -> dict[str, Any]:
    """All of a trial but how long it took, and how often it was killed."""
    return trial.model_dump(exclude={"train_seconds", "act_seconds", "began", "ended", "failures", "error"})


def _finished(run: Path) -> int:
    return sum(record["status"] == "done" for record in _records(run))


def _records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in run.glob("policies/*/trial.json")]


@pytest.mark.parametrize(("cpus", "actors", "trials"), [(1, 1, 1), (2, 2, 2), (4, 1, 3), (16, 4, 12)])
def test_cpus_are_divided_without_a_deadlock(cpus: int, actors: int, trials: int) -> None:
    shares = divide(sweep_of(resources={}), cpus)
    assert (shares.actors, shares.trials_at_once) == (actors, trials)
    needed = shares.actors * shares.cpus_per_actor + shares.trials_at_once * shares.cpus_per_trial
    assert needed <= cpus


def test_asking_for_more_actors_than_cpus_leaves_one_for_trials() -> None:
    shares = divide(sweep_of(resources={"actors": 64}), 8)
    assert shares.actors == 7
    assert shares.trials_at_once == 1


def test_the_pool_is_no_larger_than_the_nodes_for_rollouts() -> None:
    assert [divide(sweep_of(resources={}), 64, room).actors for room in (4, 20, 0, None)] == [4, 16, 16, 16]


def test_a_trial_reserves_a_gpu_where_it_trains_on_one_or_the_fraction_asked_for() -> None:
    assert sweep_of().gpus == 0
    assert sweep_of(base={"train.device": "cuda"}).gpus == 1
    shared = sweep_of(base={"train.device": "cuda"}, resources={"gpus_per_trial": 0.25}, seeds_per_trial=2)
    assert shared.gpus == 0.25
    assert divide(shared, 16).seeds_at_once == 1  # they share the trial's part of the GPU, one after another
