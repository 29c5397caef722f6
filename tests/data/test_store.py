import os
import signal
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from workbench.data import integrity, store, writer
from workbench.errors import InputError


def flip(file: Path, at: int) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


def test_what_is_written_is_what_is_read(record, tmp_path):
    path = writer.write_record(record, tmp_path / "a.zarr", shards={"time": 8})
    back = store.open_record(str(path))
    assert back.slp.chunks[1][0] == 1 and back.attrs["workbench_complete"] == 1
    xr.testing.assert_identical(back.drop_attrs(deep=False).compute(), record.drop_attrs(deep=False))


def test_coordinates_that_are_no_index_are_kept(record, tmp_path):
    record = record.assign_coords(day=("time", np.arange(40) % 7), area=(("lat", "lon"), np.ones((6, 8))))
    back = store.open_record(str(writer.write_record(record, tmp_path / "a.zarr")))
    np.testing.assert_array_equal(back.day.values, np.arange(40) % 7)
    assert float(back.area.sum()) == 48


@pytest.mark.parametrize("kind", ["zarr2", "netcdf", "glob"])
def test_other_formats_open_alike(record, tmp_path, kind):
    if kind == "zarr2":
        record.to_zarr(tmp_path / "b.zarr", zarr_format=2)
        source = tmp_path / "b.zarr"
    elif kind == "netcdf":
        record.to_netcdf(tmp_path / "b.nc")
        source = tmp_path / "b.nc"
    else:
        record.isel(time=slice(0, 20)).to_netcdf(tmp_path / "b1.nc")
        record.isel(time=slice(20, 40)).to_netcdf(tmp_path / "b2.nc")
        source = tmp_path / "b*.nc"
    back = store.open_record(str(source))
    np.testing.assert_array_equal(back.slp.transpose(*record.slp.dims).values, record.slp.values)
    back.close()


def test_an_address_opens_through_fsspec(record, tmp_path):
    writer.write_record(record, tmp_path / "a.zarr")
    back = store.open_record(f"file://{tmp_path}/a.zarr")
    np.testing.assert_array_equal(back.slp.values, record.slp.values)


def test_crop_keeps_the_index_range_and_refuses_others(record, tmp_path):
    path = str(writer.write_record(record, tmp_path / "a.zarr"))
    assert store.open_record(path, {"lat": (1, 4)}).lat.values.tolist() == record.lat.values[1:4].tolist()
    with pytest.raises(InputError, match="data.crop names 'y', the record has"):
        store.open_record(path, {"y": (0, 2)})
    with pytest.raises(InputError, match=r"data.crop lat: \[0, 9\] does not lie in 0 .. 6"):
        store.open_record(path, {"lat": (0, 9)})


