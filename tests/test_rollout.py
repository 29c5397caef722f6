import functools
import json
import os
import signal

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from workbench.data.config import DataConfig
from workbench.data.packing import Packing
from workbench.data.statistics import fit_statistics
from workbench.data.store import open_record
from workbench.data.windows import parts
from workbench.data.writer import write_record
from workbench.errors import InputError
from workbench.models import Network
from workbench.plan import ForecastPlan
from workbench.rollout import rollout, write_rollout
from workbench.share import Share
from workbench.tasks import ForecastTask


class Grow(Network):
    """The change of the state is `gain` times the state: states grow by a known factor each step."""

    def __init__(self, in_channels, out_channels, space, gain: float = 0.1):
        super().__init__(in_channels, out_channels, space)
        self.gain = gain

    def forward(self, x):
        return self.gain * x[:, : self.out_channels] + 0.01 * x[:, -1:]


def make_record(path, trajectories=2, calendar=False) -> xr.Dataset:
    rng = np.random.default_rng(0)
    shape = (trajectories, 30, 5, 6)
    dims = ("trajectory", "time", "y", "x")
    record = xr.Dataset(
        {n: (dims, rng.normal(3, 2, shape).astype("f4"), {"units": "m s-1", "long_name": n}) for n in "uvf"},
        coords={
            "trajectory": np.arange(trajectories),
            "time": pd.date_range("2001-01-01", periods=30)
            if calendar
            else ("time", np.arange(30) * 0.5, {"units": "s"}),
            "y": ("y", np.linspace(0, 1, 5) ** 2, {"units": "m"}),
            "x": ("x", np.arange(6.0), {"units": "m"}),
        },
    )
    if trajectories == 1:
        record = record.isel(trajectory=0, drop=True)
    return open_record(str(write_record(record, path / "record.zarr", chunks={"time": 10})))


def make_task(record, gain=0.1, **config) -> ForecastTask:
    chosen = DataConfig(record="x", **{"state": ("u", "v"), "forcing": ("f",), **config})
    train = parts(record, chosen)["train"]
    statistics = fit_statistics(record, chosen.variables(), train, missing=chosen.missing)
    return ForecastTask(functools.partial(Grow, gain=gain)).build(Packing.fit(record, chosen, statistics)).eval()


def plan_of(record, **fields) -> ForecastPlan:
    trajectories = np.arange(record.sizes.get("trajectory", 1))
    chosen = {"trajectories": trajectories, "starts": np.array([3, 5, 9]), "steps": 7, "batch_size": 2, "block": 3}
    return ForecastPlan(record, **{**chosen, **fields})


def by_hand(task, record, trajectory, start, steps):
    """The forecast with nothing but packing and advance."""
    history = task.packing.history
    one = record.isel(trajectory=trajectory) if "trajectory" in record.dims else record
    window = task.normalisers["state"](task.packing.pack(one, "state"))[None, start - history + 1 : start + 1]
    forcing = task.normalisers["forcing"](task.packing.pack(one, "forcing"))[None]
    states = []
    for k in range(steps):
        first = start + k + 1 - history
        with torch.no_grad():
            state = task.advance(window, {"forcing": forcing[:, first : first + history + 1]})
        window = torch.cat([window[:, 1:], state[:, None]], 1)
        states.append(task.normalisers["state"].inverse(state)[0])
    return torch.stack(states).numpy()


@pytest.mark.parametrize("history", [1, 3])
@pytest.mark.parametrize(("trajectories", "calendar"), [(2, False), (1, True)])
def test_a_written_rollout_is_advance_repeated(tmp_path, history, trajectories, calendar):
    record = make_record(tmp_path, trajectories, calendar)
    task = make_task(record, history=history)
    outcome = write_rollout(task, plan_of(record), tmp_path / "out.zarr", attrs={"title": "a test"})
    out = xr.open_zarr(outcome.path)
    lead = ("trajectory",) if trajectories > 1 else ()
    assert out.u.dims == ("member", *lead, "init_time", "lead_time", "y", "x")
    for j in range(trajectories):
        for k, start in enumerate((3, 5, 9)):
            found = out.isel(member=0, init_time=k, **({"trajectory": j} if lead else {}))
            expected = by_hand(task, record, j, start, 7)
            np.testing.assert_allclose(found.u.values, expected[:, 0], rtol=2e-5)
            np.testing.assert_allclose(found.v.values, expected[:, 1], rtol=2e-5)
            assert found.init_time.values == record.time.values[start]
            np.testing.assert_array_equal(found.valid_time.values, record.time.values[start + 1 : start + 8])


