import json

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.data.config import DataConfig
from workbench.data.packing import Normaliser, Packing
from workbench.data.statistics import fit_statistics
from workbench.data.windows import parts
from workbench.errors import InputError


def packing_of(record: xr.Dataset, **config) -> Packing:
    chosen = DataConfig(record="x", **{"state": ("t2m", "slp"), **config})
    record.encoding["source"] = f"memory-{id(record)}"
    statistics = fit_statistics(record.chunk(), chosen.variables(), parts(record, chosen)["train"])
    return Packing.fit(record, chosen, statistics)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)


@settings(max_examples=25, deadline=None)
@given(
    levels=st.integers(1, 4),
    order=st.permutations(["time", "level", "y", "x"]),
    names=st.permutations(["a", "b", "c"]),
)
def test_unpack_is_the_exact_inverse_of_pack(levels, order, names):
    """Any storage order, any channel order, levels or not: every value, coordinate and attribute comes back."""
    rng = np.random.default_rng(1)
    sizes = {"time": 9, "level": levels, "y": 3, "x": 4}
    data = {}
    for name in names:
        dims = [d for d in order if name != "b" or d != "level"]
        values = rng.normal(5, 2, [sizes[d] for d in dims]).astype("f4")
        data[name] = (dims, values, {"units": "K", "long_name": name})
    coords = {d: (d, np.arange(float(n)), {"units": "m"}) for d, n in sizes.items()}
    record = xr.Dataset(data, coords=coords)
    packing = packing_of(record, state=tuple(names))
    tensor = packing.pack(record, "state")
    assert tensor.shape == (9, 2 * levels + 1, *packing.space) and tensor.dtype == torch.float32
    back = packing.unpack(tensor, "state", ["time"], {"time": record.time})
    for name in names:
        np.testing.assert_array_equal(back[name].transpose(*record[name].dims).values, record[name].values)
        assert back[name].attrs == record[name].attrs
    assert all(back[d].equals(record[d]) for d in ("y", "x"))


def test_normalising_gives_mean_zero_and_std_one_and_comes_back(record):
    packing = packing_of(record)
    train = packing.pack(record.isel(time=slice(0, 32)), "state")
    normaliser = Normaliser(packing.groups["state"])
    z = normaliser(train)
    np.testing.assert_allclose(z.mean((0, 1, 3, 4)), 0, atol=1e-4)
    np.testing.assert_allclose(z.std((0, 1, 3, 4)), 1, atol=1e-3)
    back = normaliser.inverse(z)
    # One rounding of each of the two float32 operations, relative to the largest number involved.
    assert (back - train).abs().max() <= 2.0**-22 * train.abs().max()


def test_a_constant_channel_is_not_divided_by_zero(record):
    record["t2m"][:] = 3.0
    packing = packing_of(record)
    assert packing.groups["state"].std[0] == 1.0 and packing.groups["state"].tendency_std[0] == 1.0
    assert torch.isfinite(Normaliser(packing.groups["state"])(packing.pack(record, "state"))).all()


def test_packing_survives_json(record):
    packing = packing_of(record)
    assert Packing.from_dict(json.loads(json.dumps(packing.to_dict()))) == packing
    assert packing.groups["state"].names() == ["t2m", "slp"]


def test_without_normalisation_numbers_stay_as_they_are(record):
    group = packing_of(record, normalise="none").groups["state"]
    assert set(group.mean) == {0.0} and set(group.std) == {1.0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.drop_vars("slp"), "variable 'slp' is missing.*Rename the variable"),
        (
            lambda d: d.assign(slp=d.slp.assign_attrs(units="hPa")),
            "'slp' is in 'hPa', expected 'Pa'.*Convert the units",
        ),
        (lambda d: d.isel(lat=slice(None, None, -1)), "axis 'lat' is reversed.*sortby"),
        (lambda d: d.isel(time=slice(0, None, 2)), "the time step is 172800 s, expected 86400 s.*Resample"),
    ],
)
def test_what_it_was_not_made_for_is_refused_with_the_repair(record, change, message):
    packing = packing_of(record)
    packing.check(record, "the file")
    with pytest.raises(InputError, match=f"the file does not fit what the model was trained for: .*{message}"):
        packing.check(change(record), "the file")


def test_one_role_has_one_grid(record):
    record["zonal"] = (("trajectory", "time", "lat"), record.slp.values[..., 0], {"units": "Pa"})
    with pytest.raises(InputError, match="variables of one role must share a grid"):
        packing_of(record, state=("slp", "zonal"))
    packing = packing_of(record, state=("slp",), forcing=("zonal",))
    assert packing.groups["forcing"].shape == (6,) and packing.space == (6, 8)


def test_another_viscosity_is_taken_with_a_warning_that_names_both(record, caplog):
    record = record.assign_attrs(viscosity=2e-4, title="a flow", workbench_build_seconds=3.0)
    packing = packing_of(record)
    again = Packing.from_dict(json.loads(json.dumps(packing.to_dict())))
    again.check(record.assign_attrs(workbench_build_seconds=4.0), "flow.zarr")
    assert not caplog.records
    again.check(record.assign_attrs(viscosity=1e-4), "flow.zarr")
    assert "flow.zarr is unlike" in caplog.text and "viscosity is 0.0001, in training it was 0.0002" in caplog.text
