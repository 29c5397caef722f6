"""Records behind an address, against real servers on the loopback interface: the same numbers, each chunk once."""

import functools
import http.server
import json
import logging
import math
import shutil
import threading
import tracemalloc

import numpy as np
import pytest
import xarray as xr
from web import Web
from zarr.codecs import BloscCodec, Crc32cCodec

from workbench.data import remote, store
from workbench.data.config import DataConfig
from workbench.data.loader import WindowLoader
from workbench.data.reader import WindowReader
from workbench.data.store import open_data, open_record
from workbench.data.windows import Windows
from workbench.data.writer import write_record
from workbench.errors import InputError

pytest.importorskip("aiohttp", reason="the extra 'remote' is not installed")

pytestmark = [
    pytest.mark.timeout(200),
    pytest.mark.filterwarnings("ignore:.*Zarr V3 specification", "ignore:Consolidated metadata"),
]

ROLES = {"state": ["slp", "t2m"]}


@pytest.fixture
def web(tmp_path):
    server = Web(tmp_path)
    yield server
    server.close()


def pairs(dataset):
    """Every pair of consecutive states."""
    r, t = np.divmod(np.arange(dataset.sizes["trajectory"] * (dataset.sizes["time"] - 1)), dataset.sizes["time"] - 1)
    return Windows(r, t, 2)


def batches(path, shuffle="full", threads=2, cache_bytes=0, batch_size=8, missing="error", **options):
    """All batches of an epoch."""
    dataset = open_record(str(path), **options)
    reader = WindowReader(dataset, ROLES, threads=threads, cache_bytes=cache_bytes)
    loader = WindowLoader(reader, pairs(dataset), batch_size=batch_size, shuffle=shuffle, missing=missing)
    return [(b["index"].numpy().copy(), b["state"].numpy().copy()) for b in loader]


def same(found, expected):
    assert len(found) == len(expected)
    for (index, state), (index2, state2) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(index, index2)
        np.testing.assert_array_equal(state, state2)


CHECKED = [BloscCodec(cname="lz4"), Crc32cCodec()]
LAYOUTS = {
    "v3": (3, {"chunks": (1, 1, 6, 8), "compressors": CHECKED}),
    "v3-cut": (3, {"chunks": (2, 4, 4, 8)}),
    "v3-plain": (3, {"chunks": (1, 1, 6, 8), "compressors": None}),
    "v3-shards": (3, {"chunks": (1, 1, 6, 8), "shards": (1, 8, 6, 8), "compressors": CHECKED}),
    "v2": (2, {"chunks": (1, 2, 6, 8)}),
}


def write(record, path, layout):
    version, encoding = LAYOUTS[layout]
    names = dict.fromkeys(record.data_vars, encoding)
    record.to_zarr(path, zarr_format=version, consolidated=layout == "v3" or version == 2, encoding=names)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_batches_are_those_of_the_local_store(record, tmp_path, web, caplog, layout):
    record = record.isel(time=slice(20))
    write(record, tmp_path / "a.zarr", layout)
    if layout in ("v3-cut", "v3-plain", "v3-shards"):  # a web server lists no folders
        import zarr

        zarr.consolidate_metadata(tmp_path / "a.zarr")
    with caplog.at_level(logging.WARNING, logger="workbench"):
        same(batches(f"{web.address}/a.zarr"), batches(tmp_path / "a.zarr"))
        same(batches(f"{web.address}/a.zarr", threads=0), batches(tmp_path / "a.zarr"))
    assert not caplog.records  # in particular, none says "is read through xarray"


@pytest.mark.parametrize("layout", ["v3", "v3-shards"])
def test_every_chunk_is_fetched_once(record, tmp_path, web, layout):
    write_record(record, tmp_path / "a.zarr", chunks={"time": 1, "trajectory": 1})
    if layout == "v3-shards":
        shutil.rmtree(tmp_path / "a.zarr")
        import zarr

        write(record, tmp_path / "a.zarr", layout)
        zarr.consolidate_metadata(tmp_path / "a.zarr")
    dataset = open_record(f"{web.address}/a.zarr")
    for cache_bytes, shuffle in ((2**20, "full"), (0, "none")):
        reader = WindowReader(dataset, ROLES, cache_bytes=cache_bytes)
        web.asked.clear()
        list(WindowLoader(reader, pairs(dataset), batch_size=40, shuffle=shuffle))
        found = web.chunks("slp")
        assert len(found) == 3 * 40
        # With nothing kept, a chunk at the edge of two batches may be fetched for both.
        assert max(found.values()) == 1 if cache_bytes else sum(found.values()) <= 3 * 40 + 4


def test_more_requests_are_in_flight_than_threads(record, tmp_path, web):
    write_record(record, tmp_path / "a.zarr", chunks={"time": 1, "trajectory": 1})
    dataset = open_record(f"{web.address}/a.zarr")
    reader = WindowReader(dataset, ROLES, threads=2, cache_bytes=0)
    web.most = 0
    web.hold(33)
    assert len(list(WindowLoader(reader, pairs(dataset), batch_size=2))) == 59
    assert 32 < web.most <= remote.REQUESTS


