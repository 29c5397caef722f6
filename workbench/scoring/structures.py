"""Scores of a vibrating structure: the model beside its baselines, as its field asks for them, into ``structures.nc``.

``scores.nc`` has the errors of every variable at every lead with their significance; here are those by the range of
each quantity, of displacement as one vector, of the peak of the stress, of energy and of the natural frequency.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr

from workbench import __version__
from workbench.baselines.forecasts import fit_baselines, needs_climatology
from workbench.data.climatology import fit_climatology
from workbench.data.spec import TIME, TRAJECTORY
from workbench.data.starts import Problem
from workbench.errors import InputError
from workbench.experiment import Experiment
from workbench.metrics import structures as metrics
from workbench.scoring.structures_motion import Bodies, energy, frequency, histories, probe
from workbench.scoring.structures_verdict import print_table as print_table
from workbench.scoring.structures_verdict import summary as summary
from workbench.scoring.structures_verdict import verdict
from workbench.scoring.tally import full_weights
from workbench.scoring.truth import Aligned, align, leads_in_record, refuse_training_states

MODEL, TRUTH = "model", "truth"
VECTORS = ("displacement", "velocity")
STRESS = "von_mises"
RUNS = (TRAJECTORY, "init_time")
METRICS = {
    "nmae": "<|p - t| / R>, R the range of the quantity over the test set; of a vector, over its components",
    "nrmse": "sqrt <((p - t) / R)^2>, R the range of the quantity over the test set; of a vector, over its components",
    "relative_l2": "sqrt(sum (p - t)^2 / sum t^2) of each forecast over leads, places and components, mean over them",
    "relative_l2_pooled": "sqrt(sum (p - t)^2 / sum t^2) over all forecasts",
    "r2": "1 - sum (p - t)^2 / sum (t - <t>)^2",
    "skill": "1 - sum (p - t)^2 / sum (s - t)^2, s the state at the start",
}


def long_run(
    experiment: Experiment,
    record: xr.Dataset,
    forecast: xr.Dataset,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> xr.Dataset:
    """Everything that ``structures.nc`` holds.

    Args:
        experiment: says in ``evaluate.baselines`` what stands beside the model.
        record: the truth.
        forecast: ``(member, trajectory, init_time, lead_time, *space)``; the mean of an ensemble is scored.
        progress: called with forecasts scored and forecasts in all.

    Raises:
        InputError: displacement is not forecast, the record has no trajectories, the forecast does not fit it, or a
            baseline cannot be made of it.
    """
    aligned = _aligned(experiment, record, forecast)
    scene = Scene.of(aligned)
    sources = {MODEL: aligned.forecast.mean("member"), **_baselines(experiment, aligned)}
    bodies, missing = _bodies(aligned)
    place = probe(scene.truth)
    scores, motions = {}, {TRUTH: _moving(scene.truth, bodies, place)}
    for number, (name, source) in enumerate(sources.items()):
        source = source.compute()
        scores[name] = _scores(scene, source)
        motions[name] = _moving(source, bodies, place)
        progress(number + 1, len(sources))
    found = xr.concat(list(scores.values()), dim="forecast", join="exact", coords="minimal", compat="override")
    found = found.assign_coords(forecast=list(scores))
    moving = xr.concat(list(motions.values()), dim="source", join="exact", coords="minimal", compat="override")
    found = found.merge(_compared(moving.assign_coords(source=list(motions))), compat="override")
    found = found.assign(
        {f"probe_{dim}": scene.truth[dim][at].drop_vars(dim, errors="ignore") for dim, at in place.items()}
    )
    found = _described(found.assign(range=scene.ranges()), scene).assign_attrs(
        title=f"Scores of {experiment.name} as a structure",
        history=f"workbench {__version__}: structures",
        record=str(record.encoding.get("source", experiment.data.record)),
        split=experiment.rollout.split,
        forecasts=len(aligned.starts) * len(aligned.trajectories),
        missing=json.dumps(missing),
    )
    return found.assign_attrs(verdict=verdict(found))


def _aligned(experiment: Experiment, record: xr.Dataset, forecast: xr.Dataset) -> Aligned:
    """The forecast with its truth, as `workbench.evaluate.evaluate` takes them."""
    if not experiment.rollout.within:
        forecast = forecast.isel(lead_time=slice(0, leads_in_record(forecast, record)))
    problem = Problem.of(record, experiment.data, forecast.sizes.get("lead_time", 1))
    if not any(name.startswith("displacement_") for name in problem.names):
        raise InputError(
            f"a structure is scored on its displacement, and the experiment forecasts {', '.join(problem.names)}: name "
            "displacement_x, displacement_y (and displacement_z) in data.state"
        )
    if TRAJECTORY not in record[problem.names[0]].dims:
        raise InputError(f"scores of structures are over trajectories: the record has no dimension '{TRAJECTORY}'")
    aligned = align(problem, forecast)
    if experiment.rollout.split != "train":
        refuse_training_states(aligned)
    return aligned


def _baselines(experiment: Experiment, aligned: Aligned) -> dict[str, xr.Dataset]:
    """The experiment's baselines from the same starts."""
    config, problem = experiment.evaluate, aligned.problem
    climatology = None
    if needs_climatology(config.baselines, problem.missing):
        climatology = fit_climatology(problem.record, problem.names, problem.parts["train"], problem.missing)
    fitted = fit_baselines(config.baselines, problem, climatology, full_weights(problem, config.weights))
    return {name: fit(aligned.trajectories, aligned.starts).isel(member=0, drop=True) for name, fit in fitted.items()}


