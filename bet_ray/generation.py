"""Scripted demonstrations, shared out over Ray: however many workers make them, they are the same ones."""

from collections import deque
from collections.abc import Callable
from itertools import chain

import numpy as np
import ray

from bet.data.episodes import Episodes
from bet.oracles.blockpush import SLOTS, demonstrations
from bet_ray.session import session

PART = SLOTS  # demonstrations that a worker makes at a time: all slots busy, and progress often enough


def blockpush_demonstrations(
    episodes: int, seed: int, workers: int | None = None, progress: Callable[[int], None] = lambda done: None
) -> tuple[Episodes, int]:
    """So many demonstrations of BlockPush, and how many of them succeed.

    Each depends on its number and `seed` alone. `workers`: how many make them at once, by default one per CPU.
    `progress` is called with how many are done. A worker that dies is replaced by Ray, and its part made again.
    """
    waiting = deque(range(first, min(first + PART, episodes)) for first in range(0, episodes, PART))
    made: dict[range, tuple[Episodes, int]] = {}
    running: dict[ray.ObjectRef, range] = {}
    with session(workers) as cpus:
        while waiting or running:
            while waiting and len(running) < (workers or cpus):
                part = waiting.popleft()
                running[_make.remote(part, seed)] = part
            (ended, *_), _ = ray.wait(list(running))
            made[running.pop(ended)] = ray.get(ended)
            progress(sum(map(len, made)))
    found = [made[part] for part in sorted(made, key=lambda part: part.start)]
    together = [one for one, _ in found]
    return Episodes(
        observations=np.concatenate([one.observations for one in together]),
        actions=np.concatenate([one.actions for one in together]),
        episode_ends=np.cumsum(list(chain.from_iterable(one.lengths for one in together))),
        task=together[0].task,
        source=together[0].source,
    ), sum(succeeded for _, succeeded in found)


@ray.remote(num_cpus=1)
def _make(part: range, seed: int) -> tuple[Episodes, int]:
    return demonstrations(part, seed)
