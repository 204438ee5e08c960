"""Normalisers: to [-1, 1] and back."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from bet.config import Normalize, canonical_json
from bet.normalizer import Normalizer, fit_normalizer

EPS = float(np.finfo(np.float32).eps)
VALUES = npst.arrays(
    np.float32,
    st.tuples(st.integers(2, 20), st.integers(1, 4)),
    elements=st.floats(-(2**20), 2**20, width=32, allow_subnormal=False),
)


@settings(max_examples=50)
@given(values=VALUES)
def test_minmax_spans_minus_one_to_one(values: NDArray[np.float32]) -> None:
    low, high = values.min(axis=0), values.max(axis=0)
    spread = (high - low).astype(np.float64)
    largest = np.maximum(np.abs(low), np.abs(high))
    # Numbers much further from 0 than from each other lose their last digits before they are scaled.
    assume((spread[spread > 0] > 1e-3 * largest[spread > 0]).all())
    assume((spread[spread > 0] > 1e-30).all())
    scaled = fit_normalizer(values, Normalize.MINMAX).normalize(values)
    varies = spread > 0
    np.testing.assert_allclose(scaled.min(axis=0)[varies], -1, atol=1e4 * EPS)
    np.testing.assert_allclose(scaled.max(axis=0)[varies], 1, atol=1e4 * EPS)
    assert not scaled[:, ~varies].any()


@settings(max_examples=50)
@given(values=VALUES, kind=st.sampled_from(Normalize))
def test_denormalize_undoes_normalize(values: NDArray[np.float32], kind: Normalize) -> None:
    normalizer = fit_normalizer(values, kind)
    again = normalizer.denormalize(normalizer.normalize(values))
    assert again.dtype == np.float32
    largest = np.abs(values).max(axis=0)
    assert (np.abs(again - values) <= 4 * EPS * largest + 1e-30).all()


@settings(max_examples=50)
@given(values=VALUES)
def test_none_changes_no_bit(values: NDArray[np.float32]) -> None:
    normalizer = fit_normalizer(values, Normalize.NONE)
    np.testing.assert_array_equal(normalizer.normalize(values), values)
    np.testing.assert_array_equal(normalizer.denormalize(values), values)


@settings(max_examples=50)
@given(values=VALUES)
def test_a_constant_dimension_is_centred_and_keeps_its_unit(values: NDArray[np.float32]) -> None:
    values[:, 0] = values[0, 0]
    normalizer = fit_normalizer(values, Normalize.MINMAX)
    assert normalizer.scale[0] == 1
    assert (normalizer.scale > 0).all()
    assert not normalizer.normalize(values)[:, 0].any()
    assert normalizer.normalize(values + 1)[0, 0] == pytest.approx(1, abs=4 * EPS * float(abs(values[0, 0]) + 1))


@settings(max_examples=50)
@given(values=VALUES, kind=st.sampled_from(Normalize))
def test_json_keeps_every_bit(values: NDArray[np.float32], kind: Normalize) -> None:
    normalizer = fit_normalizer(values, kind)
    again = Normalizer.from_json(normalizer.to_json())
    assert again.shift.dtype == again.scale.dtype == np.float32
    np.testing.assert_array_equal(again.shift, normalizer.shift)
    np.testing.assert_array_equal(again.scale, normalizer.scale)
    assert canonical_json(again.to_json()) == canonical_json(normalizer.to_json())


def test_values_outside_the_fitted_range_go_beyond_one() -> None:
    normalizer = fit_normalizer(np.array([[0.0], [10.0]], np.float32), Normalize.MINMAX)
    assert normalizer.normalize(np.array([[15.0]], np.float32)).item() == 2.0
