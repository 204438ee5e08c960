"""Published numbers to hold ours against. A number without a source to cite is not here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any


class By(StrEnum):
    """Who printed a number, as tables head their columns."""

    ORIGINAL = "original"
    """Whoever first published the method on the task."""
    STUDY = "study"
    """The reproduction study."""


@dataclass(frozen=True)
class Published:
    """A number of the primary metric that somebody printed."""

    value: float
    label: str
    source: str
    by: By | None = None
    """None: a landmark that is not measured as ours are."""


@dataclass(frozen=True)
class PublishedRates:
    """A row of somebody's table."""

    source: str
    rates: Mapping[str, float]
    """By the names of `SimulatedTask.rates`."""
    by: By
    setting: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """What it is of, over the task's preset."""


@dataclass(frozen=True)
class Cited:
    """A published number beside one of ours."""

    value: float
    source: str


_DIFFUSION_POLICY = "BET on PushT state, Diffusion Policy, Chi et al. 2023"

PUBLISHED: Mapping[str, tuple[Published, ...]] = MappingProxyType(
    {
        "pusht": (
            Published(0.79, "best checkpoint", _DIFFUSION_POLICY),
            Published(0.70, "mean of last ten checkpoints", _DIFFUSION_POLICY, By.ORIGINAL),
        )
    }
)

# The study's repository prints P1 and P2, means of five trainings, in reproducibility_scripts/appendix/
# metrics_appendix.ipynb: .9394 and .1816 at 5 cm, .8564 and .1026 at 4 cm. Its grids are figures, without numbers.
PUBLISHED_RATES: Mapping[str, tuple[PublishedRates, ...]] = MappingProxyType(
    {
        "blockpush": (
            PublishedRates("BeT, Shafiullah et al. 2022", {"R1": 1.0, "R2": 0.99, "P1": 0.96, "P2": 0.71}, By.ORIGINAL),
            PublishedRates(
                "reproduction study (bet-reproduction)",
                {"R2": 0.98, "P1": 0.94, "P2": 0.18, "P1 4 cm": 0.86, "P2 4 cm": 0.10},
                By.STUDY,
            ),
        ),
        "kitchen": (
            PublishedRates(
                "BeT, Shafiullah et al. 2022", {"p1": 0.99, "p2": 0.93, "p3": 0.71, "p4": 0.44, "p5": 0.02}, By.ORIGINAL
            ),
            PublishedRates(
                "reproduction study (bet-reproduction)",
                {"p1": 0.92, "p2": 0.69, "p3": 0.47, "p4": 0.20, "p5": 0.02},
                By.STUDY,
            ),
            PublishedRates(
                "reproduction study (bet-reproduction), without binning",
                {"p1": 0.99, "p2": 0.90, "p3": 0.74, "p4": 0.40, "p5": 0.06},
                By.STUDY,
                MappingProxyType({"codebook.bins": 1}),
            ),
        ),
    }
)
