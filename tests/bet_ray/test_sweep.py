"""A sweep file says what will run, or is refused in one line that names the key."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bet.config import ConfigError, Trunk
from bet_ray.sweep import Objective, Range, Search, load_sweep, parse_sweep, sweep_yaml
from bet_ray.training import trial_id

ROOT = Path(__file__).parents[2]

SWEEP: dict[str, Any] = {
    "question": "Which?",
    "task": "pointmass2",
    "space": {"bins": [1, 3], "gamma": [0, 2]},
    "search": "grid",
}


def test_a_grid_is_every_combination_in_order() -> None:
    settings = list(parse_sweep(SWEEP, "x").enumerated())
    assert settings == [{"codebook.bins": bins, "loss.gamma": gamma} for bins in (1, 3) for gamma in (0, 2)]


def test_a_grid_is_whole_or_refused() -> None:
    for trials in (4, 20):
        assert parse_sweep(SWEEP | {"trials": trials}, "x").trial_count == 4
    message = r"^x: trials: 3 is fewer than the grid's 4 settings; drop it, or use search: random$"
    with pytest.raises(ConfigError, match=message):
        parse_sweep(SWEEP | {"trials": 3}, "x")
    assert parse_sweep(SWEEP | {"trials": 3, "search": "random"}, "x").trials == 3


def test_a_random_search_draws_the_same_settings_for_the_same_seed() -> None:
    space = {"bins": {"low": 1, "high": 64, "log": True}, "train.lr": {"low": 1e-4, "high": 1e-2, "log": True}}
    one, same, other = (
        list(
            parse_sweep(
                SWEEP | {"space": space, "search": {"method": "random", "seed": seed}, "trials": 6}, "x"
            ).enumerated()
        )
        for seed in (0, 0, 1)
    )
    assert one == same != other
    assert all(isinstance(setting["codebook.bins"], int) for setting in one)


def test_values_that_only_fit_together_are_accepted_together() -> None:
    space = {"model.width": [64, 128], "model.heads": [4, 8]}
    assert parse_sweep(SWEEP | {"space": space}, "x").trial_count == 4


def test_a_random_search_never_proposes_a_setting_twice() -> None:
    tree = SWEEP | {"space": {"bins": [1, 2]}, "search": "random", "trials": 20}
    assert parse_sweep(tree, "x").trial_count == 2


def test_a_search_tries_no_more_settings_than_there_are() -> None:
    conditional = {"values": [1, 10], "when": {"offsets": True}}
    space = {"offsets": [True, False], "loss.offset_scale": conditional, "window": {"low": 1, "high": 5, "step": 2}}
    for trials, tried in ((50, 9), (9, 9), (4, 4)):
        assert parse_sweep(SWEEP | {"space": space, "search": "tpe", "trials": trials}, "x").trial_count == tried
    endless = {f"train.{key}": {"low": 0.1, "high": 0.9} for key in ("ema", "lr")}
    assert parse_sweep(SWEEP | {"space": endless, "search": "tpe", "trials": 50}, "x").trial_count == 50
    huge = {key: list(range(1, 100)) for key in ("bins", "window", "gamma", "train.epochs", "loss.offset_scale")}
    assert parse_sweep(SWEEP | {"space": huge, "search": "tpe", "trials": 50}, "x").trial_count == 50


def test_a_range_written_with_real_numbers_is_not_of_integers() -> None:
    space = {"gamma": {"low": 0.0, "high": 4.0}}
    sweep = parse_sweep(SWEEP | {"space": space, "search": "random", "trials": 5}, "x")
    assert any(not float(setting["loss.gamma"]).is_integer() for setting in sweep.enumerated())


@given(
    low=st.integers(1, 50),
    width=st.integers(1, 50),
    step=st.none() | st.integers(1, 7),
    seed=st.integers(0, 1000),
)
def test_random_draws_stay_inside_their_range(low: int, width: int, step: int | None, seed: int) -> None:
    values: dict[str, Any] = {"low": low, "high": low + width} | ({"step": step} if step else {})
    tree = SWEEP | {"space": {"bins": values}, "search": {"method": "random", "seed": seed}, "trials": 5}
    for setting in parse_sweep(tree, "x").enumerated():
        drawn = setting["codebook.bins"]
        assert low <= drawn <= low + width
        assert step is None or (drawn - low) % step == 0


def test_a_stepped_range_lists_its_values_and_the_end() -> None:
    assert Range(low=5, high=20, step=5).steps == [5, 10, 15, 20]
    assert Range(low=0, high=0.3, step=0.1).steps == pytest.approx([0, 0.1, 0.2, 0.3])


@pytest.mark.parametrize(
    ("task", "overrides"),
    [
        ({"task": "Pendulum-v1"}, []),
        ({"task": {"env": "Pendulum-v1"}}, []),
        ({"task.env": "Pendulum-v1"}, []),
        ({"task": "pusht"}, ["task.env=Pendulum-v1"]),
        ({"task.env": "pusht"}, ["task=Pendulum-v1"]),
        ({}, ["task.env=Pendulum-v1"]),
    ],
)
def test_a_gymnasium_id_is_a_task_in_every_spelling(task: dict[str, Any], overrides: list[str], tmp_path: Path) -> None:
    tree = {key: value for key, value in SWEEP.items() if key != "task"} | task
    (tmp_path / "s.yaml").write_text(json.dumps(tree))
    sweep = load_sweep(tmp_path / "s.yaml", overrides)
    assert sweep.task == sweep.config({}).task == "Pendulum-v1"
    assert not sweep.base
    assert parse_sweep(sweep.model_dump(mode="json"), "x") == sweep


def test_a_task_is_not_searched() -> None:
    with pytest.raises(ConfigError, match="task: does not make another setting"):
        parse_sweep(SWEEP | {"space": {"task.env": ["Pendulum-v1"]}}, "x")


def test_training_seeds_of_a_setting_follow_the_base_seed() -> None:
    sweep = parse_sweep(SWEEP | {"base": {"train": {"seed": 7}}, "seeds_per_trial": 2}, "x")
    assert [sweep.config({}, seed).train.seed for seed in range(2)] == [7, 8]


def test_rungs_are_evenly_spaced_and_end_with_the_training() -> None:
    sweep = parse_sweep(SWEEP | {"eval": {"rungs": 3}}, "x")
    assert sweep.rung_epochs(24) == [8, 16, 24]
    assert sweep.rung_epochs(2) == [1, 2]


def test_the_command_line_changes_the_sweep_or_its_base() -> None:
    sweep = load_sweep(
        ROOT / "sweeps/pusht_small.yaml",
        ["search=tpe", "trials=3", "train.epochs=5", "eval.episodes=8", "search.seed=4", "seeds_per_trial=2"],
    )
    assert (sweep.trials, sweep.trial_count, sweep.eval.episodes, sweep.search.seed) == (3, 3, 8, 4)
    assert sweep.config({}).train.epochs == 5
    assert sweep.seeds_per_trial == 2


SHIPPED = {
    "blockpush_ablation": 5,
    "blockpush_bins": 8,
    "blockpush_demo": 2,
    "blockpush_gamma": 5,
    "blockpush_window": 4,
    "kitchen_bins": 8,
    "kitchen_window": 4,
    "pointmass1_modes": 8,
    "pointmass_demo": 12,
    "pusht_race": 45,
    "pusht_small": 8,
}


def test_every_shipped_sweep_is_counted_here() -> None:
    assert {file.stem for file in (ROOT / "sweeps").glob("*.yaml")} == SHIPPED.keys()


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_sweep_loads_and_asks_its_question_in_the_first_line(name: str) -> None:
    file = ROOT / "sweeps" / f"{name}.yaml"
    sweep = load_sweep(file)
    assert (
        sweep.trial_count == len({trial_id(sweep.config(setting)) for setting in sweep.enumerated()}) == SHIPPED[name]
    )
    assert "?" in file.read_text().splitlines()[0]


def test_the_ablation_of_blockpush_changes_one_part_at_a_time_and_shares_its_recipe() -> None:
    sweep = load_sweep(ROOT / "sweeps/blockpush_ablation.yaml")
    bet, *others = (sweep.config(setting) for setting in sweep.enumerated())
    assert bet == sweep.config({})
    assert (bet.loss.gamma, bet.model.offsets, bet.model.trunk) == (2, True, Trunk.TRANSFORMER)
    assert [(one.loss.gamma, one.model.offsets, one.model.trunk) for one in others] == [
        (0, True, Trunk.TRANSFORMER),
        (2, False, Trunk.TRANSFORMER),
        (2, True, Trunk.MLP),
        (2, True, Trunk.LSTM),
    ]
    assert all((one.data, one.codebook, one.train) == (bet.data, bet.codebook, bet.train) for one in others)


LISTED: dict[str, Any] = {
    "question": "Which?",
    "task": "pointmass2",
    "base": {"gamma": 1},
    "settings": [{}, {"bins": 5}, {"model": {"trunk": "lstm"}, "gamma": 0}],
}


def test_listed_settings_are_tried_as_they_are_and_all_have_the_same_keys() -> None:
    sweep = parse_sweep(LISTED, "x")
    assert list(sweep.enumerated()) == [
        {"codebook.bins": 3, "model.trunk": "transformer", "loss.gamma": 1.0},
        {"codebook.bins": 5, "model.trunk": "transformer", "loss.gamma": 1.0},
        {"codebook.bins": 3, "model.trunk": "lstm", "loss.gamma": 0.0},
    ]
    assert sweep.searched == ("codebook.bins", "model.trunk", "loss.gamma")
    assert sweep.choices == {"codebook.bins": [3, 5], "model.trunk": ["transformer", "lstm"], "loss.gamma": [1.0, 0.0]}
    assert (sweep.trial_count, sweep.search.method) == (3, Search.GRID)
    assert parse_sweep({**LISTED, "search": "grid", "trials": 3}, "x").trial_count == 3


def test_a_list_comes_back_from_the_manifest_as_it_was() -> None:
    sweep = parse_sweep(LISTED, "x")
    kept = json.loads(json.dumps(sweep.model_dump(mode="json")))
    assert parse_sweep(kept, "manifest.json") == sweep
    assert list(parse_sweep(kept, "manifest.json").enumerated()) == list(sweep.enumerated())


def test_the_command_line_changes_what_listed_settings_do_not_name(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(json.dumps(LISTED))
    sweep = load_sweep(tmp_path / "s.yaml", ["bins=9", "gamma=4"])
    assert [setting["codebook.bins"] for setting in sweep.enumerated()] == [9, 5, 9]
    assert [setting["loss.gamma"] for setting in sweep.enumerated()] == [4, 4, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": []}, "settings: expected a list of settings"),
        ({"settings": [{}]}, "settings: expected a list of settings"),
        ({"settings": {"bins": 5}}, "settings: expected a list of settings"),
        ({"settings": [{"bins": 5}, None]}, "settings: expected a list of settings"),
        ({"settings": None}, "either space (what is searched) or settings (a list of them) is needed, and not both"),
        (
            {"space": {"bins": [1]}},
            "either space (what is searched) or settings (a list of them) is needed, and not both",
        ),
        ({"settings": [{"bin": 5}]}, "unknown setting 'bin'; did you mean 'bins'?"),
        ({"settings": [{}, {"bins": 0}]}, "codebook.bins: Input should be greater than 0"),
        (
            {"settings": [{}, {"window": 1}, {"gamma": 1.0}]},
            "settings: 1 and 3 of the list are the same, window=2 gamma=1",
        ),
        ({"settings": [{"bins": 5}, {"codebook": {"bins": 5}}]}, "settings: 1 and 2 of the list are the same, bins=5"),
        ({"settings": [{"train.seed": 1}]}, "settings.train.seed: does not make another setting"),
        ({"settings": [{"track.tensorboard": True}]}, "settings.track.tensorboard: does not make another setting"),
        ({"settings": [{"data.path": "a.parquet"}]}, "settings.data.path: all settings learn from the same"),
        (
            {"search": "tpe", "trials": 9},
            "search: tpe chooses from a space, and listed settings are all tried; drop it",
        ),
        ({"trials": 2}, "trials: 2 is fewer than the list's 3 settings; drop it"),
        ({"objective": "val_loss"}, "losses of different codebook.bins do not compare"),
    ],
)
def test_a_wrong_list_is_refused_in_one_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_sweep(LISTED | change, "file.yaml")
    assert message in str(caught.value)
    assert str(caught.value).startswith("file.yaml: ")
    assert "\n" not in str(caught.value)


def test_the_demo_is_the_shipped_sweep() -> None:
    from bet_ray.demo import demo_sweep

    shipped = load_sweep(ROOT / "sweeps/pointmass_demo.yaml")
    demo = demo_sweep(Path("d.parquet"))
    assert demo.base.pop("data.path") == "d.parquet"
    assert demo == shipped


def test_the_optuna_space_has_the_kinds_of_the_file() -> None:
    space = {"bins": [8, 16], "window": {"low": 1, "high": 10}, "train.lr": {"low": 1e-4, "high": 1e-2, "log": True}}
    found = parse_sweep(SWEEP | {"space": space, "search": "tpe", "trials": 1}, "x").distributions
    kinds = {key: type(distribution).__name__ for key, distribution in found.items()}
    assert kinds == {
        "codebook.bins": "CategoricalDistribution",
        "model.window": "IntDistribution",
        "train.lr": "FloatDistribution",
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spaces": {}}, "unknown setting 'spaces'; did you mean 'space'?"),
        ({"space": {"bin": [1]}}, "unknown setting 'bin'; did you mean 'bins'?"),
        ({"space": {"bins": []}}, "bins: expected a list of values"),
        ({"space": {}}, "needs at least one setting"),
        ({"space": {"bins": [0]}}, "codebook.bins: Input should be greater than 0"),
        ({"space": {"window": {"low": 4, "high": 2}}}, "low 4 must be below high 2"),
        ({"space": {"window": {"low": 1, "high": 5}}}, "a grid needs a list of values, or a step"),
        ({"search": "bayes"}, "search.method: Input should be 'grid', 'random' or 'tpe'"),
        ({"search": "tpe"}, "how many settings should tpe try?"),
        ({"base": {"bins": 3}}, "codebook.bins is both in base and in space"),
        ({"base": {"train": {"epoch": 3}}}, "unknown setting 'train.epoch'; did you mean 'train.epochs'?"),
        ({"task": "pushd"}, "unknown task 'pushd'; did you mean 'pusht'?"),
        ({"eval": {"episode": 3}}, "unknown setting 'eval.episode'; did you mean 'eval.episodes'?"),
        ({"space": {"data.path": ["a.parquet"]}}, "space.data.path: all settings learn from the same demonstrations"),
        ({"space": {"train.seed": [0, 1]}}, "space.train.seed: does not make another setting"),
        ({"space": {"model.heads": [3]}}, "width 20 is not a multiple of heads 3"),
        ({"objective": "val_loss"}, "losses of different codebook.bins do not compare"),
        ({"objective": "loss"}, "objective: Input should be 'primary', 'success' or 'val_loss'"),
    ],
)
def test_a_wrong_sweep_is_refused_in_one_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_sweep(SWEEP | change, "file.yaml")
    assert message in str(caught.value)
    assert str(caught.value).startswith("file.yaml: ")
    assert "\n" not in str(caught.value)


def test_a_missing_question_is_named() -> None:
    with pytest.raises(ConfigError, match=r"x: question: missing"):
        parse_sweep({key: value for key, value in SWEEP.items() if key != "question"}, "x")


def test_objectives_know_their_direction() -> None:
    assert {objective: objective.mode for objective in Objective} == {
        "primary": "max",
        "success": "max",
        "val_loss": "min",
    }
    assert Search("grid") is Search.GRID


@pytest.mark.parametrize("path", sorted((ROOT / "sweeps").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_sweep_is_written_as_a_file_that_says_the_same(path: Path, tmp_path: Path) -> None:
    sweep = load_sweep(path)
    (tmp_path / "again.yaml").write_text(sweep_yaml(sweep))
    assert load_sweep(tmp_path / "again.yaml") == sweep


def test_losses_with_and_without_offsets_do_not_compare() -> None:
    tree = SWEEP | {"space": {"model.offsets": [True, False]}, "objective": "val_loss"}
    with pytest.raises(ConfigError, match=r"losses of different model\.offsets do not compare"):
        parse_sweep(tree, "x")
