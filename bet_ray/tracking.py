"""Experiment trackers, on request: Weights & Biases and TensorBoard, below the run directory.

A tracker watches and never matters: whatever goes wrong with one becomes a single warning, and the run goes on without
it. Weights & Biases therefore lives in a process of its own (`bet_ray.wandb_process`), which nobody waits for but at
the beginning, to hear that it stands, and at the end, for a while.
"""

import importlib.util
import os
import pickle
import queue
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bet import tasks
from bet.config import Split, TrackConfig, WandbMode
from bet.measure import Measurement
from bet.policy import Policy
from bet.protocol import Recipe
from bet.stats import Interval
from bet.training import Epoch
from bet_ray.manifest import TENSORBOARD, WANDB, write_text
from bet_ray.replay import replay
from bet_ray.show.replays import frames
from bet_ray.storage import push
from bet_ray.video import write_video

OPEN_SECONDS = 60.0
CLOSE_SECONDS = 60.0

Numbers = Mapping[str, float]
Frames = Sequence[NDArray[np.uint8]]  # pictures (height, width, 3)


class Kind(StrEnum):
    """What is tracked."""

    TRAIN = "train"
    SWEEP = "sweep"
    TRIAL = "trial"
    EVAL = "eval"


class TrackerError(Exception):
    """A tracker cannot go on; the message is what a person reads."""


class Tracker(Protocol):
    """Where numbers, tables and videos go."""

    def log(self, step: int, numbers: Numbers) -> None:
        """Numbers at a step (an epoch); steps may come in any order."""

    def summary(self, numbers: Numbers) -> None:
        """What a run came to."""

    def table(self, name: str, table: pa.Table) -> None:
        """Rows, where the tracker shows tables."""

    def video(self, name: str, frames: Frames, fps: int) -> None:
        """An episode to watch."""

    def close(self) -> None:
        """Put everything on disk."""


