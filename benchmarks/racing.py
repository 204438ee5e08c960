"""What racing saves against giving every setting of a sweep the same number of episodes, at equal reliability.

`python -m benchmarks.racing [RUN] [--sweeps 250] [--settings 40] [--first 20] [--most 2000] [--shared 0.5]`

In every simulated sweep the settings have true means, drawn anew, and all meet the same episodes; a Gaussian copula
with correlation `shared` makes an episode that is easy for one easy for the others. A choice is right if the true mean
of what is chosen is at most `margin` below the best.

With the run directory of a sweep the settings are its own: their policies' recorded episodes are drawn from, again and
again, so what is recorded is the truth that a race over few of them has to find. `bet-ray eval RUN --each --split tune
--episodes 1000` records as many of every policy as that takes.

| design | episodes of each setting |
|---|---|
| race | `bet.racing.race`: until it knows enough, `most` at most |
| as reliable | one number for all, the smallest with which the best mean seen is right as often as the race's leader |
| whatever comes | the same, but one number for all scenarios of a table: the largest |
| promised | one number for all, planned so that the best mean seen is right with probability 1 - alpha |
| halving | successive halving, with the episodes that the race took |

"As reliable" is told by the simulation how many episodes this scenario needs, which nobody knows beforehand; nor could
it, or halving, say afterwards that it was right. Where every choice of the race is right, it is the smallest number for
which all were: more sweeps ask for more.
"Promised" is planned as an experiment would be (Bechhofer 1954, Annals of Mathematical Statistics 25): by the normal
law, at alpha / (K - 1) for each rival, and told the largest variance of a difference to the best.
"""

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from math import ceil, log2
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import pyarrow.compute as pc
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy import special, stats

from bet.config import Split
from bet.racing import Standing, Verdict, race
from bet.sequential import looks
from bet.stats import Interval, Method, rate_interval
from bet_ray.report.records import read_records

RESAMPLES: Final = 1000
FEWEST: Final = 100  # episodes of a recorded sweep

Array = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], Array]  # the true means of so many settings


@dataclass(frozen=True)
class Scenario:
    """What the settings of a sweep are worth."""

    name: str
    draw: Draw
    graded: bool = False
    """Scores of a power law on [0, 1], else successes."""

    def sweep(self, rng: np.random.Generator, settings: int, episodes: int, shared: float) -> "Sweep":
        means = self.draw(rng, settings)
        common, own = rng.standard_normal(episodes), rng.standard_normal((settings, episodes))
        luck = special.ndtr(np.sqrt(shared) * common + np.sqrt(1 - shared) * own)  # (K, n) uniform
        if self.graded:  # the quantiles of Beta(m / (1 - m), 1), whose mean is m
            return Sweep(means, luck ** (1 / means[:, None] - 1))
        return Sweep(means, (luck > 1 - means[:, None]).astype(np.float64))


def clear_best(rng: np.random.Generator, k: int) -> Array:
    return np.append(rng.beta(2, 5, k - 1), 0.85)


