"""`python -m tests.bet_ray.elastic RUN OUT EPISODES` evaluates a policy while nodes join and die.

A head and a node for trainings, where no rollout belongs. One node joins and dies, then another joins.
"""

import sys
from pathlib import Path
from typing import Any

import ray
from ray._private.authentication.authentication_token_setup import (
    enable_token_auth_by_default,
    ensure_token_if_auth_enabled,
)
from ray.cluster_utils import Cluster

from bet import tasks
from bet_ray import evaluate
from bet_ray.ledger import Ledger
from bet_ray.pool import NO_ROLLOUTS, rollout_cpus
from bet_ray.session import _start_no_idlers, _stay_on_loopback


def main(run: str, out: str, episodes: str) -> None:
    _stay_on_loopback()
    _start_no_idlers()
    enable_token_auth_by_default()
    ensure_token_if_auth_enabled()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=2, labels=NO_ROLLOUTS)
    ray.init(address=cluster.address, log_to_driver=False)
    assert rollout_cpus() == 1
    ledger = Ledger(Path(out), tasks.get("pointmass2"))
    joined: list[Any] = []

    def ran_on(node: Any) -> bool:
        return node.node_id in ledger.execution.read().column("node").to_pylist()

    def disturb(done: int, total: int, before: int) -> None:
        if not joined and done > 0:
            joined.append(cluster.add_node(num_cpus=1))
        elif len(joined) == 1 and ran_on(joined[0]):
            cluster.remove_node(joined[0], allow_graceful=False)
            joined.append(cluster.add_node(num_cpus=1))

    evaluate(run, episodes=int(episodes), actors=2, slots=4, out=Path(out), progress=disturb)
    assert len(joined) == 2
    assert ran_on(joined[1])


if __name__ == "__main__":
    main(*sys.argv[1:])
