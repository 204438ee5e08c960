"""What the page says of the trials: the answer, the leaderboard, each setting's effect and the learning curves.

Every interval was computed by `bet_ray.evaluation.measurement`, for the trials when they ran.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any

import numpy as np

from bet.config import canonical_json
from bet.measure import Measurement
from bet.reenact import demonstrated_entropies
from bet.training import Epoch
from bet_ray.evaluation import measurement
from bet_ray.manifest import RunError
from bet_ray.report.records import Records, Winner
from bet_ray.sweep import Range
from bet_ray.trials import Rivals, Status, TrialRecord, rivals
from bet_ray.values import Estimate, key_name, setting_text, spelled

MOST_CATEGORIES = 8  # values a key may have and still get a column for each
MOST_COLOURS = 6


class Stage(StrEnum):
    """How far the sweep has come."""

    SEARCHING = "searching"
    MEASURING = "measuring"
    """The search is over, the winner's fresh episodes are not all there."""
    MEASURED = "measured"
    FAILED = "failed"
    """The search is over and no trial has a result."""


@dataclass(frozen=True)
class Answer:
    """The box at the top."""

    stage: Stage
    setting: str
    """The winner's, or the best one's so far; empty without any."""
    epoch: int | None
    chosen: Estimate | None
    """The primary metric on `tune`, by which the setting was chosen if not by its loss."""
    chosen_success: Estimate | None
    chosen_episodes: int
    measured: Measurement | None
    """What fresh episodes say; None until all of them are there."""
    fresh: int
    """Fresh episodes there are."""
    promised: int
    """Fresh episodes there will be."""
    rivals: Rivals | None
    """None without a winner, or where the objective has no interval."""
    done: int
    failed: int
    under_way: int
    total: int


def answer(records: Records) -> Answer:
    statuses = [trial.status for trial in records.trials]
    done, failed = statuses.count(Status.DONE), statuses.count(Status.ERROR)
    winner = records.winner
    if winner is None:
        stage = Stage.FAILED if records.search_over else Stage.SEARCHING
    elif not records.search_over:
        stage = Stage.SEARCHING
    else:
        stage = Stage.MEASURED if winner.measured else Stage.MEASURING
    return Answer(
        stage=stage,
        setting=setting_text(winner.trial.setting) if winner else "",
        epoch=winner.rung.epoch if winner else None,
        chosen=winner.rung.primary if winner else None,
        chosen_success=winner.rung.success if winner else None,
        chosen_episodes=winner.rung.episodes if winner else 0,
        measured=_measured(records, winner) if winner and stage is Stage.MEASURED else None,
        fresh=winner.rows.num_rows if winner else 0,
        promised=winner.promised if winner else 0,
        rivals=rivals(records.trials),
        done=done,
        failed=failed,
        under_way=0 if records.search_over else records.started - done - failed - statuses.count(Status.STOPPED),
        total=records.sweep.trial_count,
    )


def _measured(records: Records, winner: Winner) -> Measurement:
    """With intervals that hold for all finalists at once, as in the leaderboard."""
    report = winner.trial.report
    return measurement(records.task, winner.rows, report.confidence if report else 0.95)


def demonstrated(records: Records) -> Mapping[str, float]:
    """How diverse the demonstrations are, where the task counts that; empty where they are not to be had."""
    if records.task.sequence is None or records.demonstrations is None:
        return {}
    return demonstrated_entropies(records.demonstrations, records.task, records.sweep.config({}).data.observation)


@dataclass(frozen=True)
class Row:
    """A trial on the leaderboard."""

    place: int | None
    """None without a result."""
    trial: str
    values: tuple[str, ...]
    """Of the swept keys, in the order of the header."""
    primary: Estimate | None
    success: Estimate | None
    episodes: int | None
    epoch: int | None
    val_loss: float | None
    train_seconds: float
    status: str
    error: str | None
    tied: bool
    """Whether it is not known to be worse than the winner."""
    race: Estimate | None
    """On fresh episodes of `tune`."""
    race_episodes: int | None
    report: Estimate | None
    report_success: Estimate | None

    @property
    def shrinkage(self) -> float | None:
        """By which the number that it was chosen by is above the one measured."""
        chosen = self.race or self.primary
        return chosen.value - self.report.value if chosen and self.report else None


@dataclass(frozen=True)
class Leaderboard:
    """Numbers are of `tune`, but for those of finalists on `report`."""

    keys: tuple[str, ...]
    """Swept keys without their section, where that is clear."""
    fixed: tuple[str, ...]
    """`key=value` of the keys that had one value throughout."""
    episodes: int | None
    """How many judged each trial; None where that differs."""
    rows: tuple[Row, ...]

    @property
    def raced(self) -> bool:
        return any(row.race for row in self.rows)

    @property
    def finalists(self) -> int:
        """Settings that were measured on `report`."""
        return sum(row.report is not None for row in self.rows)