def test_nothing_there_says_what_was_looked_for(record, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no record at 'nowhere.zarr': expected a Zarr store"):
        store.open_record("nowhere.zarr")
    with pytest.raises(InputError, match=r"no file matches 'x\*.nc'"):
        store.open_record("x*.nc")
    declared = tmp_path / "datasets" / "some_flow"
    declared.mkdir(parents=True)
    (declared / "recipe.yaml").touch()
    monkeypatch.setattr(store, "folder", lambda name: tmp_path / name)
    with pytest.raises(InputError, match="workbench dataset build some_flow/tiny"):
        store.open_record("some_flow/tiny")
    record.to_netcdf(tmp_path / "half.nc")
    (tmp_path / "half.nc").write_bytes((tmp_path / "half.nc").read_bytes()[:9000])
    with pytest.raises(InputError, match="cannot open 'half.nc' as NetCDF"):
        store.open_record("half.nc")
    (tmp_path / "empty.zarr").mkdir()
    with pytest.raises(InputError, match="cannot open 'empty.zarr' as Zarr"):
        store.open_record("empty.zarr")


@pytest.mark.parametrize("shards", [{}, {"time": 8}])
def test_every_flipped_byte_of_a_chunk_is_found_and_named(record, tmp_path, shards):
    path = writer.write_record(record[["slp"]].isel(trajectory=[0]), tmp_path / "a.zarr", shards=shards)
    assert list(integrity.damaged_chunks(str(path))) == []
    chunk = path / "slp" / "c" / "0" / "1" / "0" / "0"
    size = chunk.stat().st_size
    for at in range(0, size, max(1, size // 25)):
        flip(chunk, at)
        found = list(integrity.damaged_chunks(str(path)))
        assert len(found) == 1 and "variable 'slp', chunk (0, 1, 0, 0)" in found[0], (at, found)
        flip(chunk, at)


def test_a_truncated_and_a_missing_chunk_are_found(record, tmp_path):
    path = writer.write_record(record[["slp"]], tmp_path / "a.zarr")
    chunk = path / "slp" / "c" / "2" / "7" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-9])
    (path / "slp" / "c" / "1" / "3" / "0" / "0").unlink()
    found = list(integrity.damaged_chunks(str(path)))
    assert ["(1, 3, 0, 0)" in found[0], "missing" in found[0], "(2, 7, 0, 0)" in found[1]] == [True] * 3


def test_a_bad_chunk_met_while_reading_is_named(record, tmp_path):
    path = writer.write_record(record, tmp_path / "a.zarr")
    flip(path / "t2m" / "c" / "0" / "4" / "0" / "0", 40)
    opened = store.open_record(str(path))
    named = pytest.raises(InputError, match=r"damaged chunk in .*variable 't2m', chunk \(0, 4, 0, 0\)")
    with named, store.naming_bad_chunks(opened):
        opened.t2m.load(scheduler="synchronous")


def test_the_manifest_lists_every_file(record, tmp_path):
    path = writer.write_record(record, tmp_path / "a.zarr")
    manifest = integrity.read_manifest(path)
    assert set(manifest) == {p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()}
    assert manifest == integrity.checksums(path)


def test_an_existing_store_is_kept_unless_overwritten(record, tmp_path):
    path = writer.write_record(record, tmp_path / "a.zarr")
    with pytest.raises(InputError, match="exists already; pass --overwrite"):
        writer.write_record(record, path)
    writer.write_record(record.isel(time=slice(0, 5)), path, overwrite=True)
    assert store.open_record(str(path)).sizes["time"] == 5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zarr", "a.zarr.manifest.json"]


def test_a_failed_overwrite_leaves_the_old_store(record, tmp_path):
    path = writer.write_record(record, tmp_path / "a.zarr")
    filling = writer.StoreWriter(path, record.chunk(), chunks={"time": 1}, overwrite=True)
    filling.close()
    assert store.open_record(str(path)).sizes["time"] == 40


def test_a_second_writer_is_refused(record, tmp_path):
    filling = writer.StoreWriter(tmp_path / "a.zarr", record.chunk(), chunks={"time": 1})
    with pytest.raises(InputError, match="another process is writing"):
        writer.StoreWriter(tmp_path / "a.zarr", record.chunk(), chunks={"time": 1})
    filling.close()


def test_a_killed_build_goes_on_and_ends_equal(server, record, tmp_path):
    """SIGKILL after some regions: the next writer keeps them, writes the rest, and the store is the same."""
    record.to_netcdf(tmp_path / "record.nc")
    script = f"""
        import os, signal, sys, xarray as xr
        from workbench.data.writer import StoreWriter
        record = xr.open_dataset({str(tmp_path / "record.nc")!r})
        chunks = {{"trajectory": 1, "time": 1}}
        writer = StoreWriter({str(tmp_path / "a.zarr")!r}, record.chunk(), chunks=chunks, identity={{"seed": 1}})
        print(sorted(writer.done))
        for t in range(3):
            if str(t) in writer.done: continue
            part = record.isel(trajectory=[t])
            writer.write(str(t), {{n: v.values for n, v in part.data_vars.items()}}, {{"trajectory": slice(t, t + 1)}})
            if t == 1 and "die" in sys.argv: os.kill(os.getpid(), signal.SIGKILL)
        writer.finish(); writer.close()
        """
    status, out = server.script(tmp_path, script, "die")
    assert status == -signal.SIGKILL, out
    assert not (tmp_path / "a.zarr").exists()
    status, out = server.script(tmp_path, script)
    assert status == 0, out
    assert out.strip() == "['0', '1']"
    np.testing.assert_array_equal(store.open_record(str(tmp_path / "a.zarr")).t2m.values, record.t2m.values)
    assert os.listdir(tmp_path / "a.zarr")
    assert list(integrity.damaged_chunks(str(tmp_path / "a.zarr"))) == []


def test_a_partial_store_of_another_identity_is_not_continued(record, tmp_path):
    first = writer.StoreWriter(tmp_path / "a.zarr", record.chunk(), chunks={"time": 1}, identity={"seed": 1})
    first.write("0", {"slp": record.slp.values[:1]}, {"trajectory": slice(0, 1)})
    first.close()
    second = writer.StoreWriter(tmp_path / "a.zarr", record.chunk(), chunks={"time": 1}, identity={"seed": 2})
    assert second.done == set()
    second.close()


@pytest.mark.parametrize("kind", ["zarr", "netcdf", "glob", "address"])
def test_a_field_in_hours_stays_a_number_and_a_lead_time_becomes_a_duration(tmp_path, kind):
    """Both where the file says hours alone, and where xarray had decoded the field and wrote it again."""
    hours = np.arange(6, dtype="timedelta64[h]").astype("timedelta64[ns]")
    record = xr.Dataset(
        {"sun": (("time", "x"), np.full((6, 3), 1.5, "f4"), {"units": "hours"}), "age": ("time", hours)},
        coords={"time": ("time", np.arange(6.0), {"units": "s"}), "lead_time": ("time", hours)},
    )
    if kind in ("zarr", "address"):
        record.to_zarr(tmp_path / "a.zarr", consolidated=False)
    else:
        record.to_netcdf(tmp_path / "a.nc")
    addresses = {"zarr": "a.zarr", "netcdf": "a.nc", "glob": "a*.nc", "address": f"file://{tmp_path}/a.zarr"}
    found = store.open_record(str(tmp_path / addresses[kind]) if kind != "address" else addresses[kind])
    np.testing.assert_array_equal(found.sun.values, np.full((6, 3), 1.5, "f4"))
    assert found.sun.attrs == {"units": "hours"}
    np.testing.assert_array_equal(found.age.values, np.arange(6))
    assert found.age.attrs == {"units": "hours"} and found.age.dtype.kind == "i"
    assert found.lead_time.dtype.kind == "m" and found.time.dtype.kind == "f"
    np.testing.assert_array_equal(found.lead_time.values, hours)
    found.close()


def test_text_of_any_length_can_be_compared(tmp_path):
    names = np.array(["a", "a longer one"], object)
    cells = xr.Dataset({"x": ("cell", [1.0, 2.0])}, {"cell": names, "policy": ("cell", names)})
    cells.to_zarr(tmp_path / "cells.zarr", zarr_format=3, consolidated=False)
    record = store.open_record(str(tmp_path / "cells.zarr"))
    for name in ("cell", "policy"):
        assert name in record.coords and record[name].values.astype(str).tolist() == names.tolist()
    assert record.sel(cell="a longer one")["x"] == 2
