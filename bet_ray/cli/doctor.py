"""`bet-ray doctor`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from bet.wording import counted
from bet_ray.cli.console import board, console, errors

EXAMPLES = "Examples: `bet-ray doctor` · `bet-ray doctor --quick` · `bet-ray doctor --runs /mnt/shared/runs`"
STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def doctor(
    quick: Annotated[
        bool, typer.Option("--quick", help="Without starting Ray, which takes a quarter of a minute.")
    ] = False,
    runs: Annotated[Path, typer.Option(help="Where run directories are to be made.")] = Path("runs"),
) -> None:
    """What works on this machine, what does not, and what mends it. Exit code 1 where anything fails."""
    from bet_ray.doctor import Health, checks, examine, healthy

    found = []
    with errors.status("") as line:
        for check in checks(runs, with_ray=not quick):
            line.update(check.what)
            told = {finding.found for finding in found if finding.fix}
            found += [finding for finding in examine(check) if finding.found not in told]  # one fault breaks several
    table = board()
    for name in ("check", "", "found"):
        table.add_column(name, overflow="fold", no_wrap=name != "found")
    for finding in found:
        table.add_row(finding.what, f"[{STYLES[finding.health]}]{finding.health}[/]", escape(finding.found))
    console.print(table)
    for finding in found:
        if finding.fix:
            console.print(f"{finding.what}: {finding.fix}", markup=False)
    bad = sum(finding.health is Health.FAIL for finding in found)
    told = f"{counted(bad, 'check')} failed" if bad else "all is well" if not any(f.fix for f in found) else "it works"
    console.print(told, style="bold red" if bad else "bold green")
    if not healthy(found):
        raise typer.Exit(1)
