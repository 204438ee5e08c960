"""The search as a study: what it proposes, what it learns, and that a kill changes neither."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from bet.errors import UsageError
from bet_ray.study import STUDY_DB, TRIAL, Proposals
from bet_ray.sweep import Sweep, parse_sweep
from bet_ray.training import trial_id
from bet_ray.trials import Rung, Status, TrialRecord
from bet_ray.values import Estimate

SPACE: dict[str, Any] = {
    "bins": {"low": 1, "high": 64, "log": True},
    "gamma": [0, 2],
    "offsets": [True, False],
    "loss.offset_scale": {"low": 1, "high": 1000, "log": True, "when": {"offsets": True}},
}
TREE: dict[str, Any] = {"question": "Which?", "task": "pointmass2", "space": SPACE, "search": "tpe", "trials": 25}


def sweep_of(**changes: Any) -> Sweep:
    return parse_sweep({key: value for key, value in (TREE | changes).items() if value is not None}, "test")


def record(setting: dict[str, Any], sweep: Sweep, value: float = 0.0, **changes: Any) -> TrialRecord:
    """A trial that is done."""
    triple = Estimate(value, value, value)
    rung = Rung(epoch=4, objective=value, primary=triple, success=triple, episodes=64, val_loss=1.0, by_seed={})
    trial = TrialRecord(
        trial=trial_id(sweep.config(setting)), setting=setting, status=Status.DONE, rungs=[rung], train_seconds=1.0
    )
    return trial.model_copy(update=changes)


def score(setting: dict[str, Any]) -> float:
    """Best at many bins, with offsets that count much."""
    return setting.get("codebook.bins", 0) / 100 + setting.get("loss.offset_scale", 0) / 10_000


def searched(
    proposals: Proposals, sweep: Sweep, records: list[TrialRecord], most: int = 100
) -> Iterator[dict[str, Any]]:
    """Try what is proposed, one at a time."""
    for _ in range(most):
        proposal = proposals.next()
        if proposal is None:
            return
        done = record(proposal.setting, sweep, score(proposal.setting))
        records.append(done)
        proposals.heard(done)
        yield proposal.setting


def study_of(run: Path) -> optuna.Study:
    storage = f"sqlite:///{run / STUDY_DB}"
    return optuna.load_study(study_name=optuna.get_all_study_names(storage)[0], storage=storage)


@pytest.fixture
def new_run(tmp_path: Path) -> Callable[[str], Path]:
    def make(name: str) -> Path:
        (tmp_path / name).mkdir()
        return tmp_path / name

    return make


def test_the_same_seed_proposes_the_same_settings_and_another_seed_others(new_run: Callable[[str], Path]) -> None:
    sweep, other = sweep_of(trials=12), sweep_of(trials=12, search={"method": "tpe", "seed": 1})
    first = list(searched(Proposals(sweep, new_run("a"), []), sweep, []))
    assert list(searched(Proposals(sweep, new_run("b"), []), sweep, [])) == first
    assert list(searched(Proposals(other, new_run("c"), []), other, [])) != first
    assert len(first) == 12


def test_a_search_that_is_killed_while_a_trial_runs_goes_on_as_if_it_had_not_been(
    new_run: Callable[[str], Path],
) -> None:
    sweep = sweep_of(trials=14)
    undisturbed = list(searched(Proposals(sweep, new_run("a"), []), sweep, []))
    run, records, found = new_run("b"), list[TrialRecord](), list[dict[str, Any]]()
    for kill in (1, 11, 12):  # the first ten are drawn at random, the others learnt
        proposals = Proposals(sweep, run, records)
        found += searched(proposals, sweep, records, kill - len(found))
        lost = proposals.next()
        assert lost is not None  # under way when everything ends
        records.append(record(lost.setting, sweep, status=Status.RUNNING, rungs=[]))
        resumed = Proposals(sweep, run, records)
        again = resumed.next()
        assert again == lost
        records[-1] = record(lost.setting, sweep, score(lost.setting))
        resumed.heard(records[-1])
        found.append(lost.setting)
    found += searched(Proposals(sweep, run, records), sweep, records)
    assert found == undisturbed
    assert len(study_of(run).get_trials(states=(TrialState.COMPLETE,))) == 14


def test_a_key_with_a_condition_is_proposed_only_where_it_counts(new_run: Callable[[str], Path]) -> None:
    sweep = sweep_of(trials=20)
    settings = list(searched(Proposals(sweep, new_run("a"), []), sweep, []))
    with_offsets = [setting for setting in settings if setting["model.offsets"]]
    assert 0 < len(with_offsets) < 20
    assert all(("loss.offset_scale" in setting) == setting["model.offsets"] for setting in settings)


def test_a_listed_setting_that_was_under_way_goes_on_as_it_was(new_run: Callable[[str], Path]) -> None:
    sweep, run = sweep_of(space=None, search=None, trials=None, settings=[{"bins": 5}, {"gamma": 0}]), new_run("a")
    proposal = Proposals(sweep, run, []).next()
    assert proposal is not None
    assert proposal.setting == {"codebook.bins": 5, "loss.gamma": 2}
    assert Proposals(sweep, run, []).next() == proposal


def test_the_search_learns(new_run: Callable[[str], Path]) -> None:
    sweep = sweep_of(trials=26)
    settings = list(searched(Proposals(sweep, new_run("a"), []), sweep, []))
    random, learnt = settings[:8], settings[-8:]
    assert sum(map(score, learnt)) > 1.5 * sum(map(score, random))


def test_no_setting_is_proposed_twice_and_a_small_space_ends(new_run: Callable[[str], Path]) -> None:
    sweep = sweep_of(space={"gamma": {"low": 0, "high": 2}}, trials=50)
    proposals, records = Proposals(sweep, new_run("a"), []), list[TrialRecord]()
    found = []
    while (proposal := proposals.next()) is not None:
        found.append(proposal.setting["loss.gamma"])
        records.append(record(proposal.setting, sweep))
        proposals.heard(records[-1])
    assert sorted(found) == [0, 1, 2]
    assert Proposals(sweep, new_run("b"), []).left == 50  # as far as it knows


def test_a_grid_keeps_its_order_and_a_study_that_shows_it(new_run: Callable[[str], Path]) -> None:
    space = {"offsets": [True, False], "loss.offset_scale": {"values": [1, 100], "when": {"offsets": True}}}
    sweep = sweep_of(search="grid", trials=None, space=space | {"train.betas": [[0.9, 0.95], [0.9, 0.99]]})
    run = new_run("a")
    found = list(searched(Proposals(sweep, run, []), sweep, []))
    assert found == list(sweep.enumerated())
    assert len(found) == 6
    shown = study_of(run).get_trials()
    assert [trial.user_attrs[TRIAL] for trial in shown] == [trial_id(sweep.config(setting)) for setting in found]
    assert shown[0].params == {"model.offsets": True, "loss.offset_scale": 1, "train.betas": "[0.9, 0.95]"}
    resumed = Proposals(sweep, run, [record(setting, sweep) for setting in found])
    assert (resumed.left, resumed.next()) == (0, None)


@pytest.mark.parametrize("method", ["random", "tpe"])
def test_a_study_that_was_lost_is_told_again_from_the_records(new_run: Callable[[str], Path], method: str) -> None:
    sweep, run, records = sweep_of(search=method, trials=6), new_run("a"), list[TrialRecord]()
    settings = list(searched(Proposals(sweep, run, []), sweep, records, 4))
    records[1] = records[1].model_copy(update={"status": Status.RUNNING, "rungs": []})
    records[2] = records[2].model_copy(update={"status": Status.STOPPED})
    (run / STUDY_DB).unlink()
    resumed = Proposals(sweep, run, records)
    assert resumed.left == sweep.trial_count - 3
    proposal = resumed.next()
    assert proposal is not None
    assert proposal.setting == settings[1]  # it was under way
    states = {trial.user_attrs[TRIAL]: trial.state for trial in study_of(run).get_trials()}
    assert states == {
        records[0].trial: TrialState.COMPLETE,
        records[1].trial: TrialState.RUNNING,
        records[2].trial: TrialState.PRUNED,
        records[3].trial: TrialState.COMPLETE,
    }


def test_what_the_records_know_and_the_study_does_not_is_told(new_run: Callable[[str], Path]) -> None:
    """Killed after a trial wrote its record and before the study heard."""
    sweep, run = sweep_of(trials=3), new_run("a")
    proposal = Proposals(sweep, run, []).next()
    assert proposal is not None
    Proposals(sweep, run, [record(proposal.setting, sweep, 0.5)])
    (trial,) = study_of(run).get_trials()
    assert (trial.state, trial.value, trial.intermediate_values) == (TrialState.COMPLETE, 0.5, {4: 0.5})


def test_a_trial_that_failed_is_tried_again_as_often_as_asked(new_run: Callable[[str], Path]) -> None:
    sweep, run = sweep_of(trials=1, resources={"retries": 1}), new_run("a")
    proposals = Proposals(sweep, run, [])
    proposal = proposals.next()
    assert proposal is not None
    for failures, again in ((1, True), (2, False)):
        failed = record(
            proposal.setting, sweep, status=Status.ERROR, rungs=[], failures=failures, error="its node burnt"
        )
        proposals.heard(failed)
        proposals = Proposals(sweep, run, [failed])
        assert (proposals.next() == proposal) is again
    assert [trial.user_attrs["error"] for trial in study_of(run).get_trials()] == ["its node burnt"] * 2


def test_a_search_learns_from_an_earlier_one_whatever_its_storage(new_run: Callable[[str], Path]) -> None:
    sweep, run, records = sweep_of(trials=12), new_run("a"), list[TrialRecord]()
    list(searched(Proposals(sweep, run, []), sweep, records))
    name = study_of(run).study_name
    for place, source in enumerate((str(run), f"sqlite:///{run / STUDY_DB}#{name}")):
        warm = sweep_of(search={"method": "tpe", "warm_start": source}, trials=2)
        target = new_run(f"warm{place}")
        proposals = Proposals(warm, target, [])
        assert proposals.left == 2
        new = list(searched(proposals, warm, []))
        assert len(new) == 2
        assert len(study_of(target).get_trials(states=(TrialState.COMPLETE,))) == 14
        assert Proposals(warm, target, [record(setting, warm) for setting in new]).next() is None
    narrower = sweep_of(space=SPACE | {"bins": {"low": 1, "high": 8}}, search={"method": "tpe", "warm_start": str(run)})
    fitting = [each for each in records if each.setting["codebook.bins"] <= 8]
    Proposals(narrower, new_run("narrow"), [])
    assert len(study_of(run.parent / "narrow").get_trials()) == len(fitting)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"search": {"method": "tpe", "warm_start": "nowhere"}}, "search.warm_start: nowhere/study.db: no such study"),
        (
            {"search": {"method": "tpe", "storage": "carrier://pigeon"}},
            "search.storage: carrier://pigeon does not open",
        ),
    ],
)
def test_a_study_that_cannot_be_had_is_refused_in_a_line(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Proposals(sweep_of(**changes), tmp_path, [])


def test_a_study_of_another_task_or_direction_is_no_start(new_run: Callable[[str], Path]) -> None:
    sweep, run = sweep_of(trials=1), new_run("a")
    list(searched(Proposals(sweep, run, []), sweep, []))
    warm = {"search": {"method": "tpe", "warm_start": str(run)}, "space": {"window": [1, 2]}}
    with pytest.raises(UsageError, match="is of pointmass2, not of blockpush"):
        Proposals(sweep_of(**warm, task="blockpush"), new_run("b"), [])
    with pytest.raises(UsageError, match="its best at the other end"):
        Proposals(sweep_of(**warm, objective="val_loss"), new_run("c"), [])
    with pytest.raises(UsageError, match="no trial whose values are of this space"):
        Proposals(sweep_of(**warm), new_run("d"), [])


def test_a_value_that_the_space_has_not_is_not_learnt(new_run: Callable[[str], Path]) -> None:
    sweep, run = sweep_of(trials=8), new_run("a")
    settings = list(searched(Proposals(sweep, run, []), sweep, []))
    narrower = sweep_of(space=SPACE | {"gamma": [0]}, search={"method": "tpe", "warm_start": str(run)})
    Proposals(narrower, new_run("b"), [])
    assert len(study_of(run.parent / "b").get_trials()) == sum(setting["loss.gamma"] == 0 for setting in settings)


def test_a_study_of_another_run_is_not_joined(new_run: Callable[[str], Path]) -> None:
    storage = f"sqlite:///{new_run('x').parent / 'shared.db'}"
    sweep = sweep_of(search={"method": "tpe", "storage": storage})
    first, second = new_run("x/t"), new_run("y") / "t"
    second.mkdir()
    Proposals(sweep, first, [])
    with pytest.raises(UsageError, match="has a study 't' of another run; choose another --out"):
        Proposals(sweep, second, [])
    Proposals(sweep, first, [])


def test_an_exhausted_search_asks_no_more(new_run: Callable[[str], Path]) -> None:
    sweep, run = sweep_of(space={"gamma": {"low": 0, "high": 1}}, trials=50), new_run("a")
    proposals = Proposals(sweep, run, [])
    assert [proposals.next() is None for _ in range(4)] == [False, False, True, True]
    asked = len(study_of(run).get_trials())
    assert proposals.next() is None
    assert len(study_of(run).get_trials()) == asked


def test_a_study_that_the_records_contradict_is_told_anew(new_run: Callable[[str], Path]) -> None:
    """A sweep resumed with more episodes judges its trials again."""
    sweep, run, records = sweep_of(trials=4), new_run("a"), list[TrialRecord]()
    list(searched(Proposals(sweep, run, []), sweep, records))
    reopened = [record.model_copy(update={"status": Status.RUNNING, "rungs": []}) for record in records[:2]]
    resumed = Proposals(sweep, run, [*reopened, *records[2:]])
    assert resumed.left == 2
    again = [resumed.next(), resumed.next()]
    assert [proposal.trial for proposal in again if proposal] == [record.trial for record in reopened]
    assert len(study_of(run).get_trials()) == 4


def test_a_study_lives_where_the_sweep_says(new_run: Callable[[str], Path]) -> None:
    run = new_run("a")
    storage = f"sqlite:///{run.parent / 'shared.db'}"
    sweep = sweep_of(trials=2, search={"method": "tpe", "storage": storage})
    list(searched(Proposals(sweep, run, []), sweep, []))
    assert optuna.get_all_study_names(storage) == ["a"]
    assert not (run / STUDY_DB).exists()
