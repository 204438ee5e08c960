"""`bet-ray plan`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bet.wording import counted
from bet_ray.cli.console import board, console, split_named

if TYPE_CHECKING:
    from bet_ray.planning import Known

EXAMPLES = (
    "Examples: `bet-ray plan --detect 0.05 --rate 0.9` · `bet-ray plan runs/a --detect 0.05 --settings 40` · "
    "`bet-ray plan runs/a runs/b --detect 0.02 --power 0.95`"
)


def plan(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(help="A run whose recorded episodes tell the rate; with a second, also how often they differ."),
    ] = None,
    detect: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Difference of success rates (or mean scores) to find.")
    ] = 0.05,
    power: Annotated[float, typer.Option(min=0.01, max=0.999, help="Probability to find it.")] = 0.8,
    alpha: Annotated[
        float, typer.Option(min=1e-9, max=0.5, help="Probability to find one where there is none.")
    ] = 0.05,
    rate: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Success rate of one of them. [of the run, else 0.5]")
    ] = None,
    discordant: Annotated[
        float | None,
        typer.Option(
            min=0.0, max=1.0, help="Share of episodes in which just one succeeds. [of two runs, else by chance]"
        ),
    ] = None,
    settings: Annotated[
        int, typer.Option(min=2, help="How many are compared: each with the best, and alpha holds for all.")
    ] = 2,
    per_second: Annotated[
        float | None, typer.Option(min=1e-9, help="Episodes per second. [of the run's last evaluation]")
    ] = None,
    split: Annotated[str, typer.Option(help="Recorded episodes to read: report or tune.")] = "report",
) -> None:
    """Say how many episodes find a difference, and how many minutes they take. Runs nothing."""
    from bet import planning
    from bet.errors import UsageError

    if len(runs or []) > 2:
        raise UsageError(f"a plan takes one or two runs, got {len(runs or [])}")
    found = None
    if runs:
        from bet_ray.planning import known

        found = known(runs, split_named(split))
    base = rate if rate is not None else found.rate if found else 0.5
    other = planning.other_rate(base, detect)
    by_chance = planning.independent_discordance(base, other)
    seen = discordant if discordant is not None else found.discordant if found else None
    share = by_chance if seen is None else max(seen, detect)
    each_alpha = alpha / (settings - 1)
    rows = {
        "success, the same initial states": planning.paired_rate_episodes(detect, share, each_alpha, power),
        "success, other initial states": planning.independent_rate_episodes(detect, base, each_alpha, power),
    }
    if found and found.metric:
        row = f"{found.metric}, the same initial states"
        rows[row] = planning.paired_mean_episodes(detect, found.deviation, each_alpha, power)
    speed = per_second or (found.per_second if found else None)

    console.print(
        f"to find a difference of {detect:g} with probability {power:g}, and one that is not there with {alpha:g}"
    )
    table = board()
    table.add_column("")
    for column in ("episodes each", f"of all {settings}", *(["minutes"] if speed else [])):
        table.add_column(column, justify="right")
    for name, episodes in rows.items():
        total = settings * episodes
        table.add_row(name, f"{episodes:,}", f"{total:,}", *([_minutes(total / speed / 60)] if speed else []))
    console.print(table)
    origin = (
        f"of {counted(found.episodes, 'recorded episode')}"
        if found and rate is None
        else "given"
        if rate is not None
        else "assumed"
    )
    console.print(f"success rate {base:.3g} ({origin}) against {other:.3g}")
    console.print(f"just one succeeds in {share:.1%} of the episodes ({_why(found, discordant, share, seen)})")
    if found and found.metric:
        kind = "of the recorded pairs" if len(runs or []) == 2 else "as if the other's had nothing to do with it"
        console.print(f"{found.metric}: differences deviate by {found.deviation:.3g} ({kind})")
    if settings > 2:
        console.print(
            f"alpha is shared by {settings - 1} comparisons with the best (Bonferroni, the first step of Holm)"
        )
    if speed:
        known = "given" if per_second else "of the last evaluation"
        console.print(f"{speed:,.1f} episodes per second ({known}), Ray's start not counted")
    else:
        console.print("minutes: no rate is known; `bet-ray eval RUN` measures one, or give --per-second")


def _minutes(minutes: float) -> str:
    return f"{minutes:,.1f}" if minutes >= 0.1 else "< 0.1"


def _why(found: "Known | None", given: float | None, share: float, seen: float | None) -> str:
    if seen is None:
        return "as if what one does had nothing to do with what the other does; two runs would tell"
    if share > seen:
        return f"the least with such a difference; {'given' if given is not None else 'recorded'} were {seen:.1%}"
    return "given" if given is not None or found is None else "recorded"
