"""Experiments are the study's, a plan fits its budget, and ours stand beside what was published and say how scaled."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bet import tasks
from bet.config import ConfigError, make_config
from bet.data.store import save_episodes
from bet.errors import UsageError
from bet.oracles.blockpush import demonstrations
from bet_ray.budget import EPISODES, Cost, Machine, Pins, estimate, parse_budget, plan, unlimited
from bet_ray.experiments import EXPERIMENTS, SETUPS, Size, experiment_named
from bet_ray.published import PUBLISHED_RATES, By
from bet_ray.results import REPRODUCTION
from bet_ray.sweep import Objective, Search, load_sweep
from bet_ray.training import trial_id
from tests.bet_ray.commands import Command
from tests.bet_ray.pages import Page

SWEEPS = Path(__file__).parents[2] / "sweeps"
FULL = Size(350, 1000, 3)
COSTS = st.lists(st.builds(Cost, *(st.floats(1e-4, high) for high in (5, 30, 0.2))), min_size=1, max_size=9)
MACHINES = st.builds(Machine, st.integers(1, 8), st.integers(1, 4), st.integers(1, 8))


# The experiments


@pytest.mark.parametrize(
    ("name", "key", "values", "seeds"),
    [
        ("blockpush-main", "codebook.bins", [24], 5),
        ("blockpush-bins", "codebook.bins", [1, 4, 8, 16, 20, 24, 32, 64], 3),
        ("blockpush-window", "model.window", [1, 3, 5, 10], 3),
        ("blockpush-gamma", "loss.gamma", [0, 2], 3),
        ("blockpush-offsets", "model.offsets", [False, True], 3),
        ("kitchen-main", "codebook.bins", [64], 5),
        ("kitchen-bins", "codebook.bins", [1, 3, 4, 5, 16, 60, 64, 68], 3),
        ("kitchen-window", "model.window", [1, 5, 10, 20], 3),
    ],
)
def test_a_grid_is_the_studys(name: str, key: str, values: list[Any], seeds: int) -> None:
    sweep = experiment_named(name).published
    assert [setting[key] for setting in sweep.enumerated()] == values
    assert sweep.seeds_per_trial == seeds
    assert sweep.config({}).train == make_config(sweep.task).train
    assert sweep.eval.winner_episodes == 1000


@pytest.mark.parametrize(
    ("task", "sizes"),
    [
        ("blockpush", {"model.width": 3, "model.layers": 3, "model.batch_norm": 2}),
        ("kitchen", {"model.width": 2, "model.layers": 4}),
    ],
)
def test_the_search_for_an_mlp_is_the_studys(task: str, sizes: dict[str, int]) -> None:
    sweep = experiment_named(f"{task}-mlp-search").published
    assert (sweep.search.method, sweep.trials, sweep.seeds_per_trial) == (Search.TPE, 25, 1)
    assert sweep.objective is Objective.VAL_LOSS
    assert {key: len(value) for key, value in sweep.choices.items() if isinstance(value, list)} == {
        "train.grad_clip": 2,
        "train.weight_decay": 3,
        **sizes,
    }


def test_ablations_have_the_studys_networks() -> None:
    """`configs/model/env/{mlp,lstm}_*.yaml`, and the best of its search."""
    for task, size, found in (
        ("blockpush", (4, 72), (0.000305, None, 0.05)),
        ("kitchen", (6, 120), (0.00053, None, 0.01)),
    ):
        sweep = experiment_named(f"{task}-mlp").published
        _, mlp, best = (sweep.config(setting) for setting in sweep.enumerated())
        assert mlp.model == best.model
        assert (mlp.model.trunk, mlp.model.layers, mlp.model.width, mlp.model.batch_norm) == ("mlp", *size, True)
        assert (best.train.lr, best.train.grad_clip, best.train.weight_decay) == found
    for name in ("blockpush-lstm", "kitchen-lstm", "pointmass1-lstm", "pointmass2-lstm"):
        sweep = experiment_named(name).published
        lstm = sweep.config(list(sweep.enumerated())[1]).model
        assert (lstm.trunk, lstm.layers, lstm.width, lstm.dropout) == ("lstm", 2, 1024, 0)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_what_is_as_published_departs_in_nothing_and_what_is_scaled_says_so(name: str) -> None:
    experiment = experiment_named(name)
    assert experiment.departures(experiment.published, experiment.setup.demonstrations) == []
    scaled = experiment.sweep(Size(2, 400, 1), scaled=True)
    told = experiment.departures(scaled, 100)
    assert told[0] == f"2 of {experiment.published_size.epochs} epochs"
    assert "400 of 1,000 episodes" in told
    assert f"100 of {experiment.setup.demonstrations:,} demonstrations" in told
    assert experiment.is_of(scaled)


@pytest.mark.parametrize("task", ["blockpush", "kitchen"])
@pytest.mark.parametrize("name", ["bins", "window"])
def test_the_shipped_sweeps_are_scaled_experiments_and_their_trials_have_the_same_names(task: str, name: str) -> None:
    shipped = load_sweep(SWEEPS / f"{task}_{name}.yaml")
    experiment = experiment_named(f"{task}-{name}")
    mine = experiment.sweep(Size(SETUPS[task].epochs, 1000, 1), scaled=True)
    assert (mine.base, mine.space) == (shipped.base, shipped.space)
    assert [trial_id(mine.config(one)) for one in mine.enumerated()] == [
        trial_id(shipped.config(one)) for one in shipped.enumerated()
    ]
    assert experiment.is_of(shipped)


def test_the_scaled_recipe_of_pusht_is_that_of_its_shipped_sweep() -> None:
    mine = experiment_named("pusht-main").sweep(Size(SETUPS["pusht"].epochs, 200, 1), scaled=True)
    assert mine.base == load_sweep(SWEEPS / "pusht_small.yaml").base


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if "search" not in name])
def test_published_numbers_are_of_the_preset_and_of_metrics_that_the_task_has(name: str) -> None:
    experiment = experiment_named(name)
    task = tasks.simulated(experiment.task)
    for sweep in (experiment.published, experiment.sweep(Size(1, 1, 1), scaled=True)):
        for setting, published in zip(sweep.enumerated(), experiment.published.enumerated(), strict=True):
            cited = experiment.cited(sweep, setting)
            preset = trial_id(experiment.published.config(published)) == trial_id(make_config(experiment.task))
            unbinned = experiment.task == "kitchen" and published == {"codebook.bins": 1}
            assert bool(cited) == (unbinned or (preset and experiment.task in ("blockpush", "kitchen", "pusht")))
            assert {metric for _, metric in cited} <= {task.protocol.primary, *task.rates}


def test_the_main_table_cites_the_paper_and_the_study() -> None:
    experiment = experiment_named("blockpush-main")
    (setting,) = experiment.published.enumerated()
    cited = experiment.cited(experiment.published, setting)
    assert [cited[By.ORIGINAL, name].value for name in ("R1", "R2", "P1", "P2")] == [1.0, 0.99, 0.96, 0.71]
    assert [cited[By.STUDY, name].value for name in ("R2", "P1", "P2")] == [0.98, 0.94, 0.18]
    assert (By.STUDY, "R1") not in cited
    assert all(row.source for rows in PUBLISHED_RATES.values() for row in rows)


def test_a_change_of_what_the_experiment_is_about_is_refused() -> None:
    experiment = experiment_named("blockpush-bins")
    for change, said in (("trials=3", "is what"), ("bins=4", "both in base and in space"), ("trian.lr=1", "train.lr")):
        with pytest.raises(ConfigError, match=said):
            experiment.sweep(FULL, scaled=False, changes=[change])
    with pytest.raises(ConfigError, match="did you mean 'blockpush-bins'"):
        experiment_named("blockpush-bin")


def test_other_changes_are_of_the_settings_or_of_the_sections_of_a_sweep() -> None:
    changes = ["gamma=0", "eval.episodes=7", "eval.window=3", "resources.slots=4"]
    experiment = experiment_named("blockpush-main")
    sweep = experiment.sweep(FULL, scaled=False, changes=changes)
    config = sweep.config({})
    assert (config.loss.gamma, config.eval.window, sweep.eval.episodes, sweep.resources.slots) == (0, 3, 7, 4)
    told = experiment.departures(sweep, 1000)
    assert {"gamma=0", "eval.window=3"} <= set(told)
    assert not any("slots" in one for one in told)


# The planner


def planned(budget: float, costs: list[Cost], machine: Machine, pins: Pins = Pins(), recipe: int = 60):  # noqa: B008
    return plan(budget, FULL, recipe, pins, lambda size, scaled: estimate(size, costs, machine))


@given(COSTS, MACHINES, st.floats(40, 1e6))
def test_a_plan_never_exceeds_its_budget_by_its_own_estimate(
    costs: list[Cost], machine: Machine, budget: float
) -> None:
    try:
        found = planned(budget, costs, machine)
    except UsageError:
        assert estimate(Size(15, EPISODES, 1), costs, machine) > budget
        return
    assert found.seconds == estimate(found.size, costs, machine) <= budget
    assert found.size.seeds == 1 or (found.size.seeds == 3 and found.size.episodes == 1000)
    assert found.size.episodes == EPISODES or found.size.epochs >= 60


@given(COSTS, MACHINES, st.floats(40, 1e6), st.floats(1, 10))
def test_more_time_never_makes_less_of_it(costs: list[Cost], machine: Machine, budget: float, factor: float) -> None:
    try:
        less = planned(budget, costs, machine)
    except UsageError:
        return
    more = planned(budget * factor, costs, machine)
    assert more.seconds >= less.seconds
    for name in ("epochs", "episodes", "seeds"):
        assert getattr(more.size, name) >= getattr(less.size, name)


@given(COSTS, MACHINES)
def test_with_room_enough_it_is_as_published_and_with_a_second_less_it_is_not(
    costs: list[Cost], machine: Machine
) -> None:
    room = estimate(FULL, costs, machine)
    found = planned(room, costs, machine)
    assert (found.size, found.scaled) == (FULL, False)
    assert planned(room - 1e-3, costs, machine).scaled


@given(COSTS, MACHINES, st.floats(1e3, 1e7), st.integers(1, 500), st.integers(1, 2000), st.integers(1, 9))
def test_what_is_pinned_stays(
    costs: list[Cost], machine: Machine, budget: float, epochs: int, episodes: int, seeds: int
) -> None:
    for pins in (Pins(epochs=epochs), Pins(episodes=episodes), Pins(seeds=seeds), Pins(epochs, episodes, seeds)):
        try:
            found = planned(budget, costs, machine, pins)
        except UsageError:
            continue
        assert pins.over(found.size) == found.size
        assert found.scaled or found.size.epochs >= FULL.epochs


def test_the_least_that_is_named_is_enough() -> None:
    costs, machine = [Cost(1, 10, 0.05)] * 8, Machine(2, 1, 2)
    with pytest.raises(
        UsageError, match=r"60 s are too short .* the least is 15 min \(15 epochs, 1 seed, 400 episodes\)"
    ):
        planned(60, costs, machine)
    assert planned(15 * 60, costs, machine).size.epochs >= 15


def test_without_a_budget_it_is_as_published_but_for_what_is_pinned() -> None:
    assert unlimited(FULL, Pins()) == (FULL, False)
    assert unlimited(FULL, Pins(seeds=1)) == (replace(FULL, seeds=1), False)
    assert unlimited(FULL, Pins(epochs=60)) == (replace(FULL, epochs=60), True)


def test_times_are_read_and_told() -> None:
    assert [parse_budget(text) for text in ("90s", "30m", "2h", "1h30m", "0.5d")] == [90, 1800, 7200, 5400, 43200]
    for text in ("30", "m", "5x", "-3m", "0s", ""):
        with pytest.raises(UsageError, match="--budget"):
            parse_budget(text)


# From end to end


@pytest.fixture
def reproduce(command: Command) -> Command:
    """Runs `bet-ray reproduce ...`."""
    return partial(command, "reproduce")


def test_the_list_names_every_experiment_and_what_it_needs(reproduce: Command) -> None:
    done = reproduce("--list")
    assert done.code == 0
    for name in EXPERIMENTS:
        assert name in done.out
    assert "bet-ray data generate blockpush" in done.out
    assert reproduce().code == 2


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_what_cannot_run_is_told_in_a_line_and_leaves_nothing(reproduce: Command, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "run")
    for words, said in (
        (("blockpush-bin",), "did you mean 'blockpush-bins'?"),
        (("blockpush-bins", f"data.path={tmp_path / 'none.parquet'}"), "bet-ray data generate blockpush"),
        (("pointmass1-main", "seeds_per_trial=0"), "seeds_per_trial: expected a positive number, got 0"),
        (("pointmass1-main", "--budget", "1s"), "--budget: 1 s are too short"),
    ):
        done = reproduce(*words, *out)
        assert done.code == 2
        assert said in done.err
        assert len(done.err.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_scaled_experiment_is_measured_printed_and_kept_and_its_resume_runs_nothing(
    reproduce: Command, tmp_path: Path
) -> None:
    demos, run = tmp_path / "demos.parquet", tmp_path / "run"
    save_episodes(demonstrations(range(20), seed=0)[0], demos)
    size = "train.epochs=1", "seeds_per_trial=2", "eval.winner_episodes=8", "eval.episodes=4"
    words = (
        "blockpush-gamma",
        f"data.path={demos}",
        *size,
        "resources.actors=1",
        "resources.trials_at_once=1",
        "--out",
        run,
    )
    done = reproduce(*words)
    assert done.code == 0, done.err
    label = "scaled: 1 of 350 epochs, 2 of 3 seeds, 8 of 1,000 episodes, 20 of 1,000 demonstrations"
    assert done.out.count(label) == 2
    assert "expected to take" in done.out
    assert "original: BeT, Shafiullah et al. 2022" in done.out
    assert "the study shows figures" in done.out
    again = next(line for line in done.out.splitlines() if line.startswith("again: ")).split()
    assert {*size, f"data.path={demos}", "train.lr=0.002"} <= set(again)

    table = pq.read_table(run / "reproduction.parquet")
    assert table.schema.equals(REPRODUCTION)
    rows = {(row["setting"], row["metric"]): row for row in table.to_pylist()}
    names = ["blocks pushed", *tasks.get("blockpush").rates]
    assert list(rows) == [(f'{{"loss.gamma":{gamma}}}', name) for gamma in (0, 2) for name in names]
    paper = rows['{"loss.gamma":2}', "P2"]
    assert (paper["original"], paper["study"], paper["episodes"], paper["seeds"]) == (0.71, 0.18, 16, 2)
    assert "Shafiullah" in paper["source"]
    assert rows['{"loss.gamma":0}', "P2"]["original"] is None
    for row in rows.values():
        assert row["scaled"]
        assert 0 <= row["low"] <= row["estimate"] <= row["high"] <= 1
        assert (row["demonstrations"], row["epoch"]) == (20, 1)
    episodes = pq.read_table(run / "episodes").to_pandas()
    report = episodes[episodes["split"] == "report"]
    assert report.groupby("policy_digest").size().tolist() == [8, 8, 8, 8]
    page = Page((run / "report.html").read_text()).words
    assert f"Again, what was published Scaled: {label.removeprefix('scaled: ')}" in page
    assert paper["source"] in page

    resumed = reproduce(*words, "--resume")
    assert "goes on as it was planned" in resumed.out
    assert resumed.out[resumed.out.index("Does the focal") :] == done.out[done.out.index("Does the focal") :]
    assert pq.read_table(run / "episodes").to_pandas().equals(episodes)
    for words, said in (
        (("blockpush-bins",), "is not a run of blockpush-bins"),
        (("blockpush-gamma", "train.epochs=2"), "began with 1 epoch, 2 seeds, 8 episodes"),
        (("blockpush-gamma", "train.lr=1"), "began with train.lr=0.002"),
    ):
        done = reproduce(*words, "--out", run, "--resume")
        assert done.code == 2
        assert said in done.err
