"""A pool over real raylets on this machine: what the driver and the object store do as nodes are added.

`python -m benchmarks.raylets [--nodes 1 4 8] [--workers 1000] [--policies 40]`

A head without work, as in a cluster, and nodes beside it, each a raylet with an object store of its own; what one has
and another needs goes through sockets, here those of loopback. Workers are logical, in a few real actors on all nodes
(see `benchmarks.crowd`). Policies are random bytes: nothing acts.
"""

import argparse
import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import psutil
import ray
from ray._private.authentication.authentication_token_setup import (
    enable_token_auth_by_default,
    ensure_token_if_auth_enabled,
)
from ray._private.internal_api import node_stats
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.console import Console
from rich.table import Table

from benchmarks.contest import machine
from benchmarks.crowd import JOB, CrowdedPool, crowds
from bet_ray.pool import SLICE_PER_WORKER
from bet_ray.session import _start_no_idlers, _stay_on_loopback
from bet_ray.worker import Job

MB = 2**20
STORE = 128 * MB  # of each node: small, so that its limit is met
SIZES = (1 * MB, 4 * MB)  # of policies
REPEATS = 5
EACH = 8  # episodes a report
LOAD = 32_000  # episodes through the pool
POLICIES = 40
EPISODES = 1024  # of each of many policies
ACTORS = 8  # real ones, whatever the number of nodes
FASTER = (2, 4, math.inf)  # than workers report usually
NODES = (1, 4, 8)
LOOK_SECONDS = 0.3  # between looks at the stores
PATIENCE = 20.0  # seconds for stores to be empty again


@dataclass(frozen=True)
class Spent:
    """Seconds, since whenever: of CPU but for the first."""

    wall: float
    driver: float
    """All its threads."""
    poll: float
    """The thread that polls: it holds the lock of Python most of the time, and there is one."""
    head: float
    """The head's raylet and its global control service."""
    raylets: float
    """All of them."""

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(**{name: value + getattr(other, name) for name, value in asdict(self).items()})

    def __sub__(self, other: "Spent") -> "Spent":
        return Spent(**{name: value - getattr(other, name) for name, value in asdict(self).items()})


@dataclass(frozen=True)
class Stored:
    """What object stores hold and did, in MB."""

    head: float
    nodes: float
    """The fullest of the others."""
    spilled: float

    def since(self, start: "Stored") -> "Stored":
        """The same, of what was spilled only what was not before."""
        return replace(self, spilled=self.spilled - start.spilled)


