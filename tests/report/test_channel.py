"""Long-run statistics of a channel from the experiment file to the page."""

import json

import numpy as np
import pytest
import xarray as xr
import yaml
from channel_record import channel, rollout

from workbench import experiment as experiments
from workbench.data.writer import write_record
from workbench.errors import InputError
from workbench.evaluate import evaluate, evaluate_long_run, main
from workbench.metrics.channel_statistics import DISTANCES
from workbench.report.channel import distance_table, long_run_sections, verdict_words
from workbench.report.channel_figures import distribution, history, joint, spectrum
from workbench.report.gallery import Gallery, lay_out_once, to_svg
from workbench.report.html import element
from workbench.report.page import compose
from workbench.report.run import open_run

pytestmark = pytest.mark.long

STEPS = 60


class Flow:
    """A channel record, an experiment on it, and a run directory."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "run").mkdir()
        write_record(channel(2, 40, memory=0.0), folder / "dns.zarr", chunks={"time": 16, "trajectory": 1})
        self.settings = {"domain": "channel"}

    def write_forecast(self, states, **attrs):
        forecast = rollout(states, 20.0).drop_encoding().assign_attrs(attrs)
        forecast.chunk(lead_time=25).to_zarr(self.folder / "run" / "rollout.zarr", mode="w", consolidated=False)

    def experiment(self, **long_run):
        config = {
            "data": {
                "record": str(self.folder / "dns.zarr"),
                "state": ["u", "v", "w"],
                "split": {"by": "time", "train": [0, 0.4], "validation": [0.4, 0.5], "test": [0.5, 1.0]},
            },
            "report": {"frames": 2},
            "rollout": {"steps": STEPS, "starts": 1, "within": False},
            "evaluate": {
                "metrics": ["rmse"],
                "baselines": ["persistence"],
                "resamples": 50,
                "long_run": self.settings | long_run,
            },
        }
        (self.folder / "run.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        return experiments.load([str(self.folder / "run.yaml")], (), str(self.folder / "run"))

    @property
    def words(self):
        return ["-c", str(self.folder / "run.yaml"), "--run-dir", str(self.folder / "run"), "--overwrite"]


class Sketches(Gallery):
    """A gallery that leaves out the bitmaps, which take half of the time."""

    def add(self, name, figure, alt, caption="", wide=False):
        lay_out_once(figure)
        (self.folder / f"{self._name(name)}.svg").write_text(to_svg(figure))
        return self.frame(element("p", alt))


@pytest.fixture
def flow(tmp_path):
    return Flow(tmp_path)


def write_table(path, record):
    """The profiles of a record as a publication would print them, Re_tau 100 and u_tau 0.05."""
    y = record["y"].values[:5]
    mean = record["u"].mean(["trajectory", "time", "x", "z"]).values[:5]
    rms = [record[n].std(["trajectory", "time", "x", "z"]).values[:5] for n in "uvw"]
    np.savetxt(path, np.column_stack([100 * y, mean / 0.05, *(r / 0.05 for r in rms)]))


def test_from_the_experiment_file_to_the_page(flow, capsys):
    """A model that is another sample of the flow, a reference too energetic, a coarse one, and a published table."""
    flow.write_forecast(channel(1, STEPS, seed=7, memory=0.0))
    write_record(channel(2, 30, seed=8, amplitude=0.2), flow.folder / "loud.zarr", chunks={"time": 16})
    write_record(channel(1, 30, (6, 7, 6), seed=9), flow.folder / "coarse.zarr", chunks={"time": 16})
    write_table(flow.folder / "table.txt", channel(2, 40))
    references = {name: str(flow.folder / f"{name}.zarr") for name in ("loud", "coarse")}
    experiment = flow.experiment(references={**references, "table": str(flow.folder / "table.txt")})
    assert main([*flow.words, "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)["long_run"]
    assert (
        plain["verdict"] == f"stable: energy and rms stay in the band of the truth for all {STEPS} steps (1 forecast)"
    )
    assert plain["distance"]["table"]["pdf_u"] is None

    with xr.open_dataset(flow.folder / "run" / "scores.nc", decode_timedelta=True) as scores:
        assert scores.sizes["lead_time"] == 19  # what the record holds of the forecast from t = 20
    with xr.open_dataset(experiment.long_run) as opened:
        scores = opened.load()
    assert list(scores["source"]) == ["truth", "model", "loud", "coarse", "table"]
    distance, floor = scores["distance"].sel(target="truth"), scores["floor_high"]
    scale = float(scores["floor_scale"].sel(source="model"))
    assert scale == pytest.approx(np.sqrt((1 + 80 / 48) / 4))
    near = distance.sel(source="model") <= floor * scale
    assert int(near.sum()) >= len(DISTANCES) - 4, scores.attrs["accuracy"]
    assert f"{int(near.sum())} of {len(DISTANCES)} statistics" in scores.attrs["accuracy"]
    for name in ("rms_u", "rms_v", "rms_w", "spectrum_x", "pdf_w", "shear_stress"):
        row = scores.sel(target="truth", source="loud", statistic=name)
        assert float(row["distance_low"]) > float(floor.sel(statistic=name)), name
    assert float(distance.sel(source="loud", statistic="rms_w")) == pytest.approx(1.0, abs=0.05)
    assert np.isinf(scores["exit_step"].sel(summed="truth")).sum() == 2 * scores.sizes["volume_average"]
    assert float(scores["exit_step"].sel(summed="loud", volume_average="rms_u").min()) == 1
    assert np.isfinite(distance.sel(source="coarse")).all(), distance.sel(source="coarse").values
    published = scores["distance"].sel(target="table", source="truth")
    ratio = 0.05 / scores.attrs["friction_velocity_of_wall_units"]
    assert float(published.sel(statistic="mean_velocity")) == pytest.approx(abs(ratio - 1), rel=0.02)
    assert published.sel(statistic=["shear_stress", "spectrum_x", "pdf_u"]).isnull().all()
    batches = json.loads(scores.attrs["batches"])
    assert batches == {"truth": 20, "model": 12, "loud": 16, "coarse": 7}  # none shorter than 4 states, or 3.75
    assert json.loads(scores.attrs["states"])["model"] == STEPS - int(0.2 * STEPS)
    low, value, high = (scores[f"rms{s}"].sel(source="model", component="u")[1:] for s in ("_low", "", "_high"))
    assert (low < value).all() and (value < high).all()

    (flow.folder / "run" / "scores.nc").unlink()  # the page has enough figures
    (flow.folder / "figures").mkdir()
    page = compose(open_run(experiment), Sketches(flow.folder / "figures"))
    for words in ("Long run", "Stability", "Profiles in wall units", "sampling floor", "distance from table", "never"):
        assert words in page, words
    names = {path.stem for path in (flow.folder / "figures").glob("*.svg")}
    assert {"mean_velocity", "rms_u", "shear_stress", "history_energy", "distributions", "joint_pdf"} <= names
    assert sum(name.startswith("u_") for name in names) == 2
    svg = (flow.folder / "figures" / "mean_velocity.svg").read_text()
    assert all(f">{name}<" in svg for name in ("truth", "model", "loud", "coarse", "table", "law of the wall"))


def test_a_model_that_leaves_the_band_and_then_the_finite_numbers(flow):
    states = channel(1, STEPS, seed=7)
    growing = xr.DataArray(1 + 0.03 * np.arange(STEPS) ** 2, dims="time")
    for name in "uvw":
        attrs = states[name].attrs
        states[name] = (states[name] * growing).where(states["time"] < 40).transpose(*states[name].dims)
        states[name] = states[name].assign_attrs(attrs)
    flow.write_forecast(states, workbench_stopped="[]")
    scores = evaluate_long_run(flow.experiment())
    leaves = scores["exit_step"].sel(summed="model", run=0)
    first = int(leaves.sel(volume_average=["energy", "rms_u", "rms_v", "rms_w"]).min())
    assert 2 <= first < 15
    assert scores.attrs["verdict"].startswith("not stable: ")
    assert scores.attrs["verdict"].endswith(f"leaves the band of the truth at step {first} (of {STEPS})")
    assert scores.attrs["accuracy"] == "the rollout has no finite statistics"
    assert "Not stable" in verdict_words(scores) and "nan" not in distance_table(scores)
    for figure in (history(scores, "energy"), spectrum(scores, "x", 2), distribution(scores, 2), joint(scores, 2)):
        assert "truth" in to_svg(figure)


def test_the_friction_velocity_is_the_solvers_where_the_record_has_it(flow):
    flow.write_forecast(channel(1, STEPS, seed=7))
    measured = xr.Dataset({"friction_velocity": (("trajectory", "time"), np.full((2, 40), 0.04), {"units": "1"})})
    record = channel(2, 40).merge(measured)
    write_record(record, flow.folder / "measured.zarr", chunks={"time": 16})
    experiment = flow.experiment()
    scores = evaluate_long_run(experiments.load(
        [str(flow.folder / "run.yaml")], ["--data.record", str(flow.folder / "measured.zarr")], str(experiment.run_dir)
    ))  # fmt: skip
    assert scores.attrs["friction_velocity_of_wall_units"] == pytest.approx(0.04)
    assert scores.attrs["friction_reynolds_number"] == pytest.approx(40.0)
    np.testing.assert_allclose(scores["y_plus"], scores["y"] * 40.0)


def test_a_run_without_statistics_says_how_to_make_them(flow):
    flow.write_forecast(channel(1, STEPS, seed=7))
    sections = long_run_sections(open_run(flow.experiment()), Gallery(flow.folder))
    assert len(sections) == 1 and not sections[0].present
    assert "workbench evaluate" in sections[0].html()
    (flow.folder / "run" / "channel.nc").write_bytes(b"no file")
    with pytest.raises(InputError, match="cannot read .*channel.nc.* write it again with: workbench evaluate"):
        long_run_sections(open_run(flow.experiment()), Gallery(flow.folder))
    (flow.folder / "run" / "channel.nc").unlink()
    xr.Dataset({"a": 1}).to_netcdf(flow.folder / "run" / "channel.nc")
    with pytest.raises(InputError, match="holds no statistics of a channel"):
        long_run_sections(open_run(flow.experiment()), Gallery(flow.folder))


# ---------------------------------------------------------------------------------------------------------- input


def other(change):
    """A reference that `change` has made another flow."""
    record = channel(1, 4)
    return change(record) or record


def in_metres(record):
    for name in "uvw":
        record[name].attrs["units"] = "m s-1"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (in_metres, "the reference 'les' has its velocity in 'm s-1', the record in '1'"),
        (
            lambda r: r.assign_coords(y=r["y"] - 1),
            "the reference 'les' has its walls at -1 and 1, the record at 0 and 2",
        ),
        (lambda r: r.assign_attrs(viscosity=0.1), "the reference 'les' has the viscosity 0.1, the record 0.001"),
        (lambda r: r.drop_vars("w"), "no velocity component 'w'"),
    ],
)
def test_references_of_another_flow_are_refused(flow, change, message):
    flow.write_forecast(channel(1, 4, seed=7))
    write_record(other(change), flow.folder / "les.zarr", chunks={"time": 16})
    with pytest.raises(InputError, match=message):
        evaluate_long_run(flow.experiment(references={"les": str(flow.folder / "les.zarr")}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 1 2\n1 2 3\n2 3 4\n", "3 rows of 3 columns, .* expected y\\+, <u>\\+"),
        ("5 0 0 0 0\n6 1 1 1 1\n7 1 1 1 1\n", "y\\+ from 5 to 7: expected"),
        ("y u v w\n", "cannot read the profiles 'fdns'"),
    ],
)
def test_tables_that_are_none_are_refused(flow, text, message):
    flow.write_forecast(channel(1, 4, seed=7))
    (flow.folder / "fdns.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        evaluate_long_run(flow.experiment(references={"fdns": str(flow.folder / "fdns.txt")}))


def test_bad_settings_are_refused(flow):
    flow.write_forecast(channel(1, 4, seed=7))
    for long_run, message in (
        ({"references": {"model": "x.zarr"}}, "references has the name 'model', which is taken"),
        ({"discard": 1.0}, "long_run.discard is 1.0: expected a part of the steps"),
        ({"batches": 1}, "long_run.batches is 1: an uncertainty needs at least 2"),
        ({"domain": "pipe"}, "the section 'evaluate' has a wrong value"),
        ({"disard": 0.1}, "unknown key 'evaluate.long_run.disard': did you mean 'discard'"),
        ({"domain": ""}, "no long-run statistics: name their domain"),
    ):
        with pytest.raises(InputError, match=message):
            evaluate_long_run(flow.experiment(**long_run))


def test_a_record_without_viscosity_is_refused(flow):
    flow.write_forecast(channel(1, 4, seed=7))
    record = channel(2, 40)
    del record.attrs["viscosity"]
    write_record(record, flow.folder / "bare.zarr", chunks={"time": 16})
    flow.experiment()
    override = ["--data.record", str(flow.folder / "bare.zarr")]
    experiment = experiments.load([str(flow.folder / "run.yaml")], override, str(flow.folder / "run"))
    with pytest.raises(InputError, match="the record has no attribute 'viscosity'"):
        evaluate_long_run(experiment)


def test_a_forecast_from_the_last_state_has_nothing_to_score(flow):
    forecast = rollout(channel(1, 4, seed=7), 39.0)
    with pytest.raises(InputError, match="the last forecast starts at 39.0, where the record ends"):
        evaluate(flow.experiment(), forecast)