class Trackers:
    """The trackers that still work, told everything alike; one that fails is dropped with a warning."""

    def __init__(self, track: TrackConfig) -> None:
        self.track = track
        """What was asked for, less what failed."""
        self._open: dict[str, Tracker] = {}

    def open(self, name: str, make: Callable[[], Tracker]) -> None:
        with self._guard(name):
            self._open[name] = make()

    def log(self, step: int, numbers: Numbers) -> None:
        self._each(lambda tracker: tracker.log(step, numbers))

    def summary(self, numbers: Numbers) -> None:
        self._each(lambda tracker: tracker.summary(numbers))

    def table(self, name: str, table: pa.Table) -> None:
        self._each(lambda tracker: tracker.table(name, table))

    def video(self, name: str, make: Callable[[], tuple[Frames, int]]) -> None:
        """`make` gives the frames and how many make a second; it is not called where nobody wants them."""
        if not self._open:
            return
        try:
            frames, fps = make()
        except Exception as error:  # of a simulator, or of another's environment, which may raise anything
            _warn(f"no video of the {name}", error)
        else:
            self._each(lambda tracker: tracker.video(name, frames, fps))

    def close(self) -> None:
        self._each(lambda tracker: tracker.close())
        self._open.clear()

    def _each(self, do: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._open.items()):
            with self._guard(name):
                do(tracker)

    @contextmanager
    def _guard(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of other people's libraries, of the disk or of the network
            failed = self._open.pop(name, None)
            if failed is not None:
                with suppress(Exception):  # what it has is worth keeping, a second failure is not worth a word
                    failed.close()
            self.track = self.track.model_copy(update={name: getattr(TrackConfig(), name)})
            _warn(name, error)


def _warn(what: str, error: Exception) -> None:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    warnings.warn(f"{what}: {reason}; the run goes on without it", stacklevel=2)


@contextmanager
def tracking(
    track: TrackConfig, run: Path, kind: Kind, settings: Mapping[str, Any], name: str = "", title: str = ""
) -> Iterator[Trackers]:
    """The trackers that `track` asks for, open for one training, trial, sweep or evaluation of a run directory.

    `settings` are shown with it, `name` tells it from others of its kind, `title` is what people read. Trackers of one
    run directory form a group. Raises nothing of its own.
    """
    label = f"{kind}-{name}" if name else str(kind)
    trackers = Trackers(track)
    if track.wandb is not WandbMode.OFF:
        trackers.open("wandb", lambda: _Wandb(track, run.resolve(), kind, label, title or label, settings))
    if track.tensorboard:
        trackers.open("tensorboard", lambda: _TensorBoard(run / TENSORBOARD / label))
    try:
        yield trackers
    finally:
        trackers.close()
        with suppress(OSError):  # of a store: it is in the working copy
            push(run / WANDB)
            push(run / TENSORBOARD / label)


def epoch_numbers(epoch: Epoch) -> dict[str, float]:
    """The numbers of an epoch, under the names they have in `history.parquet`."""
    return {name: value for name, value in asdict(epoch).items() if name != "epoch"}


def track_evaluation(
    track: TrackConfig, run: Path, policy: Policy, recipe: Recipe, split: Split, table: pa.Table, found: Measurement
) -> None:
    """Track an evaluation: its intervals, its episodes, and a video of the best one."""
    protocol = recipe.protocol
    what = {
        "policy_digest": policy.digest,
        "split": split.value,
        "protocol": protocol.model_dump(mode="json"),
        "config": policy.config.model_dump(mode="json"),
    }
    name = f"{split.value}-{policy.digest[:8]}-{protocol.digest[:8]}"
    title = " · ".join([split.value, policy.digest[:12], *protocol.variations])
    with tracking(track, run, Kind.EVAL, what, name, title) as tracker:
        tracker.summary(
            {
                "episodes": found.episodes,
                **interval_numbers("primary", found.primary),
                **interval_numbers("success", found.success),
                **{key: x for name, rate in found.rates.items() for key, x in interval_numbers(name, rate).items()},
                **{f"mode {mode}": share for mode, share in found.mode_shares.items()},
            }
        )
        tracker.table("episodes", table)
        best = table.column("index")[int(np.argmax(table.column("primary").to_numpy()))].as_py()

        def film() -> tuple[Frames, int]:
            replayed = replay(policy, recipe, split, best)
            return list(frames([replayed], tasks.simulated(protocol.task))), replayed.fps

        tracker.video("best episode", film)


def interval_numbers(name: str, interval: Interval) -> dict[str, float]:
    """An estimate with its bounds."""
    return {name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high}


class _TensorBoard:
    """Event files as tensorboardX writes them.

    Through its `EventsWriter`, not its `SummaryWriter`: that one writes from a thread, so a full disk would print a
    traceback, and then block the run when its queue is full.
    """

    def __init__(self, folder: Path) -> None:
        from tensorboardX.event_file_writer import EventsWriter

        folder.mkdir(parents=True, exist_ok=True)
        # The name is a second and a host: a resumed run may have begun in the same one.
        self._writer = EventsWriter(str(folder / "events"), filename_suffix=f".{uuid4().hex[:8]}")

    def log(self, step: int, numbers: Numbers) -> None:
        from tensorboardX import summary

        for name, value in numbers.items():
            self._write(step, summary.scalar(name, value))
        self._writer.flush()

    def summary(self, numbers: Numbers) -> None:
        self.log(0, {f"summary/{name}": value for name, value in numbers.items()})

    def table(self, name: str, table: pa.Table) -> None:
        """TensorBoard shows no tables; the rows are in the run directory."""

    def video(self, name: str, frames: Frames, fps: int) -> None:
        from tensorboardX.proto import summary_pb2

        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "video.gif"  # what TensorBoard plays
            write_video(frames, file, fps)
            gif = file.read_bytes()
        height, width = frames[0].shape[:2]
        proto: Any = summary_pb2  # generated code that type checkers see nothing of
        image = proto.Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=gif)
        self._write(0, proto.Summary(value=[proto.Summary.Value(tag=name, image=image)]))
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()

    def _write(self, step: int, summary: Any) -> None:
        from tensorboardX.proto import event_pb2

        proto: Any = event_pb2
        self._writer.write_event(proto.Event(wall_time=time.time(), step=step, summary=summary))


