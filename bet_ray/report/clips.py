"""Rollout videos of the winner, as they go into the page."""

import logging
import tempfile
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bet.config import Split
from bet.envs.vector import RenderError
from bet.policy import Policy
from bet.tasks import SimulatedTask
from bet_ray.evaluation import recipe_of
from bet_ray.replay import failures, replay, successes
from bet_ray.report.records import Records
from bet_ray.show.replays import frames
from bet_ray.video import write_video

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Clip:
    """An episode to watch."""

    title: str
    episode: int
    steps: int
    score: float
    """The episode's share in the primary metric."""
    mp4: str
    """Base64."""


def clips(records: Records) -> tuple[Clip, ...]:
    """A success and a failure of the winner's best seed; its best episode where none succeeds.

    None of an environment that cannot be drawn, with a warning. Raises `PolicyError`.
    """
    winner = records.winner
    if winner is None or not winner.measured:
        return ()
    policy = Policy.load(records.run)
    rows = winner.rows.filter(pc.field("policy_digest") == policy.digest)
    try:
        return tuple(_clip(policy, records.task, title, index) for title, index in _chosen(rows))
    except RenderError as error:
        log.warning("no videos in the report: %s", error)
        return ()


def _chosen(rows: pa.Table) -> list[tuple[str, int]]:
    won, lost = successes(rows), failures(rows)
    chosen = []
    if won:
        chosen.append(("A success", won[0]))
    elif lost:
        best = int(np.argmax(rows.column("primary").to_numpy()))
        chosen.append(("Its best episode", rows.column("index")[best].as_py()))
    taken = {index for _, index in chosen}
    return chosen + [("A failure", index) for index in lost if index not in taken][:1]


def _clip(policy: Policy, task: SimulatedTask, title: str, index: int) -> Clip:
    replayed = replay(policy, recipe_of(policy), Split.REPORT, index)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_video(frames([replayed], task), path, replayed.fps)
        mp4 = b64encode(path.read_bytes()).decode()
    result = replayed.result
    return Clip(title, index, result.length, result.primary, mp4)
