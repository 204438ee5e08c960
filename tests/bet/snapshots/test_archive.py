"""Nothing in a file is run: what it names beyond the list is refused by name, and it takes no more room than it has."""

import builtins
import io
import os
import pickle
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch._utils import _rebuild_tensor_v2

from bet.snapshots.archive import Archive
from bet.snapshots.convert import import_snapshot
from bet.snapshots.records import Record, SnapshotError

from .originals import generator, payload, save


class Calls:
    """Pickles as a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


def zipped(tmp_path: Path, data: bytes, storage: bytes = b"", compression: int = zipfile.ZIP_STORED) -> Path:
    """A file as `torch.save` writes it, of any pickle, with the numbers of a storage `0`."""
    path = tmp_path / "snapshot.pt"
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/data/0", storage)
    return path


def named(module: str, name: str, *rest: bytes) -> bytes:
    """A pickle of protocol 2 that names something, and what is done with it."""
    return b"\x80\x02" + f"c{module}\n{name}\n".encode() + b"".join(rest) + b"."


def marker(tmp_path: Path) -> Path:
    return tmp_path / "was-run"


HOSTILE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a shell": (lambda mark: Calls(os.system, f"touch {mark}"), rf"{os.name}\.system"),
    "code": (lambda mark: Calls(eval, f"open({str(mark)!r}, 'w')"), r"eval"),
    "an import": (lambda mark: Calls(__import__, "antigravity"), r"__import__"),
    "getattr": (lambda mark: Calls(getattr, nn.Module, "load_state_dict"), r"getattr"),
    "another file": (lambda mark: Calls(torch.load, str(mark)), r"torch\.serialization\.load"),
    "a repository": (lambda mark: Calls(torch.hub.load, str(mark), "x"), r"torch\.hub\.load"),
    "an array of objects": (lambda mark: np.array([Calls(os.system, f"touch {mark}")], dtype=object), r"numpy"),
    "an array": (lambda mark: np.zeros(3), r"numpy"),
    "bytes": (lambda mark: b"\xff\x00", r"_codecs\.encode"),
    "a great array of bytes": (lambda mark: Calls(bytearray, 10**12), r"bytearray"),
    "a writer": (lambda mark: Calls(open, str(mark), "w"), r"io\.open"),
    "a module of torch": (lambda mark: nn.Conv2d(1, 1, 1), r"torch\.nn\.modules\.conv\.Conv2d"),
}


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("new", [True, False], ids=["zip", "before torch 1.6"])
def test_what_no_snapshot_needs_is_refused_by_name_and_not_run(hostile: str, new: bool, tmp_path: Path) -> None:
    make, name = HOSTILE[hostile]
    snapshot = payload(generator("transformer")) | {"epoch": make(marker(tmp_path))}
    file = save(snapshot, tmp_path / "snapshot.pt", zipped=new)
    modules = set(sys.modules)
    with pytest.raises(SnapshotError, match=rf"snapshot\.pt: refused: it names \S*{name}") as refusal:
        import_snapshot(file, "blockpush")
    assert "\n" not in str(refusal.value)
    assert not marker(tmp_path).exists()
    assert "antigravity" not in set(sys.modules) - modules


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_whatever_the_protocol_of_the_pickle(protocol: int, tmp_path: Path) -> None:
    data = pickle.dumps({"epoch": Calls(os.system, f"touch {marker(tmp_path)}")}, protocol=protocol)
    with pytest.raises(SnapshotError, match=rf"refused: it names {os.name}\.system"):
        Archive(zipped(tmp_path, data))
    assert not marker(tmp_path).exists()


def test_a_dotted_name_does_not_reach_through_a_listed_one(tmp_path: Path) -> None:
    module, name = (b"\x8c" + bytes([len(text)]) + text for text in (b"torch._utils", b"sys.exit"))
    data = b"\x80\x04" + module + name + b"\x93."
    with pytest.raises(SnapshotError, match=r"refused: it names torch\._utils\.sys\.exit"):
        Archive(zipped(tmp_path, data))


def test_what_is_listed_is_remembered_and_not_called(tmp_path: Path) -> None:
    calls = named("torch._utils", "_rebuild_tensor_v2", b"(U\x01aU\x01btR")
    tree = Archive(zipped(tmp_path, calls)).tree
    assert isinstance(tree, Record)
    assert (tree.path, tree.arguments) == ("torch._utils._rebuild_tensor_v2", ("a", "b"))
    linear = named("torch.nn.modules.linear", "Linear", b")\x81}U\x09__class__K\x01sb")
    tree = Archive(zipped(tmp_path, linear)).tree
    assert type(tree) is not nn.Linear
    assert vars(tree) == {"__class__": 1}


def test_a_pickle_changes_nothing_outside_itself(tmp_path: Path) -> None:
    """Its state for a class, of attributes: what a later file, or torch, would see."""
    setting = named("torch.nn.modules.linear", "Linear", b"N}U\x09arguments", b"K\x07s\x86b")
    tree = Archive(zipped(tmp_path, setting)).tree
    assert tree.arguments == 7
    assert not hasattr(nn.Linear, "arguments")
    again = Archive(zipped(tmp_path, named("torch.nn.modules.linear", "Linear", b")\x81"))).tree
    assert again.arguments == ()
    for name in ("OrderedDict", "set"):
        module = "collections" if name == "OrderedDict" else "builtins"
        with pytest.raises(SnapshotError, match="not a whole pickle"):
            Archive(zipped(tmp_path, named(module, name, b"N}U\x05copyx", b"K\x07s\x86b")))
    assert builtins.set is type(set())


def test_attributes_do_not_change_what_a_record_is(tmp_path: Path) -> None:
    attributes = b"}X\x04\x00\x00\x00pathK\x07s"
    slots = b"}X\x09\x00\x00\x00argumentsK\x07s"
    pickled = named("torch._utils", "_rebuild_parameter", b")R", attributes, slots, b"\x86b")
    archive = Archive(zipped(tmp_path, pickled))
    assert (archive.tree.path, archive.tree.arguments) == ("torch._utils._rebuild_parameter", 7)
    with pytest.raises(SnapshotError, match="weight is no tensor"):
        archive.tensor(archive.tree, "weight")


@pytest.mark.parametrize("trunk", ["transformer", "mlp"])
@pytest.mark.parametrize("new", [True, False], ids=["zip", "before torch 1.6"])
def test_a_file_that_was_cut_or_changed_is_one_clear_error(trunk: str, new: bool, tmp_path: Path) -> None:
    whole = save(payload(generator(trunk)), tmp_path / "snapshot.pt", zipped=new).read_bytes()
    for share in (0.0, 0.01, 0.2, 0.5, 0.9, 0.999):
        (tmp_path / "snapshot.pt").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(SnapshotError, match=r"snapshot\.pt: ") as error:
            import_snapshot(tmp_path / "snapshot.pt", "blockpush")
        assert "\n" not in str(error.value)


def tensor(shape: tuple[int, ...], strides: tuple[int, ...], *, offset: int = 0, size: int = 4) -> bytes:
    """The pickle of a tensor over a storage `0` of four floats, as its writer says it is."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            return ("storage", torch.FloatStorage, "0", "cpu", size) if obj == "here" else None

    buffer = io.BytesIO()
    Pickler(buffer, protocol=2).dump(Calls(_rebuild_tensor_v2, "here", offset, shape, strides, False, {}))
    return buffer.getvalue()