def good_ones(rng: np.random.Generator, k: int) -> Array:
    """A quarter of them within 0.05 of each other, at the top."""
    return np.append(rng.beta(2, 5, k - k // 4), rng.uniform(0.65, 0.7, k // 4)).clip(0.01)


def all_sorts(rng: np.random.Generator, k: int) -> Array:
    return rng.beta(2, 2, k).clip(0.01, 0.99)


def all_poor(rng: np.random.Generator, k: int) -> Array:
    return rng.beta(1, 12, k).clip(0.01)


@dataclass(frozen=True, eq=False)
class Recorded:
    """The settings of a sweep that was run."""

    name: str
    table: Array  # (K, n) scores of each in the same n episodes

    @classmethod
    def of(cls, run: Path) -> "Recorded":
        """Of all settings with a result, in the episodes of `tune` that all have beside those that the search saw.

        Raises `SystemExit` where there are few.
        """
        records = read_records(run)
        seen, seeds = records.sweep.eval.episodes, records.sweep.seeds_per_trial
        scores: list[pd.Series] = []
        for trial, rung, *_ in records.judged():
            rows = records.episodes.filter(
                pc.field("policy_digest").isin(records.digests(trial, rung))
                & (pc.field("split") == Split.TUNE.value)
                & (pc.field("protocol_digest") == records.protocol.digest)
                & (pc.field("index") >= seen)
            ).to_pandas()
            both = rows.groupby("index")["primary"].agg(["mean", "size"])
            scores.append(both.loc[both["size"] == seeds, "mean"])
        table = pd.concat(scores, axis=1, join="inner").to_numpy().T  # (K, n)
        if table.shape[1] < FEWEST:
            raise SystemExit(
                f"{run}: its settings have {table.shape[1]} episodes in common beside those of the search; "
                f"bet-ray eval {run} --each --split tune --episodes 1000 records more"
            )
        return cls(f"{records.task.name}, {table.shape[1]} episodes", table)

    def sweep(self, rng: np.random.Generator, settings: int, episodes: int, shared: float) -> "Sweep":
        """Another draw of episodes; the other arguments are for simulated settings."""
        return Sweep(self.table.mean(axis=1), self.table[:, rng.integers(self.table.shape[1], size=episodes)])


SCENARIOS: Final = (
    Scenario("a clear best", clear_best),
    Scenario("all sorts", all_sorts),
    Scenario("a quarter good", good_ones),
    Scenario("all poor", all_poor),
    Scenario("a clear best", clear_best, graded=True),
    Scenario("all sorts", all_sorts, graded=True),
    Scenario("a quarter good", good_ones, graded=True),
    Scenario("all poor", all_poor, graded=True),
)


@dataclass(frozen=True, eq=False)
class Sweep:
    """Settings, and what they score in the episodes that they could be given."""

    means: Array  # (K,) true
    scores: Array  # (K, n)

    def race(self, rounds: Sequence[int], alpha: float, margin: float) -> tuple[Standing, int]:
        """How the race ends, and what it takes."""
        end = race(list(self.scores), rounds, alpha, margin)
        return end, len(end.left) * end.episodes + sum(one.episodes for one in end.dropped)

    def uniform(self) -> NDArray[np.intp]:  # (n,)
        """The setting with the best mean after 1, 2, ..., n episodes of each."""
        return self.scores.cumsum(axis=1).argmax(axis=0)

    def halving(self, budget: int) -> int:
        """The setting that successive halving chooses (Karnin, Koren and Somekh 2013), its episodes kept for later."""
        left, rounds, n = np.arange(len(self.means)), ceil(log2(len(self.means))), 0
        for _ in range(rounds):
            n = min(n + max(budget // (rounds * len(left)), 1), self.scores.shape[1])
            order = np.argsort(-self.scores[left, :n].mean(axis=1), kind="stable")
            left = left[order[: ceil(len(left) / 2)]]
        return int(left[0])

    def promised(self, alpha: float, margin: float) -> int:
        """Episodes of each setting that a planner asks for who is told the variance of differences."""
        best, k = int(self.means.argmax()), len(self.means)
        variance = float((self.scores[best] - self.scores).var(axis=1).max())
        return ceil(variance * (stats.norm.ppf(1 - alpha / (k - 1)) / margin) ** 2)


@dataclass(frozen=True)
class Found:
    """What a number of sweeps came to. Episodes are of all settings together, the mean over sweeps."""

    name: str
    verdicts: dict[str, float]
    """The share of each."""
    raced: Interval
    dropped: Interval
    """How often the race dropped the best."""
    right: Interval
    """How often the race's leader is. Below: what the other designs choose."""
    reliable: float
    reliable_right: Interval
    reliable_ratio: Interval
    """Its episodes over those of the race."""
    promised: float
    halving_right: Interval


def measure(name: str, sweeps: Iterable[Sweep], rounds: Sequence[int], alpha: float, margin: float) -> Found:
    """Race in every sweep, and choose in the other ways too. All sweeps have as many settings."""
    settings, verdicts, dropped = 0, list[Verdict](), list[bool]()
    raced, promised = list[int](), list[int]()
    right, halved, uniform = list[bool](), list[bool](), list[NDArray[np.bool_]]()
    for sweep in sweeps:
        good = sweep.means >= sweep.means.max() - margin  # (K,)
        settings = len(good)
        end, spent = sweep.race(rounds, alpha, margin)
        verdicts.append(end.verdict)
        dropped.append(int(sweep.means.argmax()) not in end.left)
        raced.append(spent)
        right.append(bool(good[end.left[0]]))
        uniform.append(good[sweep.uniform()])
        promised.append(settings * sweep.promised(alpha, margin))
        halved.append(bool(good[sweep.halving(spent)]))
    runs = len(raced)
    draws = np.random.default_rng(0).multinomial(runs, np.full(runs, 1 / runs), size=RESAMPLES) / runs  # (D, R)
    weights = np.concatenate([np.full((1, runs), 1 / runs), draws])  # (1 + D, R) the first row is the sweeps themselves
    spent = weights @ np.array(raced)  # (1 + D,)
    shares = weights @ np.array(uniform)  # (1 + D, n)
    enough = shares >= (weights @ np.array(right))[:, None] - 1e-9
    enough[:, -1] = True  # no further than the episodes there are
    reliable = 1 + enough.argmax(axis=1)  # (1 + D,)
    return Found(
        name,
        {verdict: verdicts.count(verdict) / runs for verdict in Verdict if verdict in verdicts},
        _interval(spent, runs),
        rate_interval(sum(dropped), runs),
        rate_interval(sum(right), runs),
        float(settings * reliable[0]),
        rate_interval(round(runs * shares[0, reliable[0] - 1]), runs),
        _interval(settings * reliable / spent, runs),
        float(np.mean(promised)),
        rate_interval(sum(halved), runs),
    )


def _interval(values: Array, n: int) -> Interval:
    """The first value, and the bootstrap interval that the others make."""
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return Interval(float(values[0]), float(low), float(high), 0.95, n, Method.BOOTSTRAP)


def show(title: str, found: Sequence[Found], console: Console) -> None:
    """Episodes of each design, and in brackets how many times those of the race."""
    table, right = Table(title=title), "right, %"
    for name in ("", "ends, %", "race", right, "best lost, %", "as reliable", right, "whatever comes", "promised"):
        table.add_column(name, justify="left" if name in ("", "ends, %") else "right", no_wrap=True)
    table.add_column("halving right, %", justify="right", no_wrap=True)
    largest = max(one.reliable for one in found)
    for one in found:
        table.add_row(
            one.name,
            ", ".join(f"{verdict} {100 * share:.0f}" for verdict, share in one.verdicts.items()),
            f"{one.raced:,.0f}",
            _percent(one.right),
            _percent(one.dropped),
            f"{one.reliable:,.0f} (x {one.reliable_ratio:.1f})",
            _percent(one.reliable_right),
            *(f"{n:,.0f} (x {n / one.raced.estimate:.1f})" for n in (largest, one.promised)),
            _percent(one.halving_right),
        )
    console.print(table)


def _percent(share: Interval) -> str:
    low, high = 100 * share.low, 100 * share.high
    return f"{100 * share.estimate:.1f} [{low:.1f}, {high:.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description="What racing saves against as many episodes for every setting.")
    parser.add_argument("run", type=Path, nargs="?", metavar="RUN", help="a sweep's; default: simulated scenarios")
    parser.add_argument("--sweeps", type=int, default=250, help="simulated, in each scenario")
    parser.add_argument("--settings", type=int, default=40)
    parser.add_argument("--first", type=int, default=20, help="episodes before the first look")
    parser.add_argument("--most", type=int, default=2000, help="episodes that a setting gets at most")
    parser.add_argument("--shared", type=float, default=0.5, help="correlation through common episodes")
    parser.add_argument("--alpha", type=float, default=0.05)
    parser.add_argument("--margin", type=float, default=0.05)
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    options = parser.parse_args()
    console = Console(width=240, highlight=False)
    recorded = Recorded.of(options.run) if options.run else None
    settings = len(recorded.table) if recorded else options.settings
    console.print(
        f"{options.sweeps} sweeps of {settings} settings, alpha {options.alpha}, margin {options.margin}, "
        f"looks from {options.first} to {options.most} episodes"
        f"{'' if recorded else f', correlation {options.shared}'}\n"
        "episodes of all settings; in brackets, times those of the race"
    )
    rounds, found = looks(options.most, options.first), dict[str, list[Found]]()
    scenarios = [recorded] if recorded else SCENARIOS
    for number, scenario in enumerate(scenarios):
        rng = np.random.default_rng(number)
        sweeps = (scenario.sweep(rng, options.settings, options.most, options.shared) for _ in range(options.sweeps))
        with console.status(f"scenario {number + 1} of {len(scenarios)}"):
            one = measure(scenario.name, sweeps, rounds, options.alpha, options.margin)
        graded = isinstance(scenario, Recorded) or scenario.graded
        found.setdefault("graded scores" if graded else "successes", []).append(one)
    for title, group in found.items():
        show(title, group, console)
    if options.out:
        options.out.write_text(
            json.dumps({kind: [asdict(one) for one in group] for kind, group in found.items()}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