def test_the_output_is_labelled_like_the_record(tmp_path):
    record = make_record(tmp_path)
    outcome = write_rollout(make_task(record), plan_of(record), tmp_path / "out.zarr", attrs={"title": "a test"})
    out = xr.open_zarr(outcome.path)
    for name in ("y", "x", "trajectory"):
        xr.testing.assert_identical(out[name].reset_coords(drop=True), record[name].reset_coords(drop=True))
    assert out.u.attrs["units"] == "m s-1" and out.u.attrs["long_name"] == "u"
    assert out.attrs["Conventions"] == "CF-1.11" and out.attrs["workbench_stopped"] == "[]"
    assert out.attrs["workbench_seconds_per_step"] > 0
    np.testing.assert_allclose(out.lead_time, 0.5 * np.arange(1, 8))


def test_netcdf_holds_the_same(tmp_path):
    record = make_record(tmp_path, 1, calendar=True)
    task = make_task(record)
    write_rollout(task, plan_of(record), tmp_path / "out.zarr")
    write_rollout(task, plan_of(record), tmp_path / "out2.nc")
    with xr.open_dataset(tmp_path / "out2.nc", decode_timedelta=True) as netcdf:
        zarr = xr.open_zarr(tmp_path / "out.zarr")
        np.testing.assert_array_equal(netcdf.u.values, zarr.u.values)
        np.testing.assert_array_equal(netcdf.lead_time.values, zarr.lead_time.values)
        np.testing.assert_array_equal(netcdf.valid_time.values, zarr.valid_time.values)
    assert sorted(p.suffix for p in tmp_path.iterdir() if p.name.startswith("out2")) == [".nc"]


@pytest.mark.parametrize(("batch_size", "block"), [(1, 1), (3, 7), (8, 2)])
def test_batching_and_chunking_do_not_change_the_forecast(tmp_path, batch_size, block):
    record = make_record(tmp_path)
    task = make_task(record)
    members = {"members": 3, "perturbation": 0.1, "seed": 4}
    first = write_rollout(task, plan_of(record, **members), tmp_path / "a.zarr").path
    second = write_rollout(
        task, plan_of(record, **members, batch_size=batch_size, block=block), tmp_path / "b.zarr"
    ).path
    a, b = (xr.open_zarr(p) for p in (first, second))
    np.testing.assert_allclose(a.u.values, b.u.values, rtol=1e-6)
    spread = a.u.isel(lead_time=0).std("member").values
    assert (spread > 0).all()
    plain = write_rollout(task, plan_of(record), tmp_path / "c.zarr").path
    np.testing.assert_allclose(a.u.values[0], xr.open_zarr(plain).u.values[0], rtol=1e-6)


def test_a_forecast_that_leaves_the_finite_numbers_stops_alone_and_is_named(tmp_path):
    record = make_record(tmp_path)
    task = make_task(record)
    advance = task.advance

    def explode(window, context=None):
        out = advance(window, context)
        # The forecast that starts from this very state blows up at one point once it has grown a little.
        hit = (window[:, -1, 1, 2, 4] - target).abs() < 1e-6
        out[hit, 1, 2, 4] = torch.inf
        return out

    normal = task.normalisers["state"](task.packing.pack(record.isel(trajectory=1), "state"))
    window = normal[None, 5:6]
    forcing = task.normalisers["forcing"](task.packing.pack(record.isel(trajectory=1), "forcing"))[None]
    for k in range(2):
        window = advance(window, {"forcing": forcing[:, 5 + k : 7 + k]})[:, None]
    target = window[0, 0, 1, 2, 4].item()
    task.advance = explode
    outcome = write_rollout(task, plan_of(record), tmp_path / "out.zarr")
    expected = {"member": 0, "trajectory": 1, "init_time": "2.5", "step": 3, "variable": "v", "index": [2, 4]}
    assert outcome.stopped == [expected]
    out = xr.open_zarr(outcome.path)
    bad = out.u.isel(member=0, trajectory=1, init_time=1)
    assert np.isfinite(bad[:2]).all() and np.isnan(bad[2:]).all()
    assert int(np.isnan(out.u).sum()) == 5 * 5 * 6
    assert json.loads(out.attrs["workbench_stopped"]) == [expected]


