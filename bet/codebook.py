"""Action bins: k-means centres, and the offset of an action from the centre of its bin (BeT, section 3.1)."""

import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import Tensor

from bet.data.episodes import DataError
from bet.wording import counted


def fit_codebook(actions: NDArray[np.float32], bins: int, seed: int) -> Tensor:
    """Centres (bins, act_dim) of k-means on actions (N, act_dim); the same for the same seed, whatever the threads.

    Raises `DataError` when there are fewer distinct actions than bins, or so close together that centres coincide.
    """
    from sklearn.cluster import KMeans  # a second that only those wait for who fit
    from sklearn.exceptions import ConvergenceWarning

    distinct = len(np.unique(actions, axis=0))
    if distinct < bins:
        raise DataError(f"codebook.bins={bins} but the demonstrations have only {counted(distinct, 'distinct action')}")
    # One thread: the order of a parallel sum would otherwise show in the last bits of the centres.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        kmeans = KMeans(n_clusters=bins, random_state=seed, n_init="auto").fit(actions.astype(np.float64))
    centers = kmeans.cluster_centers_.astype(np.float32)  # (bins, act_dim)
    apart = len(np.unique(centers, axis=0))
    if apart < bins:  # the others would be bins that nothing falls into
        raise DataError(f"codebook.bins={bins} but only {apart} centres of k-means differ; use as many bins")
    return torch.from_numpy(centers)


def encode(actions: Tensor, centers: Tensor) -> tuple[Tensor, Tensor]:
    """Actions (..., act_dim) -> index of the nearest centre (...), offset from it (..., act_dim)."""
    squared = ((actions.unsqueeze(-2) - centers) ** 2).sum(-1)  # (..., bins)
    bins = squared.argmin(-1)
    return bins, actions - centers[bins]


def decode(bins: Tensor, offsets: Tensor, centers: Tensor) -> Tensor:
    """Bins (...), offsets (..., act_dim) -> actions (..., act_dim)."""
    return centers[bins] + offsets
