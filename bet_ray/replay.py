"""Run episodes again, bit for bit, with pictures, and compare them with what a run recorded."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from itertools import zip_longest
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from bet import tasks
from bet.arithmetic import threads
from bet.config import Split
from bet.policy import Policy
from bet.protocol import Recipe
from bet.rollout import End, EpisodeResult, Rollout, failed, raised
from bet_ray.ledger import Ledger
from bet_ray.results import EpisodeSource, different_columns, episodes_table, trajectories_table
from bet_ray.video import FPS, Film


@dataclass(frozen=True, eq=False)
class Replay:
    """An episode and its pictures."""

    result: EpisodeResult
    film: Film
    """A picture of each state, the initial one first; none where no pictures were asked for."""
    fps: int = FPS
    """How many of them make a second."""


def replay(
    policy: Policy,
    recipe: Recipe,
    split: Split,
    index: int,
    *,
    pictures: bool = True,
    stepped: Callable[[], None] = lambda: None,
) -> Replay:
    """The same row that an evaluation by a recipe gave this episode, whatever ran beside it then.

    It runs alone, in an environment of its own that is closed when this returns: of those that draw with OpenGL there
    may be only one at a time. `stepped` is called after every step. Raises `RenderError` where pictures are asked for
    and there are none.
    """
    engine, film = Rollout(policy, recipe, split, 1), Film()

    def look() -> None:
        if pictures:
            film.add(engine.env.render()[0])

    finished: list[EpisodeResult] = []
    try:
        engine.start([index])
        look()
        while not finished:
            try:
                with threads(1):
                    finished = engine.step()
            except Exception as error:  # whatever a simulator may raise: so the episode ended
                finished = [failed(recipe.protocol, split, index, raised(error))]
            else:
                look()
            stepped()
        return Replay(finished[0], film, engine.env.metadata.get("render_fps", FPS))
    finally:
        engine.close()


def recorded(source: EpisodeSource, run: Path) -> pa.Table:
    """The rows that a run has of a policy, protocol and split, by index; of other numerics where there is no other."""
    table = Ledger(run, tasks.simulated(source.task)).episodes.read(source.rows_of_any_numerics)
    own = table.filter(pc.field("numerics") == source.numerics)
    others = table.filter((pc.field("numerics") != source.numerics) & ~pc.field("index").isin(own.column("index")))
    return pa.concat_tables([own, others]).sort_by("index")


def successes(rows: pa.Table) -> list[int]:
    """The episodes that succeeded."""
    return list(dict.fromkeys(rows.filter(pc.field("success")).column("index").to_pylist()))


def failures(rows: pa.Table) -> list[int]:
    """The episodes that did not succeed; one that could not be run to its end is no failure of the policy's."""
    lost = ~pc.field("success") & (pc.field("end") != End.ERROR.value)
    return list(dict.fromkeys(rows.filter(lost).column("index").to_pylist()))


class Match(StrEnum):
    """How a replay compares with the episode's row in a run; the value is what a person reads."""

    SAME = "the same as the recorded row, to the last bit"
    DIFFERENT = "NOT the same as the recorded row"
    GIVEN_UP = "recorded as an error without any step, which did not happen again"
    OTHER_NUMERICS = "recorded with other numerics (torch, CPU or device), where the last bits may differ"
    UNRECORDED = "not among the recorded episodes"


def compare(replay: Replay, source: EpisodeSource, run: Path) -> Match:
    """Look the episode up in a run's ledger and compare every column."""
    rows = recorded(source, run).filter(pc.field("index") == replay.result.index).to_pylist()
    if not rows:
        return Match.UNRECORDED
    (expected,) = episodes_table(tasks.simulated(source.task), source, [replay.result]).to_pylist()
    if not any(different_columns(row, expected) for row in rows):
        return Match.SAME
    if any(row["numerics"] != source.numerics for row in rows):
        return Match.OTHER_NUMERICS
    if replay.result.length and any(row["length"] == 0 for row in rows):
        return Match.GIVEN_UP
    return Match.DIFFERENT


@dataclass(frozen=True)
class StepMatch:
    """How a replay compares with the steps that a run kept of the episode."""

    steps: int
    """How many were kept."""
    step: int | None = None
    """The first that is not the same; None: all are, to the last bit, and so is the observation after the last."""
    columns: tuple[str, ...] = ()
    """What differs there."""


def compare_steps(replay: Replay, policy: Policy, source: EpisodeSource, run: Path) -> StepMatch | None:
    """Look the episode's steps up in a run and compare every column of each; None where they were not kept."""
    task = tasks.simulated(source.task)
    wanted = source.rows & (pc.field("index") == replay.result.index)
    kept = Ledger(run, task).trajectories.read(wanted).to_pylist()
    again = trajectories_table(task, source, [replay.result], policy.bin_centers).to_pylist()
    if not kept:
        return None
    for step, (old, new) in enumerate(zip_longest(kept, again, fillvalue={})):
        if columns := different_columns(old, new):
            return StepMatch(len(kept) - 1, step, columns)
    return StepMatch(len(kept) - 1)
