"""`bet-ray status`."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bet.wording import counted, duration
from bet_ray.cli.console import board, console

if TYPE_CHECKING:
    from bet_ray.status import RunStatus, Search

EXAMPLES = "Examples: `bet-ray status runs/s` from another terminal · `watch -n 5 bet-ray status runs/s`"
QUIET = 120.0  # seconds without a write after which a run elsewhere may have died; a long epoch is as quiet
TOLD = 5  # errors, and trainings under way


def status(run: Annotated[Path, typer.Argument(help="Run directory; it is only read.")]) -> None:
    """How far a run is: what runs, rates so far, errors, the time left. Of a running, finished or crashed one."""
    from bet_ray.status import status as look

    found = look(run)
    age = max((datetime.now(UTC) - found.written).total_seconds(), 0.0)
    console.print(
        f"{found.kind} of {found.task} in {found.run}: {_state(found, age)} · last write {duration(age)} ago · "
        f"{counted(found.episodes, 'episode')} recorded",
        markup=False,
    )
    if found.search is not None:
        _print_search(found.search, going=not found.ended)
    for one in found.trainings[:TOLD]:
        loss = "" if one.val_loss is None else f", best validation loss {one.val_loss:.4g}"
        console.print(f"  training {one.name}: {one.epochs} of {counted(one.of_epochs, 'epoch')}{loss}")
    if len(found.trainings) > TOLD:
        console.print(f"  and {counted(len(found.trainings) - TOLD, 'more training')}")
    if found.rollouts:
        _print_rollouts(found)
    for reason in found.errors[:TOLD]:
        console.print(f"  error: {reason}", markup=False, style="red")


def _state(found: "RunStatus", age: float) -> str:
    if found.finished:
        return "finished"
    if found.running is not None:
        return f"running (pid {found.running})"
    if found.ended:
        return f"its process has ended, the same command goes on{'' if found.made else ' with --resume'}"
    return "under way" if age < QUIET else "unfinished, and quiet: died, or slow"


def _print_search(search: "Search", *, going: bool) -> None:
    told = ", ".join(f"{count} {state.value}" for state, count in search.counts.items()) or "none has begun"
    eta = "" if search.remaining is None or not going else f" · search over in about {duration(search.remaining)}"
    console.print(f"  trials: {told}, of {search.of}{eta}")
    if search.best is not None:
        primary = search.rung.primary if search.rung else None
        measured = search.best.report
        numbers = f", primary on tune {primary:.3f}" if primary else ""
        numbers += f", on report {measured.primary:.3f}" if measured else ""
        console.print(f"  {'winner' if search.over else 'leads'}: {search.best.trial}{numbers}")
    if search.race is not None:
        console.print(f"  {search.race}")


def _print_rollouts(found: "RunStatus") -> None:
    table = board()
    for name in ("policy", "split", "episodes", "primary", "success", "errors", "left"):
        table.add_column(name, justify="left" if name in ("policy", "split") else "right")
    for one in found.rollouts:
        table.add_row(
            one.policy_digest[:12],
            one.split,
            f"{one.done:,}" if one.asked is None else f"{one.done:,} of {one.asked:,}",
            *(("", "") if one.found is None else (f"{one.found.primary:.3f}", f"{one.found.success:.3f}")),
            str(one.errors) if one.errors else "",
            "" if one.remaining is None or found.ended else f"about {duration(one.remaining)}",
        )
    console.print(table)