def test_two_reads_share_a_chunk_that_is_under_way(record, tmp_path, web):
    write_record(record, tmp_path / "a.zarr", chunks={"time": 1, "trajectory": 1})
    dataset = open_record(f"{web.address}/a.zarr")
    reader, windows = WindowReader(dataset, ROLES, cache_bytes=0), pairs(dataset)
    web.asked.clear()
    web.hold(math.inf)
    buffers = [{"state": np.empty(reader.buffer_shape("state", windows, 3), np.float32)} for _ in range(2)]
    reads = [reader.start(windows, np.array([4, 5, 6]), out) for out in buffers]
    web.hold(0)
    for finish in reads:
        finish()
    np.testing.assert_array_equal(buffers[0]["state"], buffers[1]["state"])
    assert set(web.chunks("t2m").values()) == {1}


def test_a_chunk_that_is_not_there_holds_the_fill_value(record, tmp_path, web):
    write(record, tmp_path / "a.zarr", "v3")
    shutil.rmtree(tmp_path / "a.zarr" / "slp" / "c" / "1" / "3")
    found = batches(f"{web.address}/a.zarr", shuffle="none", missing="mask")
    same(found, batches(tmp_path / "a.zarr", shuffle="none", missing="mask"))
    assert np.isnan(np.concatenate([state for _, state in found])).any()


def test_a_complete_store_that_misses_a_chunk_is_refused(record, tmp_path, web):
    write_record(record, tmp_path / "a.zarr", chunks={"time": 1, "trajectory": 1})
    shutil.rmtree(tmp_path / "a.zarr" / "slp" / "c" / "1" / "3")
    with pytest.raises(InputError, match=r"'slp', chunk \(1, 3, 0, 0\) is missing.*no http://.*/slp/c/1/3/0/0"):
        batches(f"{web.address}/a.zarr")


def test_a_crop_and_any_other_filesystem(record, tmp_path):
    import fsspec

    write_record(record, tmp_path / "a.zarr")
    memory = fsspec.filesystem("memory")
    memory.put(f"{tmp_path}/a.zarr", "/records/a.zarr", recursive=True)
    crop = {"time": (3, 30), "lat": (1, 5)}
    local, far = (open_record(p, crop) for p in (str(tmp_path / "a.zarr"), "memory://records/a.zarr"))
    readers = [WindowReader(d, ROLES, crop=crop, cache_bytes=0) for d in (local, far)]
    out = [np.empty(r.buffer_shape("state", pairs(local), 9), np.float32) for r in readers]
    for reader, buffer in zip(readers, out, strict=True):
        reader.read(pairs(local), np.arange(9), {"state": buffer})
    np.testing.assert_array_equal(*out)
    memory.rm("/records", recursive=True)


# ---------------------------------------------------------------------------------------------- S3


