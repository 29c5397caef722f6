"""How long a rollout stays usable: energy drift, time to decorrelation, first non-finite step, useful horizon.

Times are lead times as numbers, in the units of the record, or in hours where leads are time differences. An event
that does not happen within the rollout has the time infinity, never a missing value that an average would skip:
take medians, or compare with the length of the rollout.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from workbench.errors import InputError
from workbench.metrics.alignment import as_names, require_dims, require_same_coordinates


def mean_energy(
    components: Sequence[xr.DataArray], over: str | Sequence[str], weights: xr.DataArray | None = None
) -> xr.DataArray:
    """Return <u^2 + v^2 + ...> / 2, the weighted mean over the dimensions ``over``; lazy on dask.

    Args:
        components: The components of the field, with equal coordinates.
        over: The spatial dimensions.
        weights: Quadrature weights, normalised by their sum; default 1.
    """
    if not components:
        raise InputError("a mean energy needs at least one component, found none")
    for component in components:
        require_dims(component, as_names(over), f"component '{component.name}'")
        require_same_coordinates(
            components[0], component, components[0].dims, str(components[0].name), str(component.name)
        )
    squared = sum((c.astype(np.float64) ** 2 for c in components), start=xr.DataArray(0.0))
    if weights is None:
        return 0.5 * squared.mean(as_names(over), skipna=False)
    require_same_coordinates(squared, weights, weights.dims, "the field", "the weights")
    return 0.5 * squared.weighted(weights).mean(as_names(over), skipna=False)


def energy_drift(energy: xr.DataArray, reference: xr.DataArray) -> xr.DataArray:
    """Return energy / reference - 1: the relative drift of a predicted energy.

    Args:
        energy: Energy of the prediction, as from `mean_energy`, against lead time.
        reference: Energy of the truth with the same coordinates, or without ``lead_time`` the energy at the start.
    """
    dims = [dim for dim in energy.dims if dim in reference.dims]
    require_same_coordinates(energy, reference, dims, "the energy", "the reference energy")
    return (energy / reference - 1.0).assign_attrs(long_name="relative energy drift", units="1")


def drift_rate(drift: xr.DataArray, lead: str = "lead_time") -> xr.DataArray:
    """Return the least-squares slope of ``drift`` against lead time, per unit of lead time."""
    leads, units = _lead_values(drift, lead)
    times = xr.DataArray(leads - leads.mean(), dims=(lead,), coords={lead: drift[lead]})
    slope = (drift * times).sum(lead, skipna=False) / float((times**2).sum())
    return slope.assign_attrs(long_name="drift rate", units=f"({units})-1")


def time_to_decorrelation(correlation: xr.DataArray, threshold: float, lead: str = "lead_time") -> xr.DataArray:
    """Return the lead at which the correlation first falls below ``threshold``, linear between leads.

    The correlation at lead 0, the start itself, is 1. A correlation that is NaN (a state no longer finite) has
    fallen at its own lead.

    Args:
        correlation: Correlation of each start or of all, against lead time.
        threshold: Between -1 and 1; 0.8 is customary (Kochkov et al. 2021, doi:10.1073/pnas.2101784118, use 0.95).
        lead: Name of the lead dimension.
    """
    if not -1.0 < threshold < 1.0:
        raise InputError(f"expected a correlation threshold between -1 and 1, found {threshold}")
    margin = correlation - threshold
    time = _first_crossing(margin, ~(margin >= 0), 1.0 - threshold, lead)
    return time.assign_attrs(long_name=f"time to correlation below {threshold}")


def useful_horizon(score: xr.DataArray, baseline: xr.DataArray, lead: str = "lead_time") -> xr.DataArray:
    """Return the lead at which an error first is no smaller than the baseline's, linear between leads.

    Both errors are zero at lead 0, so a forecast that is no better at the first lead has the horizon 0.

    Args:
        score: An error, smaller is better, against lead time. (Of a score such as correlation pass 1 - score.)
        baseline: The same error of the baseline.
        lead: Name of the lead dimension.
    """
    dims = [dim for dim in score.dims if dim in baseline.dims]
    require_same_coordinates(score, baseline, dims, "the score", "the baseline's score")
    margin = baseline - score
    time = _first_crossing(margin, ~(margin > 0), 0.0, lead)
    return time.assign_attrs(long_name="useful forecast horizon")


def first_nonfinite_step(prediction: xr.Dataset, over: str | Sequence[str], lead: str = "lead_time") -> xr.DataArray:
    """Return the number of the first step (1 is the first lead) with a NaN or infinity in any variable.

    Args:
        prediction: A forecast; every variable has the dimension ``lead``.
        over: The spatial dimensions; a variable may lack some of them.
        lead: Name of the lead dimension.
    """
    dims = as_names(over)
    finite = xr.DataArray(True)
    for name in prediction.data_vars:
        require_dims(prediction[name], (lead,), f"variable '{name}'")
        here = (abs(prediction[name]) < np.inf).all([dim for dim in dims if dim in prediction[name].dims])
        finite = finite & here
    first = (~finite).argmax(lead) + 1.0
    step = first.where(~finite.all(lead), np.inf)
    return step.assign_attrs(long_name="first step that is not finite", units="1")


def _lead_values(array: xr.DataArray, lead: str) -> tuple[np.ndarray, str]:
    """Return the leads as rising positive numbers, and their units."""
    require_dims(array, (lead,), f"'{array.name}'")
    values: Any = array[lead].values
    units = str(array[lead].attrs.get("units", "1"))
    if np.issubdtype(values.dtype, np.timedelta64):
        values, units = values / np.timedelta64(1, "h"), "h"
    values = values.astype(np.float64)
    if values[0] <= 0 or not np.all(np.diff(values) > 0):
        raise InputError(
            f"expected leads that rise from above 0 along '{lead}', found {values[0]:g} to {values[-1]:g}: "
            f"leave out lead 0 and sort with .sortby('{lead}')"
        )
    return values, units


def _first_crossing(margin: xr.DataArray, lost: xr.DataArray, at_start: float, lead: str) -> xr.DataArray:
    """Return the lead where ``margin`` crosses zero on the way to the first lead that is ``lost``."""
    leads, units = _lead_values(margin, lead)
    one_chunk = {lead: -1}
    time = xr.apply_ufunc(
        _interpolated_crossing,
        margin.chunk(one_chunk) if margin.chunks is not None else margin,
        lost.chunk(one_chunk) if lost.chunks is not None else lost,
        input_core_dims=[[lead], [lead]],
        kwargs={"leads": leads, "at_start": at_start},
        dask="parallelized",
        output_dtypes=[np.float64],
    )
    return time.assign_attrs(units=units)


def _interpolated_crossing(margin: np.ndarray, lost: np.ndarray, *, leads: np.ndarray, at_start: float) -> np.ndarray:
    first = lost.argmax(axis=-1)
    start = np.full((*margin.shape[:-1], 1), at_start)
    before = np.take_along_axis(np.concatenate([start, margin], axis=-1), first[..., None], axis=-1)[..., 0]
    after = np.take_along_axis(margin, first[..., None], axis=-1)[..., 0]
    earlier = np.concatenate([[0.0], leads])[first]
    fall = before - after
    fraction = np.divide(before, fall, out=np.zeros_like(fall), where=fall > 0)
    fraction = np.where(np.isfinite(after), fraction, 1.0)
    return np.where(lost.any(axis=-1), earlier + fraction * (leads[first] - earlier), np.inf)
