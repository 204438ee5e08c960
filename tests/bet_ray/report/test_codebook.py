"""The winner's bins among the demonstrated actions."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bet.policy import Policy
from bet_ray.report.codebook import codebook, principal
from bet_ray.report.records import read_records
from bet_ray.show.compute import bins_of
from bet_ray.show.figures import bins_figure

from .conftest import NewSweep


@pytest.fixture
def run(new_sweep: NewSweep) -> Path:
    small = new_sweep(space={"bins": [3]})
    small.train({"codebook.bins": 3})
    small.finish()
    return small.run


def test_the_bins_are_the_winners_and_their_use_is_counted_in_its_fresh_episodes(run: Path) -> None:
    records = read_records(run)
    found, policy = codebook(records), Policy.load(run)
    assert found is not None
    assert found.used is not None
    assert records.demonstrations is not None
    np.testing.assert_array_equal(found.bins.centers, policy.bin_centers)
    refitted = bins_of(records.demonstrations, policy.config)
    np.testing.assert_array_equal(found.bins.shares, refitted.shares)
    assert found.used.shape == (3,)
    assert found.used.sum() == pytest.approx(1)
    assert found.unused == (found.used == 0).sum()
    figure = bins_figure(found.view, found.density, found.bins, found.used)
    assert len(list(figure.select_traces({"type": "bar"}))) == 1


def test_there_is_no_codebook_without_the_demonstrations_or_with_others(run: Path) -> None:
    records = read_records(run)
    assert codebook(replace(records, manifest={**records.manifest, "dataset_digest": "another"})) is None
    assert codebook(replace(records, winner=None)) is None


def test_a_single_bin_is_no_codebook(new_sweep: NewSweep) -> None:
    small = new_sweep(space={"bins": [1]})
    small.train({"codebook.bins": 1})
    small.finish()
    assert codebook(read_records(small.run)) is None


def test_principal_components_are_the_directions_of_most_variance() -> None:
    generator = np.random.default_rng(0)
    turn, _ = np.linalg.qr(generator.normal(size=(4, 4)))
    actions = (generator.normal(size=(5000, 4)) * (0.1, 3, 0.2, 1)) @ turn.T + 7
    mean, axes, shares = principal(actions.astype(np.float32))
    np.testing.assert_allclose(mean, actions.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(np.abs(axes @ turn)[:, [1, 3]], np.eye(2), atol=0.05)
    np.testing.assert_allclose(shares, np.array([9, 1]) / 10.05, atol=0.02)
