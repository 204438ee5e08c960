"""The search as an Optuna study: what is proposed, what came of it, and what a resumed sweep has still to try.

Every sweep has one, grids too, so `optuna-dashboard` opens any. What the trials' own records say is the truth: a study
that lags behind them, or is gone, is told from them again. A proposal of TPE is a function of the seed, its number and
what was told before it, so a search that is killed and resumed, one trial at a time, goes on as if it had not been.
"""

import logging
import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import TPESampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from bet.config import ConfigError
from bet.errors import UsageError
from bet.wording import counted
from bet_ray.manifest import write_text
from bet_ray.storage import local, pull, push_database
from bet_ray.sweep import Range, Search, Sweep, spelled_choice
from bet_ray.training import trial_id
from bet_ray.trials import Status, TrialRecord

log = logging.getLogger(__name__)

STUDY_DB = "study.db"
STUDY_ID = "study.id"
TRIAL, LEARNT = "trial", "learnt from"  # attributes of a study's trials; the second of a study, too, when it is done
TASK, OWNER = "task", "run"  # attributes of a study
MOST_REPEATS = 50  # proposals of settings known already, before the space counts as searched


@dataclass(frozen=True)
class Proposal:
    """A setting to try."""

    trial: str
    """The name that the setting has in the run."""
    setting: dict[str, Any]


