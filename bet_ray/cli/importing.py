"""`bet-ray import`."""

from pathlib import Path
from typing import Annotated

import typer

from bet.wording import counted
from bet_ray.cli.console import board, console

EXAMPLES = (
    "Examples: `bet-ray import snapshot.pt --task pusht --out runs/old` · "
    "`bet-ray import exp_local/2022.07.01/120000_kitchen_train --task kitchen --out runs/old` · "
    "`bet-ray import train_runs/blockpush/0 --task blockpush --out runs/old && bet-ray eval runs/old --each`"
)


def import_(
    path: Annotated[
        Path,
        typer.Argument(help="A snapshot, or a directory with snapshot.pt, snapshot_0.pt ... or last/ with such."),
    ],
    task: Annotated[str, typer.Option(help="The task that it was trained on, such as pusht.")],
    out: Annotated[Path, typer.Option(help="Run directory to write.")],
) -> None:
    """Make policies of snapshots that the original code saved (notmahi/bet, and the reproduction study's).

    Nothing in a snapshot is run: what it names is read as data, and any name that is not in the list is refused.
    Settings come from the snapshot and from .hydra/config.yaml beside it; what neither has is the task's preset.
    """
    from bet import tasks
    from bet_ray.importing import from_preset, import_run

    tasks.get(task)
    with console.status("reading"):
        found = import_run(path, task, out)
    table = board()
    for name in ("snapshot", "trunk", "bins", "window", "observation", "policy", "digest"):
        table.add_column(name, no_wrap=True)
    for name, one in found.items():
        config = one.policy.config
        table.add_row(
            str(one.file.relative_to(path) if path.is_dir() else one.file.name),
            config.model.trunk,
            str(config.codebook.bins),
            str(config.model.window),
            f"{config.data.observation} ({one.policy.model.obs_dim})",
            name,
            one.policy.digest[:12],
        )
    console.print(table)
    *_, (best, last) = found.items()
    if unknown := from_preset(last):
        where = "neither in the snapshot nor in .hydra/config.yaml"
        console.print(f"{where}, so as in the preset of {task}: {', '.join(unknown)}")
    console.print(f"{counted(len(found), 'policy', 'policies')} in {out}; best names {best}")
    if isinstance(tasks.get(task), tasks.SimulatedTask):
        each = " --each" if len(found) > 1 else ""
        console.print(f"next: bet-ray eval {out} --episodes 200{each}")
