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


_DIFFUSION_POLICY = "BET on PushT state, Diffusion Policy, Chi et al. 2023"

PUBLISHED: Mapping[str, tuple[Published, ...]] = MappingProxyType(
    {
        "pusht": (
            Published(0.79, "best checkpoint", _DIFFUSION_POLICY),
            Published(0.70, "mean of last ten checkpoints", _DIFFUSION_POLICY),
        )
    }
)
