"""How well the validation loss tells the primary metric: whether a search may go by it and spare the rollouts."""

from dataclasses import dataclass
from enum import Enum, auto

import numpy as np
from scipy.stats import norm

from bet.config import flatten
from bet_ray.report.records import Records
from bet_ray.sweep import LOSS_KEYS
from bet_ray.values import Estimate, setting_text

FEWEST_PAIRS = 10  # of rungs, to say anything: of five that compare, or of more in smaller groups
SURE = 0.05
CLOSE = 0.5  # a rank correlation from which the two put settings in much the same order: three pairs of four


@dataclass(frozen=True)
class Judgement:
    """A rung of a setting."""

    setting: str
    epoch: int
    val_loss: float
    primary: Estimate


@dataclass(frozen=True)
class Group:
    """Rungs whose losses compare."""

    name: str
    """`key=value` of what they share and others do not; empty where all compare."""
    rungs: tuple[Judgement, ...]
    """The lowest loss first."""
    agreement: int
    """Pairs of which the rung of lower loss has the higher metric, less those of which it has the lower."""

    @property
    def pairs(self) -> int:
        return len(self.rungs) * (len(self.rungs) - 1) // 2

    @property
    def tau(self) -> float | None:
        """Kendall's, of a *low* loss with a high metric; None for a single rung."""
        return self.agreement / self.pairs if self.pairs else None

    @property
    def best(self) -> Judgement:
        return max(self.rungs, key=lambda rung: rung.primary.value)


class Verdict(Enum):
    """What that means for `objective: val_loss`."""

    TOO_FEW = auto()
    MUCH_ALIKE = auto()
    LOOSELY = auto()
    NOTHING = auto()
    OPPOSITE = auto()


@dataclass(frozen=True)
class Losses:
    """All rungs, by what they compare with."""

    groups: tuple[Group, ...]

    @property
    def pairs(self) -> int:
        """Of rungs whose losses compare."""
        return sum(group.pairs for group in self.groups)

    @property
    def tau(self) -> float:
        """Over all of these pairs; needs one."""
        return sum(group.agreement for group in self.groups) / self.pairs

    @property
    def p(self) -> float:
        """Of so high a tau by chance: near 0 for one near 1, near 1 for one near -1. Needs a pair.

        The normal approximation of Kendall's test summed over groups (Hirsch and Slack 1984, Water Resources Research
        20: the seasonal Kendall test), as if no two rungs were of one training.
        """
        sizes = np.array([len(group.rungs) for group in self.groups])
        variance = (sizes * (sizes - 1) * (2 * sizes + 5)).sum() / 18
        return float(norm.sf(sum(group.agreement for group in self.groups) / np.sqrt(variance)))

    @property
    def verdict(self) -> Verdict:
        if self.pairs < FEWEST_PAIRS:
            return Verdict.TOO_FEW
        if self.p > 1 - SURE:
            return Verdict.OPPOSITE
        if self.p > SURE:
            return Verdict.NOTHING
        return Verdict.MUCH_ALIKE if self.tau >= CLOSE else Verdict.LOOSELY


def losses(records: Records) -> Losses | None:
    """None with fewer than two rungs on record."""
    shared: dict[tuple[str, ...], list[Judgement]] = {}
    searched = [key for key in sorted(LOSS_KEYS) if key in records.sweep.searched]
    for trial in records.trials:
        resolved = flatten(records.sweep.config(trial.setting).model_dump(mode="json"))
        name = tuple(setting_text({key: resolved[key]}) for key in searched)
        for rung in trial.rungs:
            judged = Judgement(setting_text(trial.setting), rung.epoch, rung.val_loss, Estimate(*rung.primary))
            shared.setdefault(name, []).append(judged)
    if sum(map(len, shared.values())) < 2:
        return None
    return Losses(tuple(_group(" ".join(name), rungs) for name, rungs in shared.items()))


def _group(name: str, rungs: list[Judgement]) -> Group:
    rungs = sorted(rungs, key=lambda rung: rung.val_loss)
    loss, primary = (np.array(each) for each in zip(*((r.val_loss, r.primary.value) for r in rungs), strict=True))
    signs = np.sign(loss[:, None] - loss) * np.sign(primary - primary[:, None])  # (n, n)
    return Group(name, tuple(rungs), int(signs.sum()) // 2)
