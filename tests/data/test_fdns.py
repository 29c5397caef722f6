"""The reader of the published filtered fields, on small arrays of the same layout."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import yaml

from workbench.data.readers.fdns import FilteredDNS
from workbench.data.recipe import build, read_recipe
from workbench.errors import InputError
from workbench.simulate.channel_grid import wall_normal_nodes

RECIPE = Path(__file__).parents[2] / "datasets" / "channel_fdns" / "recipe.yaml"
SHAPE = (3, 5, 4, 9, 6)


def velocities(components: int, dtype: str) -> np.ndarray:
    """Full velocities (and pressure): the laminar profile and noise that is zero at the walls."""
    y = wall_normal_nodes(SHAPE[3])
    fields = np.random.default_rng(0).standard_normal((*SHAPE, components))
    fields *= 0.05 * (y * (2 - y))[:, None, None]
    fields[..., 0] += (y * (2 - y))[:, None]
    return fields.astype(dtype)


def source(path: Path, **options) -> FilteredDNS:
    known = {"reynolds_number": 4200.0, "friction_velocity": 0.0416, "nominal_friction_reynolds_number": 180.0}
    return FilteredDNS(str(path), length_x=4.0, length_z=3.0, **{**known, **options})


@pytest.mark.parametrize(("components", "dtype"), [(3, "float32"), (4, "float64"), (4, "float32")])
def test_full_velocities_become_a_record(tmp_path, components, dtype):
    fields = velocities(components, dtype)
    np.save(tmp_path / "full.npy", fields)
    reader = source(tmp_path / "full.npy")
    record, template = reader.simulate([0, 2]), reader.template()
    assert reader.trajectories == 3
    assert set(record) == {"u", "v", "w"}
    for component, name in enumerate("uvw"):
        assert record[name].dims == ("trajectory", "time", "x", "y", "z")
        np.testing.assert_array_equal(record[name], fields[[0, 2], ..., component].astype(np.float32))
        assert template[name].shape == SHAPE
        assert template[name].dtype == record[name].dtype == np.float32
        assert template[name].attrs == record[name].attrs
    np.testing.assert_array_equal(record.y, wall_normal_nodes(9))
    np.testing.assert_allclose(record.x, np.arange(4) * 1.0)
    np.testing.assert_allclose(record.z, np.arange(6) * 0.5)
    np.testing.assert_array_equal(record.time, np.arange(5.0))
    assert record.trajectory.values.tolist() == [0, 2]
    assert record.attrs["viscosity"] == 1 / 4200
    assert record.attrs["friction_reynolds_number"] == pytest.approx(174.72)
    assert record.attrs["source"].startswith("full.npy (full velocities)")


def test_fluctuations_are_told_by_content_and_get_their_mean(tmp_path):
    fields = velocities(4, "float64")
    mean = fields.mean((0, 1, 2, 4), keepdims=True)
    np.save(tmp_path / "a.npy", fields - mean)
    np.save(tmp_path / "b.npy", mean)
    record = source(tmp_path / "a.npy", mean_path=str(tmp_path / "b.npy")).simulate([1])
    for component, name in enumerate("uvw"):
        np.testing.assert_allclose(record[name], fields[[1], ..., component], atol=1e-7)
    assert "fluctuations, to which the mean profile was added" in record.attrs["source"]
    with pytest.raises(InputError, match=r"holds fluctuations \(bulk velocity .*give mean_path too.*Kaggle"):
        source(tmp_path / "a.npy").template()


@pytest.mark.parametrize("shape", [(1, 1, 1, 8, 1, 4), (9, 4), (1, 1, 1, 9, 1, 2)])
def test_mean_profile_of_another_shape_is_refused(tmp_path, shape):
    fields = velocities(3, "float32")
    np.save(tmp_path / "a.npy", fields - fields.mean((0, 1, 2, 4), keepdims=True))
    np.save(tmp_path / "b.npy", np.zeros(shape))
    with pytest.raises(InputError, match=r"b\.npy: expected a mean profile of shape \(1, 1, 1, 9, 1, 3\)"):
        source(tmp_path / "a.npy", mean_path=str(tmp_path / "b.npy")).template()


def test_velocities_in_other_units_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", 24 * velocities(3, "float32"))
    with pytest.raises(InputError, match=r"bulk velocity of its first fields is 1[56]\.\d+; expected 0\.6667"):
        source(tmp_path / "a.npy").simulate([0])


@pytest.mark.parametrize("shape", [(3, 5, 4, 9, 6), (3, 5, 4, 9, 6, 2), (3, 5, 4, 2, 6, 3), (3, 0, 4, 9, 6, 3)])
def test_another_layout_is_refused(tmp_path, shape):
    np.save(tmp_path / "a.npy", np.zeros(shape, np.float32))
    expected = rf"expected dims \(group, time, x, y, z, component\).*found shape {re.escape(str(shape))}"
    with pytest.raises(InputError, match=expected):
        source(tmp_path / "a.npy").template()


def test_values_that_are_not_finite_are_refused(tmp_path):
    fields = velocities(3, "float32")
    fields[0, 0, 1, 2, 3, 0] = np.nan
    np.save(tmp_path / "a.npy", fields)
    with pytest.raises(InputError, match="values are not finite; fetch the file again"):
        source(tmp_path / "a.npy").template()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a whole NumPy array"),
        (b"\x93NUMPY garbage", "is not a whole NumPy array"),
        (None, "is not there; it is part of the Kaggle data set aifluid/coarsened-fdns-data-chl"),
    ],
)
def test_absent_and_damaged_files_are_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(InputError, match=message):
        source(tmp_path / "a.npy").template()


def test_a_cut_file_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", velocities(3, "float32"))
    content = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(content[:-100])
    with pytest.raises(InputError, match="is not a whole NumPy array"):
        source(tmp_path / "a.npy").template()


def test_integers_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((*SHAPE, 3), np.int16))
    with pytest.raises(InputError, match="expected an array of float32 or float64 numbers; found int16"):
        source(tmp_path / "a.npy").template()


def test_unknown_groups_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", velocities(3, "float32"))
    with pytest.raises(InputError, match=r"has groups 0 to 2; asked for \[3\]"):
        source(tmp_path / "a.npy").simulate([0, 3])


def test_recipe_builds_a_store_of_a_file_in_the_data_root(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path))
    fields = velocities(4, "float32")
    recipe = read_recipe("channel_fdns/retau180")
    with pytest.raises(InputError, match=r"Retau180_dim21x400x32x33x16x4_dT200\.npy is not there"):
        build(recipe)
    (tmp_path / "channel_fdns").mkdir(exist_ok=True)
    np.save(tmp_path / "channel_fdns" / "Retau180_dim21x400x32x33x16x4_dT200.npy", fields)
    with xr.open_zarr(build(recipe), consolidated=True) as record:
        np.testing.assert_array_equal(record.w, fields[..., 2])
        assert record.attrs["nominal_friction_reynolds_number"] == 180
        assert record.x.attrs["period"] == pytest.approx(4 * np.pi)


@pytest.mark.parametrize(("preset", "friction"), [("retau180", 174.587), ("retau395", 384.46), ("retau590", 568.05)])
def test_presets_carry_the_published_friction_reynolds_numbers(tmp_path, preset, friction):
    recipe = read_recipe(f"channel_fdns/{preset}")
    np.save(tmp_path / "a.npy", velocities(3, "float32"))
    reader = replace(recipe.source(), path=str(tmp_path / "a.npy"))
    record = reader.template()
    assert record.attrs["friction_reynolds_number"] == pytest.approx(friction, rel=1e-4)
    assert yaml.safe_load(RECIPE.read_text())["variables"] == {str(n): record[n].attrs for n in record}
