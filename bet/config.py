"""Every setting, once: frozen pydantic models, a preset per task, and the merge of YAML and `key=value`.

A docstring under a field is its help text. The order of authority is preset < YAML < command line.
"""

import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)
from yaml import YAMLError

from bet.errors import UsageError


class ConfigError(UsageError):
    """A setting is unknown or out of range; the message names its key."""


class Normalize(StrEnum):
    NONE = "none"
    MINMAX = "minmax"


class FitOn(StrEnum):
    TRAIN = "train"
    ALL = "all"


class Trunk(StrEnum):
    TRANSFORMER = "transformer"
    MLP = "mlp"
    LSTM = "lstm"


class Precision(StrEnum):
    """Arithmetic of training; acting is always float32."""

    FLOAT32 = "float32"
    TF32 = "tf32"
    BF16 = "bf16"


class Schedule(StrEnum):
    CONSTANT = "constant"
    COSINE = "cosine"


class Split(StrEnum):
    """Disjoint sets of evaluation episodes: winners are chosen on `tune` and measured on `report`."""

    TUNE = "tune"
    REPORT = "report"


class BinSource(StrEnum):
    """Where the bin of an action comes from."""

    POLICY = "policy"
    CODEBOOK = "codebook"


class Start(StrEnum):
    """Where an episode begins."""

    RESET = "reset"
    DEMONSTRATIONS = "demonstrations"


class WandbMode(StrEnum):
    """Whether Weights & Biases is told, and where."""

    OFF = "off"
    OFFLINE = "offline"
    ONLINE = "online"


