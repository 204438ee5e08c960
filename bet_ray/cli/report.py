"""`bet-ray report`."""

from pathlib import Path
from typing import Annotated

import typer

from bet_ray.cli.console import console

EXAMPLES = "Example: `bet-ray report runs/s`"


def report(run: Annotated[Path, typer.Argument(help="Directory of a sweep.")]) -> None:
    """Write report.html anew from what a sweep left, also from an unfinished one."""
    from bet_ray.report import write_report

    console.print(f"{write_report(run)}")
