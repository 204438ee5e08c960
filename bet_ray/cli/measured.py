"""How measurements are printed."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bet.wording import counted
from bet_ray.cli.console import board, console
from bet_ray.storage import named
from bet_ray.values import spelled

if TYPE_CHECKING:
    import pyarrow as pa

    from bet.measure import Measurement
    from bet.policy import Policy
    from bet.tasks import SimulatedTask
    from bet_ray.autotune import Tuned
    from bet_ray.evaluation import Evaluated, Evaluation

ERRORS_TOLD = 5


def print_measured(task: "SimulatedTask", found: "Measurement", policy: "Policy | None" = None) -> None:
    """The primary metric and the success rate with their intervals, and the modes where the task names them.

    Entropies are held against the demonstrations that `policy` was trained on, where they are there.
    """
    from bet.metrics import SUCCESS, route_name

    if task.protocol.primary != SUCCESS:
        console.print(f"  [bold]{task.protocol.primary}[/]  {found.primary:.3f}  ({found.primary.method}, 95%)")
    won = round(found.success.estimate * found.episodes)
    console.print(f"  [bold]success[/]  {found.success:.3f}  ({won} of {found.episodes}, {found.success.method}, 95%)")
    for name, rate in found.rates.items():
        console.print(f"  [bold]{name}[/]  {rate:.3f}  ({rate.method}, 95%)")
    for event, times in found.times.items():
        early, middle, late = (f"{time:.0f}" for time in times)
        console.print(f"  {event}: after {middle} steps ({early} to {late} in four of five)")
    if found.begun:
        console.print(f"  first: {', '.join(f'{route_name(what)} {share:.2f}' for what, share in found.begun.items())}")
    for mode, share in found.mode_shares.items():
        console.print(f"  {route_name(mode)}: {share:.2f} of the successes (demonstrated {task.modes[mode]:.2f})")
    if found.mode_entropy is not None:
        console.print(f"  entropy of these: {found.mode_entropy:.2f} nats (demonstrated {task.mode_entropy:.2f})")
    shown = _demonstrated_entropies(task, policy) if policy and found.entropies else {}
    for what, bits in found.entropies.items():
        console.print(f"  {what}: {bits:.2f} bits{f' (demonstrated {shown[what]:.2f})' if shown else ''}")


def _demonstrated_entropies(task: "SimulatedTask", policy: "Policy") -> "Mapping[str, float]":
    """Of the demonstrations that a policy was trained on; empty where its settings lead to none here, or to others."""
    from bet.config import ConfigError
    from bet.data.episodes import DataError
    from bet.reenact import demonstrated_entropies

    data = policy.config.data
    try:
        episodes = task.load(data)
    except (DataError, ConfigError):
        return {}
    if episodes.digest != policy.dataset_digest:
        return {}
    return demonstrated_entropies(episodes, task, data.observation)


def print_policy(one: "Evaluation", table: "pa.Table") -> None:
    """What the episodes of one policy say."""
    import pyarrow.compute as pc

    from bet.metrics import SUCCESS
    from bet.rollout import End
    from bet_ray.evaluation import measurement
    from bet_ray.results import END

    task, config = one.task, one.policy.config
    console.print(
        f"{task.name} · {counted(config.codebook.bins, 'bin')}, window {config.model.window}, "
        f"gamma {config.loss.gamma:g} · policy {one.policy.digest[:12]} · "
        f"{one.job.split.value} episodes 0..{table.num_rows - 1}"
        f"{''.join(f' · {text}' for text in (*_named(one), *one.recipe.protocol.variations))}"
    )
    print_measured(task, measurement(task, table), one.policy)
    if task.protocol.primary == SUCCESS:
        returns = table.filter(pc.field(END) != End.ERROR.value).column("return").to_numpy()
        if len(returns):
            console.print(f"  return   {returns.mean():.4g} on average, {returns.min():.4g} to {returns.max():.4g}")
    _print_errors(one, table)


def print_policies(evaluations: "Sequence[Evaluation]", tables: "Sequence[pa.Table]") -> None:
    """A row for each policy, best first, with intervals that hold for all of them at once."""
    from bet.metrics import SUCCESS
    from bet.stats import simultaneous_confidence
    from bet_ray.evaluation import measurement

    confidence = simultaneous_confidence(len(evaluations))
    rows = [(one, held, measurement(one.task, held, confidence)) for one, held in zip(evaluations, tables, strict=True)]
    rows.sort(key=lambda row: (row[0].task.name, -row[2].primary.estimate))
    settings = _different_settings(evaluations)
    primaries = dict.fromkeys(one.task.protocol.primary for one in evaluations)
    rates = [name for one in evaluations for name in one.task.published_rates or [SUCCESS]]
    names = dict.fromkeys([*(["primary"] if len(primaries) > 1 else primaries), *rates])
    spread = "intervals of a column hold for all at once, 95%"
    split = evaluations[0].job.split.value
    table = board(
        f"{counted(len(evaluations), 'policy', 'policies')} · {counted(tables[0].num_rows, f'{split} episode')} "
        f"each · {spread}"
    )
    table.add_column("#", justify="right")
    table.add_column("policy", overflow="fold")
    for name in (*(key.rsplit(".", 1)[-1] for key in settings), *names):
        table.add_column(name, justify="right")
    for place, (one, _, found) in enumerate(rows, start=1):
        flat = _flat_settings(one)
        found_of = {"primary": found.primary, one.task.protocol.primary: found.primary, SUCCESS: found.success}
        numbers = [found_of.get(name) or found.rates.get(name) for name in names]
        cells = (format(number, ".2f") if number is not None else "" for number in numbers)
        table.add_row(str(place), named(str(one.path)), *(spelled(flat.get(key)) for key in settings), *cells)
    console.print(table)
    for one, episodes, _ in rows:
        _print_errors(one, episodes)


def print_tuned(found: "Tuned") -> None:
    """What was measured, and the choice."""
    one = found.best
    parts = ("simulation", one.simulation), ("inference", one.inference), ("the rest", one.rest)
    console.print(
        f"a step of {one.slots} slots: {', '.join(f'{1e3 * seconds:.2f} ms {name}' for name, seconds in parts)}; "
        f"a reset {1e3 * one.reset:.2f} ms; episodes of {one.length:.0f} steps"
    )
    table = board()
    for name in ("slots", "steps/s of an actor", f"{counted(found.episodes, 'episode')} take"):
        table.add_column(name, justify="right")
    for cost in found.costs:
        row = (f"{cost.slots}", f"{cost.rate:,.0f}", f"{cost.expected(found.episodes):,.1f} s")
        table.add_row(*row, style="bold" if cost is one else None)
    console.print(table)
    console.print(f"chosen: --actors {found.actors} --slots {one.slots}")


def print_usage(found: "Evaluated", total: int, kept: str) -> None:
    """How many episodes were run, how fast, and how busy the workers were."""
    recorded = max(total - found.ran, 0)
    if not found.ran:
        console.print(f"0 episodes run, {recorded:,} recorded already · {kept}", soft_wrap=True)
        return
    usage = found.usage
    console.print(
        f"{counted(found.ran, 'episode')} run in {found.seconds:.1f} s, {found.ran / found.seconds:,.1f}/s, after "
        f"{found.started:.1f} s of starting Ray, {recorded:,} recorded already · {kept}",
        soft_wrap=True,
    )
    before = f"{usage.utilisation_before_tail:.1%} before the tail, " if usage.slots_before_tail else ""
    seconds = max(usage.seconds, 1e-9)
    console.print(
        f"slots busy {before}{usage.utilisation:.1%} in all; {usage.simulating / seconds:.0%} simulation, "
        f"{usage.acting / seconds:.0%} inference, {usage.overhead:.0%} the rest"
    )


def _named(one: "Evaluation") -> tuple[str, ...]:
    """The protocol, where it is not the task's usual one."""
    name = one.recipe.protocol.name
    return () if name == one.task.protocol.name else (f"protocol {name}",)


