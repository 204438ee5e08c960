"""The experiments of the reproduction study, and their like on other tasks, as named sweeps.

Grids, training seeds and rollouts are those of its scripts (github.com/skandermoalla/bet-reproduction,
`reproducibility_scripts/*/*.sh`: `experiment.num_cv_runs` seeds, 20 x 50 rollouts of each snapshot), epochs and
everything else the task's preset. A new task is a row of `SETUPS` and its experiments rows of `EXPERIMENTS`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from bet import tasks
from bet.config import (
    PRESETS,
    SHORT_FORMS,
    ConfigError,
    TrackConfig,
    did_you_mean,
    flatten,
    full_key,
    make_config,
    parse_dotlist,
)
from bet.wording import counted
from bet_ray.published import PUBLISHED, PUBLISHED_RATES, By, Cited
from bet_ray.sweep import Resources, Search, Sweep, SweepEval, parse_sweep
from bet_ray.training import trial_id
from bet_ray.values import setting_text

ROLLOUTS = 1000  # of each snapshot, as published
TUNE_EPISODES = 100  # judge a trial while it trains; nothing that is printed depends on them

_SECTIONS = {"eval": SweepEval, "resources": Resources, "track": TrackConfig}
# Says nothing of what a policy is, or is told apart from the settings.
_BESIDE = ("data.path", "train.epochs", "train.device", "train.threads", "eval.episodes", "pool.", "track.")


@dataclass(frozen=True)
class Setup:
    """How experiments on a task are run."""

    demonstrations: int
    """As published."""
    needs: str
    """Where they come from, for people."""
    scaled: Mapping[str, Any]
    """Over the preset, where there is no time for its epochs."""
    epochs: int
    """With that."""


SETUPS: Mapping[str, Setup] = MappingProxyType(
    {
        "blockpush": Setup(
            1000,
            "bet-ray data generate blockpush --episodes 1000, or data.path",
            {
                "data.normalize": "minmax",
                "loss.offset_scale": 100,
                "train.lr": 2e-3,
                "train.schedule": "cosine",
                "train.warmup_steps": 200,
                "train.ema": 0.999,
            },
            60,
        ),
        "kitchen": Setup(
            566,
            "bet-ray data download kitchen, bet-ray data generate kitchen, or data.path",
            {"train.lr": 1e-3, "train.schedule": "cosine", "train.warmup_steps": 200, "train.ema": 0.999},
            20,
        ),
        "pusht": Setup(
            206,
            "bet-ray data download pusht",
            {
                "model.layers": 4,
                "model.heads": 4,
                "model.width": 72,
                "loss.offset_scale": 100,
                "train.batch_size": 256,
                "train.lr": 2e-3,
                "train.schedule": "cosine",
                "train.warmup_steps": 100,
                "train.ema": 0.999,
            },
            24,
        ),
        **{
            task: Setup(
                20_000,
                f"nothing (2,000 are made on the spot); bet-ray data generate {task} --episodes 20000 makes all",
                {"train.lr": 3e-3, "train.schedule": "cosine"},
                10,
            )
            for task in ("pointmass1", "pointmass2")
        },
    }
)


def by_section(changes: Sequence[str], name: str) -> dict[tuple[str, str], Any]:
    """`key=value` -> by section of the sweep file of experiment `name` and key there; of `base` they are full keys.

    Raises `ConfigError` for what a change would make another experiment, and for an unknown key.
    """
    sorted_out = {}
    for key, value in parse_dotlist(changes).items():
        section, _, rest = key.partition(".")
        if section in _SECTIONS and rest in _SECTIONS[section].model_fields:
            sorted_out[section, rest] = value
        elif key in Sweep.model_fields or SHORT_FORMS.get(key, key) == "task":
            raise ConfigError(f"{key}: is what {name} is about; write a sweep file to change it")
        else:
            sorted_out["base", full_key(key)] = value
    return sorted_out


@dataclass(frozen=True)
class Size:
    """How much of an experiment is run."""

    epochs: int
    episodes: int
    """On `report`, of every policy."""
    seeds: int

    def __str__(self) -> str:
        parts = counted(self.epochs, "epoch"), counted(self.seeds, "seed"), counted(self.episodes, "episode")
        return ", ".join(parts)


@dataclass(frozen=True)
class Experiment:
    """A question that was asked of a task, and the settings that answer it."""

    name: str
    question: str
    task: str
    tries: Mapping[str, Any]
    """`space`, or `settings`; how they are searched, if not all are tried."""
    seeds: int
    """Training seeds, as published."""
    note: str = "the study shows figures of its grid; numbers are published for the preset alone"
    """Of what was published."""
    base: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """Over the preset, of all settings."""

    @property
    def setup(self) -> Setup:
        return SETUPS[self.task]

    @property
    def published_size(self) -> Size:
        return Size(PRESETS[self.task]["train.epochs"], ROLLOUTS, self.seeds)

    @property
    def published(self) -> Sweep:
        """As it was published."""
        return self.sweep(self.published_size, scaled=False)

    def sweep(self, size: Size, *, scaled: bool, changes: Sequence[str] = ()) -> Sweep:
        """The experiment in a size, by the scaled or the published recipe; `changes`, not of the size, are over that.

        Raises `ConfigError` naming the experiment and the key.
        """
        tree: dict[str, Any] = {
            "question": self.question,
            "task": self.task,
            "search": "grid",
            **self.tries,
            "seeds_per_trial": size.seeds,
            "eval": {"episodes": TUNE_EPISODES, "winner_episodes": size.episodes},
        }
        searched = {full_key(key) for key in self.tries.get("space", ())}
        recipe = {key: value for key, value in self.setup.scaled.items() if scaled and key not in searched}
        base = {**recipe, **self.base, "train.epochs": size.epochs}
        for (section, name), value in by_section(changes, self.name).items():
            if section == "base":
                base[name] = value
            else:
                tree[section] = {**tree.get(section, {}), name: value}
        return parse_sweep(tree | {"base": base}, self.name)

    def is_of(self, sweep: Sweep) -> bool:
        """Whether a sweep tries what this experiment tries, of whatever size and recipe."""
        mine = self.published
        return (mine.task, mine.space, mine.settings) == (sweep.task, sweep.space, sweep.settings)

    def departures(self, sweep: Sweep, demonstrations: int) -> list[str]:
        """In what a sweep of the experiment is not as published; empty where it is."""
        published, size = self.published, self.published_size
        amounts = (
            ("epoch", sweep.config({}).train.epochs, size.epochs),
            ("seed", sweep.seeds_per_trial, size.seeds),
            ("episode", sweep.eval.winner_episodes, size.episodes),
            ("demonstration", demonstrations, self.setup.demonstrations),
        )
        told = [
            f"{ours:,} of {counted(theirs, what)}" if ours < theirs else f"{counted(ours, what)} for {theirs:,}"
            for what, ours, theirs in amounts
            if ours != theirs
        ]
        ours, theirs = (flatten(one.config({}).model_dump(mode="json")) for one in (sweep, published))
        changed = {key: value for key, value in ours.items() if value != theirs[key]}
        return told + [
            setting_text({key: value})
            for key, value in changed.items()
            if not key.startswith(_BESIDE) and key not in (sweep.space or {})
        ]

    def told(self, sweep: Sweep, setting: Mapping[str, Any]) -> str:
        """A setting of a sweep of the experiment, as its row is headed."""
        if sweep.settings is None:
            return setting_text(setting)
        return setting_text(sweep.settings[list(sweep.enumerated()).index(dict(setting))]) or "the preset"

    def cited(self, sweep: Sweep, setting: Mapping[str, Any]) -> dict[tuple[By, str], Cited]:
        """What was published of one of the settings of a sweep of the experiment, by publisher and metric."""
        if sweep.search.method is Search.GRID:  # where a scaled recipe may be part of the setting
            setting = list(self.published.enumerated())[list(sweep.enumerated()).index(dict(setting))]
        trial, found = trial_id(self.published.config(setting)), {}
        for row in PUBLISHED_RATES.get(self.task, ()):
            if trial == trial_id(make_config(self.task, row.setting)):
                found |= {(row.by, name): Cited(value, row.source) for name, value in row.rates.items()}
        for line in PUBLISHED.get(self.task, ()):
            if line.by and trial == trial_id(make_config(self.task)):
                source = f"{line.source}, {line.label}"
                found[line.by, tasks.simulated(self.task).protocol.primary] = Cited(line.value, source)
        return found


_FULL = "the preset's numbers are published in full"
_OURS = "not in the study: the same question asked of PushT; the preset is a variant of the published recipe"
_PICTURES = "the study shows paths of ten rollouts, and no number"
_LSTM = {"trunk": "lstm", "model": {"layers": 2, "width": 1024, "dropout": 0}}
# The study's MLP has batch normalisation and no dropout (configs/model/mlp.yaml, models/mlp.py).
_MLP = {"model.trunk": "mlp", "model.dropout": 0, "model.batch_norm": True}


@dataclass(frozen=True)
class _Grids:
    """What the study tried on a task that it shared with the paper."""

    named: str
    question: str
    bins: tuple[int, ...]
    bins_question: str
    windows: tuple[int, ...]
    window_question: str
    mlp: Mapping[str, Any]
    """Of the paper's size."""
    best_mlp: Mapping[str, Any]
    """What was found in the search (reproducibility_scripts/ablation_mlp/*.sh), over that."""
    searched: Mapping[str, Any]
    """The search's sizes."""
    best: str
    """The search's best, as printed."""