def leaderboard(records: Records) -> Leaderboard:
    varied, fixed = _varied(records)
    rows = []
    for place, trial in enumerate(records.trials, start=1):
        rung = trial.best(records.sweep.objective)
        rows.append(
            Row(
                place=place if rung else None,
                trial=trial.trial,
                values=tuple(spelled(trial.setting[key]) if key in trial.setting else "" for key in varied),
                primary=rung.primary if rung else None,
                success=rung.success if rung else None,
                episodes=rung.episodes if rung else None,
                epoch=rung.epoch if rung else None,
                val_loss=rung.val_loss if rung else None,
                train_seconds=trial.train_seconds,
                status=_status(records.status(trial)),
                error=trial.fault,
                tied=bool(trial.tied),
                race=trial.race.primary if trial.race else None,
                race_episodes=trial.race.episodes if trial.race else None,
                report=trial.report.primary if trial.report else None,
                report_success=trial.report.success if trial.report else None,
            )
        )
    counts = {row.episodes for row in rows if row.episodes is not None}
    names = [key.rsplit(".", 1)[-1] for key in varied]
    keys = names if len(set(names)) == len(names) else [key_name(key) for key in varied]
    return Leaderboard(tuple(keys), fixed, counts.pop() if len(counts) == 1 else None, tuple(rows))


def _status(status: Status) -> str:
    return "stopped early" if status is Status.STOPPED else status.value


class Axis(StrEnum):
    """How the values of a key are laid out."""

    CATEGORY = "category"
    LINEAR = "linear"
    LOG = "log"


@dataclass(frozen=True)
class Dot:
    """A trial in a panel."""

    x: float
    """The value, or on a category axis its column and a step aside."""
    numbers: tuple[Estimate, ...]
    hover: str
    winner: bool


@dataclass(frozen=True)
class Mean:
    """Over the trials that share a value."""

    x: float
    numbers: tuple[float, ...]


@dataclass(frozen=True)
class Panel:
    """Numbers of the trials against one question."""

    title: str
    axis: Axis
    labels: tuple[str, ...]
    """Of the columns of a category axis."""
    dots: tuple[Dot, ...]
    means: tuple[Mean, ...]


@dataclass(frozen=True)
class Question:
    """What trials are told apart by: a swept key, or which of the listed settings they have."""

    title: str
    axis: Axis
    value: Callable[[TrialRecord], Any]
    label: Callable[[Any], str]
    """In lines, to stand below a column."""
    key: str | None = None
    """None of listed settings."""

    def asks(self, trial: TrialRecord) -> bool:
        """Whether it is a question for a trial: a key may be there with some values of another one only."""
        return self.key is None or self.key in trial.setting

    def answer(self, value: Any) -> str:
        """`bins=64`, or the listed setting."""
        return self.label(value).replace("\n", " ") if self.key is None else f"{self.title}={self.label(value)}"


def questions(records: Records) -> list[Question]:
    """One for each key that varies. Listed settings are not combinations: they are one question."""
    sweep = records.sweep
    if sweep.settings is not None:
        places = {canonical_json(setting): place for place, setting in enumerate(sweep.enumerated())}
        lines = [[setting_text({key: value}) for key, value in setting.items()] for setting in sweep.settings]
        labels = ["\n".join(each) or "as in base" for each in lines]

        def place(trial: TrialRecord) -> int:
            if (setting := canonical_json(trial.setting)) not in places:
                raise RunError(f"{records.run}: no listed setting is trial {trial.trial}'s; defaults have changed")
            return places[setting]

        return [Question("setting", Axis.CATEGORY, place, labels.__getitem__)]
    return [
        Question(key_name(key), _axis(sweep.choices[key]), partial(_value, key), spelled, key)
        for key in _varied(records)[0]
    ]


def _value(key: str, trial: TrialRecord) -> Any:
    return trial.setting[key]


Numbers = Sequence[tuple[TrialRecord, tuple[Estimate, ...]]]
"""Of some trials, as many of each."""


def panels(records: Records) -> tuple[Panel, ...]:
    """The primary metric and the success rate."""
    return panels_of(records, [(one.trial, (one.primary, one.success)) for one in records.judged()])


def panels_of(records: Records, numbers: Numbers) -> tuple[Panel, ...]:
    """A panel for each question that is one for any of the trials."""
    asked = [(question, [pair for pair in numbers if question.asks(pair[0])]) for question in questions(records)]
    return tuple(_panel(records, question, some) for question, some in asked if some)


