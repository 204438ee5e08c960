"""Whether this machine can do what is asked of it. Each check does the thing: a step, a picture, a file, an actor.

A check that cannot be made is a failure of what it checks, and says what to mend.
"""

import errno
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from packaging.requirements import Requirement
from packaging.version import Version

from bet.files import replacing
from bet.wording import counted

if TYPE_CHECKING:
    from bet_ray.session import NoRayError

GIGABYTE = 1e9
DISK_FULL, DISK_LOW = 1.0, 10.0  # GB free, of a run directory's disk
MEMORY_LOW = 2.0  # GB free; Ray kills workers where less than a twentieth is
CLOCKS_APART = 2.0  # seconds between a file system's clock and ours, beyond which times of files mislead
GL_SECONDS = 60.0
RAY_SECONDS = 60.0  # for an actor, or a stranger
MUJOCO_GL = "MUJOCO_GL"
MAKE_ROOM = "make room, or give --out on another disk"
REINSTALL = "install again: pip install -c constraints.txt -e ."
PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
_GL = """
import mujoco
model = mujoco.MjModel.from_xml_string('<mujoco><worldbody><geom type="box" size=".1 .1 .1"/></worldbody></mujoco>')
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 32, 32) as renderer:
    renderer.update_scene(data)
    assert renderer.render().shape == (32, 32, 3)
"""
_STRANGER = """
import sys
from ray._raylet import GcsClient
from ray.exceptions import AuthenticationError
try:
    GcsClient(address=sys.argv[1]).internal_kv_keys(b"", None, timeout=20)
except AuthenticationError:
    print("refused")
else:
    print("let in")
"""


class Health(StrEnum):
    OK = "ok"
    WARN = "warn"
    """It works, with a limit that one should know."""
    FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    what: str
    health: Health
    found: str
    fix: str = ""
    """What mends it; empty where all is well."""


def ok(what: str, found: str) -> Finding:
    return Finding(what, Health.OK, found)


def warn(what: str, found: str, fix: str) -> Finding:
    return Finding(what, Health.WARN, found, fix)


def fail(what: str, found: str, fix: str) -> Finding:
    return Finding(what, Health.FAIL, found, fix)


@dataclass(frozen=True)
class Check:
    """Something to find out; `fix` is for when it cannot be."""

    what: str
    run: Callable[[], Iterator[Finding]]
    fix: str


def checks(runs: Path, *, with_ray: bool = True) -> list[Check]:
    """All of them, the quick ones first; `runs` is where run directories are to be made."""
    found = [
        Check("python", _python, REINSTALL),
        Check("packages", _packages, REINSTALL),
        Check("torch", _torch, "pip install torch, and see pytorch.org for your GPU"),
        Check("MuJoCo GL", _gl, "install EGL or OSMesa (apt: libegl1, libosmesa6), or set MUJOCO_GL"),
        Check("simulators", _simulators, REINSTALL),
        Check("pictures", _pictures, "pip install pillow"),
        Check("demonstrations", _demonstrations, "bet-ray data download, bet-ray data generate"),
        Check("run directories", partial(_disk, runs), f"make {runs} writable, or run elsewhere with --out"),
        Check("clock", partial(_clock, runs), "set the clock (chronyd, ntpd)"),
        Check("memory", _memory, "close other programs, or use fewer --actors"),
    ]
    return [*found, Check("Ray", _ray, "pip install 'ray[default,tune,train]'")] if with_ray else found


def examine(check: Check) -> list[Finding]:
    """What a check finds; whatever it raises is a finding."""
    found: list[Finding] = []
    try:
        found.extend(check.run())
    except Exception as error:  # broken installations raise anything
        found.append(fail(check.what, _reason(error), _reinstall(error) or check.fix))
    return found


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"