class Proposals:
    """What is to be tried next: first what was under way when a sweep was killed, then what failed, then new settings.

    Raises `UsageError` for a storage, or a study to learn from, that cannot be used.
    """

    def __init__(self, sweep: Sweep, run: Path, records: Sequence[TrialRecord]) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._run = run
        self._sweep, self._distributions = sweep, sweep.distributions
        self._study, self._storage = open_study(sweep, run, records)
        self._study_id = self._storage.get_study_id_from_name(self._study.study_name)
        self._exhausted = False
        if sweep.search.warm_start is not None and LEARNT not in self._study.user_attrs:
            self._learn(sweep.search.warm_start)
        self._known = {record.trial for record in records if record.status is not Status.RUNNING}
        """Trials that need not be proposed any more."""
        self._open: dict[str, int] = {}
        """Trials under way -> their ids in the storage."""
        self._continued = deque(self._catch_up({record.trial: record for record in records}))
        self._known |= {proposal.trial for proposal in self._continued}
        lost = [record for record in records if record.trial not in self._known]  # to the study: its file was removed
        failed = [r for r in records if r.status is Status.ERROR and r.failures <= sweep.resources.retries]
        self._listed = deque((record.trial, record.setting) for record in (*lost, *failed))
        """Settings to try whatever the sampler thinks."""
        self._known |= {name for name, _ in self._listed}
        if sweep.search.method is not Search.TPE:
            named = {self._name(setting): setting for setting in sweep.enumerated()}
            self._listed += [(name, setting) for name, setting in named.items() if name not in self._known]

    @property
    def under_way(self) -> bool:
        """Whether any proposal is neither finished nor waiting to be made again."""
        return len(self._open) > len(self._continued)

    @property
    def left(self) -> int:
        """Settings to try, if the space has so many."""
        learnt = self._sweep.trial_count - len(self._known) if self._sweep.search.method is Search.TPE else 0
        return len(self._continued) + len(self._listed) + max(learnt, 0)

    def next(self) -> Proposal | None:
        """None when there is nothing to try any more."""
        if self._continued:
            return self._continued.popleft()
        if self._listed:
            proposal = Proposal(*self._listed.popleft())
            self._open[proposal.trial] = self._begin(proposal.trial, proposal.setting)
            return proposal
        enough = self._exhausted or len(self._known) >= self._sweep.trial_count
        if self._sweep.search.method is not Search.TPE or enough:
            return None
        for _ in range(MOST_REPEATS):
            proposal = self._sampled()
            if proposal is not None:
                self._known.add(proposal.trial)
                return proposal
        log.warning("after %s the search proposes none that is new", counted(len(self._known), "setting"))
        self._exhausted = True
        return None

    def heard(self, record: TrialRecord) -> None:
        """Tell the study what is known of a trial that was proposed; when that is final, it hears no more."""
        if record.trial in self._open:
            self._tell(self._open[record.trial], record)
        if record.status is not Status.RUNNING:
            self._open.pop(record.trial, None)
            if self._sweep.search.storage is None:
                push_database(self._run / STUDY_DB)

    def again(self, record: TrialRecord) -> None:
        """Propose a trial once more that failed, where it left off."""
        self._continued.append(Proposal(record.trial, record.setting))

    def _sampled(self) -> Proposal | None:
        """What TPE proposes; None for what was proposed before, or cannot be."""
        self._study.sampler = _sampler(self._sweep, len(self._study.get_trials(deepcopy=False)))
        trial = self._study.ask()
        setting = self._sweep.chosen(lambda key, _: self._meant(key, _suggested(trial, key, self._distributions[key])))
        key = self._storage.get_trial_id_from_study_id_trial_number(self._study_id, trial.number)
        try:
            name = self._name(setting)
        except ConfigError as error:
            log.warning("the search proposed what cannot be: %s", error)
        else:
            if name not in self._known:
                trial.set_user_attr(TRIAL, name)
                self._open[name] = key
                return Proposal(name, setting)
        self._storage.set_trial_state_values(key, TrialState.FAIL)
        return None

    def _begin(self, name: str, setting: Mapping[str, Any]) -> int:
        """Enter a trial that the sampler did not propose; its id in the storage."""
        begun = create_trial(state=TrialState.RUNNING, **self._spelled(setting), user_attrs={TRIAL: name})
        return self._storage.create_new_trial(self._study_id, begun)

    def _name(self, setting: Mapping[str, Any]) -> str:
        return trial_id(self._sweep.config(setting))

    def _spelled(self, setting: Mapping[str, Any]) -> dict[str, Any]:
        """A setting as Optuna keeps it."""
        return {
            "params": {key: spelled_choice(value) for key, value in setting.items()},
            "distributions": {key: self._distributions[key] for key in setting},
        }

    def _meant(self, key: str, kept: Any) -> Any:
        """The value that Optuna keeps as `kept`."""
        values = self._sweep.choices[key]
        if isinstance(values, Range):
            return kept
        for value in values:
            if repr(spelled_choice(value)) == repr(kept):
                return value
        raise LookupError(f"{key} is never {kept}")

    def _catch_up(self, records: Mapping[str, TrialRecord]) -> Iterator[Proposal]:
        """Tell the study what it has not heard; what was under way is to be continued."""
        heard: set[str | None] = set()
        for trial in self._study.get_trials(deepcopy=False):
            name = trial.user_attrs.get(TRIAL)
            if trial.state.is_finished():
                heard.add(name)
                continue
            key = self._storage.get_trial_id_from_study_id_trial_number(self._study_id, trial.number)
            try:
                setting = self._sweep.chosen(lambda k, _, trial=trial: self._meant(k, trial.params[k]))
                name = name or self._name(setting)
            except (LookupError, ConfigError):  # killed between two of its values, or before it was found impossible
                self._storage.set_trial_state_values(key, TrialState.FAIL)
                continue
            heard.add(name)
            if name in self._known:
                self._tell(key, records[name])
            else:
                self._storage.set_trial_user_attr(key, TRIAL, name)
                self._open[name] = key
                yield Proposal(name, setting)
        for name, record in records.items():
            if name in self._known and name not in heard:
                self._tell(self._begin(name, record.setting), record)

    def _tell(self, key: int, record: TrialRecord) -> None:
        told = self._storage.get_trial(key).intermediate_values
        for rung in record.rungs:
            if rung.epoch not in told:
                self._storage.set_trial_intermediate_value(key, rung.epoch, rung.objective)
        best = record.best(self._sweep.objective)
        if record.status is Status.DONE and best is not None:
            self._storage.set_trial_state_values(key, TrialState.COMPLETE, [best.objective])
        elif record.status is Status.STOPPED and best is not None:
            self._storage.set_trial_state_values(key, TrialState.PRUNED, [best.objective])
        elif record.status is not Status.RUNNING:
            self._storage.set_trial_user_attr(key, "error", record.error)
            self._storage.set_trial_state_values(key, TrialState.FAIL)

    def _learn(self, source: str) -> None:
        """Add the trials of an earlier study that fit this space."""
        study = _earlier(source)
        task = study.user_attrs.get(TASK, self._sweep.task)
        if task != self._sweep.task:
            raise UsageError(f"search.warm_start: {source} is of {task}, not of {self._sweep.task}")
        if study.direction is not self._study.direction:
            raise UsageError(f"search.warm_start: the objective of {source} has its best at the other end")
        finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        fitting = [copy for trial in finished if (copy := self._fitted(trial, source))]
        if not fitting:
            raise UsageError(f"search.warm_start: {source} has no trial whose values are of this space")
        self._study.add_trials(fitting)
        self._study.set_user_attr(LEARNT, source)
        log.info("learnt from %d of %s of %s", len(fitting), counted(len(finished), "trial"), source)

    def _fitted(self, trial: FrozenTrial, source: str) -> FrozenTrial | None:
        """The trial of another study as one of this space; None where it is none."""
        try:
            setting = self._sweep.chosen(lambda key, _: self._meant(key, trial.params[key]))
            if setting.keys() != trial.params.keys():
                return None
            return create_trial(
                state=trial.state,
                value=trial.value,
                **self._spelled(setting),
                user_attrs={LEARNT: source},
                intermediate_values=trial.intermediate_values,
            )
        except (LookupError, ValueError):  # a key that it lacks, a value outside the space
            return None