@pytest.fixture
def s3(tmp_path, monkeypatch):
    """A bucket on an S3-compatible server, found through environment variables as a user would."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    import s3fs

    filesystem = s3fs.S3FileSystem(skip_instance_cache=True)
    filesystem.mkdir("records")
    yield filesystem
    server.stop()


@pytest.mark.filterwarnings("ignore::DeprecationWarning:(moto|botocore|aiobotocore|werkzeug)")
def test_an_s3_bucket(record, tmp_path, s3):
    record = record.isel(time=slice(8), trajectory=slice(2))
    write_record(record, tmp_path / "a.zarr", chunks={"time": 4})
    write(record, tmp_path / "b.zarr", "v3-shards")  # without consolidated metadata, which a bucket does not need
    record.to_netcdf(tmp_path / "c.nc", engine="h5netcdf")
    for name in ("a.zarr", "b.zarr", "c.nc"):
        s3.put(str(tmp_path / name), f"records/{name}", recursive=name.endswith("zarr"))
    for name in ("a.zarr", "b.zarr"):
        same(batches(f"s3://records/{name}"), batches(tmp_path / name))
    kept = store.CacheLimit(str(tmp_path / "kept"), 10**8)
    for _ in range(2):
        same(batches("s3://records/b.zarr", cache=kept), batches(tmp_path / "b.zarr"))
    assert list((tmp_path / "kept").glob("??/*"))
    far = open_record("s3://records/c.nc")
    np.testing.assert_array_equal(far.t2m.isel(time=4).values, record.t2m.values[:, 4])
    far.close()
    with pytest.raises(InputError, match=r"cannot open 's3://records/none.zarr' as Zarr"):
        open_record("s3://records/none.zarr")


# ---------------------------------------------------------------------------------------------- opening


def test_a_zarr_store_opens_over_http(record, tmp_path, web):
    write_record(record, tmp_path / "a.zarr")
    opened = open_record(f"{web.address}/a.zarr")
    assert opened.slp.attrs["units"] == "Pa"
    np.testing.assert_array_equal(opened.slp.isel(time=slice(3, 6)).values, record.slp.values[:, 3:6])


def test_a_netcdf_file_opens_over_http(record, tmp_path, web):
    record.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    opened = open_record(f"{web.address}/a.nc")
    np.testing.assert_array_equal(opened.t2m.isel(time=4).values, record.t2m.values[:, 4])
    same(batches(f"{web.address}/a.nc", shuffle="none"), batches(tmp_path / "a.nc", shuffle="none"))
    opened.close()


def test_a_server_that_knows_no_ranges(record, tmp_path):
    """Python's own web server answers a range with the whole file."""
    import zarr

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    class Server(http.server.ThreadingHTTPServer):
        request_queue_size = 128

    write(record.isel(time=slice(16)), tmp_path / "a.zarr", "v3-shards")
    zarr.consolidate_metadata(tmp_path / "a.zarr")
    server = Server(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    same(batches(f"http://127.0.0.1:{server.server_address[1]}/a.zarr"), batches(tmp_path / "a.zarr"))
    server.shutdown()
    server.server_close()
    thread.join()


def test_nothing_at_an_address_is_said(record, tmp_path, web):
    write(record.isel(time=slice(2)), tmp_path / "a.zarr", "v3-plain")
    with pytest.raises(InputError, match="cannot open 'http://.*/none.nc' as NetCDF"):
        open_record(f"{web.address}/none.nc")
    with pytest.raises(InputError, match="cannot open 'http://.*/none.zarr' as Zarr"):
        open_record(f"{web.address}/none.zarr")
    with pytest.raises(InputError, match="no variable can be seen in http://.*a web server lists no folders"):
        open_record(f"{web.address}/a.zarr")
    with pytest.raises(InputError, match=r"cannot read from 'carrier://pigeon/a.zarr'.*Protocol not known"):
        open_record("carrier://pigeon/a.zarr")


def test_the_fields_of_an_experiment(record, tmp_path, web):
    write_record(record, tmp_path / "a.zarr")
    config = DataConfig(f"{web.address}/a.zarr", ("slp",), remote_cache=str(tmp_path / "kept"), remote_cache_gb=0.5)
    assert open_data(config).encoding["remote_cache"] == store.CacheLimit(str(tmp_path / "kept"), 5 * 10**8)
    with pytest.raises(InputError, match="data.remote_cache_gb is 0: expected more than 0"):
        DataConfig("a.zarr", ("slp",), remote_cache_gb=0)


# ---------------------------------------------------------------------------------------------- many chunks


def test_a_large_store_reaches_dask_in_merged_chunks(record, tmp_path, web, monkeypatch):
    write_record(record, tmp_path / "a.zarr", chunks={"time": 1, "trajectory": 1})
    assert open_record(str(tmp_path / "a.zarr")).slp.data.npartitions == 120
    assert open_record(str(tmp_path / "a.zarr"), chunks={"time": 40}).slp.data.npartitions == 3
    monkeypatch.setattr(store, "LARGE_GRAPH", 20)
    merged = open_record(f"{web.address}/a.zarr")
    assert merged.slp.chunks == ((1, 1, 1), (8, 8, 8, 8, 8), (6,), (8,)) and merged.slp.dtype == np.float32
    xr.testing.assert_identical(merged.load().drop_attrs(), record.drop_attrs())
    web.asked.clear()
    one = open_record(f"{web.address}/a.zarr").slp.isel(trajectory=1, time=5).values
    np.testing.assert_array_equal(one, record.slp.values[1, 5])
    assert sum(web.chunks("slp").values()) == 1  # a step does not cost the merged chunk
    same(batches(f"{web.address}/a.zarr"), batches(tmp_path / "a.zarr"))


def test_a_store_of_a_million_chunks_opens_in_little_memory(tmp_path):
    import zarr

    group = zarr.open_group(tmp_path / "million.zarr", mode="w", zarr_format=3)
    shape, dims = (1_000_000, 8, 8), ("time", "y", "x")
    for name in ("u", "v"):
        group.create_array(
            name,
            shape=shape,
            chunks=(1, 8, 8),
            dtype="f4",
            fill_value=1.5,
            dimension_names=dims,
            attributes={"units": "m s-1"},
        )
    group.create_array("time", shape=shape[:1], chunks=shape[:1], dtype="f8", dimension_names=("time",))[:] = range(
        10**6
    )
    tracemalloc.start()
    opened = open_record(str(tmp_path / "million.zarr"))
    data = store.open_data(DataConfig(str(tmp_path / "million.zarr"), ("u",), crop={"time": (10, 900_000)}))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert opened.u.shape == (1_000_000, 8, 8) and opened.u.data.npartitions <= store.LARGE_GRAPH
    assert data.sizes["time"] == 899_990
    print(f"peak {peak / 1e6:.0f} MB")
    assert peak < 100e6  # 50 bytes a chunk


@pytest.mark.filterwarnings("ignore:.*Zarr V3 specification")
def test_metadata_alone_is_fetched_to_open(record, tmp_path, web):
    write_record(record, tmp_path / "a.zarr", chunks={"time": 1, "trajectory": 1})
    assert json.loads((tmp_path / "a.zarr" / "zarr.json").read_text())["consolidated_metadata"]
    open_record(f"{web.address}/a.zarr")
    assert not web.chunks("slp") and sum(web.asked.values()) < 15