def _reinstall(error: Exception) -> str | None:
    """What mends a package that does not load. For pip it is installed, until it is told to do so again."""
    if not isinstance(error, (ImportError, OSError)):
        return None
    modules = [getattr(error, "name", None)]
    if not isinstance(error, ModuleNotFoundError):  # else a package lacks another, not a part of itself
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        modules += [frame.f_globals.get("__name__") for frame in reversed(frames)]
    owners = metadata.packages_distributions()
    for package in (owners[top][0] for module in modules if (top := (module or "").partition(".")[0]) in owners):
        if package != "bet-ray":
            return f"pip install --force-reinstall --no-deps {package}=={metadata.version(package)}"
    return REINSTALL if isinstance(error, ImportError) else None


def healthy(findings: Sequence[Finding]) -> bool:
    """Nothing fails."""
    return all(finding.health is not Health.FAIL for finding in findings)


def _project() -> tuple[str, list[Requirement]]:
    """The Python that is required, and the packages: by pyproject.toml in a checkout, else by what was installed."""
    if PYPROJECT.exists():
        project = tomllib.loads(PYPROJECT.read_text())["project"]
        return project["requires-python"], [Requirement(line) for line in project["dependencies"]]
    about = metadata.metadata("bet-ray")
    wanted = [Requirement(line) for line in metadata.requires("bet-ray") or ()]
    return about["Requires-Python"], [one for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]


def _python() -> Iterator[Finding]:
    wanted, _ = _project()
    mine = ".".join(map(str, sys.version_info[:3]))
    if Requirement(f"python{wanted}").specifier.contains(mine):
        yield ok("python", f"{mine}, {sys.executable}")
    else:
        yield fail("python", f"{mine}, {wanted} is needed", "make PYTHON=python3.12, or another newer one")


def _packages() -> Iterator[Finding]:
    _, wanted = _project()
    good = 0
    for requirement in wanted:
        try:
            found = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            found = None
        if found is not None and requirement.specifier.contains(Version(found), prereleases=True):
            good += 1
            continue
        what = "missing" if found is None else f"{found}, {requirement.specifier} is needed"
        yield fail(f"package {requirement.name}", what, f"pip install '{requirement}'")
    if good:
        yield ok("packages", f"{counted(good, 'package')} in the ranges of pyproject.toml")


def _torch() -> Iterator[Finding]:
    import torch

    from bet.arithmetic import numerics

    def works(device: str) -> str:
        square = torch.eye(64, device=device)
        assert float((square @ square).sum()) == 64, f"a product on {device} is wrong"
        return numerics(torch.device(device))

    yield ok("torch", works("cpu"))
    if torch.cuda.is_available():
        for place in range(torch.cuda.device_count()):
            yield ok(f"cuda:{place}", works(f"cuda:{place}"))
    elif torch.version.cuda is not None:
        yield warn("cuda", f"torch is built for CUDA {torch.version.cuda} and finds no device", "check nvidia-smi")
    if torch.backends.mps.is_available():
        yield ok("mps", works("mps"))


def _simulators() -> Iterator[Finding]:
    """One step of every task's."""
    import numpy as np

    from bet import tasks

    for task in tasks.TASKS.values():
        if not isinstance(task, tasks.SimulatedTask):
            continue
        began = time.perf_counter()
        try:
            with closing(task.make_env(1)) as env:
                env.reset(seed=[0])
                actions = np.zeros((1, *(env.single_action_space.shape or ())), np.float32)
                observations, *_ = env.step(actions)
                assert np.isfinite(observations).all(), "an observation is not finite"
        except Exception as error:
            yield fail(f"simulator {task.name}", _reason(error), _reinstall(error) or REINSTALL)
        else:
            yield ok(f"simulator {task.name}", f"a reset and a step in {1e3 * (time.perf_counter() - began):.1f} ms")


def _pictures() -> Iterator[Finding]:
    """What videos are made of."""
    import imageio_ffmpeg

    from bet import tasks

    with closing(tasks.get("pusht").make_env(1)) as env:
        env.reset(seed=[0])
        (picture,) = env.render() or (None,)
    assert picture is not None, "the simulator draws nothing"
    yield ok(
        "pictures", f"{picture.shape[1]} x {picture.shape[0]} pixels, {Path(imageio_ffmpeg.get_ffmpeg_exe()).name}"
    )


