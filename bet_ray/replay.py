"""Run one episode again, bit for bit, with pictures."""

from dataclasses import dataclass
from pathlib import Path

import imageio.v3 as iio
import numpy as np
from numpy.typing import NDArray

from bet import tasks
from bet.config import Split
from bet.errors import UsageError
from bet.policy import Policy
from bet.rollout import EpisodeResult, Rollout, one_thread

FPS = 10


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


def write_video(replay: Replay, path: Path) -> None:
    """Write an mp4 (H.264) or a gif. Raises `UsageError` for another ending."""
    if path.suffix not in (".mp4", ".gif"):
        raise UsageError(f"{path}: a video is .mp4 or .gif")
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = np.stack(replay.frames)
    if path.suffix == ".gif":
        iio.imwrite(path, frames, duration=1000 / FPS, loop=0)
    else:
        iio.imwrite(path, frames, fps=FPS, codec="libx264")
