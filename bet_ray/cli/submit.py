"""`bet-ray submit` and `bet-ray jobs`."""

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from bet.errors import UsageError
from bet.wording import duration
from bet_ray.cli.console import Interrupted, board, console

if TYPE_CHECKING:
    from bet_ray.submit import Job

EXAMPLES = (
    "Examples: `bet-ray submit --address http://head:8265 --storage /mnt/shared --wait -- sweep sweeps/x.yaml --trials "
    "20` · `bet-ray submit -- eval /mnt/shared/runs/a --episodes 1000` · `bet-ray jobs logs ID --wait`"
)

AS_TYPED = {"ignore_unknown_options": True, "allow_interspersed_args": False}  # the command's options are its own

Address = Annotated[
    str | None, typer.Option(help="The head's dashboard, http://HEAD:8265. [RAY_API_SERVER_ADDRESS, RAY_ADDRESS]")
]
Wait = Annotated[bool, typer.Option("--wait", help="Show what it prints until it ends, and exit as it does.")]
Name = Annotated[str, typer.Argument(metavar="ID", help="As `submit` prints it and `jobs list` shows it.")]

app = typer.Typer(help="Jobs of a cluster: list them, show what they print, stop them.", no_args_is_help=True)


def submit(
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND...", help="What follows bet-ray.")],
    address: Address = None,
    wait: Wait = False,
    storage: Annotated[
        str | None,
        typer.Option(
            envvar="BET_STORAGE", help="Folder that all nodes see: relative run directories and videos go there."
        ),
    ] = None,
    env: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Environment of the job: BET_DATA_DIR=/mnt/data.")
    ] = None,
) -> None:
    """Run a command of ours as a job of a cluster, in a copy of the working directory, under the cluster's token."""
    from bet_ray import submit as engine

    _check(command)
    words = [pair.partition("=") for pair in env or []]
    if wrong := [key for key, equals, _ in words if not (key and equals)]:
        raise UsageError(f"--env: expected KEY=VALUE, got {wrong[0]!r}")
    command = engine.placed(command, storage)
    tree = engine.Tree.of(Path.cwd())
    tree.check(command)
    with engine.jobs(address) as jobs:
        job = jobs.submit(command, tree, {key: value for key, _, value in words})
        console.print(f"job {job}: {shlex.join(['bet-ray', *command])}", markup=False)
        console.print(f"shipped: {tree}", markup=False)
        if not wait:
            console.print(f"next: {_again('logs', job, address)}", markup=False)
            return
        with _detached(job, address):
            ended = jobs.follow(job, _write)
    _leave(ended)


@app.command("list", epilog="Example: `bet-ray jobs list --address http://head:8265`")
def list_(address: Address = None) -> None:
    """Jobs that were submitted, the last first."""
    from bet_ray.submit import jobs

    with jobs(address) as of:
        found = of.all()
    table = board()
    for name in ("job", "status", "exit", "began", "took", "command"):
        table.add_column(name, overflow="fold", no_wrap=name in ("job", "status"))
    for job in found:
        began = job.began and f"{job.began.astimezone():%Y-%m-%d %H:%M:%S}"
        took = job.began and duration(((job.ended or datetime.now(UTC)) - job.began).total_seconds())
        code = "" if job.exit_code is None else str(job.exit_code)
        table.add_row(job.id, job.status.value.lower(), code, began, took, escape(job.command))
    console.print(table if found else "no job was submitted")


@app.command(epilog="Example: `bet-ray jobs logs raysubmit_LpQ1 --wait`")
def logs(name: Name, address: Address = None, wait: Wait = False) -> None:
    """What a job prints, until it ends; Ctrl-C leaves it running."""
    from bet_ray.submit import jobs

    with jobs(address) as of, _detached(name, address):
        ended = of.follow(name, _write)
    if wait:
        _leave(ended)


@app.command(epilog="Example: `bet-ray jobs stop raysubmit_LpQ1`")
def stop(name: Name, address: Address = None) -> None:
    """Stop a job as Ctrl-C does: what has finished is kept, and the same command goes on with `--resume`."""
    from bet_ray.submit import jobs

    with jobs(address) as of:
        console.print(f"job {name} {'is stopped' if of.stop(name) else 'had ended'}")


def _check(command: list[str]) -> None:
    """A misspelt command is an error here and now, and not on the cluster."""
    from bet_ray.cli import app as ours

    group = typer.main.get_group(ours)
    context = group.make_context("bet-ray", list(command))
    if command[0] in ("submit", "jobs"):
        raise UsageError(f"{command[0]}: runs here, not on a cluster")
    _, found, rest = group.resolve_command(context, list(command))
    assert found is not None
    found.make_context(command[0], rest, parent=context)


@contextmanager
def _detached(job: str, address: str | None) -> Iterator[None]:
    """Ctrl-C ends the watching, not the job."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(
            f"job {job} goes on; watch it with: {_again('logs', job, address)}, or end it with: "
            f"{_again('stop', job, address)}"
        ) from None


def _again(what: str, job: str, address: str | None) -> str:
    return shlex.join(["bet-ray", "jobs", what, job, *(["--address", address] if address else [])])


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _leave(job: "Job") -> None:
    """Exit as the job did."""
    if job.exit_code:
        console.print(f"job {job.id} {job.status.value.lower()}: {job.message}", markup=False)
    raise typer.Exit(job.exit_code or 0)
