"""Synthetic runs: a small record, a forecast that drifts away from it, and scores computed from both."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import yaml

from workbench.data.writer import write_record
from workbench.experiment import Experiment, load
from workbench.metrics.evaluation import find_metric

SPACES: dict[str, dict[str, tuple[int, float, float, str]]] = {
    "plane": {"y": (24, 0.0, 6.0, "m"), "x": (32, 0.0, 8.0, "m")},
    "latlon": {"lat": (17, 70.0, 20.0, "degrees_north"), "lon": (33, -80.0, 0.0, "degrees_east")},
    "line": {"x": (48, 0.0, 1.0, "m")},
    "volume": {"z": (6, 0.0, 1.0, "m"), "y": (10, 0.0, 1.0, "m"), "x": (12, 0.0, 2.0, "m")},
    "levels": {"level": (3, 1000.0, 500.0, "hPa"), "y": (8, 0.0, 1.0, "m"), "x": (10, 0.0, 1.0, "m")},
    "series": {},
}


@dataclass
class Synthetic:
    """What a synthetic run is made of."""

    folder: Path
    kind: str = "plane"
    names: tuple[str, ...] = ("vorticity",)
    calendar: bool = False
    trajectories: int = 0
    members: int = 1
    inits: int = 5
    steps: int = 12
    sizes: dict[str, int] = field(default_factory=dict)
    title: str = ""
    long_name: str = "vorticity"
    stopped: list[dict[str, Any]] = field(default_factory=list)
    parts: tuple[str, ...] = ("forecast", "scores", "spectra", "training", "card", "config", "intervals")
    seed: int = 0

    @property
    def run_dir(self) -> Path:
        return self.folder / "run"

    def times(self) -> np.ndarray:
        count = self.inits + self.steps + 4
        if self.calendar:
            return np.datetime64("2009-01-01", "ns") + np.arange(count) * np.timedelta64(6, "h")
        return 0.25 * np.arange(count)

    def grid(self) -> dict[str, xr.DataArray]:
        found = {}
        for dim, (size, first, last, units) in SPACES[self.kind].items():
            size = self.sizes.get(dim, size)
            found[dim] = xr.DataArray(
                np.linspace(first, last, size), dims=dim, attrs={"units": units, "long_name": dim}
            )
        return found


def smooth_noise(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Amplitude of a steep spectrum with random phases, and a frequency for every wave."""
    waves = np.meshgrid(*(np.fft.fftfreq(n, 1 / n) for n in shape), indexing="ij")
    size = np.sqrt(sum(w**2 for w in waves)) if shape else np.zeros(())
    amplitude = np.where(size > 0, 1.0 / (1.0 + (size / 3.0) ** 2) ** 1.5, 0.0) * np.exp(2j * np.pi * rng.random(shape))
    return amplitude, size**0.7


def evolve(rng: np.random.Generator, shape: tuple[int, ...], time: np.ndarray) -> np.ndarray:
    """Waves that travel at their own frequency: ``[time, *shape]`` of unit variance."""
    if not shape:
        phase = 2 * np.pi * rng.random(4)
        return sum(np.sin(time * (k + 1.3) + p) for k, p in enumerate(phase)) / 2
    amplitude, frequency = smooth_noise(rng, shape)
    axes = tuple(range(1, len(shape) + 1))
    waves = amplitude * np.exp(1j * frequency * time.reshape(-1, *(1 for _ in shape)))
    values = np.fft.ifftn(waves, axes=axes).real
    return values / values.std()


def make_record(case: Synthetic) -> xr.Dataset:
    rng = np.random.default_rng(case.seed)
    time, grid = case.times(), case.grid()
    clock = np.arange(len(time)) * 0.25
    shape = tuple(len(c) for c in grid.values())
    data = {}
    for i, name in enumerate(case.names):
        runs = [evolve(rng, shape, clock) for _ in range(max(case.trajectories, 1))]
        values = np.stack(runs) if case.trajectories else runs[0]
        dims = (("trajectory",) if case.trajectories else ()) + ("time", *grid)
        values = 3.0 * values + (1010.0 if i == 1 else 0.0)
        data[name] = xr.DataArray(
            values.astype("float32"), dims=dims, attrs={"units": "s-1", "long_name": case.long_name if i == 0 else name}
        )
    record = xr.Dataset(data, coords={"time": time, **grid})
    if not case.calendar:
        record["time"].attrs["units"] = "s"
    if case.trajectories:
        record = record.assign_coords(trajectory=("trajectory", 10 + np.arange(case.trajectories), {"units": "1"}))
    return record


