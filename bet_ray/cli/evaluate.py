"""`bet-ray eval` and `bet-ray replay`."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bet_ray.cli.console import TENSORBOARD_HELP, WANDB_HELP, console, progress_bar, track_shorthand

if TYPE_CHECKING:
    from bet.config import Split

EXAMPLES = "Examples: `bet-ray eval runs/a --episodes 1000` · `bet-ray eval runs/a --actors 2 --slots 8 --split tune`"
REPLAY_EXAMPLES = "Examples: `bet-ray replay runs/a --episode 17 --video out.mp4`"


def evaluate(
    run: Annotated[Path, typer.Argument(help="Run or policy directory.")],
    settings: Annotated[
        list[str] | None, typer.Argument(help="Settings as key=value, of eval, pool and track: eval.episodes=500.")
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
    allow_mixed_numerics: Annotated[
        bool, typer.Option("--allow-mixed-numerics", help="Add to episodes made with another torch, CPU or device.")
    ] = False,
    wandb: Annotated[bool, typer.Option("--wandb", help=WANDB_HELP)] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help=TENSORBOARD_HELP)] = False,
) -> None:
    """Roll out a policy on the pool: the primary metric and the success rate, with intervals."""
    from bet import tasks
    from bet.config import parse_overrides
    from bet.policy import Policy
    from bet_ray import evaluation
    from bet_ray.tracking import track_evaluation

    policy = Policy.load(run)
    overrides = parse_overrides([*track_shorthand(wandb, tensorboard), *(settings or [])])
    wanted = evaluation.evaluation_config(policy.config, overrides)
    episodes = episodes or wanted.eval.episodes
    chosen = _split(split or wanted.eval.split)
    task = tasks.get(policy.config.task)
    target = out or evaluation.run_of(run)
    began = time.monotonic()
    ran = 0
    with progress_bar() as bar:
        line = bar.add_task(f"{task.name} episodes", total=episodes)

        def show(done: int, total: int, before: int) -> None:
            nonlocal ran
            ran = done - before
            bar.update(line, completed=done, total=total, before=before)

        table = evaluation.evaluate(
            run,
            episodes=episodes,
            actors=actors or wanted.pool.actors,
            slots=slots or wanted.pool.slots,
            out=target,
            split=chosen,
            protocol=wanted.eval.protocol,
            trajectories=trajectories,
            allow_mixed_numerics=allow_mixed_numerics,
            progress=show,
        )
    seconds = time.monotonic() - began
    found = evaluation.measurement(task, table)
    track_evaluation(wanted.track, target, policy, chosen, table, found)
    config = policy.config
    console.print(
        f"{task.name} · {config.codebook.bins} bins, window {config.model.window}, gamma {config.loss.gamma:g} "
        f"· policy {policy.digest[:12]} · {chosen.value} episodes 0..{episodes - 1}"
    )
    console.print(f"  [bold]{task.protocol.primary}[/]  {found.primary:.3f}  ({found.primary.method}, 95%)")
    console.print(
        f"  [bold]success[/]  {found.success:.3f}  ({int(sum(table.column('success').to_pylist()))} of "
        f"{found.episodes}, {found.success.method}, 95%)"
    )
    for mode, share in found.mode_shares.items():
        console.print(f"  {mode}: {share:.2f} of the successes (demonstrated {task.modes[mode]:.2f})")
    failed = table.column("end").to_pylist().count("error")
    if failed:
        console.print(f"  [red]{failed} episodes ended in an error and count as failures[/]")
    rate = f" at {ran / seconds:,.1f}/s, start of Ray included" if ran else ""
    console.print(
        f"{ran} episodes run{rate}, {episodes - ran} were recorded already · {target}/episodes", soft_wrap=True
    )


def replay(
    run: Annotated[Path, typer.Argument(help="Run or policy directory.")],
    episode: Annotated[int, typer.Option(min=0, help="Index of the episode.")] = 0,
    split: Annotated[str, typer.Option(help="Its split: report or tune.")] = "report",
    video: Annotated[Path | None, typer.Option(help="Write a video (mp4 or gif).")] = None,
) -> None:
    """Run one episode again, bit for bit, and show what happened."""
    from bet import tasks
    from bet.policy import Policy
    from bet_ray import replay as replays
    from bet_ray.evaluation import run_of

    policy = Policy.load(run)
    task = tasks.get(policy.config.task)
    replayed = replays.replay(policy, _split(split), episode)
    result = replayed.result
    console.print(
        f"{task.name} · {split} episode {episode} · {result.end.value} after {result.length} steps · "
        f"{task.protocol.primary} share {result.primary:.3f}, return {result.total_reward:.2f}"
    )
    for name, value in vars(result.outcome).items() if result.outcome else ():
        console.print(f"  {name}: {value}")
    if result.trajectory is not None:
        bins = result.trajectory.bins
        console.print(f"  bins drawn: {' '.join(map(str, bins[:24]))}{' …' if len(bins) > 24 else ''}")
    console.print(f"  {replays.compare(replayed, policy, _split(split), run_of(run)).value}")
    if video is not None:
        replays.write_video(replayed, video)
        console.print(f"{len(replayed.frames)} frames in {video}")


def _split(name: str) -> "Split":
    from bet.config import ConfigError, Split, did_you_mean

    if name not in list(Split):
        raise ConfigError(f"--split: no split {name!r}{did_you_mean(name, list(Split))}")
    return Split(name)
