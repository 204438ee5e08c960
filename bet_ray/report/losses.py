"""How well the validation loss tells the primary metric: whether a search may go by it and spare the rollouts."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Self

import numpy as np
from scipy.stats import norm

from bet.config import flatten
from bet_ray.report.records import Records
from bet_ray.sweep import LOSS_KEYS
from bet_ray.values import Estimate, key_name, setting_text

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
    """Pairs of which the rung of lower loss has the higher metric, less those of which it has the lower.

    Of rungs after equally many epochs: that more training betters both would say nothing of the settings.
    """
    sizes: tuple[int, ...]
    """How many rungs there are of each epoch."""

    @classmethod
    def of(cls, name: str, rungs: Sequence[Judgement]) -> Self:
        rungs = sorted(rungs, key=lambda rung: rung.val_loss)
        loss = np.array([rung.val_loss for rung in rungs])
        primary = np.array([rung.primary.value for rung in rungs])
        epoch = np.array([rung.epoch for rung in rungs])
        signs = np.sign(loss[:, None] - loss) * np.sign(primary - primary[:, None])  # (n, n)
        agreement = int(signs[epoch[:, None] == epoch].sum()) // 2
        return cls(name, tuple(rungs), agreement, tuple(np.unique(epoch, return_counts=True)[1].tolist()))

    @property
    def pairs(self) -> int:
        return sum(size * (size - 1) // 2 for size in self.sizes)

    @property
    def tau(self) -> float | None:
        """Kendall's, of a *low* loss with a high metric; None without a pair."""
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
    """All rungs that were simulated, by what they compare with."""

    groups: tuple[Group, ...]
    shared: tuple[str, ...]
    """Keys that the settings of a group share, and that settings of this sweep differ in."""

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

        The normal approximation of Kendall's test, summed over groups and epochs as if those were independent (Hirsch,
        Slack and Smith 1982, Water Resources Research 18: the seasonal Kendall test).
        """
        sizes = np.array([size for group in self.groups for size in group.sizes])
        variance = (sizes * (sizes - 1) * (2 * sizes + 5)).sum() / 18
        return float(norm.sf(sum(group.agreement for group in self.groups) / np.sqrt(variance)))

    @property
    def repeated(self) -> bool:
        """Whether a setting has several rungs."""
        settings = [rung.setting for group in self.groups for rung in group.rungs]
        return len(settings) > len(set(settings))

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
    """None with fewer than two rungs that were simulated."""
    shared: dict[tuple[str, ...], list[Judgement]] = {}
    searched = [key for key in sorted(LOSS_KEYS) if key in records.sweep.searched]
    for trial in records.trials:
        resolved = flatten(records.sweep.config(trial.setting).model_dump(mode="json"))
        name = tuple(setting_text({key: resolved[key]}) for key in searched)
        for rung in trial.rungs:
            if rung.primary:
                judged = Judgement(setting_text(trial.setting), rung.epoch, rung.val_loss, rung.primary)
                shared.setdefault(name, []).append(judged)
    if sum(map(len, shared.values())) < 2:
        return None
    groups = tuple(Group.of(" ".join(name), rungs) for name, rungs in shared.items())
    return Losses(groups, tuple(map(key_name, searched)))
