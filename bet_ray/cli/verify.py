"""`bet-ray verify`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bet.wording import counted
from bet_ray.cli.console import board, console, progress_bar, split_named

if TYPE_CHECKING:
    from bet_ray.verification import Verdict

EXAMPLES = "Examples: `bet-ray verify runs/a --episodes 64` · `bet-ray verify runs/a eval.hold_bins=3 --split tune`"
TOLD = 5


def verify(
    run: Annotated[Path, typer.Argument(help="Run or policy directory.")],
    settings: Annotated[list[str] | None, typer.Argument(help="As in the evaluation: eval.hold_bins=4 ...")] = None,
    episodes: Annotated[
        int, typer.Option(min=1, help="How many of the recorded episodes; missing ones are run and recorded first.")
    ] = 64,
    split: Annotated[str, typer.Option(help="Their split: report or tune.")] = "report",
    recorded: Annotated[
        Path | None, typer.Option(help="Run directory that holds the episodes. Default: the policy's run.")
    ] = None,
) -> None:
    """Run recorded episodes again with other actors, slots, orders and killed workers, and compare every bit.

    Where all are the same, a certificate goes into manifest.json; where one is not, it is named, with exit code 1.
    """
    from bet.config import parse_overrides
    from bet.errors import FailedRunError
    from bet_ray import verification
    from bet_ray.evaluation import Evaluation, run_of
    from bet_ray.manifest import MANIFEST

    home = recorded or run_of(run)
    changes = parse_overrides(settings or [])
    one = Evaluation.of(run, home, split_named(split), changes, allow_mixed_numerics=True)
    assert one.ledger is not None
    recorded_already = one.ledger.of(one.job.source).num_rows
    if recorded_already < episodes:
        console.print(f"{counted(recorded_already, 'recorded episode')}; up to {episodes:,} are run first")
    with progress_bar() as bar:
        line = bar.add_task(f"{one.task.name} episodes", total=None)

        def show(done: int, total: int) -> None:
            bar.update(line, completed=done, total=total)

        found = verification.verify(one, episodes, verification.VARIANTS, progress=show)
    table = board()
    table.add_column("variant")
    for name in ("episodes", "steps"):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    for verdict in found.verdicts:
        table.add_row(verdict.variant.name, f"{verdict.episodes:,}", f"{verdict.steps:,}", _told(verdict))
    console.print(table)
    if not found.holds:
        raise FailedRunError(f"{home}: not the same to the last bit: {_where(found.different)}")
    console.print(
        f"{counted(found.episodes, 'episode')} the same to the last bit in all {len(found.verdicts)} variants · "
        f"{one.job.source.numerics} · certificate in {home / MANIFEST}"
    )


def _told(verdict: "Verdict") -> str:
    crash = f"{counted(verdict.killed, 'worker')} killed, {counted(verdict.again, 'episode')} run again: "
    same = f"[red]{counted(len(verdict.different), 'episode')} NOT the same[/]" if verdict.different else "the same"
    return f"{crash if verdict.killed else ''}{same}"


def _where(different: "dict[int, tuple[str, ...]]") -> str:
    told = [f"episode {index} ({', '.join(names)})" for index, names in list(different.items())[:TOLD]]
    return ", ".join(told) + (f" and {len(different) - TOLD:,} more" if len(different) > TOLD else "")
