"""Run one episode again, bit for bit, with pictures."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from bet import tasks
from bet.config import Split
from bet.policy import Policy
from bet.rollout import EpisodeResult, Rollout, one_thread
from bet_ray.ledger import Ledger
from bet_ray.pool import Job
from bet_ray.results import episodes_table


@dataclass(frozen=True, eq=False)
class Replay:
    """An episode and its pictures."""

    result: EpisodeResult
    frames: list[NDArray[np.uint8]]
    """One (height, width, 3) per state, the initial one first."""


def replay(policy: Policy, split: Split, index: int) -> Replay:
    """The same row that an evaluation gave this episode, whatever ran beside it then."""
    engine = Rollout(policy, tasks.get(policy.config.task).protocol, split, 1)
    try:
        engine.start([index])
        frames = [engine.env.render()[0]]
        while True:
            with one_thread():
                finished = engine.step()
            frames.append(engine.env.render()[0])
            if finished:
                return Replay(finished[0], frames)
    finally:
        engine.close()


class Match(StrEnum):
    """How a replay compares with the episode's row in a run; the value is what a person reads."""

    SAME = "the same as the recorded row, to the last bit"
    DIFFERENT = "NOT the same as the recorded row"
    OTHER_NUMERICS = "recorded with other numerics (torch, CPU or device), where the last bits may differ"
    UNRECORDED = "not among the recorded episodes"


def compare(replay: Replay, policy: Policy, split: Split, run: Path) -> Match:
    """Look the episode up in a run's ledger and compare every column."""
    task = tasks.get(policy.config.task)
    source = Job.of(policy, task.protocol, split).source
    episode = (pc.field("policy_digest") == policy.digest) & (pc.field("split") == split.value)
    rows = Ledger(run, task).read().filter(episode & (pc.field("index") == replay.result.index)).to_pylist()
    if not rows:
        return Match.UNRECORDED
    expected = episodes_table(task, source, [replay.result]).to_pylist()[0]
    if expected in rows:
        return Match.SAME
    same_numerics = any(row["numerics"] == source.numerics for row in rows)
    return Match.DIFFERENT if same_numerics else Match.OTHER_NUMERICS
