"""Reading back what trackers wrote: the record formats of TensorBoard and of wandb's offline files."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def tensorboard_events(folder: Path) -> list[Any]:
    """Every event below a folder. A file is TFRecords: length, its checksum, an Event, its checksum."""
    from tensorboardX.proto import event_pb2

    proto: Any = event_pb2
    events = []
    for file in sorted(folder.rglob("events.out.tfevents.*")):
        data = file.read_bytes()
        place = 0
        while place < len(data):
            (length,) = struct.unpack_from("<Q", data, place)
            events.append(proto.Event.FromString(data[place + 12 : place + 12 + length]))
            place += 12 + length + 4
    return events


def tensorboard_scalars(folder: Path) -> dict[tuple[str, int], float]:
    """(tag, step) -> value."""
    return {
        (value.tag, event.step): value.simple_value
        for event in tensorboard_events(folder)
        for value in event.summary.value
        if value.WhichOneof("value") == "simple_value"
    }


class WandbRun:
    """An offline run of wandb, as its transaction log tells it."""

    def __init__(self, folder: Path) -> None:
        (log,) = folder.glob("*.wandb")
        records = list(_wandb_records(log))
        (self.run,) = (record.run for record in records if record.HasField("run"))
        self.config = {item.key: json.loads(item.value_json) for item in self.run.config.update}
        self.history = [_items(record.history.item) for record in records if record.HasField("history")]
        self.summary: dict[str, Any] = {}
        for record in records:
            if record.HasField("summary"):
                self.summary |= _items(record.summary.update)
        self.finished = any(record.HasField("exit") for record in records)
        self.files = folder / "files"

    def values(self, name: str) -> dict[int, float]:
        """Epoch -> value."""
        return {row["epoch"]: row[name] for row in self.history if name in row}


def wandb_runs(run: Path) -> list[WandbRun]:
    """The offline runs of a run directory, oldest first."""
    return [
        WandbRun(folder) for folder in sorted((run / "wandb").glob("offline-run-*"), key=lambda f: f.stat().st_mtime)
    ]


def _items(items: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for item in items:
        *outer, last = item.nested_key or [item.key]
        inner = found
        for key in outer:
            inner = inner.setdefault(key, {})
        inner[last] = json.loads(item.value_json)
    return found


def _wandb_records(log: Path) -> Iterator[Any]:
    """A wandb file is a LevelDB log: 7 bytes of its own, then blocks of 32 KiB with records, whole or in pieces."""
    from wandb.proto import wandb_internal_pb2

    proto: Any = wandb_internal_pb2
    data = log.read_bytes()
    assert data[:4] == b":W&B"
    place, pieces = 7, b""
    while place < len(data):
        left = (1 << 15) - place % (1 << 15)
        if left < 7:
            place += left
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        pieces += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            yield proto.Record.FromString(pieces)
            pieces = b""
