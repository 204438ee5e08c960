"""The winner's bins among the demonstrated actions."""

from dataclasses import dataclass, replace

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from bet.config import Split
from bet.policy import Policy
from bet.views import View
from bet_ray.ledger import Ledger
from bet_ray.report.records import Records
from bet_ray.show.compute import Bins, Density, bins_over, density


@dataclass(frozen=True, eq=False)
class Codebook:
    """What the drawing shows."""

    view: View
    """Names the two dimensions that are drawn."""
    density: Density | None
    """Of the training actions; None where they have one dimension only."""
    bins: Bins
    """Centres as they are drawn."""
    principal: float | None
    """Share of the actions' variance in the two principal components, where those are drawn."""
    used: NDArray[np.float64] | None  # (bins,) of the winner's fresh actions; None where its steps were not kept

    @property
    def unused(self) -> int:
        """Bins that the winner never chose."""
        return 0 if self.used is None else int((self.used == 0).sum())


def codebook(records: Records) -> Codebook | None:
    """None before a winner is measured, with a single bin, or without the demonstrations. Raises `PolicyError`."""
    if records.winner is None or not records.winner.measured or records.demonstrations is None:
        return None
    policy = Policy.load(records.run)
    if len(policy.centers) == 1:
        return None
    train, _ = records.demonstrations.split(*policy.config.split)
    bins = bins_over(train.actions, policy.action_normalizer, policy.centers)
    view, used = records.task.view(policy.config.data.observation), _used(records, policy)
    if train.actions.shape[1] <= 2:
        flat = density(train.actions) if train.actions.shape[1] == 2 else None
        return Codebook(view, flat, bins, None, used)
    mean, axes, shares = principal(train.actions)
    names = tuple(f"principal component {place} ({share:.0%})" for place, share in enumerate(shares, start=1))
    view = replace(view, action_columns=names, plane=None, meaning=None)
    flat = density(((train.actions - mean) @ axes.T).astype(np.float32))
    return Codebook(view, flat, replace(bins, centers=(bins.centers - mean) @ axes.T), float(shares.sum()), used)


def principal(
    actions: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float64]]:
    """Of actions (N, act_dim): their mean (act_dim,), two principal axes (2, act_dim), shares of the variance (2,)."""
    mean = actions.mean(axis=0, dtype=np.float32)
    variances, axes = np.linalg.eigh(np.cov((actions - mean).astype(np.float64), rowvar=False))  # rising
    return mean, axes.T[:-3:-1].astype(np.float32), variances[:-3:-1] / max(variances.sum(), np.finfo(float).tiny)


def _used(records: Records, policy: Policy) -> NDArray[np.float64] | None:
    kept = Ledger(records.run, records.task).trajectories.read(
        (pc.field("policy_digest") == policy.digest) & (pc.field("split") == Split.REPORT.value)
    )
    chosen = kept.column("bin").drop_null().to_numpy()  # null in the row after an episode's last step
    return np.bincount(chosen, minlength=len(policy.centers)) / len(chosen) if len(chosen) else None