def _of_the_study(task: str, tried: _Grids) -> tuple[Experiment, ...]:
    mlp, preset = {**_MLP, **tried.mlp}, PRESETS[task]["codebook.bins"]
    return (
        Experiment(
            f"{task}-main",
            tried.question,
            task,
            {"space": {"bins": [preset]}},
            5,
            _FULL,
        ),
        Experiment(f"{task}-bins", tried.bins_question, task, {"space": {"bins": [*tried.bins]}}, 3),
        Experiment(f"{task}-window", tried.window_question, task, {"space": {"window": [*tried.windows]}}, 3),
        Experiment(
            f"{task}-gamma",
            f"Does the focal loss help {tried.named}, or does cross-entropy do?",
            task,
            {"space": {"gamma": [0, 2]}},
            3,
        ),
        Experiment(
            f"{task}-offsets",
            f"Does {tried.named} need offsets, or do the centres of the bins do?",
            task,
            {"space": {"offsets": [False, True]}},
            3,
        ),
        Experiment(
            f"{task}-mlp",
            f"Does {tried.named} need the transformer, or does an MLP do - the paper's, or the study's best of 25?",
            task,
            {"settings": [{}, mlp, {**mlp, **tried.best_mlp}]},
            3,
        ),
        Experiment(
            f"{task}-lstm",
            f"Does {tried.named} need the transformer, or does an LSTM do?",
            task,
            {"settings": [{}, _LSTM]},
            3,
            "the study shows a figure; there the LSTM's head was left out of the optimiser",
        ),
        Experiment(
            f"{task}-mlp-search",
            f"Which MLP is best on {tried.named}? 25 trials of Optuna's TPE.",
            task,
            {
                "space": {
                    "train.lr": {"low": 1e-5, "high": 1e-1, "log": True},
                    "train.grad_clip": [None, 1.0],
                    "train.weight_decay": [0.01, 0.05, 0.1],
                    **tried.searched,
                },
                "search": {"method": "tpe", "seed": 0},
                "trials": 25,
                "objective": "val_loss",
            },
            1,
            f"the study prints the best: {tried.best}",
            {key: value for key, value in _MLP.items() if key not in tried.searched},
        ),
    )


