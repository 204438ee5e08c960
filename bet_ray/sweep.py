"""The sweep file: one question, the settings to try, how to judge them."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import yaml
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from pydantic import (
    Discriminator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from bet import tasks
from bet.config import (
    SHORT_FORMS,
    Config,
    ConfigError,
    Frozen,
    TrackConfig,
    canonical_json,
    flatten,
    full_key,
    load_yaml,
    make_config,
    parse_dotlist,
    validation_message,
)
from bet_ray.values import setting_text

LOSS_KEYS = frozenset({"loss.gamma", "loss.offset_scale", "codebook.bins", "data.normalize", "model.offsets"})
"""Losses compare only between settings that share these: what is summed, its unit, and the bins to tell apart."""


class Search(StrEnum):
    GRID = "grid"
    RANDOM = "random"
    TPE = "tpe"


class Scheduler(StrEnum):
    NONE = "none"
    ASHA = "asha"


class Objective(StrEnum):
    PRIMARY = "primary"
    SUCCESS = "success"
    VAL_LOSS = "val_loss"

    @property
    def mode(self) -> str:
        """`max` or `min`, as Tune spells it."""
        return "min" if self is Objective.VAL_LOSS else "max"


class Conditional(Frozen):
    """What may be searched in some settings only."""

    when: dict[str, list[Any]] = Field(default={}, exclude_if=lambda when: not when)
    """Searched keys above it -> values of theirs, with one of which each makes this key count. Elsewhere it is left as
    `base` has it, and no setting differs in it."""

    @field_validator("when", mode="before")
    @classmethod
    def _one_value_or_several(cls, when: Any) -> Any:
        if not isinstance(when, Mapping):
            return when
        return {full_key(key): value if isinstance(value, list) else [value] for key, value in when.items()}


class Choices(Conditional):
    """Values to choose from, in some settings only; elsewhere a plain list."""

    values: list[Any]


class Range(Conditional):
    """A numeric range: of integers where it is written with integers (1, not 1.0), else of real numbers."""

    low: int | float
    high: int | float
    log: bool = False
    step: PositiveInt | PositiveFloat | None = None

    @model_validator(mode="after")
    def _orderly(self) -> "Range":
        if self.low >= self.high:
            raise ValueError(f"low {self.low:g} must be below high {self.high:g}")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log needs low > 0 and no step")
        return self

    @property
    def integer(self) -> bool:
        return all(isinstance(number, int) for number in (self.low, self.high, self.step) if number is not None)

    @property
    def distribution(self) -> BaseDistribution:
        """The range as Optuna knows it."""
        if self.integer and not (self.log and self.high / self.low > 1e6):
            return IntDistribution(int(self.low), int(self.high), self.log, int(self.step or 1))
        return FloatDistribution(self.low, self.high, self.log, self.step)

    @property
    def steps(self) -> list[int] | list[float]:
        """The values of a stepped range. Raises `ConfigError` for one without steps."""
        if self.step is None:
            raise ConfigError("a grid needs values: give a list, or low, high and step")
        count = int((self.high - self.low) / self.step + 1e-9) + 1
        return [self.low + i * self.step for i in range(count)]


# A tagged union, so that an error speaks of the kind that was meant.
def _kind(value: Any) -> str:
    if isinstance(value, list):
        return "list"
    return "choices" if isinstance(value, Choices) or (isinstance(value, Mapping) and "values" in value) else "range"


Values = Annotated[
    Annotated[list[Any], Tag("list")] | Annotated[Choices, Tag("choices")] | Annotated[Range, Tag("range")],
    Discriminator(_kind),
]


class SearchConfig(Frozen):
    method: Search = Search.TPE
    """How settings are chosen: every one (`grid`), at random, or by Optuna's TPE."""
    seed: NonNegativeInt = 0
    """Seed of the search."""
    storage: str | None = None
    """Where Optuna keeps the study: any storage URL (without a password: the manifest tells it). None: in the run."""
    warm_start: str | None = None
    """For `tpe`, a study to learn from first: the run directory of an earlier sweep, or STORAGE_URL#STUDY."""


