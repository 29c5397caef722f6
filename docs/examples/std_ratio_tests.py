"""Is the metric right: in one piece and in parts."""

import numpy as np
import xarray as xr

from workbench.metrics import accumulate, evaluate, finish


def field(seed: int, scale: float) -> xr.Dataset:
    values = 5.0 + scale * np.random.default_rng(seed).normal(size=(6, 8, 10))
    return xr.Dataset({"u": (("init_time", "y", "x"), values, {"units": "m s-1"})})


def test_against_numpy():
    prediction, truth = field(1, 2.0), field(2, 1.0)
    found = evaluate(["std_ratio"], prediction, truth, over=("init_time", "y", "x"))
    np.testing.assert_allclose(found.u.item(), prediction.u.values.std() / truth.u.values.std(), rtol=1e-12)


def test_parts_agree_with_the_whole():
    prediction, truth = field(1, 2.0), field(2, 1.0)
    over = ("init_time", "y", "x")
    halves = [slice(0, 2), slice(2, 6)]
    sums = [accumulate(["std_ratio"], prediction.isel(init_time=h), truth.isel(init_time=h), over=over) for h in halves]
    whole = evaluate(["std_ratio"], prediction, truth, over=over)
    np.testing.assert_allclose(finish(["std_ratio"], sums[0] + sums[1]).u, whole.u, rtol=1e-12)