def _panel(records: Records, question: Question, numbers: Numbers) -> Panel:
    values, axis = _distinct([question.value(trial) for trial, _ in numbers]), question.axis
    dots, means = [], []
    for column, value in enumerate(values):
        here = sorted(
            ((trial, scores) for trial, scores in numbers if question.value(trial) == value),
            key=lambda pair: pair[1],
        )
        center = float(column if axis is Axis.CATEGORY else value)
        aside = np.linspace(-0.3, 0.3, len(here)) if len(here) > 1 else np.zeros(1)
        for offset, (trial, scores) in zip(aside, here, strict=True):
            dots.append(
                Dot(
                    x=center + float(offset) if axis is Axis.CATEGORY else center,
                    numbers=scores,
                    hover=f"{question.answer(value)}, {setting_text(trial.setting, question.key)}",
                    winner=records.is_winner(trial),
                )
            )
        if len(here) > 1:
            each = zip(*(scores for _, scores in here), strict=True)
            means.append(Mean(center, tuple(float(np.mean([score.value for score in scores])) for scores in each)))
    return Panel(question.title, axis, tuple(map(question.label, values)), tuple(dots), tuple(means))


def _axis(space: list[Any] | Range) -> Axis:
    if isinstance(space, Range):
        step = space.step or (1 if space.integer else None)
        if step is not None and (space.high - space.low) / step < MOST_CATEGORIES and not space.log:
            return Axis.CATEGORY
        return Axis.LOG if space.log else Axis.LINEAR
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in space)
    return Axis.LINEAR if numeric and len(space) > MOST_CATEGORIES else Axis.CATEGORY


@dataclass(frozen=True)
class Curve:
    """One training: a trial and one of its seeds."""

    setting: str
    group: str
    epochs: tuple[Epoch, ...]
    rungs: tuple[tuple[int, Estimate], ...]
    """Epochs at which the *setting* was rolled out, over all its seeds; only with its first seed."""
    winner: bool


@dataclass(frozen=True)
class Curves:
    """All trainings, grouped by the question that matters most among those with few answers."""

    by: str | None
    """None where each has too many answers to colour by."""
    groups: tuple[str, ...]
    curves: tuple[Curve, ...]


def curves(records: Records) -> Curves:
    question = _coloured_by(records)
    known = {trial.trial: trial for trial in records.trials}
    found, told = [], set()
    for (name, _), epochs in records.history.items():
        trial = known.get(name)
        if trial is None:  # it has only begun, and its setting is not on record yet
            continue
        rungs = [] if name in told else sorted(trial.rungs, key=lambda rung: rung.epoch)
        told.add(name)
        found.append(
            Curve(
                setting=setting_text(trial.setting),
                group=question.answer(question.value(trial)) if question else "",
                epochs=tuple(epochs),
                rungs=tuple((rung.epoch, rung.primary) for rung in rungs if rung.primary),
                winner=records.is_winner(trial),
            )
        )
    if question is None:
        return Curves(None, ("",), tuple(found))
    values = _distinct([question.value(trial) for trial in records.trials])
    return Curves(question.title, tuple(map(question.answer, values)), tuple(found))


def _coloured_by(records: Records) -> Question | None:
    judged = records.judged()

    def spread(question: Question) -> float:
        groups = [
            [one.primary.value for one in judged if question.value(one.trial) == value]
            for value in _distinct([question.value(one.trial) for one in judged])
        ]
        return float(np.ptp([np.mean(group) for group in groups])) if groups else 0.0

    few = [
        question
        for question in questions(records)
        if question.axis is Axis.CATEGORY
        and all(map(question.asks, records.trials))
        and len(_distinct([question.value(trial) for trial in records.trials])) <= MOST_COLOURS
    ]
    return max(few, key=spread, default=None)


def _varied(records: Records) -> tuple[list[str], tuple[str, ...]]:
    """The swept keys that can differ between trials, and `key=value` of the others."""
    choices = records.sweep.choices
    fixed = {key: values[0] for key, values in choices.items() if isinstance(values, list) and len(values) == 1}
    return [key for key in choices if key not in fixed], tuple(setting_text({k: v}) for k, v in fixed.items())


def _distinct(values: Sequence[Any]) -> list[Any]:
    """Each value once, numbers in their order, the rest by their spelling."""
    unique = {json.dumps(value): value for value in values}
    if all(isinstance(value, int | float) for value in unique.values()):
        return sorted(unique.values())
    return [unique[name] for name in sorted(unique)]
