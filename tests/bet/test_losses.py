"""The BeT loss: what it equals, what it looks at, and gradients that stay finite."""

import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from bet.losses import focal_loss, offset_loss


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def random_logits(*shape: int, seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# Focal loss.


def test_gamma_0_is_cross_entropy() -> None:
    logits, targets = random_logits(6, 5, 7), torch.arange(30).reshape(6, 5) % 7
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").reshape(6, 5)
    torch.testing.assert_close(focal_loss(logits, targets, 0.0), expected)


@pytest.mark.parametrize(
    ("p", "gamma", "loss"),
    [
        (0.5, 2.0, 0.25 * math.log(2)),
        (0.25, 1.0, 0.75 * math.log(4)),
        (0.9, 2.0, 0.01 * math.log(1 / 0.9)),
        (0.75, 0.5, 0.5 * math.log(4 / 3)),
        (1.0, 2.0, 0.0),
    ],
)
def test_known_values(p: float, gamma: float, loss: float) -> None:
    logits = torch.tensor([p, 1 - p]).log()
    assert focal_loss(logits, torch.tensor(0), gamma).item() == pytest.approx(loss, rel=1e-5, abs=1e-9)


@settings(max_examples=30)
@given(gamma=st.floats(0, 5), seed=st.integers(0, 2**32), bins=st.integers(1, 9))
def test_it_is_cross_entropy_damped_where_the_true_bin_is_likely(gamma: float, seed: int, bins: int) -> None:
    logits, targets = random_logits(4, bins, seed=seed).double(), torch.arange(4) % bins
    cross_entropy = F.cross_entropy(logits, targets, reduction="none")
    loss = focal_loss(logits, targets, gamma)
    torch.testing.assert_close(loss, (1 - torch.exp(-cross_entropy)) ** gamma * cross_entropy)
    assert (loss >= 0).all()
    assert (loss <= cross_entropy).all()


@pytest.mark.parametrize("gamma", [0.0, 0.01, 0.5, 1.0, 1.5, 2.0, 2.7])
@pytest.mark.parametrize("gap", [0.0, 10.0, 16.0, 17.0, 30.0, 1e4, -1e4])
def test_loss_and_gradient_are_finite_however_likely_the_true_bin(gamma: float, gap: float) -> None:
    logits = torch.tensor([gap, 0.0, 0.0], requires_grad=True)
    loss = focal_loss(logits, torch.tensor(0), gamma)
    loss.backward()
    assert logits.grad is not None
    assert loss.isfinite()
    assert logits.grad.isfinite().all()
    assert logits.grad[0] <= 0  # more of the true bin never costs


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_a_single_bin_costs_nothing_and_pulls_at_nothing(gamma: float) -> None:
    logits = random_logits(8, 1).requires_grad_()
    loss = focal_loss(logits, torch.zeros(8, dtype=torch.long), gamma).sum()
    loss.backward()
    assert logits.grad is not None
    assert loss == 0
    assert not logits.grad.any()


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_its_gradient_is_its_slope(gamma: float) -> None:
    logits = random_logits(3, 4).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: focal_loss(x, torch.tensor([0, 1, 3]), gamma), logits)


# Offset loss.


def test_it_is_the_mean_squared_error_of_the_true_bins_offset() -> None:
    offsets = torch.tensor([[[1.0, 2.0], [3.0, 5.0]]])  # one position, two bins
    true = torch.tensor([[1.0, 1.0]])
    assert offset_loss(offsets, torch.tensor([0]), true).tolist() == [0.5]
    assert offset_loss(offsets, torch.tensor([1]), true).tolist() == [10.0]


def test_it_looks_only_at_the_true_bin() -> None:
    offsets, targets = random_logits(2, 3, 5, 4), torch.tensor([[0, 1, 2], [3, 4, 0]])
    true = random_logits(2, 3, 4, seed=1)
    others = F.one_hot(targets, 5).logical_not()[..., None]  # (2, 3, 5, 1)
    changed = torch.where(others, torch.nan, offsets).requires_grad_()
    loss = offset_loss(changed, targets, true)
    assert loss.shape == (2, 3)
    assert torch.equal(loss, offset_loss(offsets, targets, true))
    loss.sum().backward()
    assert changed.grad is not None
    assert not changed.grad[others.expand_as(changed)].any()
    assert changed.grad[~others.expand_as(changed)].all()
