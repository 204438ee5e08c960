"""What the sweep cost, setting by setting, and what the metric costs: in training, and when it acts."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from bet.config import Split
from bet_ray.ledger import Ledger
from bet_ray.report.records import Records
from bet_ray.trials import Status, TrialRecord
from bet_ray.values import Estimate, setting_text


@dataclass(frozen=True)
class Cost:
    """Of one setting, over all its training seeds and rungs."""

    trial: str
    setting: str
    training: float
    """Seconds of its trial."""
    rollouts: float
    """Seconds of an actor, on `tune`."""
    status: Status
    winner: bool

    @property
    def total(self) -> float:
        return self.training + self.rollouts


@dataclass(frozen=True)
class Costs:
    """Of all settings."""

    settings: tuple[Cost, ...]
    """The dearest first."""
    measuring: float
    """Seconds of an actor for the fresh episodes of the winner."""

    @property
    def training(self) -> float:
        return sum(cost.training for cost in self.settings)

    @property
    def rollouts(self) -> float:
        return sum(cost.rollouts for cost in self.settings)

    def share(self, status: Status) -> float:
        """Of the search, spent on settings that ended so."""
        total = self.training + self.rollouts
        return sum(cost.total for cost in self.settings if cost.status is status) / total if total else 0.0


def costs(records: Records) -> Costs:
    """Episodes that several settings share, their policies being equal, cost each of them its part."""
    seconds = _rollout_seconds(records)
    digests = {
        trial.trial: {digest for rung in trial.rungs for digest in records.digests(trial, rung)}
        for trial in records.trials
    }
    sharing = Counter(digest for found in digests.values() for digest in found)
    found = [
        Cost(
            trial=trial.trial,
            setting=setting_text(trial.setting),
            training=trial.train_seconds,
            rollouts=sum(
                seconds.get((digest, Split.TUNE.value), 0.0) / sharing[digest] for digest in digests[trial.trial]
            ),
            status=records.status(trial),
            winner=records.is_winner(trial),
        )
        for trial in records.trials
    ]
    fresh = [value for (_, split), value in seconds.items() if split == Split.REPORT.value]
    return Costs(tuple(sorted(found, key=lambda cost: -cost.total)), sum(fresh))


def _rollout_seconds(records: Records) -> dict[tuple[str, str], float]:
    """(policy digest, split) -> seconds of an actor.

    An episode's own seconds are those it was in its slot, beside others: as many as an actor has slots, or as many as
    there were of it.
    """
    table = Ledger(records.run, records.task).execution.read()
    grouped = table.group_by(["policy_digest", "split", "node", "actor"]).aggregate(
        [("wall_seconds", "sum"), ("wall_seconds", "count")]
    )
    seconds: defaultdict[tuple[str, str], float] = defaultdict(float)
    for row in grouped.to_pylist():
        beside = max(min(row["wall_seconds_count"], records.sweep.resources.slots), 1)
        seconds[row["policy_digest"], row["split"]] += (row["wall_seconds_sum"] or 0.0) / beside
    return dict(seconds)


class Price(StrEnum):
    """What is paid for the metric."""

    TRAINING = "training"
    ACTING = "acting"


@dataclass(frozen=True)
class Offer:
    """A setting, what it is worth and what it costs."""

    setting: str
    seconds: float
    primary: Estimate
    winner: bool
    tied: bool
    """Whether it is not known to be worse than the winner."""


@dataclass(frozen=True)
class Front:
    """Which settings are worth their price."""

    price: Price
    offers: tuple[Offer, ...]
    """The cheapest first."""
    front: tuple[Offer, ...]
    """Those that no other beats at their price or below; the last is the best there is."""

    @property
    def winner(self) -> Offer | None:
        return next((offer for offer in self.offers if offer.winner), None)

    @property
    def cheapest_tied(self) -> Offer | None:
        """None before the search is over."""
        return next((offer for offer in self.offers if offer.tied), None)


def fronts(records: Records) -> tuple[Front, ...]:
    """The primary metric against each price that is known of two settings or more."""
    prices: dict[Price, Callable[[TrialRecord], float | None]] = {
        Price.TRAINING: lambda trial: trial.train_seconds,
        Price.ACTING: lambda trial: trial.act_seconds,
    }
    found = []
    for price, of in prices.items():
        offers = sorted(
            (
                Offer(
                    setting_text(one.trial.setting),
                    seconds,
                    one.primary,
                    records.is_winner(one.trial),
                    bool(one.trial.tied),
                )
                for one in records.judged()
                if (seconds := of(one.trial)) is not None
            ),
            key=lambda offer: (offer.seconds, -offer.primary.value),
        )
        if len(offers) > 1:
            found.append(Front(price, tuple(offers), front(offers)))
    return tuple(found)


def front(offers: Sequence[Offer]) -> tuple[Offer, ...]:
    """Of offers, the cheapest first, those that are worth more than all before."""
    best = float("-inf")
    found = []
    for offer in offers:
        if offer.primary.value > best:
            best = offer.primary.value
            found.append(offer)
    return tuple(found)
