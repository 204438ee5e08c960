"""The network: it never looks ahead, `read` is `forward` at one position, and a row's bits are its own.

Bits are compared, not closeness, wherever a row is compared with itself among other rows.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bet.config import ModelConfig, Trunk
from bet.model import Model, Padding
from bet.noise import Noise
from bet.priors import make_model

OBS_DIM, ACT_DIM, BINS, BATCH = 6, 2, 7, 32

CONFIGS = {
    "small": ModelConfig(window=5, layers=2, heads=4, width=24),
    "pusht": ModelConfig(window=14, layers=2, heads=6, width=120),
    "one layer": ModelConfig(window=3, layers=1, heads=2, width=20),
    "no offsets": ModelConfig(window=5, layers=2, heads=4, width=24, offsets=False),
    "window 1": ModelConfig(window=1, layers=2, heads=4, width=24),
    "mlp": ModelConfig(trunk=Trunk.MLP, window=5, layers=3, width=24),
    "mlp, study": ModelConfig(trunk=Trunk.MLP, window=10, layers=6, width=120, batch_norm=True),
    "mlp, window 1": ModelConfig(trunk=Trunk.MLP, window=1, layers=1, width=24, offsets=False),
    "lstm": ModelConfig(trunk=Trunk.LSTM, window=5, layers=2, width=24),
    "lstm, wide": ModelConfig(trunk=Trunk.LSTM, window=10, layers=2, width=256),
    "lstm, window 1": ModelConfig(trunk=Trunk.LSTM, window=1, layers=1, width=24, offsets=False),
}
SMALL = ("small", "mlp", "lstm")  # one of each trunk, with dropout


def make(config: ModelConfig, bins: int = BINS, seed: int = 0) -> Model:
    """Weights larger than the initial ones, positions and biases included, so that nothing hides behind a zero."""
    model = make_model(config, OBS_DIM, ACT_DIM, bins).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return model


@pytest.fixture(scope="module", params=CONFIGS)
def model(request: pytest.FixtureRequest) -> Model:
    return make(CONFIGS[request.param])


def observations(model: Model, seed: int = 0, rows: int = BATCH) -> Tensor:
    return torch.randn(rows, model.config.window, OBS_DIM, generator=torch.Generator().manual_seed(seed))


def lengths(model: Model, rows: int = BATCH) -> Tensor:
    """Every length there is, over and over."""
    return torch.arange(rows) % model.config.window + 1


@pytest.fixture(autouse=True)
def one_thread_no_gradients() -> Iterator[None]:
    """As policies act."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        yield
    torch.set_num_threads(before)


# Shapes.


