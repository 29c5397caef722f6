import re
import tracemalloc

import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workbench.commands import dataset as verb
from workbench.data import integrity, rechunk, rechunk_plan
from workbench.data.store import open_record
from workbench.data.writer import StoreWriter, write_record
from workbench.errors import InputError


def same(target, expected, *, but=("history", "workbench_complete")):
    """Values to the last bit, and every attribute but those that say where the store comes from."""
    found = open_record(str(target)).load()
    assert list(integrity.faults(str(target))) == []
    for name, array in expected.variables.items():
        assert found[name].dtype.kind == array.dtype.kind and found[name].dims == array.dims, name
        values = array.values.astype(found[name].dtype)  # dates in nanoseconds or microseconds
        assert found[name].values.tobytes() == np.ascontiguousarray(values).tobytes(), name
        assert found[name].attrs == array.attrs, name
    assert {k: v for k, v in found.attrs.items() if k not in but} == dict(expected.attrs)
    assert set(found.coords) == set(expected.coords)
    return found


def leftovers(folder):
    return sorted(p.name for p in folder.iterdir() if p.name.startswith("."))


@st.composite
def layouts(draw):
    shape = tuple(draw(st.lists(st.integers(1, 7), min_size=1, max_size=4)))
    sizes = st.tuples(*(st.integers(1, n) for n in shape))
    return shape, draw(sizes), draw(sizes), draw(st.tuples(*(st.integers(1, 3) for _ in shape)))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(layouts(), st.sampled_from(["f4", "f8", "i2", "?"]), st.sampled_from(["zarr2", "zarr3", "netcdf"]), st.data())
def test_a_copy_is_exact_whatever_the_layouts(tmp_path_factory, monkeypatch, layout, dtype, kind, data):
    shape, stored, chunks, shards = layout
    folder = tmp_path_factory.mktemp("layouts")
    dims = ("trajectory", "time", "y", "x")[-len(shape) :]
    rng = np.random.default_rng(0)
    values = (rng.normal(size=shape) * 50).astype(dtype)
    if dtype[0] == "f":
        values[rng.random(shape) < 0.1] = np.nan
    record = xr.Dataset({"u": (dims, values, {"units": "1"}), "area": ((), np.float32(3))}, attrs={"title": "a title"})
    source = folder / ("a.nc" if kind == "netcdf" else "a.zarr")
    if kind == "netcdf":
        record.to_netcdf(source, encoding={"u": {"chunksizes": stored}})
    else:
        record.to_zarr(source, zarr_format=int(kind[-1]), encoding={"u": {"chunks": stored}}, consolidated=False)
    # Room for one shard or one source chunk, and a little more: as if the record were large.
    unit = int(np.prod(np.multiply(chunks, shards))) * 8
    least = max(unit, int(np.prod(stored)) * 8)
    nbytes = data.draw(st.integers(least, 4 * least))
    with monkeypatch.context() as patched:
        patched.setattr(rechunk_plan, "room", lambda memory, workers: nbytes)
        patched.setattr(rechunk, "PIECE_BYTES", 256)
        path = rechunk.rechunk(
            str(source),
            folder / "b.zarr",
            chunks=dict(zip(dims, chunks, strict=True)),
            shards=dict(zip(dims, shards, strict=True)),
        )
    same(path, open_record(str(source)).load())
    assert leftovers(folder) == []


@given(layouts(), st.integers(1, 5000))
def test_a_plan_covers_the_array_once_within_its_room(layout, nbytes):
    shape, stored, chunks, shards = layout
    unit = tuple(np.minimum(np.multiply(chunks, shards), shape).tolist())
    plan = rechunk_plan.plan("u", shape, np.dtype("f4"), stored, unit, nbytes)
    regions = [(plan.region, unit)]
    if plan.detour:
        regions.append((plan.detour.region, plan.detour.chunks))
        assert rechunk_plan.times_decoded(shape, stored, plan.region) > rechunk_plan.TWO_PASSES
    for region, step in regions:
        assert all(r % s == 0 or r == n for r, s, n in zip(region, step, shape, strict=True))
        assert np.prod(region) * 4 <= max(nbytes, np.prod(unit) * 4, np.prod(stored) * 4)
        times = np.zeros(shape, int)
        for box in rechunk_plan.boxes(shape, region):
            times[tuple(slice(*bounds) for bounds in box)] += 1
        assert (times == 1).all()


