"""Score predictions against the truth: Datasets in, one Dataset of scores out.

    scores = evaluate(["rmse", "acc"], forecast, truth, over=("init_time", "y", "x"), climatology=climatology)
    scores["u"].sel(metric="rmse")                     # against lead_time

In two steps, where the sums themselves are wanted (streaming, many processes, the bootstrap of
`workbench.significance`):

    sums = accumulate(["rmse"], forecast, truth, over=("y", "x"))        # one sum for every start
    scores = finish(["rmse"], sums.sum("init_time"))
"""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches

import numpy as np
import pandas as pd
import xarray as xr

from workbench.errors import InputError
from workbench.metrics.alignment import Labelled, as_names, require_dims, require_same_coordinates
from workbench.metrics.base import COMPONENT, START_DIMS, Fields, Metric, WeightedSums, aggregate
from workbench.metrics.ensembles import ENSEMBLE_METRICS
from workbench.metrics.fields import FIELD_METRICS, VECTOR_METRICS

METRICS: Mapping[str, Metric] = {metric.name: metric for metric in FIELD_METRICS + ENSEMBLE_METRICS}


def find_metric(name: str) -> Metric:
    """Return the metric of that name, or say which names come near."""
    if name not in METRICS:
        near = get_close_matches(name, METRICS, n=3)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"choose among {', '.join(METRICS)}"
        raise InputError(f"there is no metric '{name}': {hint}")
    return METRICS[name]


def describe(names: Sequence[str] = tuple(METRICS)) -> str:
    """Return one paragraph a metric: name, units, definition and source."""
    units = {0: "1", 1: "units of the variable", 2: "units of the variable squared"}
    found = [find_metric(name) for name in names]
    return "\n".join(f"{m.name} [{units[m.unit_power]}]\n    {m.definition}\n    {m.source}" for m in found)


def evaluate(
    metrics: Sequence[str],
    prediction: xr.Dataset,
    truth: xr.Dataset,
    *,
    over: str | Sequence[str],
    weights: Labelled | None = None,
    climatology: xr.Dataset | None = None,
    mask: Labelled | None = None,
    starts: str | Sequence[str] = START_DIMS,
) -> xr.Dataset:
    """Return the scores of every variable of ``prediction``; lazy on dask.

    Prediction and truth have equal dimensions and coordinates. A ``member`` dimension of the prediction alone makes
    it an ensemble: ensemble metrics see its members, every other metric scores its mean. (To score each member by
    itself, rename the dimension in the prediction and expand the truth along it.) A dimension ``vector_component``
    makes a variable a vector, which has one score: ``rmse`` is then ``sqrt <|p - t|^2>``.

    Args:
        metrics: Names among `METRICS`.
        prediction: ``([member,] *dims)``.
        truth: The same variables, dimensions, coordinates and units. More variables are allowed.
        over: Dimensions to average over; the others are kept.
        weights: Weights as a DataArray, or one for each variable as a Dataset, on any of the dimensions. Default 1.
        climatology: The same variables at the valid times, on any of the dimensions; for anomalies.
        mask: True where a point counts, on any of the dimensions. Points outside may hold NaN.
        starts: Dimensions that number the forecasts; matters to metrics that are averages over forecasts.

    Returns:
        For each variable an array ``(metric, *kept)``. Coordinate ``unit_power`` of ``metric`` says whether the
        score is dimensionless (0), in the variable's ``units`` (1) or in their square (2).

    Raises:
        InputError: Unknown metric, or one that a vector does not have; missing variable or dimension; units or
            coordinates differ.
    """
    sums = accumulate(
        metrics, prediction, truth, over=over, weights=weights, climatology=climatology, mask=mask, starts=starts
    )
    scores = finish(metrics, sums)
    for name in scores:
        scores[name].attrs.update(prediction[name].attrs)
    return scores


def accumulate(
    metrics: Sequence[str],
    prediction: xr.Dataset,
    truth: xr.Dataset,
    *,
    over: str | Sequence[str],
    weights: Labelled | None = None,
    climatology: xr.Dataset | None = None,
    mask: Labelled | None = None,
    starts: str | Sequence[str] = START_DIMS,
) -> WeightedSums:
    """Return the weighted sums that ``metrics`` need; arguments as in `evaluate`.

    Sums of parts of the starts add up with ``+``; sums that keep the starts (none of them in ``over``) go into
    `workbench.significance`.
    """
    over, found = as_names(over), _find(metrics)
    fields = {name: _fields(name, prediction, truth, climatology, over) for name in _variables(prediction, truth)}
    for name, field in fields.items():
        if COMPONENT in field.truth.dims:
            _require_vector_metrics(name, metrics)
    every_weight, every_mask = {}, {}
    for name, field in fields.items():
        every_weight[name] = _weights_for(name, weights, field.truth)
        if mask is not None:
            every_mask[name] = _mask_for(name, mask, field.truth)
    statistics = list({s.name: s for metric in found for s in metric.statistics}.values())
    masks = every_mask if mask is not None else None
    return aggregate(statistics, fields, every_weight, over=over, mask=masks, starts=as_names(starts))