def _gl() -> Iterator[Finding]:
    """In a process of its own: where drivers are missing, it may not end with an exception."""

    def runs(code: str, backend: str | None) -> bool:
        environment = os.environ | ({MUJOCO_GL: backend} if backend else {})
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env=environment, capture_output=True, timeout=GL_SECONDS, check=False)
        return done.returncode == 0

    backend = os.environ.get(MUJOCO_GL)
    if runs(_GL, backend):
        yield ok("MuJoCo GL", f"draws, with {backend or 'the default'}")
        return
    if backend and not runs("import mujoco", backend) and runs("import mujoco", "egl"):
        yield fail("MuJoCo GL", f"{MUJOCO_GL} is {backend}, with which no simulator starts", f"unset {MUJOCO_GL}")
        del os.environ[MUJOCO_GL]  # for the other checks
        return
    for other in ("egl", "osmesa"):
        if other != backend and runs(_GL, other):
            found = f"draws with {other}, not with {backend or 'the default'}"
            yield warn("MuJoCo GL", found, f"export {MUJOCO_GL}={other}")
            return
    yield warn(
        "MuJoCo GL",
        "does not draw; tasks that MuJoCo draws have no videos",
        "install EGL or OSMesa (apt: libegl1, libosmesa6)",
    )


def _demonstrations() -> Iterator[Finding]:
    from bet import tasks

    root = tasks.data_root()
    if tasks.DATA_DIR in os.environ and not root.is_dir():
        yield fail("demonstrations", f"{tasks.DATA_DIR} is {root}, and no folder", f"export {tasks.DATA_DIR}=FOLDER")
        return
    for task in tasks.TASKS.values():
        if task.origin is None or task.origin.path is None:
            continue
        what = f"demonstrations of {task.name}"
        if task.origin.path.exists():
            yield ok(what, str(task.origin.path))
        else:
            yield warn(what, f"{task.origin.path}: absent", f"bet-ray data {task.origin.command}")


def _disk(runs: Path) -> Iterator[Finding]:
    """A file is written where a run would be, as one is, and removed."""
    there = next(folder for folder in (runs.absolute(), *runs.absolute().parents) if folder.exists())
    probe = there / f".bet-ray-doctor-{uuid4().hex[:8]}"
    try:
        with replacing(probe) as file:
            file.write(b"bet-ray doctor")
        assert probe.read_bytes() == b"bet-ray doctor", "a file reads back otherwise than it was written"
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        fix = MAKE_ROOM if full else f"make {there} writable, or give another --out"
        yield fail("run directories", f"{there}: {error.strerror}", fix)
        return
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
    free = shutil.disk_usage(there).free / GIGABYTE
    found = f"{there} is written, {free:,.1f} GB free"
    if free < DISK_LOW:
        health = Health.FAIL if free < DISK_FULL else Health.WARN
        yield Finding("run directories", health, found, MAKE_ROOM)
    else:
        yield ok("run directories", found)


def _clock(runs: Path) -> Iterator[Finding]:
    """Against the file system's, which on a shared one is a server's, and against one that nobody sets."""
    folders = (runs.absolute(), *runs.absolute().parents)
    there = next((folder for folder in folders if folder.is_dir() and os.access(folder, os.W_OK)), Path.home())
    probe = there / f".bet-ray-doctor-{uuid4().hex[:8]}"
    steady, wall = time.monotonic(), time.time()
    try:
        probe.touch()
        apart = probe.stat().st_mtime - time.time()
    except OSError:
        return  # the disk's affair
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
    time.sleep(0.05)
    drift = (time.time() - wall) - (time.monotonic() - steady)
    if abs(apart) > CLOCKS_APART:
        yield warn("clock", f"that of {there} is {apart:+.1f} s from ours", "set both (chronyd, ntpd)")
    elif abs(drift) > 0.02:
        yield warn("clock", f"it jumps: {drift:+.3f} s within 50 ms", "let one service alone set it (chronyd, ntpd)")
    else:
        yield ok("clock", f"steady, {1e3 * abs(apart):.0f} ms from the file system's")


