"""`bet-ray settings`."""

from operator import attrgetter
from typing import Annotated

import typer
from rich.table import Table

from bet_ray.cli.console import console

EXAMPLES = "Example: `bet-ray settings pusht`"


def settings(task: Annotated[str, typer.Argument(help="Task whose preset to show.")] = "pusht") -> None:
    """Every setting, its value for a task, and what it does."""
    from bet.config import SHORT_FORMS, config_keys, make_config, task_named

    task = task_named(task)
    short = {key: name for name, key in SHORT_FORMS.items()}
    values = make_config(task)
    table = Table(title=f"settings of {task}, given as key=value", title_justify="left", header_style="bold")
    for column in ("key", "value", "meaning"):
        table.add_column(column, no_wrap=column == "key")
    for key, meaning in config_keys().items():
        value = attrgetter(key)(values)
        table.add_row(f"{key} ({short[key]})" if key in short else key, "" if value is None else str(value), meaning)
    console.print(table)
