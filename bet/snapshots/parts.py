"""Modules of a snapshot, looked into by name: `part.child("model").tensor("pos_emb")`."""

from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from bet.snapshots.archive import Archive
from bet.snapshots.records import BATCH_NORM, DATA_PARALLEL, LAYER_NORM, LINEAR, Record, SnapshotError

_Kind = TypeVar("_Kind")
_EPS = 1e-5  # torch's own, which our layers have
_COUNT = "num_batches_tracked"


@dataclass(frozen=True)
class Part:
    """A pickled `torch.nn.Module`. Every method raises `SnapshotError`, naming the part, for what is not there."""

    archive: Archive
    name: str
    """Where it is, as in `state_prior.model.blocks.0`."""
    record: Record

    @classmethod
    def of(cls, archive: Archive, name: str, value: Any) -> "Part":
        """The module that a value of the snapshot is, out of the `DataParallel` around it."""
        if isinstance(value, Record) and value.path in DATA_PARALLEL:
            value = cls(archive, name, value)._dict("_modules").get("module")
        if not isinstance(value, Record):
            raise SnapshotError(f"{archive.path}: {name} is no module")
        return cls(archive, name, value)

    def wrong(self, problem: str) -> SnapshotError:
        return SnapshotError(f"{self.archive.path}: {self.name}: {problem}")

    def expect(self, path: str) -> "Part":
        """Itself, if it is of a class."""
        if self.record.path != path:
            raise self.wrong(f"is a {self.record.path}, expected {path}")
        return self

    def child(self, name: str) -> "Part":
        found = self._dict("_modules").get(name)
        if found is None:
            raise self.wrong(f"has no {name!r}")
        return Part.of(self.archive, f"{self.name}.{name}", found)

    def children(self) -> list["Part"]:
        """Of a `Sequential`, in order."""
        return [self.child(name) for name in self._dict("_modules")]

    def tensor(self, name: str) -> Tensor:
        """A parameter, a buffer, or a plain attribute (as the bin centres are)."""
        for values in (self._dict("_parameters"), self._dict("_buffers"), vars(self.record)):
            if values.get(name) is not None:
                found = self.archive.tensor(values[name], f"{self.name}.{name}")
                if found.is_floating_point():
                    found = found.float()
                    if not found.isfinite().all():
                        raise self.wrong(f"{name} has numbers that are not finite")
                elif name != _COUNT:
                    raise self.wrong(f"{name} is of {found.dtype}")
                return found
        raise self.wrong(f"has no {name!r}")

    def has(self, parameter: str) -> bool:
        return self._dict("_parameters").get(parameter) is not None

    def setting(self, name: str, kind: type[_Kind] | tuple[type[_Kind], ...], default: _Kind | None = None) -> _Kind:
        """A plain attribute; the default stands for what older versions of a class did not have."""
        value = vars(self.record).get(name, default)
        if not isinstance(value, kind):
            raise self.wrong(f"has no {name!r}" if value is None else f"{name} is a {type(value).__name__}")
        return value

    def number(self, name: str) -> float:
        """As `setting`, of whole numbers or fractions."""
        try:
            return float(self.setting(name, (int, float)))
        except OverflowError as error:
            raise self.wrong(f"{name} is out of range") from error

    def linear(self, ours: str, *, bias: bool = True) -> dict[str, Tensor]:
        """Its tensors under our name for the layer."""
        self.expect(LINEAR)
        if self.has("bias") is not bias:
            raise self.wrong("has no bias" if bias else "has a bias, which the original has not")
        return {f"{ours}.{name}": self.tensor(name) for name in (("weight", "bias") if bias else ("weight",))}

    def norm(self, ours: str) -> dict[str, Tensor]:
        """Of a layer norm or batch norm."""
        batch = self.record.path == BATCH_NORM
        self.expect(BATCH_NORM if batch else LAYER_NORM)
        if self.setting("eps", float) != _EPS:
            raise self.wrong(f"eps is {self.setting('eps', float)}, ours is {_EPS}")
        names = ("weight", "bias", "running_mean", "running_var", _COUNT) if batch else ("weight", "bias")
        return {f"{ours}.{name}": self.tensor(name) for name in names}

    def _dict(self, name: str) -> dict[str, Any]:
        found = vars(self.record).get(name)
        if not isinstance(found, dict):
            raise self.wrong("is no module of torch")
        return found
