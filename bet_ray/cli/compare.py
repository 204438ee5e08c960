"""`bet-ray compare`."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bet.wording import counted
from bet_ray.cli.console import board, console, progress_bar, resumable, split_named

if TYPE_CHECKING:
    from bet_ray.comparison import PolicyComparison

EXAMPLES = (
    "Examples: `bet-ray compare runs/a runs/b --episodes 1000` · "
    "`bet-ray compare runs/a runs/b --until-decided --max-episodes 5000`"
)
MOST = 2000  # episodes of each policy, where stopping early is allowed
LISTED = 12  # episodes named per line


def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="Run or policy directory.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another, of the same task.")],
    settings: Annotated[list[str] | None, typer.Argument(help="For both: eval.hold_bins=4 eval.window=3 ...")] = None,
    episodes: Annotated[
        int | None, typer.Option(min=1, help="Episodes of each; recorded ones are not run again. [eval.episodes of A]")
    ] = None,
    until_decided: Annotated[
        bool, typer.Option("--until-decided", help="Run more and more of both, and stop when one is better.")
    ] = False,
    max_episodes: Annotated[
        int | None, typer.Option(min=1, help=f"With --until-decided: give up after so many of each. [{MOST}]")
    ] = None,
    actors: Annotated[int | None, typer.Option(min=1, help="Rollout actors. [pool.actors, else one per CPU]")] = None,
    slots: Annotated[int | None, typer.Option(min=1, help="Episodes an actor runs at once. [pool.slots]")] = None,
    split: Annotated[
        str | None, typer.Option(help="Initial states: `report` measures, `tune` is for choosing. [eval.split of A]")
    ] = None,
) -> None:
    """Compare two policies on the same episodes: which is better, how sure is that, and which episodes show it."""
    from bet.config import changed, parse_overrides
    from bet.errors import UsageError
    from bet_ray.comparison import Rivals
    from bet_ray.evaluation import PoolShape

    if until_decided and episodes is not None:
        raise UsageError("--until-decided finds how many episodes it takes; give --max-episodes, not --episodes")
    if max_episodes is not None and not until_decided:
        raise UsageError("--max-episodes goes with --until-decided")
    changes = parse_overrides(settings or [])
    rivals = Rivals.of(first, second, changes, split_named(split) if split else None)
    config = changed(rivals.first.policy.config, changes)
    chosen = rivals.first.job.split
    for name, one in zip("AB", rivals.both, strict=True):
        console.print(f"{name}  {one.path}  policy {one.policy.digest[:12]}", soft_wrap=True)
    if rivals.same:
        console.print("the same policy: every episode of A is that of B")
        return
    most = (max_episodes or MOST) if until_decided else episodes or config.eval.episodes
    kept = " and ".join(dict.fromkeys(f"{one.run}/episodes" for one in rivals.both))
    shape = PoolShape(actors or config.pool.actors, slots or config.pool.slots)
    with resumable(f"finished episodes are kept in {kept}"), progress_bar() as bar:
        line = bar.add_task(f"{rivals.task.name} episodes")

        def show(done: int, total: int, before: int) -> None:
            bar.update(line, completed=done, total=total, before=before)

        found = rivals.compare(most, until_decided=until_decided, shape=shape, progress=show)
    variations = "".join(f" · {text}" for text in rivals.first.recipe.protocol.variations)
    console.print(f"{rivals.task.name} · {chosen.value} episodes 0..{found.episodes - 1} of each{variations}")
    _print_table(found)
    console.print(f"[bold]{_verdict(found, most, until_decided)}[/]")
    if until_decided and rivals.task.by_modes:
        product = rivals.task.protocol.primary
        console.print(f"  success decides: {product} has no interval that holds if one may stop (use --episodes)")
    _print_episodes(found)
    if chosen.value != "report":
        settings = [*(settings or []), "--split", chosen.value]
    shown = (*found.only_first, *found.only_second, *(index for index, _ in found.furthest))
    if shown:
        again = shlex.join([*(settings or []), "--episode", str(shown[0])])
        console.print(f"see one: bet-ray replay {first} {again} --video a.mp4", soft_wrap=True)


def _print_table(found: "PolicyComparison") -> None:
    table = board()
    for column in ("", "A", "B", "A - B", "p"):
        table.add_column(column, justify="left" if not column else "right")
    for metric in found.metrics:
        p = metric.paired.p_value
        difference = f"{metric.paired.difference:+.3f}"
        table.add_row(
            metric.name,
            f"{metric.first:.3f}",
            f"{metric.second:.3f}",
            difference,
            "<0.0001" if p < 1e-4 else f"{p:.4f}",
        )
    console.print(table)
    methods = (
        f"{metric.name}: {metric.first.method}, difference {metric.paired.difference.method}"
        for metric in found.metrics
    )
    console.print(f"  95% intervals ({'; '.join(methods)})")


def _verdict(found: "PolicyComparison", most: int, until_decided: bool) -> str:
    from bet_ray.comparison import ALPHA, Better

    metric = found.metrics[0]
    paired = metric.paired
    if found.better is Better.UNDECIDED:
        after = (
            f"undecided after {counted(found.episodes, 'episode')} of each" if until_decided else "no difference found"
        )
        doubt = "; p is small, but it asks whether they behave alike" if paired.p_value <= ALPHA else ""
        low, high = paired.difference.low, paired.difference.high
        return f"{after}: {metric.name} of A may be {low:+.3f} to {high:+.3f} from B's{doubt}"
    within = f", decided within {found.episodes:,} of at most {most:,} episodes of each" if until_decided else ""
    return f"{found.better.value} is better: {metric.name} higher by {abs(paired.difference.estimate):.3f}{within}"


def _print_episodes(found: "PolicyComparison") -> None:
    for winner, loser, indices in (("A", "B", found.only_first), ("B", "A", found.only_second)):
        if indices:
            console.print(
                f"{winner} succeeds where {loser} fails: {_listed([str(i) for i in indices])} ({len(indices)})"
            )
    if not found.only_first and not found.only_second:
        console.print("in no episode does just one of them succeed")
    if found.furthest:
        gaps = [f"{index} ({gap:+.2f})" for index, gap in found.furthest]
        console.print(f"{found.metrics[0].name} of A - B is furthest apart in: {_listed(gaps)}")


def _listed(items: Sequence[str]) -> str:
    return ", ".join(items[:LISTED]) + (", …" if len(items) > LISTED else "")
