"""The sweep as a person watches it: a live table of settings with intervals, and the winner's two numbers."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from bet.wording import counted
from bet_ray.cli.console import board, console, errors
from bet_ray.values import setting_text, spelled

if TYPE_CHECKING:
    from bet_ray.sweep import Sweep
    from bet_ray.trials import Rung, TrialRecord
    from bet_ray.tuning import OnTrials, SweepResult

ROWS = 20


def leaderboard(sweep: "Sweep", trials: "list[TrialRecord]") -> Table:
    """The best settings so far, of those that race the ones that lead. All numbers are of `tune`."""
    from bet import tasks
    from bet.metrics import SUCCESS

    table = board(sweep.question)
    table.add_column("#", justify="right")
    for key in sweep.searched:
        table.add_column(key.rsplit(".", 1)[-1], justify="right")
    primary = tasks.simulated(sweep.task).protocol.primary
    metrics = list(dict.fromkeys((primary, SUCCESS)))  # one column where they are the same
    raced = ["race"] if any(trial.race for trial in trials) else []
    for name in (*metrics, *raced, "epoch", "val loss", "status"):
        table.add_column(name, justify="right", min_width=4)
    for place, trial in enumerate(trials[:ROWS], start=1):
        rung = trial.best(sweep.objective)
        cells = [spelled(trial.setting.get(key)) for key in sweep.searched]
        if rung is None:
            cells += [""] * (len(metrics) + len(raced) + 2)
        else:
            found = (rung.primary, rung.success)[: len(metrics)]
            cells += [f"{numbers}" if numbers else "" for numbers in found]
            cells += [f"{trial.race.primary}" if trial.race else ""] * len(raced)
            cells += [str(rung.epoch), f"{rung.val_loss:.3g}"]
        status = "beaten" if trial.beaten else trial.status.value
        table.add_row(str(place) if rung else "", *cells, trial.fault or status)
    return table


@contextmanager
def live_leaderboard(sweep: "Sweep") -> "Iterator[OnTrials]":
    """A callback for `run_sweep`: a live table on a terminal, a line per finished trial elsewhere."""
    from bet_ray.trials import Status

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
    )
    line = bar.add_task("trials", total=sweep.trial_count)
    told: set[str] = set()

    def done(trials: "list[TrialRecord]") -> "list[TrialRecord]":
        return [trial for trial in trials if trial.status is not Status.RUNNING]

    if not errors.is_terminal:

        def tell(trials: "list[TrialRecord]") -> None:
            for trial in done(trials):
                if trial.trial not in told:
                    told.add(trial.trial)
                    rung = trial.best(sweep.objective)
                    setting = setting_text(trial.setting)
                    score = _score(rung) if rung else trial.fault
                    errors.print(f"[{len(told)}/{sweep.trial_count}] {setting}: {score}", markup=False)

        yield tell
        return
    with Live(Group(leaderboard(sweep, []), bar), console=errors, transient=True) as live:

        def show(trials: "list[TrialRecord]") -> None:
            raced = [trial for trial in trials if trial.race]
            left = sum(not trial.beaten for trial in raced)
            bar.update(line, completed=len(done(trials)), description=f"race, {left} left" if raced else "trials")
            live.update(Group(leaderboard(sweep, trials), bar))

        yield show


def _score(rung: "Rung") -> str:
    """What is known of a trial that has ended."""
    found = f"{rung.primary}" if rung.primary else f"val loss {rung.val_loss:.3g}"
    return f"{found} after {counted(rung.epoch, 'epoch')}"


def print_result(sweep: "Sweep", result: "SweepResult") -> None:
    """The leaderboard, and what fresh episodes say of the winner."""
    from bet import tasks
    from bet.metrics import SUCCESS
    from bet_ray.selection import read_race
    from bet_ray.trials import rivals

    task = tasks.simulated(sweep.task)
    name = task.protocol.primary
    console.print(leaderboard(sweep, result.trials))
    setting = setting_text(result.winner.setting)
    console.print(f"winner: [bold]{setting}[/], epoch {result.tune.epoch}")
    console.print(f"  chosen on tune     {name} {result.chosen}, {counted(result.tune.episodes, 'episode')}")
    race = read_race(result.run)
    if race is not None:
        console.print(f"  {race}")
    found = result.report
    rates = "".join(f", {rate} {found.rates[rate]:.2f}" for rate in task.published_rates)
    success = rates or ("" if name == SUCCESS else f", success {found.success:.2f}")
    beside = rivals(result.trials)
    if beside is not None and beside.others:
        console.print(f"  {beside}")
    console.print(
        f"  measured on report {name} {found.primary:.2f}{success}, {counted(found.episodes, 'fresh episode')}"
    )
    finalists = [trial for trial in result.trials if trial.report is not None]
    if len(finalists) > 1:
        console.print(_finalists(sweep, finalists))


def _finalists(sweep: "Sweep", trials: "list[TrialRecord]") -> Table:
    """The winner and the next best of those tied with it, chosen and measured."""
    from bet import tasks
    from bet.metrics import SUCCESS

    chosen, where = ("race", "in the race") if trials[0].race else ("tune", "on tune")
    table = board(f"chosen {where}, measured on report (intervals that hold for all of these at once)")
    also = [] if tasks.simulated(sweep.task).protocol.primary == SUCCESS else [f"{SUCCESS} on report"]
    for name in ("setting", chosen, "report", "shrinkage", *also):
        table.add_column(name, justify="left" if name == "setting" else "right")
    for trial in trials:
        rung = trial.best(sweep.objective)
        assert rung is not None
        assert rung.primary is not None
        assert trial.report is not None
        before, after = trial.race.primary if trial.race else rung.primary, trial.report.primary
        cells = f"{before}", f"{after}", f"{before.value - after.value:+.2f}"
        rates = [f"{trial.report.success}"] * len(also)
        table.add_row(setting_text(trial.setting), *cells, *rates)
    return table