class Raylets:
    """A cluster to which nodes are added."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._nodes: list[Any] = []
        assert cluster.head_node is not None
        self._here = cluster.head_node.node_id
        head = cluster.head_node.all_processes
        self._head = [psutil.Process(head[kind][0].process.pid) for kind in ("gcs_server", "raylet")]
        self._raylets = [self._head[1]]

    def grow(self, nodes: int) -> None:
        """Have so many beside the head."""
        while len(self._nodes) < nodes:
            node = self._cluster.add_node(num_cpus=1, object_store_memory=STORE)
            self._nodes.append(node)
            self._raylets.append(psutil.Process(node.all_processes["raylet"][0].process.pid))

    @property
    def nodes(self) -> int:
        return len(self._nodes)

    def places(self, actors: int) -> list[dict[str, Any]]:
        """Options for actors on all nodes but the head in turn."""
        ids = [node.node_id for node in self._nodes]
        there = (NodeAffinitySchedulingStrategy(ids[number % len(ids)], soft=False) for number in range(actors))
        return [{"scheduling_strategy": place} for place in there]

    def spent(self) -> Spent:
        head = sum(map(_cpu, self._head))
        raylets = sum(map(_cpu, self._raylets))
        return Spent(time.perf_counter(), time.process_time(), time.thread_time(), head, raylets)

    def stored(self) -> Stored:
        found = {
            node["NodeID"]: node_stats(node["NodeManagerAddress"], node["NodeManagerPort"], False).store_stats
            for node in ray.nodes()
            if node["Alive"]
        }
        return Stored(
            found[self._here].object_store_bytes_used / MB,
            max(stats.object_store_bytes_used for key, stats in found.items() if key != self._here) / MB,
            sum(stats.spilled_bytes_total for stats in found.values()) / MB,
        )

    def emptied(self) -> float:
        """Wait until the stores hold less than a policy; the seconds that took, infinite where they never do."""
        began = time.monotonic()
        while time.monotonic() - began < PATIENCE:
            now = self.stored()
            if max(now.head, now.nodes) < min(SIZES) / MB:
                return time.monotonic() - began
            time.sleep(LOOK_SECONDS)
        return math.inf


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


@contextmanager
def raylets() -> Iterator[Raylets]:
    """A cluster on loopback, with token auth, that ends with the block."""
    logging.getLogger("ray").setLevel(logging.ERROR)
    _stay_on_loopback()
    _start_no_idlers()
    enable_token_auth_by_default()
    ensure_token_if_auth_enabled()
    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        yield Raylets(cluster)
    finally:
        ray.shutdown()
        cluster.shutdown()


@dataclass(frozen=True)
class Load:
    """What workers on some nodes had the driver do."""

    nodes: int
    actors: int
    workers: int
    offered: float
    """Reports a second that workers would make of a driver that costs nothing."""
    episodes: int
    spent: Spent


def load(there: Raylets, actors: Sequence[Any], workers: int, episodes: int, seconds: float) -> Load:
    """Episodes through the pool; each worker reports every so many seconds."""
    with CrowdedPool(actors, workers, seconds) as pool:
        before = there.spent()
        pool.submit(JOB, range(episodes))
        while not pool.idle:
            pool.poll()
        spent = there.spent() - before
    return Load(there.nodes, len(actors), workers, workers / seconds if seconds else math.inf, episodes, spent)


def policy(size: int, number: int) -> Job:
    """A job whose policy has so many bytes."""
    weights = np.random.default_rng(number).bytes(size)
    return replace(JOB, source=replace(JOB.source, policy_digest=f"{number:064d}"), packed=(b"", weights))


@dataclass(frozen=True)
class Moved:
    """Policies that went from the head to the nodes."""

    how: str
    nodes: int
    policies: int
    size: int
    """Bytes of each."""
    copies: int
    """That nodes fetched."""
    episodes: int
    """That were booked meanwhile."""
    spent: Spent
    fullest: Stored
    """While they were there."""
    emptied: float
    """Seconds after the last was of use until no store held any."""

    @property
    def moved(self) -> float:
        """MB."""
        return self.copies * self.size / MB


def to_every_node(there: Raylets, actors: Sequence[Any], policies: int, size: int) -> Moved:
    """Put policies into the driver's store, and have all nodes fetch them at the same time."""
    readers = actors[: there.nodes]  # one on each
    jobs = [policy(size, number) for number in range(policies)]
    start = there.stored()
    before = there.spent()
    refs = [[ray.put(job)] for job in jobs]
    got = ray.get([actor.fetch.remote(refs) for actor in readers])
    spent = there.spent() - before
    assert set(got) == {policies * size}
    fullest = there.stored().since(start)
    del refs
    copies = policies * there.nodes
    return Moved("at once", there.nodes, policies, size, copies, 0, spent, fullest, there.emptied())


def through_the_pool(there: Raylets, actors: Sequence[Any], policies: int, size: int, workers: int) -> Moved:
    """Policies with some episodes each, all submitted at once, as a comparison does."""
    ray.get([actor.fetched.remote() for actor in actors])
    jobs = [policy(size, number) for number in range(policies)]
    with CrowdedPool(actors, workers) as pool:
        start, looked = there.stored(), time.monotonic()
        looks = [start]
        before = there.spent()
        for job in jobs:
            pool.submit(job, range(EPISODES))
        while not pool.idle:
            pool.poll()
            if time.monotonic() - looked > LOOK_SECONDS:
                pause = there.spent()
                looks.append(there.stored())
                before += there.spent() - pause  # not the pool's
                looked = time.monotonic()
        spent = there.spent() - before
        fullest = replace(
            there.stored().since(start), head=max(one.head for one in looks), nodes=max(one.nodes for one in looks)
        )
        emptied = there.emptied()
    fetched = ray.get([actor.fetched.remote() for actor in actors])
    copies = sum(len(set().union(*fetched[node :: there.nodes])) for node in range(there.nodes))
    episodes = policies * EPISODES
    return Moved("by the pool", there.nodes, policies, size, copies, episodes, spent, fullest, emptied)