def test_every_position_has_a_logit_and_an_offset_for_each_bin(model: Model) -> None:
    window = model.config.window
    for steps in {1, (window + 1) // 2, window}:
        logits, offsets = model(observations(model)[:, :steps])
        assert logits.shape == (BATCH, steps, BINS)
        assert offsets.shape == (BATCH, steps, BINS, ACT_DIM)
    logits, offsets = model.read(observations(model), lengths(model))
    assert logits.shape == (BATCH, BINS)
    assert offsets.shape == (BATCH, BINS, ACT_DIM)


def test_without_offsets_they_are_zero_and_have_no_weights() -> None:
    without, having = make(CONFIGS["no offsets"]), make(CONFIGS["small"])
    assert not without(observations(without))[1].any()
    assert not without.read(observations(without), lengths(without))[1].any()
    assert without.head.weight.shape == (BINS, 24)
    assert having.head.weight.shape == (BINS * (1 + ACT_DIM), 24)


@pytest.mark.parametrize("trunk", SMALL)
def test_one_bin_is_legal(trunk: str) -> None:
    model = make(CONFIGS[trunk], bins=1)
    logits, offsets = model(observations(model))
    assert logits.shape == (BATCH, 5, 1)
    assert offsets.shape == (BATCH, 5, 1, ACT_DIM)
    assert offsets.any()


# It never looks ahead.


@pytest.mark.parametrize("value", [0.0, 1e3])  # not NaN: hidden steps have the weight 0, and 0 x NaN is NaN
def test_later_steps_change_no_bit_of_earlier_outputs(model: Model, value: float) -> None:
    if not model.causal:
        pytest.skip("an MLP sees the whole window at every position")
    x = observations(model)
    before = model(x)
    for seen in range(1, model.config.window):
        changed = x.clone()
        changed[:, seen:] = value
        for unchanged, after in zip(before, model(changed), strict=True):
            assert torch.equal(unchanged[:, :seen], after[:, :seen])


def test_every_earlier_step_matters(model: Model) -> None:
    x = observations(model)
    logits = model(x)[0][:, -1]
    for step in range(model.config.window):
        changed = x.clone()
        changed[:, step] += 1
        assert (model(changed)[0][:, -1] != logits).any(dim=-1).all()


@pytest.mark.parametrize("trunk", SMALL)
def test_the_place_of_a_step_matters(trunk: str) -> None:
    model = make(CONFIGS[trunk])
    x = observations(model)
    assert not torch.allclose(model(x)[0][:, -1], model(x[:, [1, 0, 2, 3, 4]])[0][:, -1])


# Reading one position.


def test_read_is_forward_at_the_last_real_position_for_every_length(model: Model) -> None:
    x = observations(model)
    for steps in range(1, model.config.window + 1):
        for whole, read in zip(model(x[:, :steps]), model.read(x, torch.full((BATCH,), steps)), strict=True):
            torch.testing.assert_close(read, whole[:, -1], rtol=1e-5, atol=1e-5)


def test_a_short_history_is_zeros_then_its_steps_where_padding_is_on_the_left(model: Model) -> None:
    if model.padding is not Padding.LEFT:
        pytest.skip("padded on the right")
    x, window = observations(model), model.config.window
    for steps in range(1, window + 1):
        padded = torch.cat([x.new_zeros(BATCH, window - steps, OBS_DIM), x[:, :steps]], dim=1)
        for whole, read in zip(model(padded), model.read(x, torch.full((BATCH,), steps)), strict=True):
            torch.testing.assert_close(read, whole[:, -1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("padding", [0.0, 1e6])
def test_what_follows_the_last_real_position_changes_no_bit_of_read(model: Model, padding: float) -> None:
    x, last = observations(model), lengths(model)
    real = torch.arange(model.config.window) < last[:, None]
    padded = torch.where(real[..., None], x, padding)
    for expected, actual in zip(model.read(x, last), model.read(padded, last), strict=True):
        assert torch.equal(expected, actual)


# Bits.


@settings(max_examples=8)
@given(shuffle=st.permutations(range(BATCH)), keep=st.integers(1, BATCH), fill=st.sampled_from([0.0, 1.0, 1e9]))
def test_a_rows_bits_depend_on_neither_its_position_nor_its_neighbours(
    model: Model, shuffle: list[int], keep: int, fill: float
) -> None:
    x, last = observations(model), lengths(model)
    expected = [*model(x), *model.read(x, last)]
    order = torch.tensor(shuffle)
    x, last = x[order], last[order]
    x[keep:], last[keep:] = fill, 1
    for whole, part in zip(expected, [*model(x), *model.read(x, last)], strict=True):
        assert torch.equal(whole[order[:keep]], part[:keep])


@st.composite
def shapes(draw: st.DrawFn) -> tuple[ModelConfig, int, int, int]:
    """Any settings the config allows, within reason, and any observations, actions and bins."""
    width = 4 * draw(st.integers(3, 16))
    config = ModelConfig(
        trunk=draw(st.sampled_from(Trunk)),
        width=width,
        heads=draw(st.sampled_from([heads for heads in range(1, 9) if width % heads == 0])),
        window=draw(st.integers(1, 12)),
        layers=draw(st.integers(1, 2)),
        offsets=draw(st.booleans()),
    )
    return config, draw(st.integers(1, 40)), draw(st.integers(1, 9)), draw(st.integers(1, 40))


@settings(max_examples=40)
@given(shape=shapes(), data=st.data())
def test_equal_rows_have_equal_bits_at_every_place_of_a_batch_in_every_legal_shape(
    shape: tuple[ModelConfig, int, int, int], data: st.DataObject
) -> None:
    config, obs_dim, act_dim, bins = shape
    model = make_model(config, obs_dim, act_dim, bins).eval()
    model.initialize(torch.Generator().manual_seed(0))
    row = torch.randn(1, config.window, obs_dim, generator=torch.Generator().manual_seed(1))
    x = row.expand(BATCH, -1, -1).contiguous()
    last = torch.full((BATCH,), data.draw(st.integers(1, config.window)))
    for outputs in (*model(x), *model.read(x, last)):
        assert torch.equal(outputs, outputs[:1].expand_as(outputs))


def test_a_neighbour_of_nan_changes_no_bit(model: Model) -> None:
    x, last = observations(model), lengths(model)
    expected = [*model(x), *model.read(x, last)]
    x[1::2] = torch.nan
    for whole, part in zip(expected, [*model(x), *model.read(x, last)], strict=True):
        assert torch.equal(whole[::2], part[::2])
        if part.any():  # offsets are zero when there are none
            assert part[1::2].isnan().all()


@pytest.mark.parametrize("rows", [16, BATCH])
def test_one_thread_or_two_give_the_same_bits(model: Model, rows: int) -> None:
    x, last = observations(model, rows=rows), lengths(model, rows)
    results = []
    for count in (1, 2):
        torch.set_num_threads(count)
        results.append([*model(x), *model.read(x, last)])
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


# Randomness.


def initialized(seed: int, trunk: str = "small") -> dict[str, Any]:
    model = make_model(CONFIGS[trunk], OBS_DIM, ACT_DIM, BINS)
    model.initialize(torch.Generator().manual_seed(seed))
    return model.state_dict()


@pytest.mark.parametrize("trunk", [*SMALL, "mlp, study"])
def test_initial_weights_come_from_the_generator_given(trunk: str) -> None:
    torch.manual_seed(1)
    first = initialized(0, trunk)
    torch.manual_seed(2)
    second, other = initialized(0, trunk), initialized(1, trunk)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_initial_weights_are_those_of_mingpt() -> None:
    for name, weight in initialized(0).items():
        if "norm" in name or name.endswith("bias") or name == "position":
            assert (weight == (1.0 if "norm" in name and name.endswith("weight") else 0.0)).all()
        else:
            assert weight.std().item() == pytest.approx(0.02, rel=0.2)


def noise(key: int = 0) -> Noise:
    return Noise(key, 0, BATCH)


@pytest.mark.parametrize("trunk", SMALL)
def test_dropout_comes_from_the_noise_given_alone(trunk: str) -> None:
    model = make(CONFIGS[trunk])
    x = observations(model)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = model(x, noise(5))[0]
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(model(x, noise(5))[0], first)
    assert not torch.equal(model(x, noise(6))[0], first)


@pytest.mark.parametrize("trunk", SMALL)
def test_part_of_a_batch_meets_the_masks_it_meets_in_the_whole(trunk: str) -> None:
    model = make(CONFIGS[trunk])
    x = observations(model)
    whole = model(x, noise(5))
    for first, last in ((0, 7), (7, 8), (8, BATCH)):
        for part, all_rows in zip(model(x[first:last], Noise(5, first, BATCH)), whole, strict=True):
            torch.testing.assert_close(part, all_rows[first:last], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("trunk", SMALL)
@pytest.mark.parametrize("training", [True, False])
def test_without_noise_there_is_no_dropout_whatever_the_mode(training: bool, trunk: str) -> None:
    model = make(CONFIGS[trunk])
    x = observations(model)
    expected = model(x)[0]
    model.train(training)
    assert torch.equal(model(x)[0], expected)


@pytest.mark.parametrize("trunk", SMALL)
def test_noise_without_dropout_changes_nothing(trunk: str) -> None:
    model = make(CONFIGS[trunk].model_copy(update={"dropout": 0.0}))
    x = observations(model)
    assert torch.equal(model(x, noise())[0], model(x)[0])


def test_dropout_keeps_the_past_the_past() -> None:
    model = make(CONFIGS["small"])
    x = observations(model)
    changed = x.clone()
    changed[:, 3:] += 1
    before, after = (model(each, noise())[0] for each in (x, changed))
    assert torch.equal(before[:, :3], after[:, :3])


def test_little_dropout_stays_close_to_none() -> None:
    """The two ways of attending, with dropout and without, are the same function."""
    model = make(CONFIGS["small"].model_copy(update={"dropout": 1e-9}))
    x = observations(model)
    for dropped, plain in zip(model(x, noise()), model(x), strict=True):
        torch.testing.assert_close(dropped, plain, rtol=1e-5, atol=1e-5)
