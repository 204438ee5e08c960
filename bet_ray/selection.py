"""Which setting wins, which are tied with it, and what fresh episodes say of the best: chosen on `tune`, measured on
`report`.

Where a loss chose, nothing was simulated before: then each setting is now, once.

A race (`bet.racing`) looks at episodes of `tune` that the search has not seen: those it has seen chose the epoch of
each setting, and so favour all of them.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bet import files, tasks
from bet.config import Frozen, Split
from bet.measure import Measurement
from bet.policy import Policy
from bet.racing import Standing, Verdict, is_higher, race
from bet.sequential import anytime_interval, looks
from bet.stats import simultaneous_confidence
from bet.wording import counted
from bet_ray.evaluation import measurement
from bet_ray.manifest import write_text
from bet_ray.sweep import Objective, Sweep
from bet_ray.trainable import policy_job, simulated
from bet_ray.trials import Measured, Raced, Rung, TrialRecord, read_record, read_trials, write_record
from bet_ray.values import Estimate
from bet_ray.worker import Job

log = logging.getLogger(__name__)

RACE_JSON = "race.json"
ALPHA = 0.05

RollOut = Callable[[Sequence[Job], int], list[pa.Table]]
"""Episodes 0..n-1 of each job, by index; recorded ones are not run again."""

OnTrials = Callable[[list[TrialRecord]], None]
"""Called with all trials, best first, whenever one has news."""


class RaceRecord(Frozen):
    """How a race went; kept as `race.json`."""

    verdict: Verdict
    within: float
    """At most so much is the winner below the best contender."""
    margin: float
    contenders: int
    rounds: list[tuple[int, int]]
    """Fresh episodes for each policy left, and how many settings were left after them."""
    episodes: int
    """Fresh episodes in all."""
    alike: int
    """What it would have been, had every contender had as many as those left in the end."""

    def __str__(self) -> str:
        left = self.rounds[-1][1]
        found = {
            Verdict.WINNER: "one is better than all others",
            Verdict.TIED: f"the winner is within {self.within:g} of the best, {counted(left, 'setting')} left",
            Verdict.UNDECIDED: f"undecided, {left} settings left, the winner within {self.within:g} of the best",
        }[self.verdict]
        return (
            f"race of {counted(self.contenders, 'setting')}: {found}, after {counted(self.episodes, 'fresh episode')} "
            f"(as many for each as for the last: {self.alike:,})"
        )


def read_race(run: Path) -> RaceRecord | None:
    """None where there was none, or it is under way."""
    try:
        return RaceRecord.model_validate_json((run / RACE_JSON).read_text())
    except FileNotFoundError:
        return None


class Contest:
    """The settings of a search that is over."""

    def __init__(self, sweep: Sweep, run: Path, roll_out: RollOut, on_trials: OnTrials | None = None) -> None:
        self._sweep, self._run, self._roll_out, self._on_trials = sweep, run, roll_out, on_trials
        self._task = tasks.simulated(sweep.task)
        self._jobs: dict[tuple[str, Split], list[Job]] = {}
        self.reports: dict[str, Measurement] = {}
        """Of the finalists, by trial."""

    def decide(self) -> list[TrialRecord]:
        """Race if asked to, mark those tied with the winner, measure the finalists; all trials, best first."""
        self._forget()
        self._simulate()
        contenders = self._contenders()
        standing = self._race(contenders) if self._sweep.eval.race is not None else None
        if standing is None:
            self._mark_tied(contenders)
        else:
            for place, (trial, _) in enumerate(contenders):
                self._change(trial, tied=place in standing.left)
        self._measure()
        return self._trials()

    def _forget(self) -> None:
        """What an earlier start decided, perhaps from other episodes."""
        files.remove(self._run / RACE_JSON)
        for trial in self._trials():
            if (trial.tied, trial.race, trial.report) != (None, None, None):
                self._change(trial, tied=None, race=None, report=None)

    def _trials(self) -> list[TrialRecord]:
        return read_trials(self._run, self._sweep.objective)

    def _contenders(self) -> list[tuple[TrialRecord, Rung]]:
        """Settings with a result, and the rung that counts."""
        return [(trial, rung) for trial in self._trials() if (rung := trial.best(self._sweep.objective))]

    def _change(self, trial: TrialRecord, **what: Any) -> None:
        kept = read_record(self._run, trial.trial)
        assert kept is not None
        write_record(self._run, kept.model_copy(update=what))

    def _simulate(self) -> None:
        """The rungs that count and that the search left, or an earlier start ran with fewer episodes."""
        asked = self._sweep.eval.episodes * self._sweep.seeds_per_trial
        waiting = [(trial, rung) for trial, rung in self._contenders() if rung.episodes != asked]
        tables = self._evaluate(waiting, Split.TUNE, self._sweep.eval.episodes)
        for (trial, rung), table in zip(waiting, tables, strict=True):
            found = simulated(self._sweep, rung, table)
            self._change(trial, rungs=[found if each is rung else each for each in trial.rungs])
        if waiting and self._on_trials:
            self._on_trials(self._trials())

    def _evaluate(self, contenders: Sequence[tuple[TrialRecord, Rung]], split: Split, episodes: int) -> list[pa.Table]:
        """Episodes 0..episodes-1 of the policies of each, by training seed and index."""
        asked: list[Job] = []
        for trial, rung in contenders:
            known = trial.trial, split
            if known not in self._jobs:
                policies = [Policy.load(self._run / "policies" / name) for name in trial.policies(rung)]
                self._jobs[known] = [policy_job(policy, split) for policy in policies]
            asked += self._jobs[known]
        tables = iter(self._roll_out(asked, episodes))
        return [pa.concat_tables([next(tables) for _ in self._jobs[trial.trial, split]]) for trial, _ in contenders]

    def _race(self, contenders: Sequence[tuple[TrialRecord, Rung]]) -> Standing | None:
        """None where there is no rival, or the budget does not reach for one round."""
        asked, seen, seeds = self._sweep.eval.race, self._sweep.eval.episodes, self._sweep.seeds_per_trial
        assert asked is not None
        if len(contenders) == 1:
            return None
        plan, scores = looks(asked.episodes, asked.first), [np.empty(0)] * len(contenders)
        standing = race(scores, plan, ALPHA, asked.margin)
        rounds: list[tuple[int, int]] = []
        spent = 0
        while standing.next_look is not None:
            cost = (standing.next_look - standing.episodes) * len(standing.left) * seeds
            if asked.budget is not None and spent + cost > asked.budget:
                plan = [look for look in plan if look <= standing.episodes]
                if not plan:
                    log.warning("eval.race.budget: %d episodes are fewer than one round's %d", asked.budget, cost)
                    return None
                standing = race(scores, plan, ALPHA, asked.margin)
                break
            spent += cost
            judged = standing.left
            tables = self._evaluate([contenders[place] for place in judged], Split.TUNE, seen + standing.next_look)
            for place, table in zip(judged, tables, strict=True):
                scores[place] = self._by_episode(table, "primary")[seen:]
            standing = race(scores, plan, ALPHA, asked.margin)
            rounds.append((standing.episodes, len(standing.left)))
            by = {each.contender: contenders[each.leader][0].trial for each in standing.dropped}
            for place in judged:
                found = anytime_interval(scores[place])
                raced = Raced(
                    episodes=len(scores[place]) * seeds,
                    primary=Estimate.of(found),
                    beaten_by=by.get(place),
                )
                self._change(contenders[place][0], race=raced)
            if self._on_trials:
                self._on_trials(self._trials())
        record = RaceRecord(
            verdict=standing.verdict,
            within=standing.within,
            margin=asked.margin,
            contenders=len(contenders),
            rounds=rounds,
            episodes=spent,
            alike=standing.episodes * len(contenders) * seeds,
        )
        write_text(self._run / RACE_JSON, record.model_dump_json(indent=2))
        return standing

    def _mark_tied(self, contenders: Sequence[tuple[TrialRecord, Rung]]) -> None:
        """By paired tests against the winner, each at a level that keeps the best one in with 95%.

        Every policy that was simulated is a rival to the best one, also those of epochs that did not count.
        """
        rivals = max(sum(rung.episodes > 0 for trial, _ in contenders for rung in trial.rungs) - 1, 1)
        tables = self._evaluate(contenders, Split.TUNE, self._sweep.eval.episodes)
        for (trial, _), table in zip(contenders, tables, strict=True):
            worse = table is not tables[0] and self._is_worse(table, tables[0], ALPHA / rivals)
            self._change(trial, tied=not worse)

    def _is_worse(self, table: pa.Table, best: pa.Table, level: float) -> bool:
        """Whether the evidence against "at least as good as the best" reaches 1 / level.

        Success x mode coverage is no mean of episodes: there the intervals of both must be apart.
        """
        if self._task.by_modes and self._sweep.objective is not Objective.SUCCESS:
            ours, others = (measurement(self._task, each, 1 - level).primary for each in (best, table))
            return ours.low > others.high
        name = "success" if self._sweep.objective is Objective.SUCCESS else "primary"
        ahead = self._by_episode(best, name) - self._by_episode(table, name)
        return is_higher(ahead, 0.0, level)

    def _by_episode(self, table: pa.Table, name: str) -> NDArray[np.float64]:
        """A column's mean over training seeds, which all meet the same episodes, (n,) by index."""
        values = table.column(name).to_numpy(zero_copy_only=False).astype(np.float64)
        return values.reshape(self._sweep.seeds_per_trial, -1).mean(axis=0)

    def _measure(self) -> None:
        """Roll the winner and the next best of those tied with it out on `report`."""
        tied = [(trial, rung) for trial, rung in self._contenders() if trial.tied]
        finalists = tied[: self._sweep.eval.finalists]
        confidence = simultaneous_confidence(len(finalists))
        tables = self._evaluate(finalists, Split.REPORT, self._sweep.eval.winner_episodes)
        for (trial, _), table in zip(finalists, tables, strict=True):
            found = self.reports[trial.trial] = measurement(self._task, table, confidence)
            measured = Measured(
                primary=Estimate.of(found.primary),
                success=Estimate.of(found.success),
                episodes=found.episodes,
                confidence=confidence,
            )
            self._change(trial, report=measured)
