"""`bet-ray eval` and `bet-ray replay`."""

import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bet.wording import counted
from bet_ray.cli.console import TENSORBOARD_HELP, WANDB_HELP, console, progress_bar, resumable, track_shorthand
from bet_ray.cli.measured import print_measured

if TYPE_CHECKING:
    from bet.config import Split

EXAMPLES = "Examples: `bet-ray eval runs/a --episodes 1000` · `bet-ray eval runs/a --actors 2 --slots 8 --split tune`"
REPLAY_EXAMPLES = "Examples: `bet-ray replay runs/a --episode 17 --video out.mp4`"


def evaluate(
    run: Annotated[Path, typer.Argument(help="Run or policy directory.")],
    settings: Annotated[
        list[str] | None, typer.Argument(help="eval.hold_bins=4 eval.window=3 eval.bins=codebook eval.start=...")
    ] = None,
    episodes: Annotated[
        int | None,
        typer.Option(min=1, help="Episodes in all; recorded ones are not run again. [eval.episodes]"),
    ] = None,
    actors: Annotated[int | None, typer.Option(min=1, help="Rollout actors. [pool.actors, else one per CPU]")] = None,
    slots: Annotated[int | None, typer.Option(min=1, help="Episodes an actor runs at once. [pool.slots]")] = None,
    split: Annotated[
        str | None, typer.Option(help="Initial states: `report` measures, `tune` is for choosing. [eval.split]")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory for the episodes. Default: the policy's run.")] = None,
    trajectories: Annotated[bool, typer.Option("--trajectories", help="Keep every step of the new episodes.")] = False,
    plot: Annotated[
        bool, typer.Option("--plot", help="Write rollouts.html: paths, lengths and scores of the episodes.")
    ] = False,
    allow_mixed_numerics: Annotated[
        bool, typer.Option("--allow-mixed-numerics", help="Add to episodes made with another torch, CPU or device.")
    ] = False,
    wandb: Annotated[bool, typer.Option("--wandb", help=WANDB_HELP)] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help=TENSORBOARD_HELP)] = False,
) -> None:
    """Roll out a policy on the pool: the primary metric and the success rate, with intervals."""
    from bet import tasks
    from bet.config import changed, parse_overrides
    from bet.metrics import SUCCESS
    from bet_ray import evaluation

    policy = evaluation.load_policy(run)
    changes = parse_overrides([*track_shorthand(wandb, tensorboard), *(settings or [])])
    recipe = evaluation.recipe_of(policy, changes)
    wanted = changed(policy.config, changes).eval
    episodes = episodes or wanted.episodes
    chosen = parse_split(split or wanted.split)
    task = tasks.simulated(policy.config.task)
    target = out or evaluation.run_of(run)
    began = ended = time.monotonic()
    ran = 0
    with resumable(f"finished episodes are kept in {target}/episodes"), progress_bar() as bar:
        line = bar.add_task(f"{task.name} episodes", total=episodes)

        def show(done: int, total: int, before: int) -> None:
            nonlocal ran, ended
            ran, ended = done - before, time.monotonic()
            bar.update(line, completed=done, total=total, before=before)

        table = evaluation.evaluate(
            run,
            episodes=episodes,
            actors=actors or policy.config.pool.actors,
            slots=slots or policy.config.pool.slots,
            out=target,
            split=chosen,
            settings=changes,
            trajectories=trajectories,
            allow_mixed_numerics=allow_mixed_numerics,
            progress=show,
        )
    found = evaluation.measurement(task, table)
    config = policy.config
    console.print(
        f"{task.name} · {counted(config.codebook.bins, 'bin')}, window {config.model.window}, "
        f"gamma {config.loss.gamma:g} · policy {policy.digest[:12]} · {chosen.value} episodes 0..{episodes - 1}"
        f"{''.join(f' · {text}' for text in recipe.protocol.variations)}"
    )
    print_measured(task, found)
    if task.protocol.primary == SUCCESS:
        returns = table.column("return").to_numpy()
        console.print(f"  return   {returns.mean():.4g} on average, {returns.min():.4g} to {returns.max():.4g}")
    failed = table.column("end").to_pylist().count("error")
    if failed:
        console.print(f"  [red]{counted(failed, 'episode')} ended in an error: no success[/]")
    rate = f" at {ran / (ended - began):,.1f}/s, start of Ray included" if ran else ""
    console.print(
        f"{counted(ran, 'episode')} run{rate}, {episodes - ran:,} recorded already · {target}/episodes", soft_wrap=True
    )
    if trajectories and ran < episodes:
        console.print(
            f"steps are kept of the {counted(ran, 'episode')} run now; with another --out the rest runs again"
        )
    if plot:
        from bet_ray.show.rollouts import show_rollouts

        typed = shlex.join(["bet-ray", *sys.argv[1:]])
        page = show_rollouts(policy, recipe, chosen, table, target, typed)
        console.print(f"page: {page}")


def replay(
    run: Annotated[Path, typer.Argument(help="Run or policy directory.")],
    settings: Annotated[list[str] | None, typer.Argument(help="As in the evaluation: eval.hold_bins=4 ...")] = None,
    episode: Annotated[int, typer.Option(min=0, help="Index of the episode.")] = 0,
    split: Annotated[str, typer.Option(help="Its split: report or tune.")] = "report",
    video: Annotated[Path | None, typer.Option(help="Write a video (mp4 or gif).")] = None,
) -> None:
    """Run one episode again, bit for bit, and show what happened."""
    from bet import tasks
    from bet.config import parse_overrides
    from bet.metrics import route_name
    from bet_ray import replay as replays
    from bet_ray.evaluation import load_policy, recipe_of, run_of
    from bet_ray.results import EpisodeSource
    from bet_ray.video import check_ending, write_video

    if video is not None:
        check_ending(video)
    policy = load_policy(run)
    chosen, recipe = parse_split(split), recipe_of(policy, parse_overrides(settings or []))
    task = tasks.simulated(policy.config.task)
    replayed = replays.replay(policy, recipe, chosen, episode, pictures=video is not None)
    result = replayed.result
    end = result.end.value if result.success else f"no success, {result.end.value}"
    # Where modes are named, the primary metric is one of many episodes; a single one succeeds or does not.
    score = "" if task.modes else f", {task.protocol.primary} {result.primary:.3f}"
    console.print(
        f"{task.name} · {split} episode {episode} · {end} after {counted(result.length, 'step')}{score}, "
        f"return {result.total_reward:.2f}"
    )
    for name, value in vars(result.outcome).items() if result.outcome else ():
        console.print(f"  {name}: {route_name(value) if name == 'route' else value}")
    if result.trajectory is not None:
        bins = result.trajectory.bins
        console.print(f"  bins drawn: {' '.join(map(str, bins[:24]))}{' …' if len(bins) > 24 else ''}")
    source = EpisodeSource.of(policy, recipe.protocol, chosen)
    console.print(f"  {replays.compare(replayed, source, run_of(run)).value}")
    if video is not None:
        write_video(replayed.frames, video, replayed.fps)
        console.print(f"{counted(len(replayed.frames), 'frame')} in {video}")


def parse_split(name: str) -> "Split":
    """The split that --split names. Raises `ConfigError` with a did-you-mean."""
    from bet.config import ConfigError, Split, did_you_mean

    if name not in list(Split):
        raise ConfigError(f"--split: no split {name!r}{did_you_mean(name, list(Split))}")
    return Split(name)