class Race(Frozen):
    """After the search, more episodes for those settings alone that may still be the best."""

    margin: float = Field(default=0.05, gt=0, lt=1)
    """Settings are tied when the best of them is known to lead by no more."""
    first: PositiveInt = 20
    """Fresh episodes on `tune` of the first round; each round has half as many more as the one before."""
    episodes: PositiveInt = 1000
    """The most fresh episodes for a policy."""
    budget: PositiveInt | None = None
    """The most fresh episodes in all; None: as many as it takes."""

    @model_validator(mode="after")
    def _orderly(self) -> "Race":
        if self.first > self.episodes:
            raise ValueError(f"first: a round of {self.first} is more than the {self.episodes} episodes in all")
        return self


class SweepEval(Frozen):
    episodes: PositiveInt = 64
    """Episodes on `tune` that judge a policy at each rung; of `objective: val_loss` only at the one that counts."""
    rungs: PositiveInt = 1
    """How many times a training is judged, evenly spaced; the last at its end. A setting counts with its best rung."""
    race: Race | None = None
    """`true`, or how: decides between the settings that lead, with episodes that the search has not seen."""
    winner_episodes: PositiveInt = 200
    """Fresh episodes on `report` that measure the winner."""
    finalists: PositiveInt = 3
    """How many are measured there: the winner, and the next best of those tied with it."""

    @field_validator("race", mode="before")
    @classmethod
    def _plainly_a_race(cls, value: Any) -> Any:
        return {True: Race(), False: None}[value] if isinstance(value, bool) else value


class Resources(Frozen):
    """None: decided from the cluster. The pool reserves first, trials take the rest; with few CPUs all take halves."""

    cpus: PositiveInt | None = None
    """CPUs to divide. None: those that are there as the sweep begins; an autoscaler has to be told how many it is to
    bring, and must be able to."""
    actors: PositiveInt | None = None
    """Rollout actors."""
    slots: PositiveInt = 32
    """Episodes an actor runs at once."""
    trials_at_once: PositiveInt | None = None
    """Trials that train at the same time."""
    seeds_at_once: PositiveInt | None = None
    """Training seeds of a trial that train at the same time, each on `train.threads` CPUs per worker."""
    workers_per_trial: PositiveInt = 1
    """Ray Train workers that share every batch of a training."""
    gpus_per_trial: NonNegativeFloat | None = None
    """Of each trial, or of each of its workers: a fraction where trials share a GPU. None: one with
    `train.device=cuda`, else none."""
    retries: NonNegativeInt = 2
    """How often a trial that failed is tried again."""


