"""`bet-ray replay`."""

import shlex
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.text import Text

from bet.wording import counted
from bet_ray.cli.console import SLOW, board, console, progress_bar, split_named

if TYPE_CHECKING:
    import pyarrow as pa

    from bet.policy import Policy
    from bet.rollout import EpisodeResult
    from bet.tasks import SimulatedTask
    from bet_ray.replay import Match, StepMatch

EXAMPLES = (
    "Examples: `bet-ray replay runs/a --episode 17 --video out.mp4` · "
    "`bet-ray replay runs/a --failures 4 --successes 2 --video grid.mp4`"
)
STEPS_A_ROW, BINS_SHOWN, COLUMNS_SHOWN = 20, 8, 6


def replay(
    run: Annotated[Path, typer.Argument(help="Run or policy directory.")],
    settings: Annotated[list[str] | None, typer.Argument(help="As in the evaluation: eval.hold_bins=4 ...")] = None,
    episode: Annotated[int | None, typer.Option(min=0, help="Index of the episode. Default: 0.")] = None,
    failures: Annotated[int, typer.Option(min=0, help="Or so many of the recorded failures, side by side.")] = 0,
    successes: Annotated[int, typer.Option(min=0, help="And so many of the recorded successes.")] = 0,
    split: Annotated[str, typer.Option(help="Their split: report or tune.")] = "report",
    recorded: Annotated[
        Path | None, typer.Option(help="Run directory that holds the episodes. Default: the policy's run.")
    ] = None,
    video: Annotated[
        Path | None, typer.Option(help="Write a video (mp4 or gif). Of episodes side by side: by default into videos/.")
    ] = None,
) -> None:
    """Run episodes again, bit for bit: the bin chosen at each step, a video, and whether each bit is the recorded one.

    Exit code 1 where one is not, though it was recorded under the same numerics.
    """
    from bet import tasks
    from bet.config import parse_overrides
    from bet.errors import FailedRunError, UsageError
    from bet_ray import replay as replays
    from bet_ray.evaluation import load_policy, recipe_of, run_of
    from bet_ray.results import EpisodeSource
    from bet_ray.show.replays import frames
    from bet_ray.video import check_ending, write_video

    if video is not None:
        check_ending(video)
    several = failures + successes > 0
    if several and episode is not None:
        raise UsageError("--episode does not go with --failures and --successes")
    policy = load_policy(run)
    chosen, recipe = split_named(split), recipe_of(policy, parse_overrides(settings or []))
    task = tasks.simulated(policy.config.task)
    source, home = EpisodeSource.of(policy, recipe.protocol, chosen), recorded or run_of(run)
    indices = [episode or 0]
    if several:
        rows = replays.recorded(source, home)
        if not rows.num_rows:
            options = [*(settings or []), *(["--split", split] if split != "report" else [])]
            command = shlex.join(["bet-ray", "eval", str(run), *options, *(["--out", str(home)] if recorded else [])])
            raise UsageError(
                f"{home}: no {split} episodes of this policy are recorded with these settings; first run {command}"
            )
        indices = _chosen(rows, failures, successes)
        if not indices:
            raise UsageError(f"{home}: there are none such among its {counted(rows.num_rows, 'recorded episode')}")
        name = f"{split}-{policy.digest[:8]}-{recipe.protocol.digest[:8]}-{failures}f-{successes}s.mp4"
        video = video or home / "videos" / name
    again: list[replays.Replay] = []
    with progress_bar(SLOW) as bar:
        line = bar.add_task("steps", total=None)
        for index in indices:
            one = replays.replay(
                policy, recipe, chosen, index, pictures=video is not None, stepped=lambda: bar.advance(line)
            )
            again.append(one)
    different: list[int] = []
    verdicts: Counter[str] = Counter()
    for one in again:
        _print_ending(one.result, task, split)
        if not several:
            _print_outcome(one.result, policy, task)
        match, steps = replays.compare(one, source, home), replays.compare_steps(one, policy, source, home)
        verdicts.update(_verdicts(match, steps))
        if match is replays.Match.DIFFERENT or (steps is not None and steps.step is not None):
            different.append(one.result.index)
    for verdict, count in verdicts.items():
        console.print(f"  {f'{count} of {len(again)}: ' if several else ''}{verdict}")
    if video is not None:
        total = max(len(one.film) for one in again)
        with progress_bar(SLOW) as bar:
            pictures = bar.track(frames(again, task), total=total, description="frames")
            write_video(pictures, video, again[0].fps)
        console.print(f"{counted(total, 'frame')} in {video}")
    if different:
        which = ", ".join(map(str, different))
        raise FailedRunError(f"{home}: episode {which} did not replay as it was recorded under the same numerics")


