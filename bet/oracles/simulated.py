"""The demonstrators that act in simulators, one demonstration a number: they can be shared out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from bet.data.episodes import Episodes
from bet.oracles import blockpush, kitchen


@dataclass(frozen=True)
class Maker:
    """How a task's demonstrations are made."""

    demonstrations: Callable[[range, int], tuple[Episodes, int]]
    """The ones of these numbers and a seed, and how many of them succeed."""
    part: int
    """How many a worker makes at a time: all of its slots busy, and progress often enough."""


MAKERS: Mapping[str, Maker] = MappingProxyType(
    {
        "blockpush": Maker(blockpush.demonstrations, part=blockpush.SLOTS),
        "kitchen": Maker(kitchen.demonstrations, part=5),
    }
)
"""The tasks whose demonstrations are simulated, by name."""
