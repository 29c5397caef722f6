"""Distances between the distributions of values, whatever their place and time."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

BINS = 50


def hellinger_distance(
    prediction: Float[np.ndarray, "..."], truth: Float[np.ndarray, "..."], bins: int = BINS
) -> float:
    r"""Distance between two distributions, 0 where they are equal and 1 where they share nothing.

    .. math:: H = \sqrt{1 - \sum_i \sqrt{p_i q_i}}

    with the shares p and q of predicted and true values in bins that hold equal shares of the true ones; the outermost
    bins are open. Bins of equal share see the whole of a distribution with long tails, as fluxes have it.

    Args:
        prediction: finite values.
        truth: finite values.
        bins: number of bins; fewer where true values repeat.

    Source: Hellinger (1909), J. Reine Angew. Math. 136, 210; customary for fluxes since arXiv:2509.03816.
    """
    edges = np.unique(np.quantile(truth, np.linspace(0, 1, bins + 1)[1:-1]))
    shares = [
        np.bincount(np.searchsorted(edges, values.ravel(), side="right"), minlength=len(edges) + 1) / values.size
        for values in (prediction, truth)
    ]
    return float(np.sqrt(max(0.0, 1.0 - np.sqrt(shares[0] * shares[1]).sum())))
