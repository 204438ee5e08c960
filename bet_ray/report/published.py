"""Published numbers to hold a sweep's against."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Published:
    """A number of the primary metric that somebody printed."""

    value: float
    label: str
    source: str


@dataclass(frozen=True)
class PublishedRates:
    """A row of somebody's table."""

    source: str
    rates: Mapping[str, float]
    """By the names of `SimulatedTask.rates`."""


_DIFFUSION_POLICY = "BET on PushT state, Diffusion Policy, Chi et al. 2023"

PUBLISHED: Mapping[str, tuple[Published, ...]] = MappingProxyType(
    {
        "pusht": (
            Published(0.79, "best checkpoint", _DIFFUSION_POLICY),
            Published(0.70, "mean of last ten checkpoints", _DIFFUSION_POLICY),
        )
    }
)

PUBLISHED_RATES: Mapping[str, tuple[PublishedRates, ...]] = MappingProxyType(
    {
        "blockpush": (
            PublishedRates("BeT, Shafiullah et al. 2022", {"R1": 1.0, "R2": 0.99, "P1": 0.96, "P2": 0.71}),
            PublishedRates(
                "reproduction study (bet-reproduction)",
                {"R2": 0.98, "P1": 0.94, "P2": 0.18, "P1 4 cm": 0.86, "P2 4 cm": 0.10},
            ),
        )
    }
)