def make_forecast(case: Synthetic, record: xr.Dataset) -> xr.Dataset:
    rng = np.random.default_rng(case.seed + 1)
    time = record["time"].values
    inits = time[2 : 2 + case.inits]
    leads = time[1 : case.steps + 1] - time[0]
    valid = inits[:, None] + leads[None]
    truth = record.sel(time=xr.DataArray(valid, dims=("init_time", "lead_time")), method="nearest")
    truth = truth.drop_vars("time").assign_coords(init_time=inits, lead_time=leads)
    growth = xr.DataArray(0.9 * (np.arange(1, case.steps + 1) / case.steps) ** 1.4, dims="lead_time")
    members = []
    for _ in range(case.members):
        parts = {}
        for name, field_ in truth.data_vars.items():
            noise = xr.DataArray(rng.standard_normal(field_.shape), dims=field_.dims)
            space = [d for d in field_.dims if d in SPACES[case.kind]]
            mean = field_.mean(space) if space else 0.0
            drifted = mean + (field_ - mean) * (1 - 0.5 * growth) + 0.8 * growth * noise
            parts[name] = drifted.transpose(*field_.dims).astype("float32").assign_attrs(field_.attrs)
        members.append(xr.Dataset(parts))
    forecast = xr.concat(members, dim="member").assign_coords(member=np.arange(case.members))
    forecast = forecast.assign_coords(valid_time=(("init_time", "lead_time"), valid))
    units = {} if case.calendar else {"units": "s"}
    for name in ("init_time", "lead_time", "valid_time"):
        forecast[name].attrs.update(units)
    for stop in case.stopped:
        where = {"member": stop["member"], "init_time": stop["position"], "lead_time": slice(stop["step"] - 1, None)}
        for name in case.names:
            forecast[name][where] = np.nan
    return forecast


def mean_square(error: xr.DataArray, case: Synthetic) -> xr.DataArray:
    return (error**2).mean([d for d in error.dims if d not in ("lead_time", "init_time")], skipna=True)