def _memory() -> Iterator[Finding]:
    """Where the system tells; a container's own limit is Ray's affair, which knows it."""
    table = Path("/proc/meminfo")
    if not table.exists():
        return
    sizes = {
        name: int(size) * 1024 for name, size in re.findall(r"^(\w+):\s+(\d+) kB", table.read_text(), re.MULTILINE)
    }
    free, total = sizes["MemAvailable"] / GIGABYTE, sizes["MemTotal"] / GIGABYTE
    found = f"{free:,.1f} of {total:,.1f} GB free"
    if free < max(MEMORY_LOW, 0.05 * total):
        yield warn("memory", found, "close other programs, or use fewer --actors: Ray ends workers where memory is out")
    else:
        yield ok("memory", found)


def _ray() -> Iterator[Finding]:
    """Start it or connect, call an actor, put an array and get it back, and see whether strangers are kept out."""
    import numpy as np
    import ray

    from bet_ray.session import NoRayError, on_cluster, session

    began = time.monotonic()
    with ExitStack() as opened:
        try:
            cpus = opened.enter_context(session())
        except NoRayError as error:
            yield _no_ray(error)
            return
        where = f"the cluster at {os.environ['RAY_ADDRESS']}" if on_cluster() else "a private one"
        nodes = sum(node["Alive"] for node in ray.nodes())
        yield ok("Ray", f"{ray.__version__}, {where}: {counted(nodes, 'node')}, {counted(cpus, 'CPU')}")
        actor: Any = ray.remote(num_cpus=0)(_Echo).remote()  # an idle cluster may have no CPU, and need not start one
        array = np.arange(1 << 20)
        back = ray.get(actor.back.remote(ray.put(array)), timeout=RAY_SECONDS)
        assert np.array_equal(back, array), "an array comes back otherwise than it was sent"
        ray.kill(actor)
        yield ok("Ray actor", f"an array of 8 MB there and back, {time.monotonic() - began:.1f} s after the start")
        if _keeps_strangers_out(ray.get_runtime_context().gcs_address):
            yield ok("Ray auth", "a call without the token is refused")
        else:
            fix = "export RAY_AUTH_MODE=token here and where its nodes start"
            yield warn("Ray auth", "a call without a token is answered: whoever reaches its ports runs code", fix)


def _keeps_strangers_out(address: str) -> bool:
    """Call a cluster as somebody would who has no token: in a process of its own, for Ray remembers ours."""
    from ray._private.authentication.authentication_token_setup import AUTH_MODE_ENV_VAR

    done = subprocess.run(
        [sys.executable, "-c", _STRANGER, address],
        env=os.environ | {AUTH_MODE_ENV_VAR: "disabled"},
        capture_output=True,
        text=True,
        timeout=RAY_SECONDS,
        check=True,
    )
    return done.stdout.strip() == "refused"


def _no_ray(error: "NoRayError") -> Finding:
    from ray.exceptions import AuthenticationError

    from bet_ray.session import on_cluster

    found = error.found
    if isinstance(error.__cause__, AuthenticationError):
        found = str(error.__cause__).partition(". ")[0]
        fix = "put the cluster's token (on its head: ray get-auth-token) into RAY_AUTH_TOKEN or the file of "
        return fail("Ray", found, f"{fix}RAY_AUTH_TOKEN_PATH; without a cluster unset both")
    if on_cluster():
        return fail("Ray", found, "start Ray there (ray start --head), or unset RAY_ADDRESS for a private one")
    return fail("Ray", found, "see /tmp/ray/session_latest/logs; on a busy machine try again")


class _Echo:
    def back(self, what: object) -> object:
        return what
