"""A pickle read as plain data: what it names is looked up in a list, and no function that it names is ever called.

Unpickling calls what a file asks for, so a pickle can do whatever a program can. Here every name that may occur stands
for a class of its own that does nothing but remember (`Record`): an object of the original code, a module of torch, and
the functions that rebuild tensors alike. The only real types are numbers, strings, tuples, lists, dicts (ordered ones
too) and sets. Every other name is refused before anything is made of it.
"""

import pickle
import pickletools
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, NamedTuple

from bet.errors import UsageError

MINGPT = "models.latent_generators.mingpt.MinGPT"
MLP_LG = "models.latent_generators.mlp.MLP_LG"
LSTM_LG = "models.latent_generators.rnn.LSTM_LG"
GPT = "models.libraries.mingpt.model.GPT"
BLOCK = "models.libraries.mingpt.model.Block"
ATTENTION = "models.libraries.mingpt.model.CausalSelfAttention"
PLAIN_MLP = "models.mlp.MLP"
K_MEANS = "models.action_ae.discretizers.k_means.KMeansDiscretizer"
LINEAR = "torch.nn.modules.linear.Linear"
IDENTITY = "torch.nn.modules.linear.Identity"
DROPOUT = "torch.nn.modules.dropout.Dropout"
SEQUENTIAL = "torch.nn.modules.container.Sequential"
LAYER_NORM = "torch.nn.modules.normalization.LayerNorm"
BATCH_NORM = "torch.nn.modules.batchnorm.BatchNorm1d"
GELU = "torch.nn.modules.activation.GELU"
RELU = "torch.nn.modules.activation.ReLU"
FLATTEN = "torch.nn.modules.flatten.Flatten"
LSTM = "torch.nn.modules.rnn.LSTM"
DATA_PARALLEL = (
    "torch.nn.parallel.data_parallel.DataParallel",
    "models.latent_generators.latent_generator.LatentGeneratorDataParallel",
    "models.action_ae.generators.base.GeneratorDataParallel",
)
TENSOR = "torch._utils._rebuild_tensor_v2"
PARAMETERS = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
STORAGES = tuple(f"torch.{name}Storage" for name in ("Float", "Double", "Half", "Long", "Int", "Byte", "Bool"))
# Settings that hydra handed to a constructor, which kept them; never read.
_OMEGACONF = (
    *("omegaconf.dictconfig.DictConfig", "omegaconf.listconfig.ListConfig"),
    *("omegaconf.base.ContainerMetadata", "omegaconf.base.Metadata"),
    *(f"omegaconf.nodes.{name}Node" for name in ("Any", "Boolean", "Float", "Integer", "String")),
    *("typing.Any", "collections.defaultdict"),
    *(f"builtins.{name}" for name in ("dict", "list", "int", "long", "float", "bool", "str", "unicode")),
)
RECORDED = frozenset(
    (
        *(MINGPT, MLP_LG, LSTM_LG, GPT, BLOCK, ATTENTION, PLAIN_MLP, K_MEANS),
        *(LINEAR, IDENTITY, DROPOUT, SEQUENTIAL, LAYER_NORM, BATCH_NORM, GELU, RELU, FLATTEN, LSTM, *DATA_PARALLEL),
        *(TENSOR, *PARAMETERS, *STORAGES, "torch.device", *_OMEGACONF),
    )
)


class SnapshotError(UsageError):
    """A snapshot cannot be read or made into a policy; the message names the file, and the class or tensor."""


class Record:
    """What a pickle says of an object: its class by name, what it would be called with, its attributes (`vars`)."""

    __slots__ = ("__dict__", "arguments")
    named: ClassVar[str]
    arguments: Any
    """A tuple, unless the pickle set it to something else."""

    @property
    def path(self) -> str:
        """Of its class. A property, which no attribute of the pickle's hides."""
        return type(self).named

    def __new__(cls, *arguments: Any) -> "Record":
        record = object.__new__(cls)
        record.arguments = arguments
        return record


class Storage(NamedTuple):
    """Where the numbers of a tensor lie: the name of a storage type, the key of the data, how many numbers."""

    type: str
    key: str
    size: int


class Reader(pickle.Unpickler):
    """Reads one pickle from `file`, which lies in `source`."""

    def __init__(self, file: BinaryIO, source: Path) -> None:
        super().__init__(file)
        self.source = source
        self.storages: dict[str, Storage] = {}
        self._classes: dict[str, type] = {"collections.OrderedDict": OrderedDict, "builtins.set": set}

    def find_class(self, module: str, name: str) -> type:
        path = f"{module.replace('__builtin__', 'builtins')}.{name}"
        if path not in self._classes:
            if path not in RECORDED:
                raise SnapshotError(f"{self.source}: refused: it names {module}.{name}, which no snapshot needs")
            # A class of this reading alone: a pickle can set attributes of classes, too.
            self._classes[path] = type(name, (Record,), {"__slots__": (), "named": path})
        return self._classes[path]

    def persistent_load(self, pid: Any) -> Any:
        match pid:
            case ("storage", type() as kind, str(key), str(), int(size), *_) if issubclass(kind, Record):
                storage = Storage(kind.named, key, size)
                if self.storages.setdefault(key, storage) != storage or kind.named not in STORAGES:
                    raise SnapshotError(f"{self.source}: not a snapshot: storage {key!r} is described in two ways")
                return storage
            case ("module", type() as kind, *_):  # files of torch before 1.6 have the source of a class with it
                return kind
        raise SnapshotError(f"{self.source}: not a snapshot: an unknown kind of persistent object")


def read_pickle(file: BinaryIO, source: Path) -> tuple[Any, dict[str, Storage]]:
    """The next pickle of a file as plain data and records, and the storages it speaks of, by key.

    Raises `SnapshotError` for a name that is not in the list, and for a torn pickle.
    """
    start = file.tell()
    try:
        for number, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if "PUT" in opcode.name and isinstance(argument, int) and argument > number:  # room for all would be made
                raise SnapshotError(
                    f"{source}: not a snapshot: a pickle of {number:,} steps counts {argument:,} objects"
                )
        file.seek(start)
        reader = Reader(file, source)
        return reader.load(), reader.storages
    except SnapshotError:
        raise
    except Exception as error:  # a pickle can make its reader fail in every way there is
        raise SnapshotError(f"{source}: not a whole pickle: {str(error).splitlines()[0] or type(error)}") from error