_BLOCKPUSH = _Grids(
    "BlockPush",
    "How often does BeT push one block, and both, by the paper's recipe?",
    (1, 4, 8, 16, 20, 24, 32, 64),
    "How many bins does BlockPush need to push both blocks, and to do so in all four ways?",
    (1, 3, 5, 10),
    "How long a window does BlockPush need, whose demonstrator remembers which block it chose?",
    {"model.layers": 4, "model.width": 72},
    {"train.lr": 0.000305, "train.grad_clip": None, "train.weight_decay": 0.05},  # its experiment 18
    {"model.width": [72, 128, 144], "model.layers": [4, 6, 8], "model.batch_norm": [False, True]},
    "lr 0.000305, no clipping, decay 0.05, width 72, 4 layers, batch_norm",
)
_KITCHEN = _Grids(
    "the kitchen",
    "How many tasks does BeT do in the kitchen, by the paper's recipe?",
    (1, 3, 4, 5, 16, 60, 64, 68),
    "How many bins does the kitchen need to do four tasks, in many orders?",
    (1, 5, 10, 20),
    "How long a window does the kitchen need, whose demonstrators know what they are to do next?",
    {"model.layers": 6, "model.width": 120},
    {"train.lr": 0.00053, "train.grad_clip": None, "train.weight_decay": 0.01},  # its experiment 20
    {"model.width": [120, 132], "model.layers": [6, 8, 10, 12]},
    "lr 0.00053, no clipping, decay 0.01, width 120, 6 layers, batch_norm",
)


