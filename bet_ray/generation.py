"""Scripted demonstrations, shared out over Ray: however many workers make them, they are the same ones."""

from collections import deque
from collections.abc import Callable

import ray
from ray.exceptions import RayError

from bet.data.episodes import Episodes
from bet.errors import FailedRunError
from bet.oracles.simulated import MAKERS
from bet_ray.session import last_line, session


def simulated_demonstrations(
    task: str,
    episodes: int,
    seed: int,
    workers: int | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[Episodes, int]:
    """So many demonstrations of one of `MAKERS`, and how many of them succeed.

    Each depends on its number and `seed` alone. `workers`: how many make them at once, by default one per CPU.
    `progress` is called with how many are done. The part of a worker that dies is made again, as often as Ray does that
    by default; then raises `FailedRunError`.
    """
    size = MAKERS[task].part
    waiting = deque(range(first, min(first + size, episodes)) for first in range(0, episodes, size))
    made: dict[range, tuple[Episodes, int]] = {}
    running: dict[ray.ObjectRef, range] = {}
    with session(workers) as cpus:
        while waiting or running:
            while waiting and len(running) < (workers or cpus):
                part = waiting.popleft()
                running[_make.remote(task, part, seed)] = part
            (ended, *_), _ = ray.wait(list(running))
            part = running.pop(ended)
            try:
                made[part] = ray.get(ended)
            except RayError as error:
                raise FailedRunError(
                    f"demonstrations {part.start} to {part.stop - 1} could not be made: {last_line(error)}"
                ) from error
            progress(sum(map(len, made)))
    found = [made[part] for part in sorted(made, key=lambda part: part.start)]
    return Episodes.joined([some for some, _ in found]), sum(succeeded for _, succeeded in found)


@ray.remote(num_cpus=1)
def _make(task: str, part: range, seed: int) -> tuple[Episodes, int]:
    return MAKERS[task].demonstrations(part, seed)
