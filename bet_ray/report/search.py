"""The search as Optuna sees it, whatever chose the settings."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import optuna
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState, create_trial

from bet_ray.report.records import Records
from bet_ray.sweep import Search, spelled_choice
from bet_ray.trials import Status, TrialRecord
from bet_ray.values import key_name

FEWEST_TRIALS = 8  # below that an importance says more of the luck of the draw
_STATES = {
    Status.RUNNING: TrialState.RUNNING,
    Status.DONE: TrialState.COMPLETE,
    Status.STOPPED: TrialState.PRUNED,
    Status.ERROR: TrialState.FAIL,
}


@dataclass(frozen=True)
class SearchView:
    """Inputs of Optuna's plots of the space that was searched."""

    study: optuna.Study
    keys: tuple[str, ...]
    """Those that differ between complete trials, most important first; then those that only some trials have."""
    importances: dict[str, float]
    """Share of the objective's variance between settings, largest first, of the keys that every trial has."""
    learned: bool
    """Whether later settings were chosen in the light of earlier ones, so that a history says something."""

    @property
    def conditional(self) -> tuple[str, ...]:
        """Keys that only some trials have, and that therefore have no importance."""
        return tuple(key for key in self.keys if key_name(key) not in self.importances)


def search_view(records: Records) -> SearchView | None:
    """None with too few complete trials, a single key, trials that are all alike, or listed settings."""
    if records.sweep.settings is not None:  # they fill no space whose variance could be shared out
        return None
    study = retold(records)
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    keys = [
        key
        for key in records.sweep.searched
        if len({str(trial.params[key]) for trial in trials if key in trial.params}) > 1
    ]
    always = [key for key in keys if all(key in trial.params for trial in trials)]
    if len(trials) < FEWEST_TRIALS or len(keys) < 2 or not always or len({trial.value for trial in trials}) < 2:
        return None
    found = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0), params=always)
    return SearchView(
        study,
        (*found, *(key for key in keys if key not in always)),
        {key_name(key): share for key, share in found.items()},
        records.sweep.search.method is Search.TPE and all(trial.began for trial in records.trials),
    )


def retold(records: Records) -> optuna.Study:
    """A study of the trials on record: grids keep none of their own, and a search's was told each trial's last rung.

    A trial's value is that of the rung that counts, its intermediate values are those of its rungs, by epoch. Trials
    are in the order they began in.
    """
    trials = sorted(records.trials, key=lambda trial: trial.began.timestamp() if trial.began else math.inf)
    with _quiet():
        study = optuna.create_study(direction="maximize" if records.sweep.objective.mode == "max" else "minimize")
        study.add_trials([_frozen(records, trial) for trial in trials])
    return study


def _frozen(records: Records, trial: TrialRecord) -> FrozenTrial:
    state, rung = _STATES[records.status(trial)], trial.best(records.sweep.objective)
    if state is TrialState.COMPLETE and rung is None:
        state = TrialState.FAIL
    told = create_trial(
        state=state,
        params={key: spelled_choice(value) for key, value in trial.setting.items()},
        distributions={key: records.sweep.distributions[key] for key in trial.setting},
        value=rung.objective if rung and state.is_finished() and state is not TrialState.FAIL else None,
        intermediate_values={rung.epoch: rung.objective for rung in trial.rungs},
        user_attrs={"trial": trial.trial} | ({"error": trial.error} if trial.error else {}),
    )
    if trial.began is not None:
        told.datetime_start = _local(trial.began)
        if state.is_finished():
            told.datetime_complete = _local(trial.ended or trial.began)
    return told


def _local(moment: datetime) -> datetime:
    """As Optuna has it: of this machine's clock, and naive."""
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone().replace(tzinfo=None)


@contextmanager
def _quiet() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