def test_a_transposing_copy_decodes_each_chunk_about_once_in_each_pass():
    shape, stored, unit = (100_000, 512, 512), (100_000, 8, 8), (64, 512, 512)
    plan = rechunk_plan.plan("u", shape, np.dtype("f4"), stored, unit, 256 * 2**20)
    assert rechunk_plan.times_decoded(shape, stored, plan.region) > 300
    assert rechunk_plan.times_decoded(shape, stored, plan.detour.region) == 1
    assert rechunk_plan.times_decoded(shape, plan.detour.chunks, plan.region) < 2


def test_memory_stays_below_the_limit_for_a_transposing_copy(tmp_path):
    """92 MB that do not compress, in tiles over all time, with 120 MB beside those of Python itself."""
    values = np.random.default_rng(0).random((900, 160, 160), dtype="f4")
    record = xr.Dataset({"u": (("time", "y", "x"), values, {"units": "1"})})
    encoding = {"u": {"chunks": (900, 16, 20), "compressors": None}}
    record.to_zarr(tmp_path / "a.zarr", encoding=encoding, consolidated=False)
    limit = 120 * 10**6
    tracemalloc.start()
    rechunk.rechunk(
        str(tmp_path / "a.zarr"), tmp_path / "b.zarr", shards={"time": 64}, memory=rechunk_plan.PROCESS_BYTES + limit
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    print(f"peak {peak / 1e6:.0f} MB")
    assert peak < limit
    assert open_record(str(tmp_path / "b.zarr")).u.values.tobytes() == values.tobytes()


# ---------------------------------------------------------------------------------------------- what is copied


def packed(folder, name, scale, days):
    values = np.linspace(960, 1040, len(days) * 6).reshape(len(days), 2, 3)
    values[0, 0, 0] = np.nan
    record = xr.Dataset(
        {"slp": (("time", "y", "x"), values, {"units": "hPa", "valid_range": np.array([-100, 100], "i2")})},
        coords={"time": days, "depth": ((), 3.0, {"units": "m"})},
        attrs={"history": "2001: made\n", "Conventions": "CF-1.11"},
    )
    packing = {"dtype": "i2", "scale_factor": scale, "add_offset": 1000.0, "_FillValue": -32768}
    record.to_netcdf(folder / name, encoding={"slp": packing})


def test_packed_integers_become_the_float32_that_training_reads(tmp_path):
    days = np.arange("2001-01-01", "2001-01-05", dtype="datetime64[D]").astype("datetime64[ns]")
    packed(tmp_path, "a.nc", 0.01, days)
    assert open_record(str(tmp_path / "a.nc")).slp.dtype == np.float64
    found = open_record(str(rechunk.rechunk(str(tmp_path / "a.nc"), tmp_path / "b.zarr")))
    expected = open_record(str(tmp_path / "a.nc")).load()
    assert found.slp.dtype == np.float32
    np.testing.assert_array_equal(found.slp.values, expected.slp.values.astype("f4"))
    np.testing.assert_allclose(found.slp.attrs.pop("valid_range"), [999, 1001])
    assert found.slp.attrs == {"units": "hPa"} and found.depth.attrs == {"units": "m"}
    assert not {"scale_factor", "add_offset"} & set(found.slp.encoding)
    np.testing.assert_array_equal(found.time.values, days)
    first, line = found.attrs["history"].split("\n")
    assert first == "2001: made" and re.match(r"\d{4}-.*Z: workbench .*, dataset rechunk .*a.nc", line)
    assert found.attrs["Conventions"] == "CF-1.11"


def test_files_of_a_glob_may_be_packed_in_different_ways(tmp_path):
    days = np.arange("2001-01-01", "2001-01-09", dtype="datetime64[D]").astype("datetime64[ns]")
    packed(tmp_path, "a1.nc", 0.01, days[:4])
    packed(tmp_path, "a2.nc", 0.05, days[4:])
    found = open_record(str(rechunk.rechunk(str(tmp_path / "a*.nc"), tmp_path / "b.zarr")))
    for name, part in (("a1.nc", slice(0, 4)), ("a2.nc", slice(4, 8))):
        with xr.open_dataset(tmp_path / name) as file:
            np.testing.assert_array_equal(found.slp[part].values, file.slp.values.astype("f4"))


def test_an_address_is_copied_like_a_path(record, tmp_path):
    write_record(record, tmp_path / "a.zarr")
    same(rechunk.rechunk(f"file://{tmp_path}/a.zarr", tmp_path / "b.zarr", shards={"time": 4}), record)


def test_text_and_dates_become_coordinates_and_chosen_variables_alone_are_copied(record, tmp_path):
    record["made"] = ("time", record.time.values + np.timedelta64(1, "D"))
    record["station"] = ("lat", np.array(list("abcdef")))
    record.to_netcdf(tmp_path / "a.nc")
    found = open_record(str(rechunk.rechunk(str(tmp_path / "a.nc"), tmp_path / "b.zarr", variables=["slp", "made"])))
    assert set(found.data_vars) == {"slp"} and "made" in found.coords
    np.testing.assert_array_equal(found.made.values, record.made.values)
    whole = open_record(str(rechunk.rechunk(str(tmp_path / "a.nc"), tmp_path / "c.zarr")))
    assert whole.station.values.tolist() == list("abcdef")


def test_a_record_may_replace_itself(record, tmp_path):
    path = write_record(record, tmp_path / "a.zarr", chunks={"trajectory": 3, "time": 40})
    found = same(rechunk.rechunk(str(path), path, chunks={"time": 1}, overwrite=True), record)
    assert found.slp.encoding["chunks"] == (1, 1, 6, 8) and found.slp.encoding["shards"] == (3, 40, 6, 8)


# ---------------------------------------------------------------------------------------------- layout


@pytest.mark.parametrize(
    "sizes, chunks, shards",
    [
        ({"time": 900, "lat": 121, "lon": 240}, (1, -1, -1), {"time": 577}),
        ({"time": 90_000, "y": 32, "x": 64}, (2, -1, -1), {"time": 1024}),
        ({"time": 50, "y": 3}, (50, -1), {"time": 1}),
        ({"trajectory": 500, "time": 20, "y": 128, "x": 128}, (1, 1, -1, -1), {"time": 20, "trajectory": 51}),
        ({"time": 9, "lev": 137, "lat": 1801, "lon": 3600}, (1, 5, -1, -1), {"time": 1}),
        ({"y": 5}, (-1,), {}),
    ],
)
def test_default_layout(sizes, chunks, shards):
    import dask.array as da

    values = da.zeros(tuple(sizes.values()), dtype="f4", chunks=-1)
    record = xr.Dataset({"u": (tuple(sizes), values)})
    found = rechunk.default_chunks(record)
    assert tuple(found.values()) == chunks
    assert rechunk.default_shards(record, found) == shards


# ---------------------------------------------------------------------------------------------- refusals


def test_refusals_say_what_was_expected(record, tmp_path, monkeypatch):
    source, target = str(write_record(record, tmp_path / "a.zarr")), tmp_path / "b.zarr"
    refused = [
        (dict(chunks={"z": 1}), "chunks names the dimension 'z', the record has trajectory"),
        (dict(chunks={"time": 0}), "chunks time=0: expected a whole number from 1"),
        (dict(shards={"time": -1}), "shards time=-1: expected"),
        (dict(variables=["sst"]), "variable 'sst' is not in the record, which has"),
        (dict(memory=10**8), r"a shard of the target \(chunks x shards\) takes 0 MB: --memory must be at least 277MB"),
    ]
    for arguments, message in refused:
        with pytest.raises(InputError, match=message):
            rechunk.rechunk(source, target, **arguments)
    assert leftovers(tmp_path) == [] and not target.exists()
    target.mkdir()
    with pytest.raises(InputError, match="exists already; pass --overwrite"):
        rechunk.rechunk(source, target)
    xr.Dataset({"name": ("x", ["a", "b"])}).to_netcdf(tmp_path / "text.nc")
    with pytest.raises(InputError, match="text.nc has no variable that holds numbers"):
        rechunk.rechunk(str(tmp_path / "text.nc"), tmp_path / "c.zarr")


def test_a_write_that_went_wrong_is_noticed(record, tmp_path, monkeypatch):
    source = str(write_record(record, tmp_path / "a.zarr"))
    real = rechunk.open_for_writing

    class Faulty:
        def __init__(self, store, name):
            self.array, self.chunks, self.dtype = (lambda a: (a, a.chunks, a.dtype))(real(store, name))

        def __getitem__(self, place):
            return self.array[place]

        def __setitem__(self, place, values):
            values = values.copy()
            values.reshape(-1).view(np.uint8)[0] ^= 1
            self.array[place] = values

    monkeypatch.setattr(rechunk, "open_for_writing", Faulty)
    with pytest.raises(InputError, match="variable 'slp': what was written to .* is not what was read, at"):
        rechunk.rechunk(source, tmp_path / "b.zarr")
    assert not (tmp_path / "b.zarr").exists()
    monkeypatch.undo()
    same(rechunk.rechunk(source, tmp_path / "b.zarr"), record)


def test_stopped_before_the_intermediate_store_is_removed(record, tmp_path, monkeypatch):
    source = str(write_record(record, tmp_path / "a.zarr", chunks={"time": 40, "lat": 1, "lon": 2}))
    monkeypatch.setattr(rechunk_plan, "room", lambda memory, workers: 2000)
    how = dict(chunks={"time": 1}, shards={"time": 4})
    with monkeypatch.context() as patched:
        patched.setattr(StoreWriter, "discard", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            rechunk.rechunk(source, tmp_path / "b.zarr", **how)
    assert ".b.zarr.between0.partial" in leftovers(tmp_path)
    same(rechunk.rechunk(source, tmp_path / "b.zarr", **how), record)
    assert leftovers(tmp_path) == []


def test_a_damaged_source_is_named(record, tmp_path):
    path = write_record(record, tmp_path / "a.zarr")
    chunk = path / "t2m" / "c" / "1" / "7" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-9])
    with pytest.raises(InputError, match=r"variable 't2m', chunk \(1, 7, 0, 0\)"):
        rechunk.rechunk(str(path), tmp_path / "b.zarr")


