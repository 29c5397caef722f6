"""A weather model from the command line: trained, rolled out, scored, and forecasting past the end of its record.

What it is given by mistake is refused in one line.
"""

import numpy as np
import pytest
import weather as small
import xarray as xr

from workbench import cli
from workbench.tasks import masked_tokens


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weather")
    small.stored(folder)
    (folder / "e.yaml").write_text(small.EXPERIMENT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_DATA", str(folder / "data"))
        patch.chdir(folder)
        assert cli.main(["fit", "-c", "e.yaml", "--trainer.max_epochs=1"]) == 0
        assert cli.main(["export", "-c", "e.yaml", "-o", "m.safetensors"]) == 0
        yield folder


pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:.*LeafSpec", "ignore:GPU available", "ignore:LightningCLI's args"
)


@pytest.fixture(autouse=True)
def there(folder, monkeypatch):
    monkeypatch.setenv("WORKBENCH_DATA", str(folder / "data"))
    monkeypatch.chdir(folder)


def test_it_is_rolled_out_and_scored_like_any_other(folder, capsys):
    for verb in ("rollout", "evaluate"):
        assert cli.main([verb, "-c", "e.yaml"]) == 0
    out = xr.open_zarr("runs/e/rollout.zarr")
    assert out.t.dims == ("member", "init_time", "lead_time", "level", "lat", "lon") and out.sizes["init_time"] == 4
    scores = xr.open_dataset("runs/e/scores.nc").score.sel(metric="rmse")
    assert np.isfinite(scores).all() and set(scores.forecast.values) >= {"model", "persistence", "climatology"}