def study(
    nodes: Sequence[int], workers: int, episodes: int = LOAD, policies: int = POLICIES, *, console: Console
) -> tuple[list[Load], list[Moved]]:
    """What the driver and the stores do as nodes are added; everything else on the most of them."""
    loads: list[Load] = []
    moves: list[Moved] = []
    actors: list[Any] = []
    usual = workers * SLICE_PER_WORKER
    with raylets() as there, console.status("raylets") as status:
        for number in nodes:
            status.update(f"{number} nodes")
            there.grow(number)
            for actor in actors:
                ray.kill(actor)
            actors = crowds(EACH, workers, there.places(ACTORS))
            ray.get([actor.fetched.remote() for actor in actors])
            loads.append(load(there, actors, workers, episodes, usual))
            for size in SIZES:
                tries = [to_every_node(there, actors, 1, size) for _ in range(REPEATS)]
                moves.append(sorted(tries, key=lambda one: one.spent.wall)[REPEATS // 2])
        status.update("many policies")
        moves.append(to_every_node(there, actors, policies, SIZES[-1]))
        moves.append(through_the_pool(there, actors, policies, SIZES[-1], workers))
        status.update("ever more reports")
        loads += [load(there, actors, workers, episodes, usual / faster) for faster in FASTER]
        actors += crowds(EACH, workers, there.places(ACTORS))
        ray.get([actor.fetched.remote() for actor in actors])
        loads.append(load(there, actors, workers, episodes, usual))
    return loads, moves


def show(loads: Sequence[Load], moves: Sequence[Moved], console: Console) -> None:
    console.print(f"the driver, over raylets; {machine()}")
    table = Table("nodes", "real actors", "workers", "reports/s offered", "done", "µs/episode", "polling thread",
                  "head's Ray", "driver's CPU", "episodes/s at most")  # fmt: skip
    for one in loads:
        micro, spent = 1e6 / one.episodes, one.spent
        table.add_row(
            str(one.nodes),
            str(one.actors),
            f"{one.workers:,}",
            "all" if math.isinf(one.offered) else f"{one.offered:,.0f}",
            f"{one.episodes / EACH / spent.wall:,.0f}",
            f"{micro * spent.driver:.0f}",
            f"{micro * spent.poll:.0f}",
            f"{micro * spent.head:.0f}",
            f"{spent.driver / spent.wall:.0%}",
            f"{one.episodes / spent.poll:,.0f}",
        )
    _right(table, console)
    console.print(f"object stores of {STORE // MB} MB, over raylets; {machine()}")
    table = Table("", "nodes", "policies", "copies", "s", "MB/s", "CPU ms/MB", "of the head", "µs/episode",
                  "fullest, MB", "spilled", "gone after, s")  # fmt: skip
    for one in moves:
        spent = one.spent
        table.add_row(
            one.how,
            str(one.nodes),
            f"{one.policies} x {one.size // MB} MB",
            str(one.copies),
            f"{spent.wall:.2f}",
            f"{one.moved / spent.wall:,.0f}",
            f"{1e3 * spent.raylets / one.moved:.1f}",
            f"{1e3 * spent.head / one.moved:.1f}",
            f"{1e6 * spent.driver / one.episodes:.0f}" if one.episodes else "",
            f"{one.fullest.head:.0f} head, {one.fullest.nodes:.0f}",
            f"{one.fullest.spilled:.0f}",
            f"{one.emptied:.1f}",
        )
    _right(table, console)


def _right(table: Table, console: Console) -> None:
    for column in table.columns[1:]:
        column.justify = "right"
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description="What the driver and the object store do as nodes are added.")
    parser.add_argument("--nodes", type=int, nargs="+", default=NODES)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--episodes", type=int, default=LOAD)
    parser.add_argument("--policies", type=int, default=POLICIES)
    options = parser.parse_args()
    console = Console(width=140, highlight=False)
    show(*study(options.nodes, options.workers, options.episodes, options.policies, console=console), console)


if __name__ == "__main__":
    main()
