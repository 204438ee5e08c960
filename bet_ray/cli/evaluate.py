"""`bet-ray eval`."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bet.wording import counted
from bet_ray.cli.console import (
    TENSORBOARD_HELP,
    WANDB_HELP,
    console,
    progress_bar,
    resumable,
    split_named,
    track_shorthand,
)
from bet_ray.cli.measured import print_policies, print_policy, print_tuned, print_usage

if TYPE_CHECKING:
    from bet_ray.evaluation import Evaluation, PoolShape

EXAMPLES = "Examples: `bet-ray eval runs/a --episodes 1000` · `bet-ray eval runs/a --actors 2 --slots 8 --split tune`"


def evaluate(
    context: typer.Context,
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
    inference: Annotated[
        str | None,
        typer.Option(metavar="DEVICE", help="Actors of their own compute actions there: cuda, each on a GPU, or cpu."),
    ] = None,
    inference_actors: Annotated[int, typer.Option(min=1, help="How many of them.")] = 1,
    wandb: Annotated[bool, typer.Option("--wandb", help=WANDB_HELP)] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help=TENSORBOARD_HELP)] = False,
) -> None:
    """Roll out policies on one pool: the primary metric and the success rate, with intervals."""
    from bet.config import changed, parse_overrides
    from bet.errors import UsageError
    from bet_ray import evaluation
    from bet_ray.inference import serving

    paths = [Path(word) for word in what if "=" not in word or Path(word).exists()]
    if not paths:
        raise UsageError("which run? name a run or policy directory before the settings")
    typed = [word for word in what if Path(word) not in paths]
    changes = parse_overrides([*track_shorthand(wandb, tensorboard), *typed])
    if each:
        paths = [policy for path in paths for policy in evaluation.policies_of(path)]
    if plot and len(paths) > 1:
        raise UsageError("--plot draws one policy; name one")
    if inference not in (None, "cpu", "cuda"):
        raise UsageError(f"--inference: expected cuda or cpu, got {inference!r}")
    if inference and autotune:
        raise UsageError("--autotune measures workers that compute actions themselves; leave out --inference")
    chosen = split_named(split) if split else None
    servers = context.with_resource(serving(inference, inference_actors, actors)) if inference else None
    planned = [
        evaluation.Evaluation.of(
            path,
            out or evaluation.run_of(path),
            chosen,
            changes,
            trajectories=save_trajectories,
            allow_mixed_numerics=allow_mixed_numerics,
            inference=servers,
        )
        for path in paths
    ]
    first = changed(planned[0].policy.config, changes)
    episodes = episodes or first.eval.episodes
    shape = evaluation.PoolShape(actors or first.pool.actors, slots or first.pool.slots, patience)
    kept = ", ".join(sorted({f"{one.ledger.run}/episodes" for one in planned if one.ledger}))
    with resumable(f"finished episodes are kept in {kept}"):
        to_run = sum(len(one.missing(episodes, retry_errors=retry_errors)) for one in planned) if autotune else 0
        if to_run:
            shape = _tuned(planned[0], to_run, shape)
        with progress_bar() as bar:
            name = planned[0].task.name if len(planned) == 1 else counted(len(planned), "policy", "policies")
            line = bar.add_task(f"{name} episodes", total=episodes * len(planned))

            def show(done: int, total: int, before: int) -> None:
                bar.update(line, completed=done, total=total, before=before)

            with evaluation.LazyPool(shape) as pool:
                found = evaluation.evaluate_all(planned, episodes, pool, retry_errors=retry_errors, progress=show)
    for one, table in zip(planned, found.tables, strict=True):
        evaluation.track(one, changes, table)
    if len(planned) == 1:
        print_policy(planned[0], found.tables[0])
    else:
        print_policies(planned, found.tables)
    print_usage(found, sum(table.num_rows for table in found.tables), kept)
    if plot:
        from bet_ray.show.rollouts import show_rollouts

        one, command = planned[0], shlex.join(["bet-ray", *sys.argv[1:]])
        page = show_rollouts(one.policy, one.recipe, one.job.split, found.tables[0], one.run, command)
        console.print(f"page: {page}")


def _tuned(one: "Evaluation", episodes: int, shape: "PoolShape") -> "PoolShape":
    from bet_ray.autotune import autotune, chosen
    from bet_ray.session import available_cpus

    with console.status("measuring"):
        found = autotune(one, episodes, shape.actors or available_cpus())
    print_tuned(found)
    return chosen(found, shape)