class Sweep(Frozen):
    """What a sweep file says."""

    question: str
    """The question the sweep answers, in a sentence."""
    task: str
    """Name in the task registry, or a gymnasium id; `task.env` is another spelling."""
    base: dict[str, Any] = {}  # noqa: RUF012
    """Settings that all trials share."""
    space: dict[str, Values] | None = None
    """What is searched: a list is categorical, `{low, high, log | step}` a range."""
    settings: list[dict[str, Any]] | None = None
    """In place of `space`: the settings themselves, all of which are tried; what one does not name is as in `base`."""
    search: SearchConfig = SearchConfig()
    trials: PositiveInt | None = None
    """Settings to try. A grid and a list try all of their own, and no fewer."""
    seeds_per_trial: PositiveInt = 1
    """Training seeds of each setting."""
    scheduler: Scheduler = Scheduler.NONE
    """`asha` stops poor trials at a rung."""
    objective: Objective = Objective.PRIMARY
    """What the winner is best at, on `tune`. With `val_loss` the search simulates nothing, and each setting's best
    rung is once it is over."""
    eval: SweepEval = SweepEval()
    resources: Resources = Resources()
    track: TrackConfig = Field(default=TrackConfig(), exclude=True)
    """How the sweep is watched."""

    @model_validator(mode="before")
    @classmethod
    def _a_list_is_its_own_grid(cls, tree: Any) -> Any:
        listed = isinstance(tree, Mapping) and tree.get("settings") is not None
        return {"search": Search.GRID, **tree} if listed else tree

    @field_validator("search", mode="before")
    @classmethod
    def _method_alone(cls, value: Any) -> Any:
        return {"method": value} if isinstance(value, str) else value

    @field_validator("space", mode="before")
    @classmethod
    def _lists_or_ranges(cls, space: Any) -> Any:
        if space is None:
            return None
        if not isinstance(space, Mapping) or not space:
            raise ValueError("needs at least one setting to search")
        for key, values in space.items():
            options = values.get("values", True) if isinstance(values, Mapping) else values
            if not options or not isinstance(values, Mapping | list):
                raise ValueError(f"{key}: expected a list of values or {{low, high}}")
        return space

    @field_validator("settings", mode="before")
    @classmethod
    def _mappings(cls, settings: Any) -> Any:
        whole = isinstance(settings, list) and all(isinstance(setting, Mapping) for setting in settings)
        if settings is not None and not (whole and any(settings)):
            raise ValueError("expected a list of settings, each a mapping of what it changes ({}: as in base)")
        return settings

    @field_validator("base", mode="after")
    @classmethod
    def _dotted_base(cls, base: dict[str, Any]) -> dict[str, Any]:
        return flatten(base)

    @field_validator("space", mode="after")
    @classmethod
    def _full_keys(cls, space: dict[str, Any] | None) -> dict[str, Any] | None:
        return space and {full_key(key): values for key, values in space.items()}

    @field_validator("settings", mode="after")
    @classmethod
    def _dotted_settings(cls, settings: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
        return settings and [flatten(setting) for setting in settings]

    @model_validator(mode="after")
    def _consistent(self) -> "Sweep":
        if (self.space is None) == (self.settings is None):
            raise ValueError("either space (what is searched) or settings (a list of them) is needed, and not both")
        method, where = self.search.method, "space" if self.settings is None else "settings"
        if self.settings is not None and method is not Search.GRID:
            raise ValueError(f"search: {method} chooses from a space, and listed settings are all tried; drop it")
        if method is not Search.GRID and self.trials is None:
            raise ValueError(f"trials: how many settings should {method} try?")
        tracked = [key for key in self.base if key.startswith("track.")]
        if tracked:
            raise ValueError(f"base.{tracked[0]}: tracking is of the whole sweep; write it as {tracked[0]}")
        clash = sorted(self.base.keys() & (self.space or {}).keys())
        if clash:
            raise ValueError(f"{clash[0]} is both in base and in space")
        for key in self.searched:
            if key.partition(".")[0] in ("eval", "pool", "track") or key in ("task", "train.seed", "train.device"):
                raise ValueError(f"{where}.{key}: does not make another setting (for training seeds: seeds_per_trial)")
            if key == "data.path":
                raise ValueError(f"{where}.{key}: all settings learn from the same demonstrations; write it in base")
        for key, values in (self.space or {}).items():
            if isinstance(values, Range) and method is Search.GRID and values.step is None:
                raise ValueError(f"space.{key}: a grid needs a list of values, or a step")
        self._check_conditions()
        self._check_resources()
        if self.search.warm_start is not None and method is not Search.TPE:
            raise ValueError(f"search.warm_start: {method} learns from nothing; use method: tpe")
        if self.eval.race is not None and tasks.simulated(self.task).by_modes:
            metric = tasks.simulated(self.task).protocol.primary
            raise ValueError(f"eval.race: {metric} is no mean of episodes, so no episode brings it nearer a decision")
        if self.eval.race is not None and self.objective is not Objective.PRIMARY:
            raise ValueError(f"eval.race: decides by the primary metric, and the objective is {self.objective}")
        if method is Search.GRID and self.trials is not None and self.trials < self.trial_count:
            whose, instead = ("list", "") if self.settings else ("grid", ", or use search: random")
            raise ValueError(
                f"trials: {self.trials} is fewer than the {whose}'s {self.trial_count} settings; drop it{instead}"
            )
        incomparable = LOSS_KEYS & set(self.searched)
        if self.objective is Objective.VAL_LOSS and incomparable:
            raise ValueError(f"objective: losses of different {sorted(incomparable)[0]} do not compare; use primary")
        if self.scheduler is Scheduler.ASHA and "train.epochs" in self.searched:
            raise ValueError(f"{where}.train.epochs: asha compares trainings of one length")
        for setting in self._examples():  # a value out of range is an error now, not in the tenth trial
            self.config(setting)
        if self.settings:
            self._each_once()
        return self

    def _check_resources(self) -> None:
        resources = self.resources
        if (resources.seeds_at_once or 1) > 1 and (self.gpus or resources.workers_per_trial > 1):
            raise ValueError("resources.seeds_at_once: seeds train side by side on CPUs, one worker each; drop it")

    def _check_conditions(self) -> None:
        above: dict[str, Any] = {}
        for key, values in (self.space or {}).items():
            for other, allowed in _when(values).items():
                if other not in above:
                    raise ValueError(f"space.{key}.when: {other} is not searched above it")
                options = _options(above[other])
                for value in allowed:
                    if options is not None and value not in options:
                        raise ValueError(f"space.{key}.when: {other} is never {setting_text({other: value})}")
            above[key] = values

    def _each_once(self) -> None:
        places: dict[str, int] = {}
        for place, setting in enumerate(self.enumerated(), start=1):
            before = places.setdefault(canonical_json(setting), place)
            if before != place:
                raise ValueError(f"settings: {before} and {place} of the list are the same, {setting_text(setting)}")

    def _examples(self) -> Iterator[dict[str, Any]]:
        """Every setting where we enumerate them; for TPE the two ends of the space, under each condition."""
        if self.search.method is not Search.TPE:
            yield from self.enumerated()
            return
        for condition in ({}, *map(_when, (self.space or {}).values())):
            for end in (0, -1):

                def pick(key: str, values: Any, condition: Any = condition, end: int = end) -> Any:
                    if key in condition:
                        return condition[key][0]
                    return (_options(values) or (values.low, values.high))[end]

                yield self.chosen(pick)

    @property
    def searched(self) -> tuple[str, ...]:
        """What differs between settings: the keys of every one of them."""
        return tuple(self.space or dict.fromkeys(chain.from_iterable(self.settings or ())))

    @property
    def choices(self) -> Mapping[str, list[Any] | Range]:
        """What each of the keys can be: the space, or what is found in the settings listed."""
        if self.space is not None:
            return {key: v.values if isinstance(v, Choices) else v for key, v in self.space.items()}
        listed = list(self.enumerated())
        return {key: list({canonical_json(each[key]): each[key] for each in listed}.values()) for key in self.searched}

    def config(self, setting: Mapping[str, Any], seed: int = 0) -> Config:
        """The resolved settings of one trial and its `seed`-th training seed."""
        config = make_config(self.task, self.base, setting)
        if seed == 0:
            return config
        return config.model_copy(update={"train": config.train.model_copy(update={"seed": config.train.seed + seed})})

    def enumerated(self) -> Iterator[dict[str, Any]]:
        """Every setting, in order. Of a random search up to `trials` different ones, the same for the same seed."""
        if self.settings is not None:
            for setting in self.settings:
                resolved = flatten(self.config(setting).model_dump(mode="json"))
                yield {key: resolved[key] for key in self.searched}
            return
        if self.search.method is Search.GRID:
            yield from self._grid()
            return
        assert self.trials is not None
        generator = np.random.default_rng(self.search.seed)
        drawn = (self.chosen(lambda _, values: _draw(values, generator)) for _ in range(self.trials))
        yield from {canonical_json(setting): setting for setting in drawn}.values()

    def chosen(self, pick: Callable[[str, Any], Any]) -> dict[str, Any]:
        """A setting, `pick(key, values)` for each key that counts in it."""
        setting: dict[str, Any] = {}
        for key, values in (self.space or self.choices).items():
            if _counts(values, setting):
                setting[key] = pick(key, values)
        return setting

    def _grid(self) -> Iterator[dict[str, Any]]:
        """One after another, for a search can be over more than anybody counts."""
        yield from self._extended({}, tuple((self.space or {}).items()))

    def _extended(self, setting: dict[str, Any], left: Sequence[tuple[str, Any]]) -> Iterator[dict[str, Any]]:
        """A setting with every combination of values for the keys that are left."""
        if not left:
            yield setting
            return
        (key, values), *others = left
        if not _counts(values, setting):
            yield from self._extended(setting, others)
            return
        for value in values.steps if isinstance(values, Range) else _options(values) or ():
            yield from self._extended(setting | {key: value}, others)

    @property
    def gpus(self) -> float:
        """That each trial, or each of its workers, reserves."""
        asked = self.resources.gpus_per_trial
        return float(self.config({}).train.device.startswith("cuda")) if asked is None else asked

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """The space as Optuna knows it."""
        return {key: _distribution(values) for key, values in self.choices.items()}

    @property
    def conditional(self) -> bool:
        """Whether there are keys that count in some settings only."""
        return any(_when(values) for values in (self.space or {}).values())

    @property
    def trial_count(self) -> int:
        """Settings that are tried: as many as asked for, or all that there are."""
        if self.search.method is not Search.TPE:
            return sum(1 for _ in self.enumerated())
        assert self.trials is not None
        if any(isinstance(values, Range) and values.step is None for values in (self.space or {}).values()):
            return self.trials
        return sum(1 for _ in islice(self._grid(), self.trials))

    def rung_epochs(self, epochs: int) -> list[int]:
        """The epochs after which a training of `epochs` is judged."""
        return sorted({max(round(epochs * (i + 1) / self.eval.rungs), 1) for i in range(self.eval.rungs)})


def load_sweep(path: Path, overrides: Sequence[str] = ()) -> Sweep:
    """Read a sweep file. `overrides` are `key=value` of the sweep (`trials=4`) or its base (`train.epochs=2`).

    Raises `ConfigError` naming the file and the key.
    """
    tree = load_yaml(path)
    return _validated(tree, overrides, str(path))


def sweep_yaml(sweep: Sweep) -> str:
    """The sweep as it was resolved: a sweep file that `load_sweep` reads as an equal one, but for how it is tracked."""
    return yaml.safe_dump(sweep.model_dump(mode="json", exclude_defaults=True), sort_keys=False, allow_unicode=True)


def parse_sweep(tree: Mapping[str, Any], source: str) -> Sweep:
    """A sweep from a mapping, as `manifest.json` keeps it. Raises `ConfigError`."""
    return _validated(dict(tree), (), source)


def _validated(tree: dict[str, Any], overrides: Sequence[str], source: str) -> Sweep:
    try:
        named = [key for key in tree if SHORT_FORMS.get(key, key) == "task"]
        tree |= flatten({key: tree.pop(key) for key in named})  # `task: {env: ID}` and `task.env: ID`, too
        for key, value in parse_dotlist(overrides).items():
            section, dot, name = key.partition(".")
            if SHORT_FORMS.get(key, key) in Sweep.model_fields:
                tree[SHORT_FORMS.get(key, key)] = value
            elif dot and section in ("eval", "resources", "search", "track") and name in _section_fields(section):
                tree[section] = {**_mapping(tree.get(section, {})), name: value}
            elif name.startswith("race.") and section == "eval":
                how = _mapping(tree.get(section, {}))
                race = how.get("race")
                told = race if isinstance(race, Mapping) else {}
                tree[section] = {**how, "race": {**told, name.removeprefix("race."): value}}
            else:
                tree["base"] = {**flatten(tree.get("base", {})), full_key(key): value}
        return Sweep.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"{source}: {validation_message(error, Sweep)}") from error
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error