class Frozen(BaseModel):
    """Base of every settings model: immutable, no unknown keys, field docstrings as descriptions."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    def canonical_json(self) -> str:
        return canonical_json(self.model_dump(mode="json"))

    @property
    def digest(self) -> str:
        """sha256 of the canonical JSON."""
        return hashlib.sha256(self.canonical_json().encode()).hexdigest()


class DataConfig(Frozen):
    path: str | None = None
    """Demonstrations. None: the task's own place under BET_DATA_DIR (point mass: generated on the spot)."""
    split_seed: NonNegativeInt | None = 0
    """Seed of the train/validation split. None: the training seed, so that several seeds cross-validate."""
    train_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Share of the episodes that train; the others validate."""
    observation: str = "state"
    """Observation layout; pusht has `state`, `agent` (the pusher's position alone), `keypoints8` and `keypoints9`."""
    normalize: Normalize = Normalize.NONE
    """`minmax` scales observations and actions to [-1, 1] by the training split; `none` leaves them."""
    drop_last_window: bool = False
    """Leave out the last window of each episode, as the original code does."""


class CodebookConfig(Frozen):
    bins: PositiveInt = 64
    """Number of k-means action bins; 1 is a plain regressor."""
    fit_on: FitOn = FitOn.TRAIN
    """Actions the bins are fitted on: the training split, or `all` as the original code."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of k-means."""


class ModelConfig(Frozen):
    trunk: Trunk = Trunk.TRANSFORMER
    """Network between observations and heads: the causal transformer, or an ablation of the literature."""
    window: PositiveInt = 10
    """Observations a policy sees: the last `window` steps."""
    layers: PositiveInt = 6
    """Transformer blocks, hidden layers of the MLP, or LSTM layers."""
    heads: PositiveInt = 6
    """Attention heads of the transformer; must divide the width."""
    width: Annotated[int, Field(ge=12, multiple_of=4)] = 120
    """Embedding or hidden size; a multiple of 4, since otherwise a row's last bits depend on its place in a batch."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Transformer: on embeddings, attention and residuals; MLP and LSTM: after each layer but the last."""
    batch_norm: bool = False
    """Batch normalisation in the MLP."""
    offsets: bool = True
    """Predict a continuous offset for each bin; without, an action is its bin's centre."""

    @model_validator(mode="after")
    def _consistent(self) -> "ModelConfig":
        if self.trunk is Trunk.TRANSFORMER and self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.batch_norm and self.trunk is not Trunk.MLP:
            raise ValueError(f"batch_norm is for the mlp, not for the {self.trunk}")
        return self


class LossConfig(Frozen):
    gamma: NonNegativeFloat = 2.0
    """Focal-loss exponent; 0 is cross-entropy."""
    offset_scale: NonNegativeFloat = 1.0
    """Weight of the offset loss."""


Beta = Annotated[float, Field(ge=0, lt=1)]


class TrainConfig(Frozen):
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0  # what the tables of a run hold
    """Seed of initial weights, sample order and dropout."""
    epochs: PositiveInt = 50
    """Passes over the training windows."""
    batch_size: PositiveInt = 64
    """Windows per step, over all workers together."""
    lr: PositiveFloat = 1e-4
    """AdamW learning rate (its peak, with a schedule)."""
    schedule: Schedule = Schedule.CONSTANT
    """Learning rate after warm-up: `constant` as published, or `cosine` down to zero."""
    warmup_steps: NonNegativeInt = 0
    """Steps of linear warm-up."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of an exponential moving average of the weights, which then is what acts. None: no average."""
    weight_decay: NonNegativeFloat = 0.1
    """AdamW weight decay, on matrices only."""
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    """AdamW betas."""
    grad_clip: PositiveFloat | None = 1.0
    """Largest gradient norm. None: no clipping."""
    device: str = "cpu"
    """Where training runs: cpu, cuda, cuda:1, mps, or `auto` for the best that is there."""
    threads: Annotated[int, Field(ge=1, le=1024)] = 1  # of many more than there are CPUs, torch dies
    """Torch threads of a training process. The weights' last bits depend on it; models this small gain nothing."""
    precision: Precision = Precision.FLOAT32
    """Arithmetic of training: `float32`, or on request `tf32` (CUDA) or `bf16` (CUDA, CPU). Acting is in float32."""


class EvalConfig(Frozen):
    protocol: str | None = None
    """Named evaluation recipe. None: the task's own."""
    episodes: PositiveInt = 100
    """Episodes to roll out."""
    split: Split = Split.REPORT
    """Set of initial states: `report` measures, `tune` is for choosing."""
    window: PositiveInt | None = None
    """Observations the policy sees, at most the window it was trained with. None: that window."""
    hold_bins: PositiveInt = 1
    """Steps a drawn bin is kept; its offset is predicted anew at each (the original's `action_update_every`)."""
    bins: BinSource = BinSource.POLICY
    """`codebook` draws every bin alike and adds no offset: what the policy must beat (`use_state_prior=false`)."""
    start: Start = Start.RESET
    """`demonstrations` begins each episode where one of them began (the original's `start_from_seen`)."""


class PoolConfig(Frozen):
    actors: PositiveInt | None = None
    """Rollout actors, one CPU each. None: one per CPU. (A sweep has its own, under `resources`.)"""
    slots: PositiveInt = 32
    """Episodes an actor runs at once."""


class TrackConfig(Frozen):
    """How a run is watched. No part of what it is: it changes no weight and no episode, and no record keeps it."""

    wandb: WandbMode = WandbMode.OFF
    """Weights & Biases: `off`, `offline` (below the run directory, for `wandb sync`) or `online`."""
    tensorboard: bool = False
    """Write TensorBoard event files below the run directory."""
    project: str = "bet-ray"
    """Project of Weights & Biases."""

    @field_validator("wandb", mode="before")
    @classmethod
    def _off_is_a_word(cls, value: Any) -> Any:
        return WandbMode.OFF if value is False else value  # YAML reads `off` as false

    @property
    def on(self) -> bool:
        """Whether anything watches."""
        return self.tensorboard or self.wandb is not WandbMode.OFF


class Config(Frozen):
    """All settings of one training and its evaluation."""

    task: str
    """Name in the task registry, or a gymnasium id: `Pendulum-v1`, or `my_pkg:MyEnv-v0` where my_pkg registers it."""
    data: DataConfig = DataConfig()
    codebook: CodebookConfig = CodebookConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
    pool: PoolConfig = PoolConfig()
    track: TrackConfig = Field(default=TrackConfig(), exclude=True)

    @property
    def split(self) -> tuple[float, int]:
        """What `Episodes.split` takes: the share of the episodes that train, and the seed that chooses them."""
        seed = self.data.split_seed
        return self.data.train_fraction, self.train.seed if seed is None else seed


SHORT_FORMS: Mapping[str, str] = MappingProxyType(
    {
        "bins": "codebook.bins",
        "trunk": "model.trunk",
        "window": "model.window",
        "offsets": "model.offsets",
        "gamma": "loss.gamma",
        "task.env": "task",
    }
)

_PUSHT: Mapping[str, Any] = {
    "data.normalize": "minmax",
    "codebook.bins": 64,
    "model.window": 14,
    "model.layers": 6,
    "model.heads": 6,
    "model.width": 120,
    "loss.offset_scale": 1.0,
    "train.batch_size": 64,
    "train.epochs": 19,
}

# From the original configs (notmahi/bet, configs/env/*; skandermoalla/bet-reproduction), DESIGN.md section 7.
# Each is of the task of its own name, where it names no other.
PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "pusht": _PUSHT,
        # What Satya1998-debug/behaviour_transformer_policy trains and evaluates (configs/{train,eval}_pusht.yaml).
        "pusht-agent-only": {**_PUSHT, "task": "pusht", "data.observation": "agent", "eval.episodes": 206},
        "blockpush": {
            "codebook.bins": 24,
            "model.window": 5,
            "model.layers": 4,
            "model.heads": 4,
            "model.width": 72,
            "loss.offset_scale": 1e5,
            "train.batch_size": 256,
            "train.epochs": 350,
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
        },
        "pointmass1": {
            "codebook.bins": 2,
            "model.window": 2,
            "model.layers": 1,
            "model.heads": 2,
            "model.width": 20,
            "loss.offset_scale": 10.0,
            "train.batch_size": 64,
            "train.epochs": 10,
        },
        "pointmass2": {
            "codebook.bins": 3,
            "model.window": 2,
            "model.layers": 1,
            "model.heads": 2,
            "model.width": 20,
            "loss.offset_scale": 10.0,
            "train.batch_size": 64,
            "train.epochs": 10,
        },
    }
)