def _chosen(rows: "pa.Table", failures: int, successes: int) -> list[int]:
    """The first failures and successes; says so where there are fewer."""
    from bet_ray import replay as replays

    asked = {"failures": (failures, replays.failures(rows)), "successes": (successes, replays.successes(rows))}
    for what, (wanted, there) in asked.items():
        if len(there) < wanted:
            found = counted(rows.num_rows, "recorded episode")
            console.print(f"{what}: {wanted} asked for, {len(there)} there among {found}")
    return [index for wanted, there in asked.values() for index in there[:wanted]]


def _print_ending(result: "EpisodeResult", task: "SimulatedTask", split: str) -> None:
    from bet.rollout import End

    end = result.end.value if result.success or result.end is End.ERROR else f"no success, {result.end.value}"
    score = f", {task.protocol.primary} {result.primary:.3f}" if task.scored else ""
    console.print(
        f"{task.name} · {split} episode {result.index} · {end} after {counted(result.length, 'step')}{score}, "
        f"return {result.total_reward:.2f}"
    )
    if result.end is End.ERROR:
        console.print(f"  [red]{escape(result.error or '')}[/]: no steps are kept")


def _print_outcome(result: "EpisodeResult", policy: "Policy", task: "SimulatedTask") -> None:
    """The task's columns, the bin of every step, and what was done with each bin."""
    import numpy as np

    from bet.metrics import route_name
    from bet_ray.show.replays import bin_colour, bin_uses

    for name, value in vars(result.outcome).items() if result.outcome else ():
        shown = route_name(value) if name == "route" else f"{value:.4g}" if isinstance(value, float) else value
        console.print(f"  {name}: {shown}")
    if result.trajectory is None:
        return
    bins, centers = result.trajectory.bins.tolist(), policy.bin_centers
    uses = bin_uses(result.trajectory, centers)
    changes = sum(use.visits for use in uses) - 1
    console.print(f"  {len(uses)} of {counted(len(centers), 'bin')} drawn, changed {counted(changes, 'time')}:")
    width = len(str(len(centers) - 1)) + 1
    for start in range(0, len(bins), STEPS_A_ROW):
        row = Text(f"  {f'step {start}':<9}")
        for number in bins[start : start + STEPS_A_ROW]:
            row.append(f"{number:>{width}}", bin_colour(number))
        console.print(row)
    shown = slice(COLUMNS_SHOWN)
    names = task.view(policy.config.data.observation).action_columns[shown]
    table = board()
    for name in ("bin", "steps", "visits", "longest", *names, "offset: median", "largest"):
        table.add_column(name, justify="right")
    for use in uses[:BINS_SHOWN]:
        numbers = [use.steps, use.visits, use.longest]
        lengths = [f"{np.median(use.offsets):.3g}", f"{use.offsets.max():.3g}"]
        center = [f"{value:.4g}" for value in use.center[shown]]
        table.add_row(Text(str(use.number), bin_colour(use.number)), *map(str, numbers), *center, *lengths)
    console.print(table)


def _verdicts(match: "Match", steps: "StepMatch | None") -> list[str]:
    """How a replay compares with what was recorded."""
    from bet_ray.replay import Match

    told = [f"[red]{match.value}[/]" if match is Match.DIFFERENT else match.value]
    if steps is not None and steps.step is None:
        told.append("every step the same as the one kept in trajectories/, to the last bit")
    elif steps is not None:
        told.append(
            f"[red]step {steps.step} NOT the same as the one kept in trajectories/[/]: {', '.join(steps.columns)}"
        )
    return told