def _mapping(section: Any) -> Mapping[str, Any]:
    return {"method": section} if isinstance(section, str) else section


def _section_fields(section: str) -> Mapping[str, Any]:
    models = {"eval": SweepEval, "resources": Resources, "search": SearchConfig, "track": TrackConfig}
    return models[section].model_fields


def _when(values: list[Any] | Conditional) -> Mapping[str, list[Any]]:
    return {} if isinstance(values, list) else values.when


def _counts(values: list[Any] | Conditional, setting: Mapping[str, Any]) -> bool:
    """Whether a key with these values is part of a setting that has its others already."""
    return all(key in setting and setting[key] in allowed for key, allowed in _when(values).items())


def _options(values: list[Any] | Conditional) -> list[Any] | None:
    """What a key can be; None for a range."""
    if isinstance(values, Choices):
        return values.values
    return values if isinstance(values, list) else None


def _draw(values: list[Any] | Choices | Range, generator: np.random.Generator) -> Any:
    if not isinstance(values, Range):
        options = _options(values) or []
        return options[generator.integers(len(options))]
    if values.step is not None:
        return values.steps[generator.integers(len(values.steps))]
    if values.integer and not values.log:
        return int(generator.integers(int(values.low), int(values.high) + 1))
    if values.log:
        drawn = float(np.exp(generator.uniform(np.log(values.low), np.log(values.high))))
        return round(drawn) if values.integer else drawn
    return float(generator.uniform(values.low, values.high))


def spelled_choice(value: Any) -> Any:
    """A value as Optuna keeps it: lists and the like as JSON."""
    return value if value is None or isinstance(value, bool | int | float | str) else json.dumps(value)


def _distribution(values: list[Any] | Range) -> BaseDistribution:
    """What a key can be, as Optuna knows it."""
    if isinstance(values, Range):
        return values.distribution
    return CategoricalDistribution([spelled_choice(value) for value in values])