def _print_errors(one: "Evaluation", table: "pa.Table") -> None:
    """Errors apart from failures: a person decides what they mean."""
    import pyarrow.compute as pc

    from bet.rollout import End
    from bet_ray.results import END

    failed = table.filter(pc.field(END) == End.ERROR.value).column("index").to_pylist()
    if not failed:
        return
    won, ended = sum(table.column("success").to_pylist()), table.num_rows - len(failed)
    reasons = one.ledger.errors(one.job.source) if one.ledger else {}
    console.print(
        f"  [red]{counted(len(failed), 'episode')} ended in an error[/], counted as no success; without them "
        f"{won} of {ended} succeed. --retry-errors runs them again"
    )
    for index in failed[:ERRORS_TOLD]:
        console.print(f"    episode {index}: {reasons.get(index, '')}", markup=False)
    if len(failed) > ERRORS_TOLD:
        console.print(f"    and {len(failed) - ERRORS_TOLD:,} more")


def _flat_settings(one: "Evaluation") -> dict[str, Any]:
    from bet.config import flatten

    return flatten(one.policy.config.model_dump(mode="json"))


def _different_settings(evaluations: "Sequence[Evaluation]") -> list[str]:
    """Settings that tell the policies apart."""
    flat = [_flat_settings(one) for one in evaluations]
    keys = [key for key in flat[0] if key.partition(".")[0] not in ("eval", "pool")]
    return [key for key in keys if len({str(settings.get(key)) for settings in flat}) > 1]