def _pointmass(task: str, bins: int, routes: str) -> tuple[Experiment, ...]:
    return (
        Experiment(
            f"{task}-main",
            f"Does BeT keep the {routes} routes of {task}?",
            task,
            {"space": {"bins": [bins]}},
            3,
            _PICTURES,
        ),
        Experiment(
            f"{task}-lstm",
            f"Does {task} need the transformer, or does an LSTM do?",
            task,
            {"settings": [{}, _LSTM]},
            3,
            f"{_PICTURES}; there the LSTM's head was left out of the optimiser",
        ),
    )


EXPERIMENTS: Mapping[str, Experiment] = MappingProxyType(
    {
        one.name: one
        for one in (
            *_of_the_study("blockpush", _BLOCKPUSH),
            *_of_the_study("kitchen", _KITCHEN),
            Experiment(
                "pusht-main",
                "How well does BeT push the T, from the full state?",
                "pusht",
                {"space": {"bins": [64]}},
                3,
                "Diffusion Policy trained BeT on keypoints with a recipe of its own",
            ),
            Experiment(
                "pusht-bins",
                "How many bins does PushT need?",
                "pusht",
                {"space": {"bins": [1, 4, 16, 24, 32, 64]}},
                3,
                _OURS,
            ),
            Experiment(
                "pusht-window",
                "How long a window does PushT need?",
                "pusht",
                {"space": {"window": [1, 5, 10, 14]}},
                3,
                _OURS,
            ),
            Experiment(
                "pusht-gamma",
                "Does the focal loss help PushT, or does cross-entropy do?",
                "pusht",
                {"space": {"gamma": [0, 2]}},
                3,
                _OURS,
            ),
            *_pointmass("pointmass1", 2, "two"),
            *_pointmass("pointmass2", 3, "three"),
        )
    }
)


def experiment_named(name: str) -> Experiment:
    """Raises `ConfigError` with a did-you-mean."""
    if name not in EXPERIMENTS:
        raise ConfigError(f"no experiment {name!r}{did_you_mean(name, EXPERIMENTS)}")
    return EXPERIMENTS[name]