# ---------------------------------------------------------------------------------------------- command, cluster


def test_the_command_copies_and_describes(record, tmp_path, capsys):
    source = str(write_record(record, tmp_path / "a.zarr"))
    words = ["rechunk", source, str(tmp_path / "b.zarr"), "--chunks", "time=2,lat=-1", "--shards", "time=5"]
    assert verb.main([*words, "--variables", "slp,t2m", "--memory", "900MB"]) == 0
    out = capsys.readouterr().out
    assert f"wrote {tmp_path / 'b.zarr'}" in out and "chunks 1 x 2 x 6 x 8" in out
    assert same(tmp_path / "b.zarr", record).slp.encoding["shards"] == (1, 10, 6, 8)
    refused = [
        (["--chunks", "time"], "--chunks has 'time': expected DIMENSION=NUMBER"),
        (["--memory", "much"], "--memory is 'much': expected a size such as"),
        (["--dask", "nowhere"], "--dask nowhere: no scheduler answers there"),
    ]
    for more, message in refused:
        with pytest.raises(InputError, match=message):
            verb.main([*words, "--overwrite", *more])
    with pytest.raises(SystemExit):
        verb.main([*words, "--flux"])
    assert "unrecognized arguments: --flux" in capsys.readouterr().err


def test_a_cluster_makes_the_same_store(record, tmp_path):
    distributed = pytest.importorskip("distributed")
    source = str(write_record(record, tmp_path / "a.zarr", chunks={"time": 40, "lat": 2, "lon": 4}))
    with distributed.Client(processes=False, n_workers=1, threads_per_worker=2, dashboard_address=None):
        path = rechunk.rechunk(source, tmp_path / "b.zarr", shards={"time": 8})
    same(path, record)