def _bodies(aligned: Aligned) -> tuple[Bodies | None, dict[str, str]]:
    """What energy and frequency are computed with, and why what is not computed is not."""
    try:
        return Bodies.of(aligned), {}
    except InputError as error:
        return None, dict.fromkeys(("energy", "natural_frequency"), str(error))


# ------------------------------------------------------------------------------------------------------------ errors


@dataclass(frozen=True)
class Scene:
    """What all forecasts are compared with.

    Attributes:
        truth: ``(trajectory, init_time, lead_time, *space)`` of every variable, in memory.
        last: the state at the start ``(trajectory, init_time, *space)``.
        solid: for each variable 1 where there is material, ``(trajectory, *space)``.
        quantities: quantity -> the variables that are its components.
    """

    truth: xr.Dataset
    last: xr.Dataset
    solid: Mapping[str, xr.DataArray]
    quantities: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, aligned: Aligned) -> Scene:
        """Read the truth."""
        problem, record = aligned.problem, aligned.problem.record
        names = list(problem.names)
        valid = xr.DataArray(aligned.valid, dims=("init_time", "lead_time"))
        chosen = record[names].isel({TRAJECTORY: aligned.trajectories})
        truth = chosen.isel({TIME: valid}).compute().drop_vars(TIME, errors="ignore")
        truth = truth.assign_coords({d: aligned.forecast[d] for d in ("init_time", "lead_time")})
        last = problem.states(aligned.trajectories, aligned.starts).compute()
        last = last.assign_coords(init_time=aligned.forecast["init_time"])
        vectors = {v: tuple(n for n in names if n.startswith(f"{v}_")) for v in VECTORS}
        quantities = {**{v: parts for v, parts in vectors.items() if parts}, **{n: (n,) for n in names}}
        solid = {name: _solid(record, aligned.trajectories, chosen[name]) for name in names}
        return cls(truth, last, solid, quantities)

    def ranges(self) -> xr.DataArray:
        """Range of each variable over the test set, ``(variable)``."""
        found = [metrics.value_range(self.truth[n], self.truth[n].dims) for n in self.truth.data_vars]
        return xr.concat(found, dim="variable").assign_coords(variable=list(self.truth.data_vars))

    def stacked(self, dataset: xr.Dataset, quantity: str) -> xr.DataArray:
        """A quantity of a dataset with its components, in float64."""
        names = self.quantities[quantity]
        parts = [dataset[name].astype(np.float64) for name in names]
        return xr.concat(parts, dim="component", join="exact", coords="minimal", compat="override")


def _solid(record: xr.Dataset, trajectories: np.ndarray, field: xr.DataArray) -> xr.DataArray:
    """1 where a variable of the record has material, as its ``solid`` and ``node_solid`` say; else 1 everywhere."""
    for name in ("solid", "node_solid"):
        if name in record and set(record[name].dims) - {TRAJECTORY} == set(field.dims) - {TRAJECTORY, TIME}:
            return (record[name].isel({TRAJECTORY: trajectories}) > 0).astype(np.float64).compute()
    return xr.ones_like(field.isel({TIME: 0}, drop=True), dtype=np.float64).compute()


def _scores(scene: Scene, source: xr.Dataset) -> xr.Dataset:
    """Scores of one forecast: of all leads together, of each, and relative L2 of each run; and its peaks of stress."""
    rows = {quantity: _row(scene, source, quantity) for quantity in scene.quantities}
    found = xr.concat(list(rows.values()), dim="quantity", join="exact", coords="minimal", compat="override")
    return found.assign_coords(quantity=list(rows))


