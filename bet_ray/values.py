"""How settings and estimates are spelled, on the page as on the command line."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from bet.config import SHORT_FORMS

if TYPE_CHECKING:
    from bet.stats import Interval

_SHORT = {full: short for short, full in SHORT_FORMS.items()}


class Estimate(NamedTuple):
    """A number and its interval; `format(estimate, ".3f")` formats all three."""

    value: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        spec = spec or ".2f"
        return f"{self.value:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"

    @classmethod
    def of(cls, interval: "Interval") -> "Estimate":
        return cls(interval.estimate, interval.low, interval.high)


def key_name(key: str) -> str:
    """The short form of a setting's key where there is one."""
    return _SHORT.get(key, key)


def spelled(value: Any) -> str:
    """A setting's value: text as it is, real numbers to four digits, the rest as JSON."""
    if isinstance(value, str):
        return value
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value)


def setting_text(setting: Mapping[str, Any], without: str | None = None) -> str:
    """`bins=64 window=10 gamma=2`."""
    return " ".join(f"{key_name(key)}={spelled(value)}" for key, value in setting.items() if key != without)
