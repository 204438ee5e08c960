"""Dropout masks: keyed by step and place in the global batch, whoever draws them."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bet.noise import Noise

CPU = torch.device("cpu")
SITES = [(3,), (5, 7), (2, 4, 4), (1,)]  # what a network asks for, per row


@given(rows=st.integers(1, 9), cuts=st.lists(st.integers(0, 9), max_size=3), key=st.integers(0, 2**63 - 1))
def test_any_division_of_a_batch_draws_the_masks_of_the_whole(rows: int, cuts: list[int], key: int) -> None:
    whole = Noise(key, 0, rows)
    expected = [whole.mask((rows, *site), 0.3, CPU) for site in SITES]
    bounds = sorted({0, rows, *(min(cut, rows) for cut in cuts)})
    parts = []
    for first, last in pairwise(bounds):
        noise = Noise(key, first, rows)
        parts.append([noise.mask((last - first, *site), 0.3, CPU) for site in SITES])
    for place, mask in enumerate(expected):
        assert torch.equal(torch.cat([part[place] for part in parts]), mask)


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9])
def test_a_share_p_is_dropped_and_the_rest_keeps_the_mean(p: float) -> None:
    mask = Noise(3, 0, 1000).mask((1000, 100), p, CPU)
    assert (mask == 0).float().mean().item() == pytest.approx(p, abs=0.01)
    assert mask.mean().item() == pytest.approx(1, abs=0.02 if p < 0.9 else 0.05)
    assert len(mask.unique()) <= 2


def test_rows_sites_and_keys_have_masks_of_their_own() -> None:
    noise = Noise(3, 0, 64)
    first, second = noise.mask((64, 64), 0.5, CPU), noise.mask((64, 64), 0.5, CPU)
    other = Noise(4, 0, 64).mask((64, 64), 0.5, CPU)
    for mask in (second, other, first.roll(1, 0), first.roll(1, 1), first.T):
        assert ((first > 0) == (mask > 0)).float().mean().item() == pytest.approx(0.5, abs=0.05)


def test_no_rows_draw_nothing_and_shift_nothing() -> None:
    noise, other = Noise(3, 2, 5), Noise(3, 2, 5)
    assert noise.mask((0, 4), 0.5, CPU).shape == (0, 4)
    other.mask((1, 4), 0.5, CPU)
    assert torch.equal(noise.mask((2, 4), 0.5, CPU), other.mask((2, 4), 0.5, CPU))
