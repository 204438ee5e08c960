"""The process that drives a run, as its manifest names it, so that others can tell whether it lives.

Only on its own machine can they. Machines that share a folder may share a name, containers the name of their machine;
so the boot and the space of process ids are compared, too.
"""

import os
import platform
from pathlib import Path
from typing import Any

import psutil

_APART = 1.0  # seconds by which the start of a process may seem to move, where somebody sets the clock


def this_process() -> dict[str, Any]:
    """Names this process among those of all machines, at all times."""
    here = psutil.Process()
    return {"host": platform.node(), "space": _space(), "pid": here.pid, "started": _started(here)}


def lives(driver: dict[str, Any]) -> bool | None:
    """Whether a process lives that `this_process` named; None where that cannot be seen from here."""
    if (driver["host"], driver["space"]) != (platform.node(), _space()):
        return None
    if not psutil.pid_exists(driver["pid"]):
        return False
    try:
        process = psutil.Process(driver["pid"])
        here = abs(_started(process) - driver["started"]) < _APART  # or the number is another's now
        return here and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return None  # hidden from us


def _started(process: psutil.Process) -> float:
    """Seconds after the machine's own start, which nobody sets."""
    return process.create_time() - psutil.boot_time()


def _space() -> str:
    """Where process ids mean what they mean here; empty where a system tells no such thing."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""
