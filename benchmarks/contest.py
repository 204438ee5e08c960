"""Contestants of a benchmark, measured in one run: they take turns, and ratios are taken within a round.

A machine that drifts slows all alike. A rival gets one torch thread or all of them, whichever is faster.
"""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import torch
from rich.console import Console
from rich.table import Table

THREADS = torch.get_num_threads()  # torch's own choice: all cores


@dataclass(frozen=True)
class Contestant:
    """Something that does work, and how much came of it is counted."""

    kind: StrEnum
    name: str
    run: Callable[[int], int]
    """Does that much work, a multiple of `unit`, and returns what it came to: policy steps, or training windows."""
    unit: int = 1
    threads: int = 1
    """Of torch, in this process."""


def machine() -> str:
    """What the numbers depend on, on one line."""
    return f"{os.cpu_count()} CPUs ({platform.machine()}), Python {platform.python_version()}"


def timed(contestant: Contestant, work: int) -> tuple[int, float]:
    """What that much work came to, and its seconds."""
    torch.set_num_threads(contestant.threads)
    start = time.perf_counter()
    result = contestant.run(work)
    return result, time.perf_counter() - start


def prepared(contestant: Contestant, seconds: float, rival: bool) -> tuple[Contestant, int]:
    """A warm contestant and how much work fills `seconds` (at least its `unit`)."""
    timed(contestant, contestant.unit)
    choices = {contestant.threads, THREADS} if rival else {contestant.threads}
    spent = {threads: timed(replace(contestant, threads=threads), contestant.unit)[1] for threads in choices}
    fastest = min(spent, key=lambda threads: spent[threads])
    return replace(contestant, threads=fastest), max(1, round(seconds / spent[fastest])) * contestant.unit


def compete(contest: Sequence[tuple[Contestant, int]], rounds: int, console: Console) -> list[list[float]]:
    """Results per second: for each contestant, one number a round."""
    rates: list[list[float]] = [[] for _ in contest]
    for number in range(rounds):
        with console.status(f"round {number + 1} of {rounds}"):
            for found, (contestant, work) in zip(rates, contest, strict=True):
                result, seconds = timed(contestant, work)
                found.append(result / seconds)
    return rates


def ratio(mine: Sequence[float], theirs: Sequence[float]) -> float:
    """The median over rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(mine, theirs, strict=True))


def best(rates: Sequence[Sequence[float]]) -> list[float]:
    """The fastest of several contestants, in each round."""
    return [max(together) for together in zip(*rates, strict=True)]


def standings(
    field: Sequence[Contestant],
    rates: Sequence[Sequence[float]],
    unit: str,
    compared: Mapping[str, Callable[[Sequence[float]], str]],
) -> Table:
    """A row for each contestant, by kind: median and extremes in `unit`, then a column for each way to compare."""
    table = Table("", "torch threads", unit, "min .. max", *compared)
    for column in table.columns[1:]:
        column.justify = "right"
    kind = None
    for contestant, found in zip(field, rates, strict=True):
        if contestant.kind is not kind:
            kind = contestant.kind
            table.add_section()
            table.add_row(f"[bold]{kind}")
        table.add_row(
            f"  {contestant.name}",
            str(contestant.threads),
            f"{statistics.median(found):,.0f}",
            f"{min(found):,.0f} .. {max(found):,.0f}",
            *(compare(found) for compare in compared.values()),
        )
    return table


def verdict(name: str, reached: float, rival: str, target: float) -> str:
    """Whether a target was reached, in a line."""
    said = "reached" if reached >= target else "missed"
    return f"{name}: {reached:.2f} x {rival}, target {target:g} x: {said}"
