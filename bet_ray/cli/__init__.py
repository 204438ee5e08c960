"""The command line: one module per command group, no logic of their own."""

import logging
import os
import sys
import warnings

import typer
from rich.markup import escape

from bet.errors import FailedRunError, UsageError
from bet_ray.cli import (
    compare,
    data,
    demo,
    doctor,
    evaluate,
    importing,
    logs,
    metrics,
    plan,
    replay,
    report,
    reproduce,
    settings,
    status,
    submit,
    sweep,
    train,
    verify,
)
from bet_ray.cli.console import Interrupted, errors, located
from bet_ray.storage import named

INTERRUPTED = 130  # what typer exits with after Ctrl-C

app = typer.Typer(
    name="bet-ray",
    help="Train, sweep and evaluate Behavior Transformers on Ray: which settings work, and how sure are we?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: `bet-ray train pointmass2 --out runs/a && bet-ray eval runs/a --episodes 500`",
)
app.command("train", epilog=train.EXAMPLES)(train.train)
app.command("eval", epilog=evaluate.EXAMPLES)(evaluate.evaluate)
app.command("compare", epilog=compare.EXAMPLES)(compare.compare)
app.command("plan", epilog=plan.EXAMPLES)(plan.plan)
app.command("sweep", epilog=sweep.EXAMPLES)(sweep.sweep)
app.command("report", epilog=report.EXAMPLES)(report.report)
app.command("reproduce", epilog=reproduce.EXAMPLES)(reproduce.reproduce)
app.command("metrics", epilog=metrics.EXAMPLES)(metrics.metrics)
app.command("replay", epilog=replay.EXAMPLES)(replay.replay)
app.command("verify", epilog=verify.EXAMPLES)(verify.verify)
app.command("demo", epilog=demo.EXAMPLES)(demo.demo)
app.command("import", epilog=importing.EXAMPLES)(importing.import_)
app.command("doctor", epilog=doctor.EXAMPLES)(doctor.doctor)
app.command("settings", epilog=settings.EXAMPLES)(settings.settings)
app.command("status", epilog=status.EXAMPLES)(status.status)
app.command("submit", epilog=submit.EXAMPLES, context_settings=submit.AS_TYPED)(submit.submit)
app.add_typer(data.app, name="data")
app.add_typer(submit.app, name="jobs")


def _speaks_of_locations(record: logging.LogRecord) -> bool:
    record.msg, record.args = named(record.getMessage()), None
    return True


def main() -> None:
    """Run a command. Exit code 2 for a usage error, 1 for a failed run; a traceback only with `--debug`."""
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    if debug:
        arguments.remove("--debug")
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame draws into arrays here, and looks for no screen
    if os.getcwd() not in sys.path:  # so that `my_pkg:MyEnv-v0` finds my_pkg.py here; Ray tells its workers
        sys.path.append(os.getcwd())
    warnings.showwarning = lambda message, *_, **__: logging.warning("%s", message)
    try:
        logs.set_up(debug=debug)
        logging.getLogger().handlers[0].addFilter(_speaks_of_locations)
        if arguments[:1] != ["submit"]:  # whose words are for elsewhere
            arguments = [located(word) for word in arguments]
        app(args=arguments, prog_name="bet-ray")
    except (UsageError, FailedRunError, OSError) as error:
        if debug:
            raise
        errors.print(f"[red]error:[/] {escape(str(error))}")
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except (MemoryError, RuntimeError) as error:  # NumPy's, or torch's on any device
        if debug or "memory" not in str(error):
            raise
        reason = str(error).splitlines()[0]
        errors.print(f"[red]error:[/] {escape(reason)}; try a smaller train.batch_size or model.width")
        sys.exit(1)
    except Interrupted as stop:
        errors.print(escape(str(stop)))
        sys.exit(INTERRUPTED)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            errors.print("interrupted")
        raise
