"""How a measurement is printed."""

from typing import TYPE_CHECKING

from bet_ray.cli.console import console

if TYPE_CHECKING:
    from bet.measure import Measurement
    from bet.tasks import SimulatedTask


def print_measured(task: "SimulatedTask", found: "Measurement") -> None:
    """The primary metric and the success rate with their intervals, and the modes where the task names them."""
    from bet.metrics import SUCCESS, route_name

    if task.protocol.primary != SUCCESS:
        console.print(f"  [bold]{task.protocol.primary}[/]  {found.primary:.3f}  ({found.primary.method}, 95%)")
    won = round(found.success.estimate * found.episodes)
    console.print(f"  [bold]success[/]  {found.success:.3f}  ({won} of {found.episodes}, {found.success.method}, 95%)")
    for mode, share in found.mode_shares.items():
        console.print(f"  {route_name(mode)}: {share:.2f} of the successes (demonstrated {task.modes[mode]:.2f})")
