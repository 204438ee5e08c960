"""The search as Optuna sees it, whatever chose the settings."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import optuna
from optuna.importance import FanovaImportanceEvaluator, get_param_importances

from bet_ray.report.records import Records
from bet_ray.study import STUDY_DB
from bet_ray.sweep import Search
from bet_ray.training import trial_id
from bet_ray.values import key_name

FEWEST_TRIALS = 8  # below that an importance says more of the luck of the draw


@dataclass(frozen=True)
class SearchView:
    """Inputs of Optuna's plots."""

    study: optuna.Study
    keys: tuple[str, ...]
    """Those that differ between trials."""
    importances: dict[str, float]
    """Share of the objective's variance between settings, largest first."""
    learned: bool
    """Whether later settings were chosen in the light of earlier ones, so that a history says something."""


def search_view(records: Records) -> SearchView | None:
    """None with too few complete trials, a single key, trials that are all alike, or listed settings."""
    if records.sweep.settings is not None:  # they fill no space whose variance could be shared out
        return None
    learned = records.sweep.search.method is Search.TPE and (records.run / STUDY_DB).exists()
    with _quiet():
        study = _retold(records, _order(records) if learned else {})
    trials = study.get_trials(deepcopy=False)
    keys = [key for key in records.sweep.searched if len({str(trial.params.get(key)) for trial in trials}) > 1]
    if len(trials) < FEWEST_TRIALS or len(keys) < 2 or len({trial.value for trial in trials}) < 2:
        return None
    found = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0), params=keys)
    return SearchView(study, tuple(keys), {key_name(key): share for key, share in found.items()}, learned)


def _retold(records: Records, order: dict[str, int]) -> optuna.Study:
    """A study of the rungs that count: grids keep none of their own, and a search's was told each trial's last."""
    study = optuna.create_study(direction="maximize" if records.sweep.objective.mode == "max" else "minimize")
    for trial in sorted(records.trials, key=lambda trial: order.get(trial.trial, len(order))):
        rung = trial.best(records.sweep.objective)
        if rung is not None:
            told = optuna.create_trial(
                params=trial.setting, distributions=records.sweep.distributions, value=rung.objective
            )
            study.add_trial(told)
    return study


def _order(records: Records) -> dict[str, int]:
    """When each trial was chosen."""
    storage = optuna.storages.RDBStorage(f"sqlite:///{records.run / STUDY_DB}")
    (name,) = optuna.get_all_study_names(storage)  # a run holds one study
    trials = optuna.load_study(study_name=name, storage=storage).get_trials(deepcopy=False)
    return {trial_id(records.sweep.config(trial.params)): trial.number for trial in trials}


@contextmanager
def _quiet() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