def open_study(sweep: Sweep, run: Path, records: Sequence[TrialRecord]) -> tuple[optuna.Study, BaseStorage]:
    """The study of a run, or a new one, also in place of one that the records contradict.

    Raises `UsageError` for a storage that does not open, or that has a study of this name and another run.
    """
    if not (run / STUDY_DB).exists():  # else it is used here, and records make good what it lacks
        pull(run / STUDY_DB)
    storage, name = _opened(sweep.search.storage or f"sqlite:///{run / STUDY_DB}", "search.storage"), run.name
    names = optuna.get_all_study_names(storage)
    if sweep.search.storage is None:  # a run holds one study, whatever the directory is called now
        name = next(iter(names), name)
    owner = _owner(run) if sweep.search.storage else None
    if name in names:
        study = optuna.load_study(study_name=name, storage=storage)
        if owner and study.user_attrs.get(OWNER) != owner:
            raise UsageError(f"search.storage: has a study {name!r} of another run; choose another --out")
        if not _contradicted(study, sweep, records):
            return study, storage
        optuna.delete_study(study_name=name, storage=storage)
    direction = "maximize" if sweep.objective.mode == "max" else "minimize"
    study = optuna.create_study(storage=storage, study_name=name, direction=direction)
    for attribute, value in ((TASK, sweep.task), ("question", sweep.question), (OWNER, owner)):
        study.set_user_attr(attribute, value)
    return study, storage


def _owner(run: Path) -> str:
    """Tells this run from others in a storage that they share."""
    file = run / STUDY_ID
    if not file.exists():
        write_text(file, uuid4().hex)
    return file.read_text()


def _contradicted(study: optuna.Study, sweep: Sweep, records: Sequence[TrialRecord]) -> bool:
    """Whether a study says what is not so: it is an earlier version's, or of fewer episodes, or half learnt."""
    running = {record.trial for record in records if record.status is Status.RUNNING}
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)):
        name = trial.user_attrs.get(TRIAL)
        if LEARNT not in trial.user_attrs and (name is None or name in running):
            return True
    half_learnt = any(LEARNT in trial.user_attrs for trial in study.get_trials(deepcopy=False))
    return sweep.search.warm_start is not None and half_learnt and LEARNT not in study.user_attrs


def _suggested(trial: optuna.Trial, key: str, kind: BaseDistribution) -> Any:
    if isinstance(kind, IntDistribution):
        return trial.suggest_int(key, kind.low, kind.high, step=kind.step, log=kind.log)
    if isinstance(kind, FloatDistribution):
        return trial.suggest_float(key, kind.low, kind.high, step=kind.step, log=kind.log)
    assert isinstance(kind, CategoricalDistribution)
    return trial.suggest_categorical(key, kind.choices)


def _sampler(sweep: Sweep, number: int) -> TPESampler:
    seed = int(np.random.SeedSequence([sweep.search.seed, number]).generate_state(1)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # of groups, without which conditions are not learnt
        return TPESampler(seed=seed, multivariate=True, constant_liar=True, group=sweep.conditional)


def _opened(url: str, setting: str) -> BaseStorage:
    try:
        return optuna.storages.get_storage(url)
    except Exception as error:  # of SQLAlchemy or of a database's own driver
        raise UsageError(f"{setting}: {url} does not open: {str(error).splitlines()[0]}") from error


def _earlier(source: str) -> optuna.Study:
    """A study by the run directory or STORAGE_URL#STUDY. Raises `UsageError`."""
    url, mark, name = source.rpartition("#")
    if not mark:
        database = local(source) / STUDY_DB
        if not database.exists():
            pull(database)
        if not database.exists():
            raise UsageError(f"search.warm_start: {database}: no such study (expected a run or STORAGE_URL#STUDY)")
        url = f"sqlite:///{database}"
    storage = _opened(url, "search.warm_start")
    names = optuna.get_all_study_names(storage)
    if not mark and names:
        name = names[0]
    if name not in names:
        raise UsageError(f"search.warm_start: {url} has no study {name!r} (it has {', '.join(names) or 'none'})")
    return optuna.load_study(study_name=name, storage=storage)