# Of every gymnasium id: our own choice, to start from.
GYMNASIUM_PRESET: Mapping[str, Any] = MappingProxyType(
    {
        "data.normalize": "minmax",
        "codebook.bins": 16,
        "model.window": 4,
        "model.layers": 2,
        "model.heads": 4,
        "model.width": 64,
        "train.batch_size": 128,
        "train.epochs": 20,
        "train.lr": 1e-3,
    }
)


def canonical_json(value: Any) -> str:
    """One spelling for equal values: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def config_keys(model: type[BaseModel] = Config, prefix: str = "") -> dict[str, str]:
    """Every dotted key of a settings model with its help text."""
    keys = {}
    for name, field in model.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            keys |= config_keys(annotation, f"{prefix}{name}.")
        else:
            keys[f"{prefix}{name}"] = field.description or ""
    return keys


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` when something known is close, else a list of what is known."""
    known = [str(name) for name in known]  # the value of an enum, not its repr
    close = difflib.get_close_matches(word, known, n=1)
    if not close:  # somebody who types `epochs` means `train.epochs`
        close = [key for key in known if key.rsplit(".", 1)[-1] == word]
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"


def task_of(name: str) -> str:
    """The task that a name on a command line or in a sweep file means: the preset's, or the name itself."""
    return str(PRESETS.get(name, {}).get("task", name))


def is_gymnasium_id(task: str) -> bool:
    """Whether a task's name is gymnasium's: with a version, a namespace, or the module that registers it."""
    return task not in PRESETS and re.search(r"-v\d+$|/|:", task) is not None


def unknown_task(task: str) -> ConfigError:
    """The error that says which tasks there are."""
    hint = "a gymnasium id has a version: Pendulum-v1, my_pkg:MyEnv-v0"
    return ConfigError(f"unknown task {task!r}{did_you_mean(task, PRESETS)} ({hint})")


def task_named(argument: str) -> str:
    """The task meant on a command line: `NAME`, `task=NAME` or `task.env=ID`. Raises `ConfigError` for another key."""
    if "=" not in argument:
        return argument
    settings = parse_overrides([argument])
    if "task" not in settings:
        raise ConfigError(f"expected a task or task.env=ID before the settings, got {argument!r}")
    return str(settings["task"])