def finish(metrics: Sequence[str], sums: WeightedSums) -> xr.Dataset:
    """Return the scores, ``(metric, *kept)`` for each variable, that follow from weighted sums."""
    found = _find(metrics)
    index = pd.Index([metric.name for metric in found], name="metric")
    columns: dict[str, list[xr.DataArray]] = {str(name): [] for name in sums.weights}
    for metric in found:
        for name, means in sums.means([s.name for s in metric.statistics]).items():
            columns[name].append(metric.of(*means))
    scores = xr.Dataset({name: xr.concat(column, dim=index) for name, column in columns.items()})
    return scores.assign_coords(unit_power=("metric", [metric.unit_power for metric in found]))


def _find(names: Sequence[str]) -> list[Metric]:
    if not names:
        raise InputError(f"no metric was asked for: name at least one of {', '.join(METRICS)}")
    return [find_metric(name) for name in names]


def _require_vector_metrics(name: str, metrics: Sequence[str]) -> None:
    others = [metric for metric in metrics if metric not in VECTOR_METRICS]
    if others:
        raise InputError(
            f"'{name}' is a vector, which has no {', '.join(others)}: expected some of {', '.join(VECTOR_METRICS)}; "
            f"score its components by themselves for others"
        )


def _variables(prediction: xr.Dataset, truth: xr.Dataset) -> list[str]:
    names = [str(name) for name in prediction.data_vars]
    missing = [name for name in names if name not in truth.data_vars]
    if not names:
        raise InputError("the prediction holds no variable: expected a Dataset with at least one")
    if missing:
        raise InputError(
            f"the truth has variables {list(truth.data_vars)} and lacks {missing} of the prediction: "
            f"score a selection, prediction[[...]], or add them to the truth"
        )
    return names


def _fields(
    name: str, prediction: xr.Dataset, truth: xr.Dataset, climatology: xr.Dataset | None, over: tuple[str, ...]
) -> Fields:
    p, t = _bare(prediction[name]), _bare(truth[name])
    units = prediction[name].attrs.get("units"), truth[name].attrs.get("units")
    if None not in units and units[0] != units[1]:
        raise InputError(
            f"variable '{name}' is in '{units[0]}' in the prediction and in '{units[1]}' in the truth: convert one"
        )
    dims = tuple(dim for dim in p.dims if dim != "member")
    if set(dims) != set(t.dims):
        raise InputError(
            f"variable '{name}' has dimensions {tuple(map(str, dims))} in the prediction and "
            f"{tuple(map(str, t.dims))} in the truth: bring the truth to the forecast's dimensions, for example "
            f"record.sel(time=forecast.valid_time)"
        )
    require_dims(t, over, f"variable '{name}'")
    require_same_coordinates(p, t, dims, "prediction", "truth")
    reference = None if climatology is None else _climatology_for(name, climatology, t)
    if "member" not in p.dims:
        return Fields(p, t, None, reference)
    mean = p.isel(member=0, drop=True) if p.sizes["member"] == 1 else p.mean("member", skipna=False)
    return Fields(mean, t, p, reference)


def _climatology_for(name: str, climatology: xr.Dataset, truth: xr.DataArray) -> xr.DataArray:
    if name not in climatology.data_vars:
        raise InputError(f"the climatology has variables {list(climatology.data_vars)} and lacks '{name}'")
    return _bare(_broadcastable(climatology[name], truth, f"the climatology of '{name}'"))


def _weights_for(name: str, weights: Labelled | None, truth: xr.DataArray) -> xr.DataArray:
    if weights is None:
        return xr.DataArray(1.0)
    found = _bare(_broadcastable(_of_variable(name, weights, "weights"), truth, f"the weights of '{name}'"))
    if found.chunks is None and not bool((found >= 0).all()):
        raise InputError(f"the weights of '{name}' hold a negative number or NaN: expected numbers from 0 upwards")
    return found


def _mask_for(name: str, mask: Labelled, truth: xr.DataArray) -> xr.DataArray:
    found = _of_variable(name, mask, "mask")
    if found.dtype != np.bool_:
        raise InputError(
            f"the mask of '{name}' is of type {found.dtype}: expected booleans, True where a point counts, "
            f"for example field.notnull()"
        )
    return _broadcastable(found, truth, f"the mask of '{name}'").reset_coords(drop=True)


def _of_variable(name: str, given: Labelled, what: str) -> xr.DataArray:
    if isinstance(given, xr.DataArray):
        return given
    if name not in given.data_vars:
        raise InputError(f"the {what} are given for {list(given.data_vars)} and lack '{name}': add an entry for it")
    return given[name]


def _broadcastable(array: xr.DataArray, truth: xr.DataArray, what: str) -> xr.DataArray:
    extra = [str(dim) for dim in array.dims if dim not in truth.dims]
    if extra:
        raise InputError(
            f"{what}: expected no dimensions beyond {tuple(map(str, truth.dims))}, found {extra}: select along them "
            f"first, for example climatology.sel(dayofyear=truth.valid_time.dt.dayofyear), "
            f"or give one entry for each variable as a Dataset"
        )
    require_same_coordinates(truth, array, array.dims, "truth", what)
    return array


def _bare(array: xr.DataArray) -> xr.DataArray:
    """Return the array in float64 with its dimension coordinates alone.

    Other coordinates (valid times, names of stations) play no part in a score and may differ between the two.
    """
    return array.reset_coords(drop=True).astype(np.float64, copy=False)
