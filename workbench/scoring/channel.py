"""Long-run statistics of a channel flow: truth, rollout and references side by side, into ``channel.nc``.

Every statistic has an interval from batch means, one number that says how far it is from the truth, and beside it the
*sampling floor*: how far two halves of the truth are from each other. A distance below the floor is as good as the
length of the record can tell.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import numpy as np
import xarray as xr

from workbench import __version__
from workbench.errors import InputError
from workbench.experiment import Experiment
from workbench.metrics.channel import nearest_nodes
from workbench.metrics.channel_kernel import HISTORY
from workbench.metrics.channel_statistics import DISTANCES, HEIGHTS, channel_distances, joint_density, on_nodes
from workbench.metrics.long_run import (
    band,
    exit_step,
    jackknife_variance,
    neighbour_correlation,
    random_halves,
    t_quantile,
)
from workbench.scoring.channel_sources import (
    Published,
    Source,
    Truth,
    is_table,
    read_forecast,
    read_published,
    read_reference,
    read_truth,
)
from workbench.scoring.channel_verdict import accuracy, verdict
from workbench.scoring.channel_verdict import print_table as print_table
from workbench.scoring.channel_verdict import summary as summary

SPLITS = 64
"""Random halves of the truth."""
RESERVED = ("truth", "model")


def long_run(
    experiment: Experiment,
    record: xr.Dataset,
    forecast: xr.Dataset | None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> xr.Dataset:
    """Statistics of the whole record, of a rollout and of the references of an experiment.

    Args:
        experiment: says in ``evaluate.long_run`` what is compared and what is left out.
        record: the truth; all of it is averaged, the training split too, since it is the flow and not its states that
            is estimated.
        forecast: ``(member, [trajectory,] init_time, lead_time, x, y, z)``, of any length; None for references alone.
        progress: called with blocks done and blocks in all, for each source.

    Raises:
        InputError: the record is no channel, a source does not fit it, or a reference has a name that is taken.
    """
    config = experiment.evaluate.long_run
    taken = [name for name in config.references if name in RESERVED]
    if taken:
        raise InputError(f"evaluate.long_run.references has the name '{taken[0]}', which is taken: rename it")
    truth = read_truth(record, config.batches, progress)
    sources = [truth.source]
    if forecast is not None:
        sources.append(read_forecast(forecast, truth, config.discard, config.batches, progress))
    tables = []
    for name, path in config.references.items():
        if is_table(path):
            tables.append(read_published(name, path, truth))
        else:
            sources.append(read_reference(name, path, truth, config.batches, progress))
    return compare(truth, sources, tables, experiment.evaluate.confidence).assign_attrs(
        title=f"Long-run statistics of {experiment.name}",
        history=f"workbench {__version__}: channel flow",
        discard=config.discard,
    )


def compare(truth: Truth, sources: Sequence[Source], tables: Sequence[Published], confidence: float) -> xr.Dataset:
    """Everything that ``channel.nc`` holds.

    Args:
        truth: what the others are compared with.
        sources: the truth itself first.
        tables: published profiles.
        confidence: level of the intervals.
    """
    nodes = truth.source.value["y"].values
    y_plus = (nodes - truth.walls[0]) * truth.friction_velocity / truth.source.viscosity
    heights = nearest_nodes(y_plus, HEIGHTS)
    dataset = xr.Dataset(
        {
            **_statistics(truth, sources, tables, confidence),
            **_distances(truth, sources, tables, heights, confidence),
            **_floor(truth.source, heights, confidence),
            **_histories(sources),
            "height": ("height", heights, {"long_name": "positions in y of spectra, correlations and distributions"}),
            "y_plus": ("y", y_plus, {"long_name": "distance from the wall in viscous units", "units": "1"}),
        }
    ).drop_vars(["points_x", "points_z"], errors="ignore")
    names = [s.name for s in sources]
    dataset["reynolds"] = _by_source({**dict.fromkeys(names, truth.reynolds), **{t.name: t.reynolds for t in tables}})
    dataset["floor_scale"] = _by_source({s.name: _floor_scale(truth.source, s) for s in sources}).reindex(
        source=dataset["source"]
    )
    for rail in ("divergence", "wall_slip"):
        dataset[rail] = _by_source({s.name: s.average(rail) for s in sources}).reindex(source=dataset["source"])
    dataset = dataset.assign_attrs(_facts(truth, sources, confidence))
    return _described(dataset, truth.units).assign_attrs(verdict=verdict(dataset), accuracy=accuracy(dataset))


def _by_source(values: dict[str, float]) -> xr.DataArray:
    return xr.DataArray(list(values.values()), dims="source", coords={"source": list(values)})


def _statistics(
    truth: Truth, sources: Sequence[Source], tables: Sequence[Published], confidence: float
) -> dict[str, xr.DataArray]:
    """Every statistic on ``(source, ...)``, with its bounds."""
    value = truth.source.estimate.value
    found: dict[str, list[xr.Dataset]] = {"": [], "_low": [], "_high": []}
    for source in sources:
        low, high = source.estimate.interval(confidence)
        for suffix, dataset in zip(found, (source.estimate.value, low, high), strict=True):
            found[suffix].append(on_nodes(dataset, value))
    for table in tables:
        kept = table.value[["mean_velocity", "rms"]]
        for suffix in found:
            found[suffix].append((value * np.nan).assign(kept if suffix == "" else kept * np.nan))
    names = [s.name for s in sources] + [t.name for t in tables]
    arrays: dict[str, xr.DataArray] = {}
    for suffix, parts in found.items():
        whole = xr.concat(parts, dim="source", join="exact").assign_coords(source=names)
        arrays |= {f"{name}{suffix}": whole[name] for name in map(str, whole.data_vars)}
    densities = [
        on_nodes(s.value.assign(joint_density(s.found.sums.sum("batch", skipna=False), s.found.scale)), value)
        for s in sources
    ]
    joint = xr.concat(densities, dim="source", join="exact").assign_coords(source=names[: len(sources)])
    return arrays | {name: joint[name].reindex(source=names) for name in ("joint_pdf", "joint_u", "joint_v")}


def _distances(
    truth: Truth, sources: Sequence[Source], tables: Sequence[Published], heights: Sequence[int], confidence: float
) -> dict[str, xr.DataArray]:
    """``distance(target, source, statistic)`` with bounds: from the truth, and from each published table."""
    targets = {"truth": truth.source.value, **{table.name: table.value for table in tables}}
    rows = {}
    for target, against in targets.items():
        for source in sources:
            if source.name != target:
                other = truth.source if target == "truth" else None
                rows[target, source.name] = _distance(source, against, other, heights, confidence)
    for table in tables:
        alone = channel_distances(table.value, truth.source.value, heights).to_array("statistic")
        rows["truth", table.name] = (alone, alone * np.nan, alone * np.nan)
    names = [s.name for s in sources] + [t.name for t in tables]
    arrays = {}
    for i, suffix in enumerate(("", "_low", "_high")):
        values = np.full((len(targets), len(names), len(DISTANCES)), np.nan)
        for (target, name), row in rows.items():
            values[list(targets).index(target), names.index(name)] = row[i].sel(statistic=list(DISTANCES)).values
        arrays[f"distance{suffix}"] = xr.DataArray(
            values,
            dims=("target", "source", "statistic"),
            coords={"target": list(targets), "source": names, "statistic": list(DISTANCES)},
        )
    return arrays


def _distance(
    source: Source, target: xr.Dataset, truth: Source | None, heights: Sequence[int], confidence: float
) -> tuple[xr.DataArray, xr.DataArray, xr.DataArray]:
    """Distances with bounds that count the sampling error of both sides; of a published table only of this one."""
    mine = on_nodes(source.value, target)
    value = channel_distances(mine, target, heights)
    variance = jackknife_variance(channel_distances(on_nodes(source.without, target), target, heights))
    batches = source.batches
    if truth is not None:
        variance = variance + jackknife_variance(channel_distances(mine, truth.without, heights))
        batches = min(batches, truth.batches)
    half = t_quantile(confidence, batches) * np.sqrt(variance)
    low, high = (value - half).clip(min=0.0), value + half
    return value.to_array("statistic"), low.to_array("statistic"), high.to_array("statistic")


def _floor(truth: Source, heights: Sequence[int], confidence: float) -> dict[str, xr.DataArray]:
    """Distance of two random halves of the truth: mean, and the quantile that it stays below at the confidence."""
    halves = random_halves(truth.found.sums.drop_vars("joint"), SPLITS)
    first, second = (truth.statistics(half) for half in halves)
    apart = channel_distances(first, second, heights).to_array("statistic")
    return {
        "floor": apart.mean("split", skipna=False),
        "floor_high": apart.quantile(confidence, "split", skipna=False).drop_vars("quantile"),
    }


def _floor_scale(truth: Source, source: Source) -> float:
    """Sampling error of the difference of truth and source over that of two halves of the truth.

    The variance of a difference of means of N and M states goes as 1/N + 1/M, and a distance that is all sampling error
    as its root: sqrt((1/N_t + 1/N_s) / (4/N_t)).
    """
    return float(np.sqrt((1.0 + truth.states / source.states) / 4.0))


def _histories(sources: Sequence[Source]) -> dict[str, xr.DataArray]:
    """Volume averages over time, the band of the truth, and where each source leaves it."""
    truth = sources[0].found.history
    low, high = band(truth.to_array("volume_average"), ["run", "time"])
    steps, runs = (max(s.found.history.sizes[d] for s in sources) for d in ("time", "run"))
    values = np.full((len(sources), len(HISTORY), runs, steps), np.nan)
    times = np.full((len(sources), steps), np.nan)
    leaves = np.full((len(sources), len(HISTORY), runs), np.nan)
    for i, source in enumerate(sources):
        history = source.found.history.to_array("volume_average")
        n_runs, n_steps = history.sizes["run"], history.sizes["time"]
        values[i, :, :n_runs, :n_steps] = history.transpose("volume_average", "run", "time").values
        times[i, :n_steps] = _numbers(history["time"].values)
        leaves[i, :, :n_runs] = exit_step(history, low, high, "time").transpose("volume_average", "run").values
    names, quantities = [s.name for s in sources], list(HISTORY)
    coords = {"summed": names, "volume_average": quantities}
    dims = ("summed", "volume_average", "run")
    return {
        "volume_history": xr.DataArray(values, dims=(*dims, "step"), coords=coords),
        "history_time": xr.DataArray(times, dims=("summed", "step"), coords={"summed": names}),
        "exit_step": xr.DataArray(leaves, dims=dims, coords=coords),
        "band_low": low.sel(volume_average=quantities),
        "band_high": high.sel(volume_average=quantities),
    }


def _numbers(times: np.ndarray) -> np.ndarray:
    """Times as numbers; calendar times in seconds from the first, time differences in seconds."""
    if np.issubdtype(times.dtype, np.datetime64):
        times = times - times[0]
    return times / np.timedelta64(1, "s") if np.issubdtype(times.dtype, np.timedelta64) else times.astype(np.float64)


def _facts(truth: Truth, sources: Sequence[Source], confidence: float) -> dict[str, str | float | int]:
    correlation = {s.name: neighbour_correlation(s.found.history["energy"], s.numbers) for s in sources}
    states = {s.name: s.states for s in sources}
    return {
        "friction_velocity_of_wall_units": truth.friction_velocity,
        "friction_velocity_source": truth.friction_source,
        "friction_reynolds_number": truth.reynolds,
        "viscosity": truth.source.viscosity,
        "half_height": truth.half_height,
        "confidence": confidence,
        "splits": SPLITS,
        "batches": json.dumps({s.name: s.batches for s in sources}),
        "states": json.dumps(states),
        "batch_correlation": json.dumps({k: None if np.isnan(v) else round(v, 3) for k, v in correlation.items()}),
        "workbench_version": __version__,
    }


def _described(dataset: xr.Dataset, units: str) -> xr.Dataset:
    dataset["statistic"].attrs.update(
        label=json.dumps({name: d.label for name, d in DISTANCES.items()}),
        definition=json.dumps({name: d.definition for name, d in DISTANCES.items()}),
        units=json.dumps({name: d.units for name, d in DISTANCES.items()}),
    )
    words = {
        "mean_velocity": "mean streamwise velocity, both walls averaged",
        "rms": "root mean square of the fluctuations",
        "shear_stress": "Reynolds shear stress -<u'v'>",
        "distance": "distance from the target, definitions at the coordinate statistic",
        "floor": "mean distance of two random halves of the truth",
        "floor_scale": "factor that brings the floor from half a truth to the lengths of truth and source",
        "floor_high": "distance that two random halves of the truth stay below at the confidence",
        "volume_history": "averages over the volume",
        "exit_step": "first step (from 1) outside the band of the truth, infinity if there is none",
        "band_low": "least value of the truth, less half its range",
        "band_high": "largest value of the truth, and half its range",
        "divergence": "root mean square divergence over that of the velocity gradient",
        "wall_slip": "root mean square velocity at the walls",
    }
    for name, text in words.items():
        dataset[name].attrs["long_name"] = text
    for name in ("mean_velocity", "rms", "bulk_velocity", "friction_velocity", "wall_slip"):
        dataset[name].attrs["units"] = units
    return dataset
