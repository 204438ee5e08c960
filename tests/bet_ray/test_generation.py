"""Demonstrations that Ray's workers make together are the ones that one alone makes, kill -9 or not."""

from contextlib import suppress

import psutil
import pytest

from bet.data.episodes import Episodes
from bet.oracles.blockpush import demonstrations
from bet.oracles.simulated import MAKERS
from bet_ray.generation import simulated_demonstrations

PART = MAKERS["blockpush"].part
EPISODES = 2 * PART + 5

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_session")]


@pytest.fixture(scope="module")
def alone() -> tuple[str, int]:
    """The digest of what this process makes, and how many succeed."""
    episodes, succeeded = demonstrations(range(EPISODES), seed=4)
    return episodes.digest, succeeded


@pytest.mark.parametrize("workers", [1, 5])
def test_any_number_of_workers_makes_the_same_demonstrations(workers: int, alone: tuple[str, int]) -> None:
    told: list[int] = []
    episodes, succeeded = simulated_demonstrations("blockpush", EPISODES, 4, workers, told.append)
    assert (episodes.digest, succeeded) == alone
    assert told[-1] == EPISODES
    assert told == sorted(told)


def test_a_part_is_made_again_when_its_worker_is_killed() -> None:
    killed: list[int] = []

    def kill(done: int) -> None:
        """Once the workers have work in hand, and some of it is done."""
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if not killed and process.name().startswith("ray::_make"):
                    process.kill()
                    killed.append(process.pid)

    many = 5 * PART
    episodes, _ = simulated_demonstrations("blockpush", many, 4, 2, kill)
    assert killed
    assert episodes.digest == demonstrations(range(many), seed=4)[0].digest


def test_the_kitchen_is_shared_out_in_the_same_way() -> None:
    """Two parts, of different lengths."""
    many = MAKERS["kitchen"].part + 1
    told: list[int] = []
    episodes, succeeded = simulated_demonstrations("kitchen", many, 4, 2, told.append)
    first, last = (MAKERS["kitchen"].demonstrations(numbers, 4) for numbers in (range(many - 1), range(many - 1, many)))
    assert episodes.digest == Episodes.joined([first[0], last[0]]).digest
    assert (succeeded, told[-1]) == (first[1] + last[1], many)
