"""`bet-ray metrics`."""

from pathlib import Path
from typing import Annotated

import typer

from bet.wording import counted
from bet_ray.cli.console import console
from bet_ray.cli.demonstrations import load
from bet_ray.cli.measured import print_measured

EXAMPLES = "Examples: `bet-ray metrics runs/a` · `bet-ray metrics pusht` · `bet-ray metrics rollouts/`"


def metrics(
    path: Annotated[
        str, typer.Argument(help="Run directory with trajectories; or a task's name, demonstrations or saved rollouts.")
    ],
    observation: Annotated[str | None, typer.Option(help="Layout of demonstrations. Default: what they hold.")] = None,
) -> None:
    """Compute the numbers of episodes anew from their saved steps.

    Of a run: every column of its episode table is compared with the recorded one; exit code 1 where a bit differs.

    Of demonstrations, and of rollouts that the reproduction study saved: the simulator takes every recorded action once
    more, each from the state recorded before it (of the kitchen only the last ones, as its recordings tell the rest).
    """
    if (Path(path) / "episodes").is_dir():
        _of_run(Path(path))
    else:
        _of_recordings(path, observation)


def _of_run(run: Path) -> None:
    from bet.errors import FailedRunError
    from bet.policy import Policy, PolicyError
    from bet_ray.evaluation import measurement
    from bet_ray.saved import rescore

    task, groups = rescore(run)
    try:
        policy = Policy.load(run)
    except PolicyError:  # episodes of policies that are elsewhere
        policy = None
    wrong = False
    for group in groups:
        episodes = counted(group.computed.num_rows, f"{group.split} episode")
        console.print(f"{task.name} · policy {group.policy_digest[:12]} · {episodes}")
        print_measured(task, measurement(task, group.computed), policy)
        for name, different in group.different.items():
            wrong = True
            console.print(f"  [red]{name}: differs from the recorded one in {counted(different, 'episode')}[/]")
    if wrong:
        raise FailedRunError(f"{run}: its episode table is not what its saved steps say")
    console.print("every column is the recorded one, to the last bit")


def _of_recordings(path: str, observation: str | None) -> None:
    from bet import tasks
    from bet.measure import measure_trajectories
    from bet.reenact import reenact

    episodes = load(path, observation)
    task = tasks.simulated(episodes.task)
    layout = observation or task.layout_of(episodes)
    found = reenact(episodes, task, layout)
    size = f"{counted(len(episodes), 'recorded episode')}, {counted(len(episodes.observations), 'step')}"
    console.print(f"{task.name} · {size}")
    print_measured(task, measure_trajectories(task, found))
    taken = "the last action of each once more; steps before it are in the recording"
    every = "every recorded action once more from the state before it"
    console.print(f"as our simulator says, which took {taken if task.judge else every}")
