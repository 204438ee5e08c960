"""Run one episode again, bit for bit, with pictures."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from bet import tasks
from bet.arithmetic import threads
from bet.config import Split
from bet.policy import Policy
from bet.protocol import Recipe
from bet.rollout import EpisodeResult, Rollout
from bet_ray.ledger import Ledger
from bet_ray.results import EpisodeSource, episodes_table
from bet_ray.video import FPS


@dataclass(frozen=True, eq=False)
class Replay:
    """An episode and its pictures."""

    result: EpisodeResult
    frames: list[NDArray[np.uint8]]
    """One (height, width, 3) per state, the initial one first; none where no pictures were asked for."""
    fps: int = FPS
    """How many of them make a second."""


def replay(policy: Policy, recipe: Recipe, split: Split, index: int, *, pictures: bool = True) -> Replay:
    """The same row that an evaluation by a recipe gave this episode, whatever ran beside it then.

    Raises `RenderError` where pictures are asked for and there are none.
    """
    engine = Rollout(policy, recipe, split, 1)
    try:
        engine.start([index])
        frames = [engine.env.render()[0]] if pictures else []
        while True:
            with threads(1):
                finished = engine.step()
            if pictures:
                frames.append(engine.env.render()[0])
            if finished:
                return Replay(finished[0], frames, engine.env.metadata.get("render_fps", FPS))
    finally:
        engine.close()


class Match(StrEnum):
    """How a replay compares with the episode's row in a run; the value is what a person reads."""

    SAME = "the same as the recorded row, to the last bit"
    DIFFERENT = "NOT the same as the recorded row"
    OTHER_NUMERICS = "recorded with other numerics (torch, CPU or device), where the last bits may differ"
    UNRECORDED = "not among the recorded episodes"


def compare(replay: Replay, source: EpisodeSource, run: Path) -> Match:
    """Look the episode up in a run's ledger and compare every column."""
    task = tasks.simulated(source.task)
    table = Ledger(run, task).read().filter(pc.field("index") == replay.result.index)
    for name, value in source.key.items():
        if name != "numerics":
            table = table.filter(pc.field(name) == value)
    rows = table.to_pylist()
    if not rows:
        return Match.UNRECORDED
    expected = episodes_table(task, source, [replay.result]).to_pylist()[0]
    if expected in rows:
        return Match.SAME
    same_numerics = any(row["numerics"] == source.numerics for row in rows)
    return Match.DIFFERENT if same_numerics else Match.OTHER_NUMERICS
