"""The original's latent generators as our networks: the same arithmetic under our names.

Read from notmahi/bet (models/latent_generators/mingpt.py, models/libraries/mingpt/model.py) and, for the other two,
skandermoalla/bet-reproduction (models/latent_generators/{mlp,rnn}.py, models/mlp.py). What would compute other numbers
than our layers is refused: another activation, another epsilon, an embedding of tokens, a second direction.

How a history shorter than the window is read is the same, too: the transformer gives it the first positions, the others
get zeros before it. That follows from `Model.read`, so nothing of it is kept in a policy.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from bet.config import Trunk
from bet.snapshots.parts import Part
from bet.snapshots.records import (
    ATTENTION,
    BLOCK,
    DROPOUT,
    FLATTEN,
    GELU,
    GPT,
    LSTM,
    LSTM_LG,
    MINGPT,
    MLP_LG,
    PLAIN_MLP,
    RELU,
    SEQUENTIAL,
    SnapshotError,
)


@dataclass(frozen=True)
class Network:
    """One of our networks, read from a snapshot."""

    settings: Mapping[str, Any]
    """Dotted settings of the section `model`, as far as the snapshot has them."""
    obs_dim: int
    tensors: Mapping[str, Tensor]
    """By our names."""


def _transformer(prior: Part) -> Network:
    gpt = prior.child("model").expect(GPT)
    if gpt.setting("discrete_input", bool, False):
        raise gpt.wrong("takes tokens, not observations")
    positions = gpt.tensor("pos_emb").flatten(0, -2)  # (W, width)
    tensors = {
        "position": positions,
        **gpt.child("tok_emb").linear("embed"),
        **gpt.child("ln_f").norm("norm"),
        **gpt.child("head").linear("head", bias=False),
    }
    blocks = gpt.child("blocks").expect(SEQUENTIAL).children()
    heads = {block.child("attn").setting("n_head", int) for block in blocks}
    if len(heads) != 1:
        raise gpt.wrong("blocks of different numbers of heads")
    for number, block in enumerate(blocks):
        tensors |= _block(block.expect(BLOCK), f"blocks.{number}")
    settings = {
        "model.window": len(positions),
        "model.layers": len(blocks),
        "model.heads": heads.pop(),
        "model.width": positions.shape[1],
        "model.dropout": gpt.child("drop").expect(DROPOUT).number("p"),
    }
    return Network(settings, tensors["embed.weight"].shape[-1], tensors)


def _block(block: Part, ours: str) -> dict[str, Tensor]:
    attention = block.child("attn").expect(ATTENTION)
    qkv = [attention.child(name).linear("") for name in ("query", "key", "value")]
    expand, gelu, contract, *rest = block.child("mlp").expect(SEQUENTIAL).children()
    if gelu.expect(GELU).setting("approximate", str, "none") != "none":
        raise gelu.wrong("is not the exact GELU")
    if [part.record.path for part in rest] != [DROPOUT]:
        raise block.wrong("ends in other layers than the original's")
    return {
        f"{ours}.attention.qkv.weight": torch.cat([one[".weight"] for one in qkv]),
        f"{ours}.attention.qkv.bias": torch.cat([one[".bias"] for one in qkv]),
        **attention.child("proj").linear(f"{ours}.attention.project"),
        **block.child("ln1").norm(f"{ours}.norm_attention"),
        **block.child("ln2").norm(f"{ours}.norm_mlp"),
        **expand.linear(f"{ours}.expand"),
        **contract.linear(f"{ours}.contract"),
    }


def _mlp(prior: Part) -> Network:
    flatten, *layers, head = prior.child("model").expect(PLAIN_MLP).child("trunk").expect(SEQUENTIAL).children()
    flatten.expect(FLATTEN)
    batch_norm = prior.setting("batchnorm", bool)
    each = 3 if batch_norm else 2  # linear layer, batch norm, activation
    depth, over = divmod(len(layers), each)
    if depth == 0 or over:
        raise prior.wrong(f"has {len(layers)} hidden modules, expected one or more times {each}")
    tensors = head.linear("head")
    for number in range(depth):
        linear, *norm, relu = layers[number * each : (number + 1) * each]
        relu.expect(RELU)
        tensors |= linear.linear(f"hidden.{number}")
        for part in norm:
            tensors |= part.norm(f"norms.{number}")
    window = prior.setting("block_size", int)
    width, inputs = tensors["hidden.0.weight"].shape
    if window < 1 or inputs % window:
        raise prior.wrong(f"takes {inputs} numbers, not a window of {window} observations")
    settings = {
        "model.window": window,
        "model.layers": depth,
        "model.width": width,
        "model.dropout": 0.0,
        "model.batch_norm": batch_norm,
    }
    return Network(settings, inputs // window, tensors)


def _lstm(prior: Part) -> Network:
    embed, relu = prior.child("fc1").expect(SEQUENTIAL).children()
    relu.expect(RELU)
    tensors = {**embed.linear("embed"), **prior.child("fc2").linear("head")}
    lstm = prior.child("model").expect(LSTM)
    layers = lstm.setting("num_layers", int)
    if lstm.setting("bidirectional", bool) or lstm.setting("proj_size", int, 0) or not lstm.setting("bias", bool):
        raise lstm.wrong("is not the study's: two directions, a projection, or no bias")
    for number in range(layers):
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            tensors[f"layers.{number}.{name}_l0"] = lstm.tensor(f"{name}_l{number}")
    width, obs_dim = tensors["embed.weight"].shape
    settings = {
        "model.window": prior.setting("block_size", int),
        "model.layers": layers,
        "model.width": width,
        "model.dropout": lstm.number("dropout"),
    }
    return Network(settings, obs_dim, tensors)


_GENERATORS: Mapping[str, tuple[Trunk, Callable[[Part], Network]]] = MappingProxyType(
    {MINGPT: (Trunk.TRANSFORMER, _transformer), MLP_LG: (Trunk.MLP, _mlp), LSTM_LG: (Trunk.LSTM, _lstm)}
)


def network(prior: Part) -> Network:
    """The network of a latent generator. Raises `SnapshotError` for one of another class, or another make."""
    if prior.record.path not in _GENERATORS:
        raise prior.wrong(f"is a {prior.record.path}; known are {', '.join(_GENERATORS)}")
    trunk, read = _GENERATORS[prior.record.path]
    try:
        found = read(prior)
    except SnapshotError:
        raise
    except (ValueError, IndexError, RuntimeError) as error:  # layers or axes of another number
        raise prior.wrong(f"has other layers than the original's: {error}") from error
    return Network({"model.trunk": trunk.value, **found.settings}, found.obs_dim, found.tensors)