def full_key(key: str) -> str:
    """The dotted key for a short form or a dotted key. Raises `ConfigError` for an unknown one."""
    key = SHORT_FORMS.get(key, key)
    known = config_keys()
    if key not in known:
        raise ConfigError(f"unknown setting {key!r}{did_you_mean(key, [*known, *SHORT_FORMS])}")
    return key


def parse_dotlist(pairs: Iterable[str]) -> dict[str, Any]:
    """`["bins=64", "train.lr=1e-3"]` -> keys as written and YAML values. Raises `ConfigError`."""
    parsed: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise ConfigError(f"expected key=value, got {pair!r} (for example bins=64)")
        try:
            tree = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))
        except (OmegaConfBaseException, YAMLError) as error:
            raise ConfigError(f"{key}: cannot read the value of {pair!r}") from error
        assert isinstance(tree, dict)
        parsed[key.strip()] = tree["value"]
    return parsed


def parse_overrides(pairs: Iterable[str]) -> dict[str, Any]:
    """`key=value` pairs of settings -> dotted full keys. Raises `ConfigError` for an unknown key."""
    return {full_key(key): value for key, value in parse_dotlist(pairs).items()}


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested or dotted mappings -> dotted full keys. Raises `ConfigError` for an unknown one, or one given twice."""
    sections = {key.split(".")[0] for key in config_keys() if "." in key}
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        key = f"{prefix}{name}"
        within = isinstance(value, Mapping) and (key in sections or not prefix)
        found = flatten(value, f"{key}.") if within else {full_key(key): value}
        for twice in found.keys() & flat.keys():
            raise ConfigError(f"{twice} is given twice, as {flat[twice]} and as {found[twice]}")
        flat |= found
    return flat


def load_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping. Raises `ConfigError` naming the file, and the line of a syntax error."""
    try:
        tree = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file") from error
    except (OmegaConfBaseException, YAMLError, OSError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(f"{path}{where}: not valid YAML: {problem}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected a mapping of settings at the top level")
    return {str(key): value for key, value in tree.items()}


def validation_message(error: ValidationError, model: type[BaseModel]) -> str:
    """The first problem of a pydantic error on one line, key first."""
    problem = error.errors()[0]
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"unknown setting {key!r}{did_you_mean(key, config_keys(model))}"
    if problem["type"] == "missing":
        return f"{key}: missing"
    message = problem["msg"].removeprefix("Value error, ")
    if not isinstance(problem["input"], Mapping):
        message += f" (got {problem['input']!r})"
    return f"{key}: {message}" if key else message


def changed(config: Config, settings: Mapping[str, Any]) -> Config:
    """A config with dotted settings over it. Raises `ConfigError` for an unknown key or a value out of range."""
    tree = {name: dict(value) if isinstance(value, BaseModel) else value for name, value in config}
    for key, value in settings.items():
        section, _, name = full_key(key).rpartition(".")
        (tree[section] if section else tree)[name] = value
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(validation_message(error, Config)) from error


def make_config(name: str, *layers: Mapping[str, Any]) -> Config:
    """The preset of a name, or of every gymnasium id, with layers of dotted settings over it, the last one strongest.

    Raises `ConfigError` for a name that is neither a preset's nor a gymnasium id, or other than a layer's task, for an
    unknown key or a value out of range.
    """
    if name not in PRESETS and not is_gymnasium_id(name):
        raise unknown_task(name)
    flat: dict[str, Any] = dict(PRESETS.get(name, GYMNASIUM_PRESET))
    for layer in layers:
        flat |= {full_key(key): value for key, value in layer.items()}
    if flat.setdefault("task", name) not in (name, task_of(name)):
        raise ConfigError(f"task: the settings are for {flat['task']!r}, not for {name!r}")
    flat["task"] = task_of(name)
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        section, dot, name = key.rpartition(".")
        (nested.setdefault(section, {}) if dot else nested)[name] = value
    try:
        return Config.model_validate(nested)
    except ValidationError as error:
        raise ConfigError(validation_message(error, Config)) from error