def _row(scene: Scene, source: xr.Dataset, quantity: str) -> xr.Dataset:
    truth, found, last = (scene.stacked(d, quantity) for d in (scene.truth, source, scene.last))
    found = found.transpose(*truth.dims)
    metrics.difference(found.isel(lead_time=0), truth.isel(lead_time=0))  # refuses other coordinates
    labels = {d: truth[d] for d in (*RUNS, "lead_time")}
    found, truth, last = (a.drop_vars(list(a.coords)) for a in (found, truth, last))  # half of the time is theirs
    weights = scene.solid[scene.quantities[quantity][0]]
    weights = weights.drop_vars(list(weights.coords))
    runs = [d for d in truth.dims if d in RUNS]
    every = [d for d in truth.dims if d not in runs]
    span = metrics.value_range(truth, [d for d in truth.dims if d != "component"])

    def table(over: list[object]) -> dict[str, xr.DataArray]:
        return {
            "nmae": metrics.nmae(found, truth, span, over, weights),
            "nrmse": metrics.nrmse(found, truth, span, over, weights),
            "relative_l2_pooled": metrics.relative_l2(found, truth, over, weights),
            "r2": metrics.r2(found, truth, over, weights),
            "skill": metrics.skill(found, last, truth, over, weights),
        }

    each = metrics.relative_l2(found, truth, every, weights)
    at_leads = table([d for d in truth.dims if d != "lead_time"])
    whole = {**table(list(truth.dims)), "relative_l2": each.mean(skipna=False)}
    return xr.Dataset(
        {
            "score": _by_metric({name: whole[name] for name in METRICS}),
            "score_by_lead": _by_metric({n: at_leads.get(n, xr.full_like(at_leads["nmae"], np.nan)) for n in METRICS}),
            "relative_l2_by_start": each,
        },
        labels,
    )


def _by_metric(rows: dict[str, xr.DataArray]) -> xr.DataArray:
    return xr.concat(list(rows.values()), dim="metric").assign_coords(metric=list(rows))


# ------------------------------------------------------------------------------------------------------------ motion


def _moving(source: xr.Dataset, bodies: Bodies | None, place: Mapping[str, xr.DataArray]) -> xr.Dataset:
    """What there is of every run: histories, peak of the stress, energy, natural frequency; as far as it can be had.

    Args:
        source: a forecast, or the truth.
        bodies: None where they are not known.
        place: of the probe.
    """
    found = histories(source, place, STRESS)
    if STRESS in source:
        space = [str(d) for d in source[STRESS].dims if str(d).startswith("elem_")]
        peak = metrics.peak(source[STRESS].astype(np.float64), space)
        found |= {"peak": peak["value"], **{f"peak_{d}": peak[d] for d in space}}
    if bodies is not None:
        found["energy"] = energy(bodies, source)
        found["natural_frequency"] = frequency(bodies, source)
    return xr.Dataset({name: array.drop_vars("valid_time", errors="ignore") for name, array in found.items()})


def _compared(moving: xr.Dataset) -> xr.Dataset:
    """The same with the errors of every forecast."""
    truth, others = moving.sel(source=TRUTH, drop=True), moving.isel(source=slice(1, None)).rename(source="forecast")
    found = moving
    if "peak" in moving:
        sides = (d[[n for n in d if str(n).startswith("peak")]].rename(peak="value") for d in (others, truth))
        theirs, own = sides
        found = found.assign(
            peak_error=metrics.peak_error(theirs, own), peak_distance=metrics.peak_distance(theirs, own)
        )
    if "energy" in moving:
        error = metrics.energy_error(others["energy"], truth["energy"])
        found = found.assign(energy_error=error, energy_drift=error.isel(lead_time=-1, drop=True))
    if "natural_frequency" in moving:
        found = found.assign(
            frequency_error=abs(others["natural_frequency"] / truth["natural_frequency"] - 1),
        )
    return found


def _described(found: xr.Dataset, scene: Scene) -> xr.Dataset:
    """Long names and units."""
    units = {name: str(scene.truth[name].attrs["units"]) for name in map(str, scene.truth.data_vars)}
    found["metric"].attrs["definition"] = json.dumps(METRICS)
    found["quantity"].attrs["units"] = json.dumps({q: units[names[0]] for q, names in scene.quantities.items()})
    length = next((str(scene.truth[d].attrs.get("units", "1")) for d in scene.truth.dims if "_x" in str(d)), "1")
    said = {
        "score": ("score over all forecasts and leads", "1"),
        "score_by_lead": ("score over all forecasts at a lead; relative_l2 is of whole forecasts only", "1"),
        "relative_l2_by_start": ("relative L2 error of one forecast", "1"),
        "range": ("range of the variable over the test set, in its own units", ""),
        "peak": ("largest von Mises stress over time and elements", units.get(STRESS, "1")),
        "peak_error": ("|p/t - 1| of the largest von Mises stress", "1"),
        "peak_distance": ("distance between the elements of the largest von Mises stress", length),
        "largest_stress": ("largest von Mises stress over elements", units.get(STRESS, "1")),
        **{f"probe_{n}": (f"{n} of the node that moves most in the truth", unit) for n, unit in units.items()},
        **{f"probe_{d}": (f"{d} of the node that moves most in the truth", length) for d in scene.truth.dims},
        "energy": ("kinetic and strain energy on the record's grid", "J"),
        "energy_error": ("energy less the truth's, over the truth's largest", "1"),
        "energy_drift": ("energy error at the last lead", "1"),
        "natural_frequency": ("frequency of the oscillator that follows the first mode best", "Hz"),
        "frequency_error": ("|p/t - 1| of natural frequencies", "1"),
    }
    for name, (meaning, unit) in said.items():
        if name in found:
            found[name].attrs = {"long_name": meaning, **({"units": unit} if unit else {})}
    return found