def make_scores(case: Synthetic, record: xr.Dataset, forecast: xr.Dataset) -> xr.Dataset:
    valid = forecast["valid_time"]
    truth = record.sel(time=valid, method="nearest").drop_vars("time")
    first = record.sel(time=forecast["init_time"], method="nearest").drop_vars("time")
    mean = record.mean("time")
    names = ["model", "persistence", "climatology"]
    predictions = [forecast.isel(member=0, drop=True), first.broadcast_like(truth), mean.broadcast_like(truth)]
    metrics = ["rmse", "bias", "correlation"]
    shape = (3, 3, len(case.names), case.steps)
    score = np.empty(shape)
    for i, prediction in enumerate(predictions):
        for k, name in enumerate(case.names):
            error = prediction[name] - truth[name]
            per_start = mean_square(error, case)
            score[i, 0, k] = np.sqrt(per_start.mean("init_time"))
            score[i, 1, k] = error.mean([d for d in error.dims if d != "lead_time"])
            other = [d for d in error.dims if d != "lead_time"]
            with np.errstate(invalid="ignore", divide="ignore"):
                score[i, 2, k] = xr.corr(prediction[name], truth[name], dim=other)
    dims = ("forecast", "metric", "variable", "lead_time")
    coords: dict[str, Any] = {
        "forecast": names,
        "metric": metrics,
        "variable": list(case.names),
        "lead_time": forecast["lead_time"],
        "baseline": names[1:],
        "source": ["truth", *names],
    }
    scores = xr.Dataset({"score": (dims, score)}, coords=coords)
    if "intervals" in case.parts:
        spread = 0.06 * np.abs(score) + 0.01
        scores["score_low"], scores["score_high"] = (dims, score - spread), (dims, score + spread)
        scores["p_value"] = (
            ("baseline", "variable", "lead_time"),
            np.tile(np.geomspace(1e-4, 0.4, case.steps), (2, len(case.names), 1)),
        )
    better = score[0:1, 0] < score[1:, 0]
    ahead = np.where(better.all(-1), case.steps, np.argmin(better, -1))
    for name, offset in (("beats_to", 0), ("beats_to_low", -1), ("beats_to_high", 1)):
        scores[name] = (("baseline", "variable"), np.clip(ahead + offset, 0, case.steps))
    lead = scores["lead_time"].values
    scores["decorrelation_lead"] = (("forecast", "variable"), np.broadcast_to(lead[-1], (3, len(case.names))).copy())
    variance = [truth, *predictions]
    space = [d for d in SPACES[case.kind]]
    values = [
        [v[n].var(space).mean([d for d in v[n].dims if d not in ("lead_time", *space)]) for n in case.names]
        for v in variance
    ]
    scores["variance"] = (("source", "variable", "lead_time"), np.array(values))
    if "spectra" in case.parts and "x" in space:
        scores = scores.assign(spectrum=make_spectrum(case, truth, predictions[0]))
    units = {name: "s-1" for name in case.names}
    scores["decorrelation_lead"].attrs["long_name"] = "lead at which the mean correlation of a start falls below 0.8"
    known = {name: find_metric(name) for name in metrics}
    scores["metric"].attrs.update(
        definition=json.dumps({name: m.definition for name, m in known.items()}),
        source=json.dumps({name: m.source for name, m in known.items()}),
    )
    scores["variable"].attrs["units"] = json.dumps(units)
    return scores.assign_attrs(
        headline=f"{case.names[0]}: beats persistence to step {case.steps} and climatology to step 9 ± 1 "
        f"(rmse, paired block bootstrap over {case.inits} starts, 95 %)",
        verdict="beats its baselines",
        headline_metric="rmse",
        optimum=0.0,
        confidence=0.95,
        baselines=json.dumps({"persistence": "the state at the start", "climatology": "mean over time"}),
        starts=case.inits,
        members=case.members,
        resamples=1000,
        weights="uniform",
        climatology=f"mean of training states over time, 0 .. {case.steps}",
        experiment="run",
        workbench_version="0.1.0",
    )


