"""Settings: presets, layers over them, and what a mistyped one is told."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from bet.config import (
    PRESETS,
    SHORT_FORMS,
    Config,
    ConfigError,
    Frozen,
    config_keys,
    flatten,
    full_key,
    load_yaml,
    make_config,
    parse_dotlist,
    parse_overrides,
    task_named,
    task_of,
)

# Presets.

POINTMASS = {
    "model.window": 2,
    "model.layers": 1,
    "model.heads": 2,
    "model.width": 20,
    "loss.offset_scale": 10.0,
    "train.batch_size": 64,
    "train.epochs": 10,
    "data.normalize": "none",
}
PUSHT = {
    "codebook.bins": 64,
    "model.window": 14,
    "model.layers": 6,
    "model.heads": 6,
    "model.width": 120,
    "loss.offset_scale": 1.0,
    "train.batch_size": 64,
    "train.epochs": 19,
    "data.normalize": "minmax",  # ours
}
TABLE = {  # DESIGN.md, section 7
    "blockpush": {
        "codebook.bins": 24,
        "model.window": 5,
        "model.layers": 4,
        "model.heads": 4,
        "model.width": 72,
        "loss.offset_scale": 1e5,
        "train.batch_size": 256,
        "train.epochs": 350,
        "data.normalize": "none",
    },
    "kitchen": {
        "codebook.bins": 64,
        "model.window": 10,
        "model.layers": 6,
        "model.heads": 6,
        "model.width": 120,
        "loss.offset_scale": 1000.0,
        "train.batch_size": 64,
        "train.epochs": 50,
        "data.normalize": "none",
    },
    "carla": {
        "codebook.bins": 32,
        "model.window": 10,
        "model.layers": 3,
        "model.heads": 4,
        "model.width": 256,
        "model.dropout": 0.6,
        "loss.offset_scale": 500.0,
        "train.batch_size": 128,
        "train.epochs": 40,
        "data.normalize": "none",
    },
    "pointmass1": POINTMASS | {"codebook.bins": 2},
    "pointmass2": POINTMASS | {"codebook.bins": 3},
    "pusht": PUSHT | {"data.observation": "state", "eval.episodes": 100},
    "pusht-agent-only": PUSHT | {"data.observation": "agent", "eval.episodes": 206},
}
SHARED = {
    "train.lr": 1e-4,
    "train.weight_decay": 0.1,
    "train.betas": (0.9, 0.95),
    "train.grad_clip": 1.0,
    "train.schedule": "constant",
    "train.ema": None,
    "loss.gamma": 2.0,
    "model.dropout": 0.1,
    "model.offsets": True,
    "data.train_fraction": 0.95,
    "data.drop_last_window": False,
    "codebook.fit_on": "train",
}


@pytest.mark.parametrize(("key", "most"), [("train.seed", 2**63 - 1), ("train.threads", 1024)])
def test_what_would_only_fail_later_is_refused_at_once(key: str, most: int) -> None:
    assert value_of(make_config("pusht", {key: most}), key) == most
    with pytest.raises(ConfigError, match=f"^{key}: Input should be less than"):
        make_config("pusht", {key: most + 1})


def value_of(config: Config, key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    return value


@pytest.mark.parametrize("task", PRESETS)
def test_a_preset_has_the_published_settings(task: str) -> None:
    config = make_config(task)
    assert config.task == task_of(task)
    for key, expected in (SHARED | TABLE[task]).items():
        assert value_of(config, key) == expected, key


@pytest.mark.parametrize("task", ["Pendulum-v1", "my_pkg:MyEnv-v0", "space/MyEnv", "my_pkg.envs:MyEnv"])
def test_gymnasium_ids_share_a_preset(task: str) -> None:
    config = make_config(task)
    assert config.task == task
    assert config.model_dump(exclude={"task"}) == make_config("Pendulum-v1").model_dump(exclude={"task"})
    assert config.data.normalize == "minmax"


@pytest.mark.parametrize(
    "layer", [{"task": {"env": "Pendulum-v1"}}, {"task.env": "Pendulum-v1"}, {"task": "Pendulum-v1"}]
)
def test_task_env_is_a_spelling_of_task(layer: dict[str, Any]) -> None:
    assert make_config("Pendulum-v1", flatten(layer), parse_overrides(["task.env=Pendulum-v1"])).task == "Pendulum-v1"
    with pytest.raises(ConfigError, match="task: the settings are for 'Pendulum-v1', not for 'pusht'"):
        make_config("pusht", flatten(layer))


@pytest.mark.parametrize("argument", ["my_pkg:MyEnv-v0", "task=my_pkg:MyEnv-v0", "task.env=my_pkg:MyEnv-v0"])
def test_a_task_argument_is_a_name_or_a_setting_that_gives_one(argument: str) -> None:
    assert task_named(argument) == "my_pkg:MyEnv-v0"


def test_another_setting_in_place_of_the_task_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"expected a task or task\.env=ID before the settings, got 'bins=3'"):
        task_named("bins=3")
    with pytest.raises(ConfigError, match=r"unknown setting 'task\.evn'; did you mean 'task\.env'"):
        task_named("task.evn=Pendulum-v1")


def test_every_setting_has_a_help_text() -> None:
    assert all(config_keys().values())


def test_every_short_form_and_preset_names_a_setting() -> None:
    keys = config_keys().keys()
    assert set(SHORT_FORMS.values()) <= keys
    for preset in PRESETS.values():
        assert set(preset) <= keys


# Layers.

LAYER = st.fixed_dictionaries(
    {},
    optional={
        "codebook.bins": st.integers(1, 100),
        "model.window": st.integers(1, 100),
        "model.offsets": st.booleans(),
        "model.dropout": st.floats(0, 0.99),
        "loss.gamma": st.floats(0, 10),
        "train.seed": st.integers(0, 2**63 - 1),
        "train.lr": st.floats(1e-9, 1e9),
        "train.ema": st.none() | st.floats(0.1, 0.9),
        "data.path": st.none() | st.text(),
    },
)


def nested(layer: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in layer.items():
        section, name = key.split(".")
        tree.setdefault(section, {})[name] = value
    return tree


@settings(max_examples=50)
@given(layers=st.lists(LAYER, max_size=3), shuffle=st.randoms(use_true_random=False))
def test_the_last_layer_wins_and_the_order_of_keys_does_not_matter(layers: list[dict[str, Any]], shuffle: Any) -> None:
    config = make_config("pusht", *layers)
    expected: dict[str, Any] = {}
    for layer in layers:
        expected |= layer
    for key in config_keys():
        assert value_of(config, key) == expected.get(key, value_of(make_config("pusht"), key))
    shuffled = []
    for layer in layers:
        keys = list(layer)
        shuffle.shuffle(keys)
        shuffled.append({key: layer[key] for key in keys})
    again = make_config("pusht", *shuffled)
    assert again == config
    assert again.digest == config.digest


@settings(max_examples=50)
@given(layer=LAYER)
def test_dotted_nested_and_short_keys_mean_the_same(layer: dict[str, Any]) -> None:
    short = {long: short for short, long in SHORT_FORMS.items()}
    assert flatten(layer) == layer
    assert flatten(nested(layer)) == layer
    assert flatten({short.get(key, key): value for key, value in layer.items()}) == layer


@settings(max_examples=50)
@given(layer=LAYER)
def test_a_config_written_as_json_reads_back_with_its_digest(layer: dict[str, Any]) -> None:
    config = make_config("pointmass1", layer)
    again = Config.model_validate_json(config.canonical_json())
    assert again == config
    assert again.digest == config.digest


def test_the_command_line_wins_over_yaml_and_yaml_over_the_preset(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("bins: 8\nmodel:\n  window: 3\n  dropout: 0.2\ntrain.lr: 1e-3\n")
    config = make_config("pusht", flatten(load_yaml(path)), parse_overrides(["window=5", "gamma=0"]))
    assert (config.codebook.bins, config.model.window, config.loss.gamma) == (8, 5, 0)
    assert (config.model.dropout, config.train.lr, config.model.layers) == (0.2, 1e-3, 6)


def test_the_same_key_given_twice_takes_its_last_value() -> None:
    assert parse_overrides(["bins=8", "codebook.bins=9"]) == {"codebook.bins": 9}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("train.lr=1e-3", 1e-3),
        ("train.ema=null", None),
        ("train.betas=[0.8, 0.99]", [0.8, 0.99]),
        ("model.offsets=false", False),
        ("data.path=a=b", "a=b"),
        ("eval.split=tune", "tune"),
    ],
)
def test_values_on_the_command_line_are_read_as_yaml(text: str, value: Any) -> None:
    assert list(parse_overrides([text]).values()) == [value]


def test_a_settings_file_of_another_task_is_refused() -> None:
    assert make_config("pusht", {"task": "pusht"}) == make_config("pusht")
    with pytest.raises(ConfigError, match=r"task: the settings are for 'pointmass1', not for 'pusht'"):
        make_config("pusht", {"task": "pointmass1"})


@pytest.mark.parametrize("task", ["pusht", "pusht-agent-only"])
def test_a_preset_of_another_name_is_of_its_task(task: str) -> None:
    config = make_config("pusht-agent-only", {"task": task, "bins": 8})
    assert config == make_config("pusht", {"data.observation": "agent", "eval.episodes": 206, "bins": 8})
    with pytest.raises(ConfigError, match=r"task: the settings are for 'blockpush', not for 'pusht-agent-only'"):
        make_config("pusht-agent-only", {"task": "blockpush"})


# What a config is.


def test_a_config_cannot_be_changed() -> None:
    config = make_config("pusht")
    with pytest.raises(ValidationError, match="frozen"):
        config.task = "pointmass1"
    with pytest.raises(ValidationError, match="frozen"):
        config.model.window = 3


def test_a_digest_is_the_same_in_every_process_and_version() -> None:
    class Sample(Frozen):
        number: float = 0.5
        name: str = "a"
        pair: tuple[int, int] = (1, 2)

    assert Sample().canonical_json() == '{"name":"a","number":0.5,"pair":[1,2]}'
    assert Sample().digest == "7c6f2bd788301db51d8c9ff07ec59cb03360c93aaa1b14a7f302b09c6ea174dd"


def test_any_setting_changes_the_digest() -> None:
    changes = ["bins=9", "window=9", "gamma=1", "train.seed=1", "data.path=x", "eval.episodes=7", "pool.slots=1"]
    digests = {make_config("pusht", parse_overrides([change])).digest for change in changes}
    assert len(digests | {make_config("pusht").digest}) == len(changes) + 1


# Mistakes.


def complaint(*pairs: str, task: str = "pusht") -> str:
    with pytest.raises(ConfigError) as error:
        make_config(task, parse_overrides(pairs))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("bin=3", "bins"),
        ("codebook.bin=3", "codebook.bins"),
        ("epochs=3", "train.epochs"),
        ("model.drpout=0", "model.dropout"),
        ("gama=0", "gamma"),
    ],
)
def test_an_unknown_setting_is_named_with_the_one_probably_meant(typed: str, meant: str) -> None:
    assert complaint(typed) == f"unknown setting {typed.split('=')[0]!r}; did you mean {meant!r}?"


def test_an_unknown_setting_like_no_other_gets_the_list_of_all() -> None:
    message = complaint("zzz=1")
    assert all(key in message for key in config_keys())


def test_an_unknown_task_is_named_with_the_one_probably_meant() -> None:
    assert complaint(task="pushT").startswith("unknown task 'pushT'; did you mean 'pusht'? (a gymnasium id has")


@pytest.mark.parametrize(
    ("tree", "key"),
    [
        ({"model": {"widow": 3}}, "model.widow"),
        ({"model": {"bins": 3}}, "model.bins"),
        ({"modle": {"window": 3}}, "modle.window"),
        ({"model": 3}, "model"),
        ({"bins": {"codebook": 3}}, "bins.codebook"),
    ],
)
def test_an_unknown_key_in_a_section_is_named_in_full(tree: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown setting '{key}'; did you mean"):
        flatten(tree)


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("bins=0", "codebook.bins: Input should be greater than 0 (got 0)"),
        ("window=-1", "model.window"),
        ("gamma=-0.1", "loss.gamma"),
        ("model.dropout=1", "model.dropout"),
        ("model.width=30", "model.width: Input should be a multiple of 4"),
        ("model.width=8", "model.width: Input should be greater than or equal to 12"),
        ("train.lr=0", "train.lr"),
        ("train.lr=.inf", "train.lr"),
        ("train.lr=.nan", "train.lr"),
        ("gamma=.inf", "loss.gamma"),
        ("train.ema=1", "train.ema"),
        ("train.ema=0", "train.ema"),
        ("train.betas=[0.9, 1]", "train.betas.1"),
        ("train.betas=[-0.1, 0.9]", "train.betas.0"),
        ("train.seed=-1", "train.seed"),
        ("train.seed=18446744073709551616", "train.seed"),
        ("data.split_seed=-1", "data.split_seed"),
        ("data.train_fraction=1", "data.train_fraction"),
        ("data.train_fraction=0", "data.train_fraction"),
        ("codebook.seed=4294967296", "codebook.seed"),
        ("eval.episodes=0", "eval.episodes"),
        ("pool.slots=0", "pool.slots"),
    ],
)
def test_a_value_out_of_range_is_refused_with_its_key(pair: str, message: str) -> None:
    assert complaint(pair).startswith(message)


@pytest.mark.parametrize(
    ("pair", "key"),
    [
        ("bins=many", "codebook.bins"),
        ("bins=2.5", "codebook.bins"),
        ("bins=[1, 2]", "codebook.bins"),
        ("bins={a: 1}", "codebook.bins"),
        ("bins=", "codebook.bins"),
        ("train.lr=fast", "train.lr"),
        ("train.betas=0.9", "train.betas"),
        ("train.betas=[0.9]", "train.betas.1"),
        ("model.offsets=perhaps", "model.offsets"),
        ("data.path=5", "data.path"),
        ("eval.split=reprot", "eval.split"),
        ("model.trunk=rnn", "model.trunk"),
        ("data.normalize=std", "data.normalize"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_with_its_key(pair: str, key: str) -> None:
    assert complaint(pair).startswith(f"{key}: ")


def test_heads_that_do_not_divide_the_width_are_refused_with_both_numbers() -> None:
    assert complaint("model.heads=7") == "model: width 120 is not a multiple of heads 7"


@pytest.mark.parametrize("pair", ["bins", "bins 64", ""])
def test_what_is_no_pair_is_refused_with_an_example(pair: str) -> None:
    with pytest.raises(ConfigError, match="expected key=value"):
        parse_dotlist([pair])


def test_a_value_that_is_not_yaml_is_refused_with_its_key() -> None:
    with pytest.raises(ConfigError, match=r"^bins: cannot read the value of 'bins=\[1, 2'"):
        parse_dotlist(["bins=[1, 2"])


@pytest.mark.parametrize("key", ["", "bins.x", "codebook", "codebook.", ".bins"])
def test_a_key_that_is_no_setting_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match="unknown setting"):
        full_key(key)


# Files.


def file_complaint(path: Path) -> str:
    with pytest.raises(ConfigError) as error:
        load_yaml(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("text", "line"),
    [("bins: 8\nmodel: [1, 2\ntrain: 3\n", 3), ("a: 1\nb: 2\n\tc: 3\n", 3), ("a: 1\na: 2\n", 2)],
    ids=["open bracket", "tab", "a key twice"],
)
def test_a_syntax_error_names_the_file_and_the_line(tmp_path: Path, text: str, line: int) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    assert f"{path} line {line}: not valid YAML" in file_complaint(path)


def test_a_file_that_is_absent_or_a_folder_or_no_text_is_named(tmp_path: Path) -> None:
    assert "no such file" in file_complaint(tmp_path / "absent.yaml")
    file_complaint(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00bins: 3")
    file_complaint(tmp_path / "binary.yaml")


def test_an_unknown_interpolation_is_refused_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("bins: ${nowhere}\n")
    file_complaint(path)


def test_a_file_without_a_mapping_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("- bins\n- 3\n")
    assert "expected a mapping" in file_complaint(path)
    path.write_text("just words\n")  # OmegaConf reads this as a key without a value
    with pytest.raises(ConfigError, match="unknown setting 'just words'"):
        flatten(load_yaml(path))


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("# nothing yet\n")
    assert load_yaml(path) == {}