def test_a_tensor_is_what_its_file_holds(tmp_path: Path) -> None:
    data = struct.pack("<4f", 1, 2, 3, 4)
    archive = Archive(zipped(tmp_path, tensor((2, 2), (1, 2)), data))
    torch.testing.assert_close(archive.tensor(archive.tree, "x"), torch.tensor([[1.0, 3.0], [2.0, 4.0]]))
    archive = Archive(zipped(tmp_path, tensor((2,), (1,), offset=2), data))
    torch.testing.assert_close(archive.tensor(archive.tree, "x"), torch.tensor([3.0, 4.0]))


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (tensor((3, 2), (2, 1)), "not within the file"),
        (tensor((2,), (1,), offset=3), "not within the file"),
        (tensor((10**6, 10**6), (0, 0)), "not within the file"),
        (tensor((10**12,), (1,), size=10**12), "not within the file"),
        (tensor((1,), (2**70,)), "not within the file"),
        (tensor((2,), (-1,), offset=3), "no sound shape"),
        (tensor((2,), (1, 1)), "no sound shape"),
        (tensor((8,), (1,), size=8), "cut short"),
        (tensor((2,), (1,), size=2), "cut short"),
    ],
)
def test_a_tensor_that_its_file_cannot_hold_is_refused_by_name(pickled: bytes, message: str, tmp_path: Path) -> None:
    archive = Archive(zipped(tmp_path, pickled, struct.pack("<4f", 1, 2, 3, 4)))
    with pytest.raises(SnapshotError, match=f"weight.*{message}"):
        archive.tensor(archive.tree, "weight")


def test_files_that_grow_when_read_are_refused(tmp_path: Path) -> None:
    bomb = zipped(tmp_path, pickle.dumps("0" * 10**7, protocol=2), compression=zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 10**5
    with pytest.raises(SnapshotError, match="compressed"):
        Archive(bomb)
    memo = b"\x80\x02]r" + struct.pack("<I", 2**31) + b"."
    with pytest.raises(SnapshotError, match="counts 2,147,483,648 objects"):
        Archive(zipped(tmp_path, memo))


def test_files_of_other_kinds_are_told_apart(tmp_path: Path) -> None:
    other = tmp_path / "snapshot.pt"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(SnapshotError, match=r"a zip without one data\.pkl"):
        Archive(other)
    whole = zipped(tmp_path, pickle.dumps({}, protocol=2)).read_bytes()
    other.write_bytes(whole.replace(b"PK\x01\x02", b"PK\x01\x09", 1))
    with pytest.raises(SnapshotError, match="damaged"):
        Archive(other)
    other.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(SnapshotError, match=r"not a file of torch\.save"):
        Archive(other)
    other.write_text("a letter")
    with pytest.raises(SnapshotError, match="not a whole pickle"):
        Archive(other)
