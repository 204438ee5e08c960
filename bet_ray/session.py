"""The Ray session: the cluster of RAY_ADDRESS, or a private one on this machine, on loopback with token auth on."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray


@contextmanager
def session(cpus: int | None = None) -> Iterator[int]:
    """Connect, or start Ray on this machine with room for `cpus`; yields the number of CPUs.

    Inside another session it is that one. A cluster started here ends with the block.
    """
    if ray.is_initialized():
        yield int(ray.cluster_resources().get("CPU", 1))
        return
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(**quiet)
    else:
        # Ray's dashboard would listen on a port for nobody, and its usage report has nowhere to go.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(
            num_cpus=max(os.cpu_count() or 1, cpus or 1), include_dashboard=False, _node_ip_address="127.0.0.1", **quiet
        )
    try:
        yield int(ray.cluster_resources().get("CPU", 1))
    finally:
        ray.shutdown()