@pytest.mark.parametrize("steps", ["first", "all"])
def test_members_mask_tokens_in_the_first_step_or_in_all(folder, monkeypatch, steps):
    masked = []
    draw = masked_tokens._order
    monkeypatch.setattr(masked_tokens, "_order", lambda *given: masked.append(1) or draw(*given))
    words = [
        "--rollout.members=2",
        "--rollout.mask_ratio=0.5",
        "--rollout.batch_size=2",
        f"--rollout.masked_steps={steps}",
    ]
    assert cli.main(["rollout", "-c", "e.yaml", "--overwrite", *words]) == 0
    out = xr.open_zarr("runs/e/rollout.zarr")
    batches = -(-out.sizes["init_time"] // 2)
    assert len(masked) == batches * (1 if steps == "first" else out.sizes["lead_time"])
    assert (abs(out.t.isel(member=0) - out.t.isel(member=1)).max(["level", "lat", "lon"]) > 1e-6).all()


def test_it_forecasts_past_the_end_of_its_record(folder, capsys):
    words = ["predict", "m.safetensors", "weather.zarr", "-o", "next.nc", "--steps", "6"]
    assert cli.main(words) == 0
    found = xr.open_dataset("next.nc")
    assert str(found.valid_time.values.ravel()[-1])[:13] == "2003-01-03T12"
    assert np.isfinite(found.slp).all() and abs(float(found.slp.mean()) - 1e5) < 1000


def test_of_a_larger_grid_it_takes_its_own_part(folder, tmp_path, capsys):
    source = small.weather(1).isel(time=slice(0, 20))
    south = source.isel(lat=[-1]).assign_coords(lat=[20.0])
    larger = xr.concat([source, south], "lat", data_vars="minimal")
    source.to_netcdf(tmp_path / "own.nc")
    larger.to_netcdf(tmp_path / "larger.nc")
    for name in ("own", "larger"):
        given, out = (str(tmp_path / f"{name}{end}.nc") for end in ("", "_o"))
        assert cli.main(["predict", "m.safetensors", given, "-o", out]) == 0
    assert "cropped to the grid of training, lat: [0, 8]" in capsys.readouterr().out
    own, of_larger = (xr.open_dataset(tmp_path / f"{name}_o.nc") for name in ("own", "larger"))
    xr.testing.assert_allclose(own.drop_attrs(), of_larger.drop_attrs())


def refuse(capsys, *words):
    assert cli.main(list(words)) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert len(lines) == 1, lines
    return lines[0]


INPUTS = {
    "levels reversed": (lambda d: d.isel(level=[1, 0]), "axis 'level' is reversed: starts at 850, expected 500"),
    "no such level": (lambda d: d.isel(level=[1]), "axis 'level' has 1 points, expected 2"),
    "no such variable": (lambda d: d.drop_vars("slp"), "variable 'slp' is missing"),
    "longitudes from 0 to 360": (
        lambda d: d.assign_coords(lon=("lon", d.lon.values % 360, d.lon.attrs)).sortby("lon"),
        "axis 'lon' counts the same meridians",
    ),
    "another time step": (lambda d: d.isel(time=slice(None, None, 2)), "the time step is 86400 s, expected 43200 s"),
    "another crop": (lambda d: d.isel(lat=slice(0, 4)), "axis 'lat' has 4 points, expected 8"),
    "nothing over land": (lambda d: d.assign(slp=d.slp.where(d.land > 0.5)), "missing (NaN) values in the state"),
}


@pytest.mark.parametrize("case", INPUTS)
def test_what_a_model_was_not_trained_for_is_refused(folder, tmp_path, capsys, case):
    change, message = INPUTS[case]
    source = small.weather(1)
    change(source.isel(time=slice(0, 20))).to_netcdf(tmp_path / "input.nc")
    found = refuse(capsys, "predict", "m.safetensors", str(tmp_path / "input.nc"), "-o", str(tmp_path / "o.nc"))
    assert message in found and not (tmp_path / "o.nc").exists()


def test_nothing_over_land_is_named_before_a_training(folder, capsys):
    source = small.weather()
    source.assign(slp=source.slp.where(source.land > 0.5)).to_netcdf("holes.nc")
    found = refuse(capsys, "fit", "-c", "e.yaml", "--data.record=holes.nc", "--run-dir", "runs/other")
    assert "'slp' has missing (NaN) values in the train split" in found and "data.missing: mask" in found


def test_a_climatology_that_knows_what_is_scored_is_refused_unless_forced(folder, capsys):
    (folder / "later.yaml").write_text(
        small.EXPERIMENT.replace("2001-12-31", "2002-03-31").replace("2002-01-01", "2002-04-01")
    )
    assert cli.main(["dataset", "climatology", "-c", "later.yaml", "-o", "later.zarr"]) == 0
    capsys.readouterr()
    words = ["check", "-c", "e.yaml", "--no-batch", "--data.climatology=later.zarr"]
    assert cli.main(words) == 1
    assert "validation split: " in (found := capsys.readouterr().out) and "data.leaky_climatology: true" in found
    assert cli.main([*words, "--data.leaky_climatology=true"]) == 0


def test_a_climatology_that_is_elsewhere_or_another_is_asked_for(folder, tmp_path, capsys):
    words = ["predict", "m.safetensors", "weather.zarr", "-o", str(tmp_path / "o.nc")]
    kept = next((folder / "data").rglob("climatology-*.zarr"), None) or next(folder.rglob("climatology-*.zarr"))
    kept.rename(tmp_path / "moved.zarr")
    try:
        found = refuse(capsys, *words)
        assert "adds to the climatology of 2001-01-01" in found and "say where it is with --climatology" in found
        (folder / "short.yaml").write_text(small.EXPERIMENT.replace("2001-12-31", "2001-06-30"))
        assert cli.main(["dataset", "climatology", "-c", "short.yaml", "-o", "short.zarr"]) == 0
        capsys.readouterr()
        found = refuse(capsys, *words, "--climatology", "short.zarr")
        assert ".. 2001-06-30T12:00:00, the model was trained with that of 2001-01-01" in found
        assert cli.main([*words, "--climatology", str(tmp_path / "moved.zarr")]) == 0
    finally:
        (tmp_path / "moved.zarr").rename(kept)
