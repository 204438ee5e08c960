"""`bet-ray eval` and `bet-ray replay`."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bet.wording import counted
from bet_ray.cli.console import TENSORBOARD_HELP, WANDB_HELP, console, progress_bar, resumable, track_shorthand
from bet_ray.cli.measured import print_policies, print_policy, print_tuned, print_usage

if TYPE_CHECKING:
    from bet.config import Split
    from bet_ray.evaluation import Evaluation, PoolShape

EXAMPLES = "Examples: `bet-ray eval runs/a --episodes 1000` · `bet-ray eval runs/a --actors 2 --slots 8 --split tune`"
REPLAY_EXAMPLES = "Examples: `bet-ray replay runs/a --episode 17 --video out.mp4`"


def evaluate(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN... [KEY=VALUE]...",
            help="Run or policy directories; eval.hold_bins=4 eval.window=3 eval.bins=codebook eval.start=...",
        ),
    ],
    episodes: Annotated[
        int | None,
        typer.Option(min=1, help="Episodes in all, of each policy; recorded ones are not run again. [eval.episodes]"),
    ] = None,
    each: Annotated[
        bool, typer.Option("--each", help="Every policy that the runs hold: epochs, trials, training seeds.")
    ] = False,
    actors: Annotated[int | None, typer.Option(min=1, help="Rollout actors. [pool.actors, else one per CPU]")] = None,
    slots: Annotated[int | None, typer.Option(min=1, help="Episodes an actor runs at once. [pool.slots]")] = None,
    autotune: Annotated[
        bool, typer.Option("--autotune", help="Measure for some seconds, then choose actors and slots.")
    ] = False,
    split: Annotated[
        str | None, typer.Option(help="Initial states: `report` measures, `tune` is for choosing. [eval.split]")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory for the episodes. Default: the policy's run.")] = None,
    save_trajectories: Annotated[
        bool, typer.Option("--save-trajectories", help="Keep every step; episodes without them run again.")
    ] = False,
    retry_errors: Annotated[
        bool, typer.Option("--retry-errors", help="Run episodes again that ended in an error.")
    ] = False,
    patience: Annotated[
        float, typer.Option(min=1, help="Seconds after which an actor that says nothing is taken for hung.")
    ] = 60.0,
    plot: Annotated[
        bool, typer.Option("--plot", help="Write rollouts.html: paths, lengths and scores of the episodes.")
    ] = False,
    allow_mixed_numerics: Annotated[
        bool, typer.Option("--allow-mixed-numerics", help="Add to episodes made with another torch, CPU or device.")
    ] = False,
    wandb: Annotated[bool, typer.Option("--wandb", help=WANDB_HELP)] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help=TENSORBOARD_HELP)] = False,
) -> None:
    """Roll out policies on one pool: the primary metric and the success rate, with intervals."""
    from bet.config import changed, parse_overrides
    from bet.errors import UsageError
    from bet_ray import evaluation

    paths = [Path(word) for word in what if "=" not in word or Path(word).exists()]
    if not paths:
        raise UsageError("which run? name a run or policy directory before the settings")
    typed = [word for word in what if Path(word) not in paths]
    changes = parse_overrides([*track_shorthand(wandb, tensorboard), *typed])
    if each:
        paths = [policy for path in paths for policy in evaluation.policies_of(path)]
    if plot and len(paths) > 1:
        raise UsageError("--plot draws one policy; name one")
    chosen = _split(split) if split else None
    planned = []
    for path in paths:
        config = changed(evaluation.load_policy(path).config, changes)
        target = out or evaluation.run_of(path)
        planned.append(
            evaluation.Evaluation.of(
                path,
                target,
                chosen or config.eval.split,
                changes,
                trajectories=save_trajectories,
                allow_mixed_numerics=allow_mixed_numerics,
            )
        )
    first = changed(planned[0].policy.config, changes)
    episodes = episodes or first.eval.episodes
    shape = evaluation.PoolShape(actors or first.pool.actors, slots or first.pool.slots, patience)
    kept = ", ".join(sorted({f"{one.ledger.run}/episodes" for one in planned if one.ledger}))
    with resumable(f"finished episodes are kept in {kept}"):
        if autotune:
            to_run = sum(len(one.missing(episodes, retry_errors=retry_errors)) for one in planned)
            shape = _tuned(planned[0], max(to_run, 1), shape)
        with progress_bar() as bar:
            name = planned[0].task.name if len(planned) == 1 else counted(len(planned), "policy", "policies")
            line = bar.add_task(f"{name} episodes", total=episodes * len(planned))

            def show(done: int, total: int, before: int) -> None:
                bar.update(line, completed=done, total=total, before=before)

            found = evaluation.evaluate_all(planned, episodes, shape, retry_errors=retry_errors, progress=show)
    for one, table in zip(planned, found.tables, strict=True):
        evaluation.track(one, changes, table)
    if len(planned) == 1:
        print_policy(planned[0], found.tables[0])
    else:
        print_policies(planned, found.tables)
    print_usage(found, sum(table.num_rows for table in found.tables), kept)
    if plot:
        from bet_ray.show.rollouts import show_rollouts

        one, run = planned[0], out or evaluation.run_of(paths[0])
        command = shlex.join(["bet-ray", *sys.argv[1:]])
        page = show_rollouts(one.policy, one.recipe, one.job.split, found.tables[0], run, command)
        console.print(f"page: {page}")


def _tuned(one: "Evaluation", episodes: int, shape: "PoolShape") -> "PoolShape":
    from bet_ray.autotune import autotune, chosen
    from bet_ray.session import available_cpus

    with console.status("measuring"):
        found = autotune(one, episodes, shape.actors or available_cpus())
    print_tuned(found)
    return chosen(found, shape)


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
    chosen, recipe = _split(split), recipe_of(policy, parse_overrides(settings or []))
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


def _split(name: str) -> "Split":
    from bet.config import ConfigError, Split, did_you_mean

    if name not in list(Split):
        raise ConfigError(f"--split: no split {name!r}{did_you_mean(name, list(Split))}")
    return Split(name)
