"""The Ray session: the cluster of RAY_ADDRESS, or a private one on this machine, on loopback with token auth on."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import ray
from ray._private import node, parameter, ray_constants, services, worker
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from bet.errors import FailedRunError

log = logging.getLogger(__name__)

ANSWER_SECONDS = 10.0  # for a cluster's port to take a connection
_Popen = services.ConsolePopen  # with which Ray starts its processes
_Params = parameter.RayParams


class NoRayError(FailedRunError):
    """Ray cannot be had; `found` says why, without the advice."""

    def __init__(self, found: str, advice: str = "") -> None:
        super().__init__(f"{found}; {advice}" if advice else found)
        self.found = found


@contextmanager
def session(cpus: int | None = None) -> Iterator[int]:
    """Connect, or start Ray on this machine with room for `cpus`; yields the number of CPUs.

    Inside another session it is that one. A cluster started here ends with the block. Within it SIGTERM is as Ctrl-C.
    Raises `NoRayError`.
    """
    if ray.is_initialized():
        yield int(ray.cluster_resources().get("CPU", 1))
        return
    if on_cluster():
        address = os.environ["RAY_ADDRESS"]
        try:
            reach(address)
        except ConnectionError as error:
            raise NoRayError(
                f"RAY_ADDRESS={address}: no Ray answers there ({error})",
                "start one (ray start --head), or unset it to run on this machine alone",
            ) from error
        _start()
    else:
        _stay_on_loopback()
        # Of a worker that died Ray prints a page, on stdout; the pool tells it in a line.
        worker._worker_logs_enabled = False
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # A signal to this process's group is for this process: a raylet that ends first takes its driver with it.
        services.ConsolePopen = partial(_Popen, process_group=0)
        _start_no_idlers()
        # Without the dashboard, which would listen for nobody. Token auth is on by default since Ray 2.60.
        _start(
            tries=2,  # it gives its processes 30 seconds, which a busy machine may need
            address="local",
            num_cpus=cpus if cpus and cpus > (os.cpu_count() or 1) else None,  # None: Ray counts, and knows containers
            include_dashboard=False,
        )
    try:
        with _terminated_as_interrupted():
            yield int(ray.cluster_resources().get("CPU", 1))
    finally:
        ray.shutdown()


def reach(address: str) -> None:
    """Connect to a cluster's port and let go: Ray itself would try for minutes. Raises `ConnectionError`."""
    try:
        place = urlsplit(address if "://" in address else f"ray://{address}")
        if place.hostname and place.port:  # else "auto" or "local", which only Ray knows how to find
            socket.create_connection((place.hostname, place.port), timeout=ANSWER_SECONDS).close()
    except (OSError, ValueError) as error:
        raise ConnectionError(str(error)) from error


def _start(tries: int = 1, **where: Any) -> None:
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **where)
    except Exception as error:  # Ray raises plain ones, too
        if tries > 1:
            log.warning("Ray did not start (%s), and is started again", last_line(error))
            ray.shutdown()
            _start(tries - 1, **where)
            return
        here = os.environ.get("RAY_ADDRESS", "this machine")
        raise NoRayError(f"Ray on {here} cannot be had: {last_line(error)}", "bet-ray doctor says more") from error


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """A scheduler's SIGTERM ends a run as Ctrl-C does. Ray would print its stack, and now and then abort."""
    if threading.current_thread() is not threading.main_thread():
        yield  # which alone may say what signals do
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def on_this_node() -> NodeAffinitySchedulingStrategy:
    """Has an actor run where its caller does, or not at all."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def last_line(error: BaseException) -> str:
    """What Ray says in the end, after its tracebacks."""
    return str(error).strip().splitlines()[-1]


def available_cpus() -> int:
    """Of the session that is or would be connected to. On a cluster, connects to see."""
    if ray.is_initialized() or on_cluster():
        with session() as cpus:
            return cpus
    return os.cpu_count() or 1


def on_cluster() -> bool:
    """Whether a session is one of somebody's cluster, and not private to this machine."""
    return bool(os.environ.get("RAY_ADDRESS"))


def _start_no_idlers() -> None:
    """Processes that a private Ray has no use for, and that cost as much to start as all others together.

    One prints the logs of workers (`log_to_driver`), one asks a cloud for more nodes, and one is the dashboard, which
    without its pages only counts usage. And a worker for each CPU, whether or not there will be an actor for it.
    """
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
    without: Any = {"include_log_monitor": False, "no_monitor": True}
    parameter.RayParams = partial(_Params, **without)
    node.Node.start_api_server = lambda *_, **__: None


def _stay_on_loopback() -> None:
    """Have the processes of a private Ray listen on 127.0.0.1 alone.

    `_node_ip_address="127.0.0.1"` does not do it: on Linux Ray turns it into the machine's address. What does is the
    switch by which Ray stays local on macOS and Windows; the variable is for the processes, the constant for this one,
    where Ray may have been imported before.
    """
    os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False
    loopback = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
    for library in ("GLOO", "NCCL"):  # with which training workers exchange gradients
        os.environ.setdefault(f"{library}_SOCKET_IFNAME", loopback)
