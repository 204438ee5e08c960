"""The demo: a sweep small enough for a coffee, on a task whose answer one can check by eye."""

from pathlib import Path

from bet import tasks
from bet.metrics import route_name
from bet_ray.sweep import Sweep, parse_sweep
from bet_ray.tuning import SweepResult

DEMONSTRATIONS = 2000


def demo_sweep(data: Path) -> Sweep:
    """Bins x window x gamma on point mass 2: sweeps/pointmass_demo.yaml on the given demonstrations."""
    return parse_sweep(
        {
            "question": "How many bins, how long a window and which gamma keep all three routes of point mass 2?",
            "task": "pointmass2",
            "base": {
                "data.path": str(data),
                "model": {"layers": 2, "heads": 4, "width": 40},
                "train": {"epochs": 8, "lr": 3e-3, "schedule": "cosine"},
            },
            "space": {"bins": [1, 3, 12], "window": [1, 3], "gamma": [0, 2]},
            "search": "grid",
            "eval": {"episodes": 200, "winner_episodes": 500},
        },
        "demo",
    )


def facts(sweep: Sweep, result: SweepResult) -> list[str]:
    """The three most interesting things the demo found, in its own numbers."""
    task = tasks.simulated(sweep.task)
    found, name = result.report, task.protocol.primary
    shares = ", ".join(
        f"{route_name(mode)} {share:.2f} (demonstrated {task.modes[mode]:.2f})"
        for mode, share in found.mode_shares.items()
        if task.modes[mode] > 0
    )
    measured = f"The winner takes the routes in shares {shares}: mode coverage {found.mode_coverage:.2f}."
    single = [trial for trial in result.trials if trial.setting["codebook.bins"] == 1 and trial.rungs]
    best_single = single[0].best(sweep.objective) if single else None
    averaging = (
        f"With one bin the best setting succeeds in {best_single.success.value:.0%} of the episodes, yet its {name} is "
        f"{best_single.primary.value:.2f}: a policy without bins averages what was demonstrated."
        if best_single and best_single.primary and best_single.success
        else "No setting with one bin finished."
    )
    curse = (
        f"The winner was chosen at {result.chosen.value:.2f} and measures {found.primary:.2f} on {found.episodes} "
        f"fresh episodes: only the second number is free of the luck of having won."
    )
    return [measured, averaging, curse]
