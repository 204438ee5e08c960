"""Action bins: k-means centres, the nearest of them, and the way back."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from bet.codebook import decode, encode, fit_codebook
from bet.data.episodes import DataError


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def actions(count: int = 500, dim: int = 2, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)


def tensors(seed: int, count: int, bins: int, dim: int, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Actions (count, dim) and centres (bins, dim)."""
    rng = np.random.default_rng(seed)
    return (
        torch.from_numpy((scale * rng.normal(size=(count, dim))).astype(np.float32)),
        torch.from_numpy((scale * rng.normal(size=(bins, dim))).astype(np.float32)),
    )


sizes = given(
    seed=st.integers(0, 2**32),
    count=st.integers(1, 20),
    bins=st.integers(1, 9),
    dim=st.integers(1, 5),
    scale=st.sampled_from([1e-3, 1.0, 512.0]),
)


@settings(max_examples=30)
@sizes
def test_encode_gives_the_nearest_centre(seed: int, count: int, bins: int, dim: int, scale: float) -> None:
    points, centers = tensors(seed, count, bins, dim, scale)
    chosen, offsets = encode(points, centers)
    away = torch.cdist(points.double(), centers.double())
    assert chosen.shape == (count,)
    torch.testing.assert_close(away[torch.arange(count), chosen], away.min(-1).values)
    torch.testing.assert_close(offsets.double().norm(dim=-1), away.min(-1).values, rtol=1e-4, atol=1e-4 * scale)


@settings(max_examples=30)
@sizes
def test_decode_undoes_encode(seed: int, count: int, bins: int, dim: int, scale: float) -> None:
    points, centers = tensors(seed, count, bins, dim, scale)
    torch.testing.assert_close(decode(*encode(points, centers), centers), points, rtol=1e-6, atol=1e-6 * scale)


def test_any_leading_dimensions_are_kept() -> None:
    points, centers = tensors(0, 24, 5, 3, 1.0)
    bins, offsets = encode(points.reshape(2, 3, 4, 3), centers)
    flat_bins, flat_offsets = encode(points, centers)
    assert torch.equal(bins, flat_bins.reshape(2, 3, 4))
    assert torch.equal(offsets, flat_offsets.reshape(2, 3, 4, 3))


def test_a_centre_is_its_own_bin_without_offset() -> None:
    centers = fit_codebook(actions(), 7, seed=0)
    bins, offsets = encode(centers, centers)
    assert bins.tolist() == list(range(7))
    assert not offsets.any()


def test_centres_have_the_right_shape_and_type() -> None:
    centers = fit_codebook(actions(dim=3), 8, seed=0)
    assert centers.shape == (8, 3)
    assert centers.dtype == torch.float32


def test_groups_of_actions_are_found() -> None:
    corners = np.array([[0, 0], [10, 0], [0, 10], [10, 10]], np.float32)
    around = (np.repeat(corners, 50, axis=0) + 0.1 * actions(200)).astype(np.float32)
    centers = fit_codebook(around, 4, seed=0)
    away = torch.cdist(torch.from_numpy(corners), centers)
    assert away.min(-1).values.max() < 0.1
    assert sorted(away.argmin(-1).tolist()) == [0, 1, 2, 3]


def test_one_bin_is_the_mean_action() -> None:
    data = actions()
    np.testing.assert_allclose(fit_codebook(data, 1, seed=0).numpy(), data.mean(axis=0, keepdims=True), atol=1e-6)


def test_as_many_bins_as_distinct_actions_gives_the_actions_themselves() -> None:
    data = actions(5)
    centers = fit_codebook(np.tile(data, (4, 1)), 5, seed=0)
    assert sorted(centers.tolist()) == sorted(data.tolist())


@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_seed_gives_the_same_centres_whatever_the_threads(threads: int) -> None:
    data = actions(5000)
    expected = fit_codebook(data, 16, seed=3)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with threadpool_limits(threads):
            assert torch.equal(fit_codebook(data, 16, seed=3), expected)
    finally:
        torch.set_num_threads(before)


def test_another_seed_gives_other_centres() -> None:
    assert not torch.equal(fit_codebook(actions(), 16, seed=0), fit_codebook(actions(), 16, seed=1))


def test_numpys_global_generator_is_neither_read_nor_moved() -> None:
    expected = fit_codebook(actions(), 8, seed=0)
    np.random.seed(5)  # noqa: NPY002
    coming = np.random.random()  # noqa: NPY002
    np.random.seed(5)  # noqa: NPY002
    assert torch.equal(fit_codebook(actions(), 8, seed=0), expected)
    assert np.random.random() == coming  # noqa: NPY002


def test_fewer_distinct_actions_than_bins_are_refused_with_both_numbers() -> None:
    few = np.tile(np.array([[0, 0], [1, 1], [0, 1]], np.float32), (100, 1))
    with pytest.raises(DataError, match=r"codebook\.bins=4 .* only 3 distinct actions"):
        fit_codebook(few, 4, seed=0)


def test_centres_that_coincide_are_refused_with_how_many_differ() -> None:
    actions = np.array([[0.0], [1e-30], [1.0]], np.float32)  # k-means cannot tell the first two apart
    with pytest.raises(DataError, match=r"codebook\.bins=3 but only 2 centres of k-means differ; use as many bins"):
        fit_codebook(actions, 3, seed=0)


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 60), bins=st.integers(1, 12), grid=st.integers(1, 4))
def test_any_actions_give_distinct_finite_centres_among_them_or_one_clear_line(
    seed: int, count: int, bins: int, grid: int
) -> None:
    actions = np.random.default_rng(seed).integers(-grid, grid + 1, (count, 2)).astype(np.float32)
    if len(np.unique(actions, axis=0)) < bins:
        with pytest.raises(DataError, match="distinct action"):
            fit_codebook(actions, bins, seed)
        return
    centers = fit_codebook(actions, bins, seed)
    assert len(centers.unique(dim=0)) == bins
    assert (centers.numpy() >= actions.min(axis=0)).all()
    assert (centers.numpy() <= actions.max(axis=0)).all()
    assert len(encode(torch.from_numpy(actions), centers)[0].unique()) == bins  # no bin is empty