def make_spectrum(case: Synthetic, truth: xr.Dataset, prediction: xr.Dataset) -> xr.DataArray:
    leads = sorted({0, case.steps // 4, case.steps // 2, case.steps - 1})
    sources = []
    for dataset in (truth, prediction):
        rows = []
        for name in case.names:
            field_ = dataset[name].isel(lead_time=leads).transpose("lead_time", ..., "x")
            power = np.abs(np.fft.rfft(np.nan_to_num(field_.values), axis=-1)) ** 2
            rows.append(power.reshape(len(leads), -1, power.shape[-1]).mean(1) / field_.sizes["x"] ** 2)
        sources.append(rows)
    wavenumber = np.arange(np.array(sources).shape[-1], dtype=float)
    array = xr.DataArray(
        np.array(sources),
        dims=("source_drawn", "variable", "spectrum_lead", "wavenumber"),
        coords={"spectrum_lead": ("spectrum_lead", truth["lead_time"].values[leads], dict(truth["lead_time"].attrs))},
    )
    array = array.assign_coords(wavenumber=("wavenumber", wavenumber, {"units": "rad m-1"}))
    array = array.rename(source_drawn="source").assign_coords(source=["truth", "model"])
    return array.reindex(source=["truth", "model", "persistence", "climatology"])


def write_training_log(path: Path) -> None:
    lines = ["epoch,learning_rate,step,train_loss,validation_loss"]
    for epoch in range(15):
        rate = 1e-3 * np.cos(epoch / 15 * np.pi / 2)
        lines.append(f"{epoch},{rate:.6g},{epoch * 20 + 19},,")
        lines.append(f"{epoch},,{epoch * 20 + 19},,{0.7 * np.exp(-epoch / 4) + 0.05 + 0.001 * epoch:.6g}")
        lines.append(f"{epoch},,{epoch * 20 + 19},{0.9 * np.exp(-epoch / 3) + 0.03:.6g},")
    path.write_text("\n".join(lines) + "\n")


def experiment_file(case: Synthetic) -> dict[str, Any]:
    return {
        "data": {"record": str(case.folder / "truth.zarr"), "state": list(case.names)},
        "model": {
            "class_path": "ForecastTask",
            "init_args": {
                "network": {"class_path": "FNO", "init_args": {"modes": 12, "width": 32}},
                "unroll": "pushforward",
            },
        },
        "rollout": {"steps": case.steps, "starts": case.inits},
        "report": {"title": case.title, "frames": 10},
    }


def data_card(case: Synthetic, record: xr.Dataset) -> dict[str, Any]:
    statistics = {n: {"mean": float(record[n].mean()), "std": float(record[n].std())} for n in case.names}
    return {
        "record": str(case.folder / "truth.zarr"),
        "title": "Synthetic waves",
        "licence": "CC0-1.0",
        "citation": "A. Author (2020), Waves.",
        "variables": [{"name": n, "units": "s-1", "long_name": n} for n in case.names],
        "axes": [
            {"name": d, "units": c.attrs["units"], "size": len(c), "first": float(c[0]), "last": float(c[-1])}
            for d, c in case.grid().items()
        ],
        "time_step": 0.25,
        "time_units": "s",
        "splits": {"train": "0.0 .. 3.0", "test": "3.0 .. 4.0"},
        "sizes": {k: int(v) for k, v in record.sizes.items()},
        "fingerprint": "crc32c:12345678",
        "statistics": statistics,
    }


def build(case: Synthetic, overrides: tuple[str, ...] = ()) -> Experiment:
    """Write the run directory of `case`; return its experiment."""
    case.run_dir.mkdir(parents=True)
    record = make_record(case)
    write_record(record, case.folder / "truth.zarr", chunks={"time": record.sizes["time"]})
    forecast = make_forecast(case, record)
    stopped = [{k: v for k, v in stop.items() if k != "position"} for stop in case.stopped]
    attrs = {
        "Conventions": "CF-1.11",
        "title": "Forecast of waves",
        "source": "neural surrogate workbench.models.FNO",
        "workbench_experiment": "run",
        "workbench_version": "0.1.0",
        "workbench_record": str(case.folder / "truth.zarr"),
        "workbench_checkpoint": "run/checkpoints/best.ckpt",
        "workbench_seconds_per_step": 0.0123,
        "workbench_parameters": 1188353,
        "workbench_stopped": json.dumps(stopped),
    }
    if "forecast" in case.parts:
        forecast.assign_attrs(attrs).to_zarr(case.run_dir / "rollout.zarr", zarr_format=3, consolidated=False)
    if "scores" in case.parts:
        make_scores(case, record, forecast).to_netcdf(case.run_dir / "scores.nc")
    if "training" in case.parts:
        write_training_log(case.run_dir / "metrics.csv")
        (case.run_dir / "fit.json").write_text(
            json.dumps({"epochs": 15, "steps": 300, "seconds": 83.4, "waited_fraction": 0.021})
        )
    if "card" in case.parts:
        (case.run_dir / "data_card.json").write_text(json.dumps(data_card(case, record)))
    file = case.folder / "waves.yaml"
    file.write_text("# an experiment on waves\n" + yaml.safe_dump(experiment_file(case), sort_keys=False))
    if "config" in case.parts:
        (case.run_dir / "config.yaml").write_text("seed_everything: 0\n" + file.read_text())
        (case.run_dir / "experiment.yaml").write_text(file.read_text())
    return load([str(file)], overrides, str(case.run_dir))


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory):
    """A run with every part, and its report: look, do not touch."""
    from workbench.report.page import write_report

    folder = tmp_path_factory.mktemp("whole")
    experiment = build(Synthetic(folder, names=("vorticity", "pressure"), members=2, title="Waves"))
    write_report(experiment)
    return experiment


@pytest.fixture
def make_run(tmp_path, monkeypatch):
    """Build a synthetic run: ``make_run(kind="line", parts=("forecast",))`` returns its experiment.

    Its figures are coarse, which saves a third of the time of a report; those of `whole_run` are not.
    """
    monkeypatch.setattr("workbench.report.gallery.RASTER_DPI", 30)

    def make(*overrides: str, **options: Any) -> Experiment:
        return build(Synthetic(tmp_path, **options), overrides)

    return make