def test_an_existing_forecast_is_kept_unless_overwritten(tmp_path):
    record = make_record(tmp_path)
    task = make_task(record)
    write_rollout(task, plan_of(record), tmp_path / "out.zarr")
    with pytest.raises(InputError, match="exists already"):
        write_rollout(task, plan_of(record), tmp_path / "out.zarr")
    write_rollout(task, plan_of(record, steps=2), tmp_path / "out.zarr", overwrite=True)
    assert xr.open_zarr(tmp_path / "out.zarr").sizes["lead_time"] == 2


def test_a_record_of_another_kind_is_refused(tmp_path):
    record = make_record(tmp_path)
    task = make_task(record)
    other = record.assign(u=record.u.assign_attrs(units="cm s-1"))
    with pytest.raises(InputError, match="variable 'u' is in 'cm s-1', expected 'm s-1'"):
        write_rollout(task, plan_of(other), tmp_path / "out.zarr")
    assert not list(tmp_path.glob("*out*"))


def test_the_generator_keeps_no_history(tmp_path):
    record = make_record(tmp_path)
    task = make_task(record, forcing=())
    states = rollout(task, torch.randn(1, 1, 2, 5, 6))
    first = next(states)["state"]
    for _ in range(4):
        last = next(states)["state"]
    assert first.shape == last.shape == (1, 2, 5, 6) and not torch.equal(first, last)


@pytest.mark.parametrize("after", [1, 4])
def test_a_killed_rollout_goes_on_bit_for_bit(server, tmp_path, after):
    """SIGKILL after some blocks; the second process must not compute them again and must end with equal bytes."""
    record = make_record(tmp_path)
    task = make_task(record)
    whole = write_rollout(task, plan_of(record), tmp_path / "whole.zarr").path
    script = f"""
        import os, signal, sys
        from pathlib import Path
        sys.path.insert(0, {str(os.path.dirname(__file__))!r})
        import test_rollout as t
        from workbench import rollout as module
        from workbench.data.store import open_record
        record = open_record("record.zarr")
        task = t.make_task(record)
        count = 0
        save = module._Position.save
        def dying(self, path):
            global count
            save(self, path)
            count += 1
            if count == {after} and "die" in sys.argv: os.kill(os.getpid(), signal.SIGKILL)
        module._Position.save = dying
        module.write_rollout(task, t.plan_of(record), Path("done") / "out.zarr")
        print(count)
        """
    status, out = server.script(tmp_path, script, "die")
    assert status == -signal.SIGKILL, out
    assert not (tmp_path / "done" / "out.zarr").exists()
    status, out = server.script(tmp_path, script)
    assert status == 0, out
    assert int(out) == 4 * 3 - after
    a, b = (xr.open_zarr(tmp_path / n) for n in (whole.name, "done/out.zarr"))
    for name in "uv":
        assert a[name].values.tobytes() == b[name].values.tobytes()
    assert sorted(p.name for p in (tmp_path / "done").iterdir()) == ["out.zarr", "out.zarr.manifest.json"]


@pytest.mark.parametrize("shares", [2, 5])
def test_shares_make_the_same_forecast_as_one_rollout(tmp_path, shares):
    """Also where a forecast stops, where there are more shares than batches, and where a share never ran."""
    record = make_record(tmp_path)
    task = make_task(record, gain=4.0e8)
    whole = write_rollout(task, plan_of(record, steps=9), tmp_path / "whole.zarr")
    for number in range(1, shares + 1):
        if number != 2:
            write_rollout(task, plan_of(record, steps=9), tmp_path / "out.zarr", share=Share(number, shares))
    assert not (tmp_path / "out.zarr").exists()
    finished = write_rollout(task, plan_of(record, steps=9), tmp_path / "out.zarr")
    assert len(whole.stopped) == 6 and finished.seconds_per_step > 0
    assert sorted(map(str, finished.stopped)) == sorted(map(str, whole.stopped))
    for name in "uv":
        np.testing.assert_array_equal(xr.open_zarr(finished.path)[name], xr.open_zarr(whole.path)[name])
    assert sorted(p.name for p in tmp_path.glob("*out.zarr*")) == ["out.zarr", "out.zarr.manifest.json"]