class _Wandb:
    """A run of Weights & Biases, kept by a process of its own.

    The process is told what to log by pickles through its stdin, and says on its stdout that it stands, or why not.
    """

    def __init__(
        self, track: TrackConfig, run: Path, kind: Kind, label: str, title: str, settings: Mapping[str, Any]
    ) -> None:
        if importlib.util.find_spec("wandb") is None:
            raise TrackerError("is not installed (pip install 'bet-ray[wandb]')")
        folder = run / WANDB
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):  # wandb itself would quietly write to a temporary folder
            raise TrackerError(f"{folder} cannot be written")
        self._log = folder / f"{label}.log"
        environment = {
            "WANDB_CACHE_DIR": str(folder / "cache"),
            "WANDB_DATA_DIR": str(folder / "cache"),
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),  # Ray adds to it in its workers
            "WANDB_ERROR_REPORTING": "false",  # reports of wandb to its makers, which it sends even offline
            "WANDB_SILENT": "true",
        }
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "bet_ray.wandb_process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                start_new_session=True,  # Ctrl-C is for us, who then close it; its group is how we end it
            )
        self._messages: queue.SimpleQueue[tuple[Any, ...] | None] = queue.SimpleQueue()
        threading.Thread(target=self._send, daemon=True).start()
        opening = {
            "run": run,
            "id": _run_id(folder, kind, label),
            "kind": str(kind),
            "title": title,
            "settings": dict(settings),
            "project": track.project,
            "mode": str(track.wandb),
            "seconds": OPEN_SECONDS / 2,  # less than we wait, so that its reason is heard
        }
        self._messages.put(("open", opening))
        try:
            self._hear(OPEN_SECONDS)
        except TrackerError:
            self._kill()
            raise

    def log(self, step: int, numbers: Numbers) -> None:
        self._tell("log", step, dict(numbers))

    def summary(self, numbers: Numbers) -> None:
        self._tell("summary", dict(numbers))

    def table(self, name: str, table: pa.Table) -> None:
        self._tell("table", name, table)

    def video(self, name: str, frames: Frames, fps: int) -> None:
        self._tell("video", name, list(frames), fps)

    def close(self) -> None:
        self._messages.put(("close",))
        self._messages.put(None)
        try:
            self._hear(CLOSE_SECONDS)
        finally:  # all it wrote is on disk, or never will be
            self._kill()

    def _tell(self, *message: Any) -> None:
        if self._spoke(0.0):  # before it was asked: it has ended
            self._hear(0.0)
        self._messages.put(message)

    def _send(self) -> None:
        """Runs in a thread, so that a process that does not listen holds up nobody."""
        assert self._process.stdin is not None
        with suppress(OSError), self._process.stdin as stdin:  # broken where it has ended; it says why on its stdout
            while (message := self._messages.get()) is not None:
                pickle.dump(message, stdin)
                stdin.flush()

    def _hear(self, seconds: float) -> None:
        """Wait until the process says that it has done what it was told first or last. Raises `TrackerError`."""
        assert self._process.stdout is not None
        said = "does not answer"
        if self._spoke(seconds):
            said = self._process.stdout.readline().decode(errors="replace").strip()
        if said != "ok":
            raise TrackerError(f"{said or 'ended without a word'} (see {self._log})")

    def _spoke(self, seconds: float) -> bool:
        """Whether it has said something, or has ended."""
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], seconds)
        return bool(ready)

    def _kill(self) -> None:
        """End the process, if it has not ended; the service that it started ends with it by itself."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._messages.put(None)  # the sender ends, if it has not yet
        assert self._process.stdout is not None
        self._process.stdout.close()


def _run_id(folder: Path, kind: Kind, label: str) -> str:
    """wandb's name for a run: what is resumed goes on in the same one, an evaluation is always a new one."""
    fresh = uuid4().hex[:8]
    if kind is Kind.EVAL:
        return fresh
    file = folder / f"{label}.id"
    if not file.exists():
        write_text(file, fresh)
    return file.read_text()
