"""One worker against several that share every batch. `python -m benchmarks.workers [--task pusht] [--workers 2]`

The training is the task's preset but for what the command line says. Relative differences of the losses of each epoch,
and how long each took: on CPU, Ray Train's start (some 15 s) is most of it.
"""

import argparse
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bet import tasks
from bet.config import make_config, parse_overrides
from bet.training import Epoch
from bet_ray.distributed import train_on_workers
from bet_ray.training import WorkerCount, begin, train

LOSSES = ("train_loss", "train_focal", "train_offset", "val_loss", "val_focal", "val_offset")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--task", default="pusht")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("settings", nargs="*", help="key=value over the task's preset")
    given = parser.parse_args()
    config = make_config(given.task, {"train.epochs": given.epochs}, parse_overrides(given.settings))
    episodes = tasks.get(given.task).load(config.data)
    epochs: dict[int, list[Epoch]] = {}
    seconds: dict[int, float] = {}
    console = Console(width=110, highlight=False)
    for count in (1, given.workers):
        history = epochs.setdefault(count, [])

        def keep(done: float, epoch: Epoch | None, history: list[Epoch] = history) -> None:
            if epoch is not None:
                history.append(epoch)

        with tempfile.TemporaryDirectory() as folder, console.status(f"{count} worker(s)"):
            run = Path(folder) / "run"
            begin(run, config, episodes, resume=False)
            began = time.perf_counter()
            if count == 1:
                train(run, config, episodes, keep)
            else:
                train_on_workers(run, config, episodes, WorkerCount(count, count), progress=keep)
            seconds[count] = time.perf_counter() - began
    table = Table("epoch", *LOSSES, title=f"relative difference, 1 and {given.workers} workers")
    for one, several in zip(*epochs.values(), strict=True):
        pairs = [(getattr(one, name), getattr(several, name)) for name in LOSSES]
        table.add_row(str(one.epoch), *(f"{abs(a - b) / a:.1e}" for a, b in pairs))
    console.print(table)
    console.print("seconds: " + ", ".join(f"{spent:.0f} with {count}" for count, spent in seconds.items()))


if __name__ == "__main__":
    main()
