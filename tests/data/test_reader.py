"""The reader against plain xarray, over every layout, and what it does when bytes on disk are wrong."""

import itertools
import json
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import google_crc32c
import netCDF4
import numcodecs
import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.data import access, channels, writer
from workbench.data.chunks import ChunkedArray
from workbench.data.reader import WindowReader
from workbench.data.store import open_record
from workbench.data.windows import Windows
from workbench.data.writer import write_record
from workbench.errors import InputError

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*Zarr V3 specification",
    "ignore:Numcodecs codecs are not in the Zarr version 3",
    "ignore:saving variable .* as an integer dtype without",
)


def field(dims, sizes, dtype="f4", seed=0, **attrs):
    """A variable of random numbers."""
    values = np.random.default_rng(seed).normal(0, 100, [sizes[d] for d in dims]).astype(dtype)
    return (dims, values, {"units": "1", "long_name": "a field", **attrs})


SIZES = {"trajectory": 3, "time": 14, "level": 2, "y": 5, "x": 4}


def record(*names_and_dims, dtype="f4", sizes=SIZES):
    """A record of some variables, every dim with its coordinate."""
    variables = {n: field(d, sizes, dtype, i) for i, (n, d) in enumerate(names_and_dims)}
    used = {d for _, dims in names_and_dims for d in dims}
    return xr.Dataset(variables, {d: (d, np.arange(float(sizes[d])), {"units": "1"}) for d in sizes if d in used})


def expected(dataset, roles, windows, indices):
    """What a batch should hold, by way of xarray alone."""
    out = {}
    for role, names in roles.items():
        samples = []
        for i in indices:
            where = {"trajectory": int(windows.trajectory[i]), "time": windows.times(i)}
            if role == "static":
                where["time"] = 0
            space = [d for d in dataset[names[0]].dims if d not in ("trajectory", "time", "level")]
            blocks = []
            for name in names:
                array = dataset[name].isel(where, missing_dims="ignore")
                if role != "static" and "time" not in array.dims:
                    array = array.expand_dims(time=windows.length)
                if "level" not in array.dims:
                    array = array.expand_dims("level")
                blocks.append(array.transpose(..., "level", *space).values.astype("f4"))
            samples.append(np.concatenate(blocks, axis=0 if role == "static" else 1))
        out[role] = np.stack(samples)
    return out


def read(reader, windows, indices, **options):
    """A batch in fresh buffers, filled with rubbish first."""
    out = {r: np.full(reader.buffer_shape(r, windows, len(indices)), 7e7, "f4") for r in reader.roles}
    reader.read(windows, np.asarray(indices), out, **options)
    return out


def every_window(dataset, length=2, stride=1):
    """All windows of all trajectories."""
    starts = np.arange(dataset.sizes["time"] - (length - 1) * stride)
    trajectories = np.arange(dataset.sizes.get("trajectory", 1))
    return Windows(np.repeat(trajectories, len(starts)), np.tile(starts, len(trajectories)), length, stride)


def check(source, roles, *, crop=None, length=3, stride=2, **options):
    """Read all windows of a record in random order, in two batches, with and without memory."""
    dataset = open_record(source, crop) if isinstance(source, str) else source
    plain = dataset.load() if isinstance(source, xr.Dataset) else open_record(source, crop).load()
    windows = every_window(dataset, length, stride)
    order = np.random.default_rng(3).permutation(len(windows))
    order = np.concatenate([order, order[:3]])
    for memory in (0, 700, 2**20):
        reader = WindowReader(dataset, roles, crop=crop, cache_bytes=memory, **options)
        for batch in np.array_split(order, 2):
            got = read(reader, windows, batch, keep=bool(memory))
            for role, values in expected(plain, roles, windows, batch).items():
                np.testing.assert_array_equal(got[role], values)
    return reader


# ---------------------------------------------------------------------------------------------- Zarr

BLOSC = {"cname": "lz4", "clevel": 1, "shuffle": "shuffle"}
V3_CODECS = {
    "none": [],
    "crc": [zarr.codecs.Crc32cCodec()],
    "blosc": [zarr.codecs.BloscCodec(**BLOSC)],
    "blosc+crc": [zarr.codecs.BloscCodec(**BLOSC), zarr.codecs.Crc32cCodec()],
    "zstd": [zarr.codecs.ZstdCodec()],
    "crc inside zstd": [zarr.codecs.Crc32cCodec(), zarr.codecs.ZstdCodec()],
    "gzip": [zarr.codecs.GzipCodec()],
    "bz2 (unknown)": ["bz2"],
}
V2_CODECS = {
    "none": lambda dtype: {"compressors": None},
    "blosc": lambda dtype: {"compressors": numcodecs.Blosc()},
    "zlib": lambda dtype: {"compressors": numcodecs.Zlib()},
    "lz4": lambda dtype: {"compressors": numcodecs.LZ4()},
    "shuffle+zstd": lambda dtype: {"compressors": numcodecs.Zstd(), "filters": [numcodecs.Shuffle(dtype.itemsize)]},
    "delta (unknown)": lambda dtype: {"compressors": numcodecs.Zstd(), "filters": [numcodecs.Delta(dtype)]},
}


@st.composite
def zarr_layouts(draw):
    """Axes in any order, chunks that do not divide, shards, codecs, data types, holes."""
    dims = draw(
        st.permutations(["time", "y", "x", *draw(st.lists(st.sampled_from(["trajectory", "level"]), unique=True))])
    )
    inner = {d: draw(st.integers(1, SIZES[d] + 1)) for d in dims}
    per_shard = {d: draw(st.integers(1, 3)) for d in dims} if draw(st.booleans()) else None
    version = draw(st.sampled_from([2, 3]))
    dtype = draw(st.sampled_from(["<f4", "<f4", ">f4", "<f8", ">i2", "u1"]))
    codec = draw(st.sampled_from(sorted(V3_CODECS if version == 3 else V2_CODECS)))
    holes = draw(st.booleans())
    crop = {d: (1, SIZES[d] - 1) for d in draw(st.sets(st.sampled_from(dims))) if SIZES[d] > 2}
    return dims, inner, per_shard, version, dtype, codec, holes, crop


def write_zarr(path, dims, inner, per_shard, version, dtype, codec, holes, crop):
    """A store written by zarr-python itself, with every second chunk missing where there are holes."""
    shape = [SIZES[d] for d in dims]
    group = zarr.open_group(path, mode="w", zarr_format=version)
    options = {"name": "u", "shape": shape, "chunks": [inner[d] for d in dims], "fill_value": 3}
    if version == 3:
        codecs = [zarr.codecs.numcodecs.BZ2() if c == "bz2" else c for c in V3_CODECS[codec]]
        options |= {"dtype": dtype[1:], "compressors": codecs or None, "dimension_names": dims}
        options["serializer"] = zarr.codecs.BytesCodec(endian="big" if dtype[0] == ">" else "little")
        if per_shard:
            options["shards"] = [inner[d] * per_shard[d] for d in dims]
        if dtype == "u1":
            options |= {"dtype": "u1", "serializer": "auto"}
    else:
        options |= {
            "dtype": dtype,
            "filters": None,
            "chunk_key_encoding": {"name": "v2", "separator": "/" if holes else "."},
        }
        options |= V2_CODECS[codec](np.dtype(dtype))
    array = group.create_array(**options)
    if version == 2:
        array.attrs["_ARRAY_DIMENSIONS"] = dims
    values = np.random.default_rng(0).integers(0, 200, shape)
    if not holes:
        array[...] = values
        return
    sizes = array.shards or array.chunks
    for n, index in enumerate(itertools.product(*(range(-(-s // c)) for s, c in zip(shape, sizes, strict=True)))):
        if n % 2:
            region = tuple(slice(i * c, (i + 1) * c) for i, c in zip(index, sizes, strict=True))
            array[region] = values[region]


@given(zarr_layouts())
@settings(max_examples=20, deadline=None)
def test_any_zarr_layout_reads_as_xarray_reads_it(layout):
    dims, *_, crop = layout
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/s.zarr"
        write_zarr(path, *layout)
        check(path, {"state": ["u"]}, crop=crop, length=2)


@pytest.mark.parametrize("shards", [None, {"time": 4}])
@pytest.mark.parametrize("compress", [True, False])
def test_default_stores_are_read_directly(tmp_path, caplog, shards, compress, monkeypatch):
    if not compress:
        real = writer.array_encoding
        monkeypatch.setattr(
            writer, "array_encoding", lambda array, chunks, shards, _: real(array, chunks, shards, False)
        )
    data = record(("u", ("trajectory", "time", "y", "x")), ("v", ("trajectory", "time", "level", "y", "x")))
    write_record(data, tmp_path / "s.zarr", shards=shards)
    loads = count_loads(monkeypatch)
    check(str(tmp_path / "s.zarr"), {"state": ["u", "v"]})
    assert loads and not caplog.records


def count_loads(monkeypatch):
    """Indices of the chunks that are decoded from now on."""
    loads, real = [], ChunkedArray.load

    def load(self, index, out, scratch):
        loads.append((self.name, index))
        real(self, index, out, scratch)

    monkeypatch.setattr(ChunkedArray, "load", load)
    return loads


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("fill", [None, -999])
def test_packed_integers_decode_to_the_last_bit(tmp_path, version, fill):
    data = record(("u", ("time", "y", "x")))
    data["u"][3, 2] = np.nan if fill else 1.0
    encoding = {"dtype": "i2", "scale_factor": 0.1, "add_offset": 3.0, "chunks": (4, 5, 4)}
    if fill:
        encoding["_FillValue"] = np.int16(fill)
    data.to_zarr(tmp_path / "s.zarr", zarr_format=version, consolidated=False, encoding={"u": encoding})
    check(str(tmp_path / "s.zarr"), {"state": ["u"]})


def test_a_float_fill_value_becomes_nan(tmp_path):
    data = record(("u", ("time", "y", "x")))
    data["u"][3, 2] = np.nan
    encoding = {"u": {"_FillValue": np.float32(1e20), "chunks": (1, 5, 4)}}
    data.to_zarr(tmp_path / "s.zarr", zarr_format=3, consolidated=False, encoding=encoding)
    check(str(tmp_path / "s.zarr"), {"state": ["u"]})


def test_an_unknown_codec_is_noted_once(tmp_path, caplog):
    write_zarr(str(tmp_path / "s.zarr"), ["time", "y", "x"], SIZES, None, 2, "<f4", "delta (unknown)", False, {})
    reader = WindowReader(open_record(str(tmp_path / "s.zarr")), {"state": ["u"]})
    read(reader, every_window(reader.dataset), [0, 1])
    notes = [r.getMessage() for r in caplog.records]
    assert len(notes) == 1 and "'u'" in notes[0] and "through xarray" in notes[0] and "codec 'delta'" in notes[0]


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"chunk_grid": {"name": "rectangular", "configuration": {}}}, "chunk grid 'rectangular'"),
        ({"storage_transformers": [{"name": "x"}]}, "storage transformers"),
        ({"chunk_key_encoding": {"name": "hashed"}}, "chunk keys 'hashed'"),
        ({"data_type": "float8_e3m4"}, "data type float8_e3m4"),
        ({"data_type": "complex64"}, "data type complex64"),
        ({"codecs": [{"name": "transpose", "configuration": {"order": [2, 1, 0]}}]}, "codec 'transpose'"),
    ],
)
def test_layouts_that_are_left_to_a_library(tmp_path, change, note):
    from workbench.data.layouts import UnknownLayout, zarr_chunks

    write_record(record(("u", ("time", "y", "x"))), tmp_path / "s.zarr")
    file = tmp_path / "s.zarr" / "u" / "zarr.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(UnknownLayout, match=note):
        zarr_chunks(str(tmp_path / "s.zarr"), "u")
    with pytest.raises(UnknownLayout, match="no zarr.json"):
        zarr_chunks(str(tmp_path / "s.zarr"), "w")


# ---------------------------------------------------------------------------------------------- NetCDF


@pytest.mark.parametrize(
    ("form", "encoding"),
    [
        ("NETCDF4", {"contiguous": True}),
        ("NETCDF4", {"zlib": True, "shuffle": True, "chunksizes": (2, 3, 4)}),
        ("NETCDF4", {"zlib": True, "shuffle": False, "chunksizes": (14, 5, 4)}),
        ("NETCDF4", {"fletcher32": True, "chunksizes": (1, 5, 4)}),
        ("NETCDF4", {"dtype": "i2", "scale_factor": 0.01, "add_offset": 5.0, "_FillValue": np.int16(-7), "zlib": True}),
        ("NETCDF3_64BIT", {}),
        ("NETCDF3_64BIT", {"dtype": "f8"}),
    ],
)
@pytest.mark.parametrize("dims", [("time", "y", "x"), ("y", "x", "time")])
def test_netcdf_reads_as_xarray_reads_it(tmp_path, form, encoding, dims):
    data = record(("u", dims))
    if "chunksizes" in encoding and dims[0] == "y":
        encoding = {**encoding, "chunksizes": encoding["chunksizes"][1:] + encoding["chunksizes"][:1]}
    data.to_netcdf(tmp_path / "u.nc", format=form, engine="netcdf4", encoding={"u": encoding})
    check(str(tmp_path / "u.nc"), {"state": ["u"]}, crop={"x": (1, 4), "time": (2, 13)})


@pytest.mark.parametrize("filters", [{"contiguous": True}, {"zlib": True, "shuffle": True, "chunksizes": (3, 5, 4)}])
def test_big_endian_netcdf(tmp_path, filters):
    data = record(("u", ("time", "y", "x")))
    with netCDF4.Dataset(tmp_path / "u.nc", "w") as file:
        for dim, size in data.sizes.items():
            file.createDimension(dim, size)
            file.createVariable(dim, "f8", (dim,))[:] = data[dim].values
        file.createVariable("u", ">f4", data.u.dims, endian="big", **filters)[:] = data.u.values
    check(str(tmp_path / "u.nc"), {"state": ["u"]})


def test_unsigned_bytes_are_left_to_xarray(tmp_path, caplog):
    data = record(("u", ("time", "y", "x")))
    data["u"] = abs(data["u"]).clip(0, 250).astype("u1").assign_attrs(data["u"].attrs)
    encoding = {"u": {"dtype": "i1", "_Unsigned": "true", "_FillValue": np.int8(-1)}}
    data.to_netcdf(tmp_path / "u.nc", encoding=encoding)
    check(str(tmp_path / "u.nc"), {"state": ["u"]})
    assert "attribute _Unsigned" in caplog.text


def test_files_that_follow_each_other_in_time(tmp_path, caplog):
    data = record(("u", ("time", "y", "x")))
    for n, (lo, hi) in enumerate([(9, 14), (0, 4), (4, 9)]):  # names in another order than times
        data.isel(time=slice(lo, hi)).to_netcdf(tmp_path / f"part{n}.nc")
    check(str(tmp_path / "part*.nc"), {"state": ["u"]}, crop={"time": (2, 12), "y": (1, 4)})
    assert not caplog.records


def test_other_combinations_of_files_go_through_dask(tmp_path, caplog):
    data = record(("u", ("time", "y", "x")))
    access._note.cache_clear()
    for n in range(2):
        data.isel(y=slice(3 * n, 3 * n + 3)).to_netcdf(tmp_path / f"part{n}.nc")
    check(str(tmp_path / "part*.nc"), {"state": ["u"]})
    assert "dask expression" in caplog.text


# ---------------------------------------------------------------------------------------------- channels, memory


def many_roles():
    """Variables of every kind: levels, another order of axes, no trajectory, no time."""
    return record(
        ("u", ("trajectory", "time", "level", "y", "x")),
        ("v", ("trajectory", "time", "x", "y")),
        ("heat", ("time", "y", "x")),
        ("mask", ("y", "x")),
        ("material", ("trajectory", "y", "x")),
        ("stress", ("trajectory", "time", "y", "x")),
    )


ROLES = {"state": ["v", "u"], "forcing": ["heat", "mask"], "static": ["mask", "material"], "diagnostic": ["stress"]}


@pytest.mark.parametrize("source", ["store", "memory"])
def test_roles_levels_and_missing_axes(tmp_path, source):
    roles = {**ROLES, "state": ["u", "v"]}
    data = many_roles()
    if source == "store":
        write_record(data, tmp_path / "s.zarr", chunks={"trajectory": 2, "time": 3, "level": 1, "y": -1, "x": -1})
    reader = check(str(tmp_path / "s.zarr") if source == "store" else data, roles)
    assert reader.shape("state") == (3, 5, 4) and reader.shape("static") == (2, 5, 4)


def test_space_takes_the_order_of_the_first_variable():
    data = many_roles()
    reader = WindowReader(data, {"state": ["v", "u"]})
    got = read(reader, every_window(data), [4])["state"]
    np.testing.assert_array_equal(got[0, 0, 0], data.v[0, 4].values)
    np.testing.assert_array_equal(got[0, 0, 2], data.u[0, 4, 1].transpose("x", "y").values)


def test_a_lazy_expression_goes_through_dask(caplog):
    access._note.cache_clear()
    data = record(("u", ("time", "y", "x"))).chunk(time=5)
    check((data + 1).assign_coords(data.coords), {"state": ["u"]})
    reader = WindowReader(2 * data, {"state": ["u"]})
    np.testing.assert_array_equal(read(reader, every_window(data), [3])["state"][0], 2 * data.u[3:5].values[:, None])
    assert "dask expression that lies in no file" in caplog.text


def test_every_chunk_is_decoded_once_a_batch(tmp_path, monkeypatch):
    write_record(record(("u", ("time", "y", "x"))), tmp_path / "s.zarr", chunks={"time": 4})
    reader = WindowReader(open_record(str(tmp_path / "s.zarr")), {"state": ["u"]}, cache_bytes=0)
    loads = count_loads(monkeypatch)
    read(reader, every_window(reader.dataset), [0, 1, 2, 3, 4, 2, 2])
    assert sorted(loads) == [("u", (0, 0, 0)), ("u", (1, 0, 0))]


def test_what_all_trajectories_share_is_decoded_once_a_batch(tmp_path, monkeypatch):
    data = record(("u", ("trajectory", "time", "y", "x")), ("heat", ("time", "y", "x")))
    write_record(data, tmp_path / "s.zarr")
    reader = WindowReader(open_record(str(tmp_path / "s.zarr")), {"state": ["u"], "forcing": ["heat"]}, cache_bytes=0)
    loads = count_loads(monkeypatch)
    read(reader, every_window(data, length=1), [3, 17, 31])  # step 3 of each of the three trajectories
    assert sorted(loads) == [("heat", (3, 0, 0)), *(("u", (r, 3, 0, 0)) for r in range(3))]


def test_a_record_that_fits_is_decoded_once(tmp_path, monkeypatch):
    write_record(record(("u", ("time", "y", "x"))), tmp_path / "s.zarr", chunks={"time": 4})
    reader = WindowReader(open_record(str(tmp_path / "s.zarr")), {"state": ["u"]})
    loads = count_loads(monkeypatch)
    for batch in np.array_split(np.random.default_rng(0).permutation(13), 4) * 3:
        read(reader, every_window(reader.dataset), batch)
    assert sorted(loads) == [("u", (i, 0, 0)) for i in range(4)]


def test_memory_for_some_steps_drops_the_least_recently_used(tmp_path, monkeypatch):
    write_record(record(("u", ("time", "y", "x"))), tmp_path / "s.zarr", chunks={"time": 2})
    data = open_record(str(tmp_path / "s.zarr"))
    reader = WindowReader(data, {"state": ["u"]}, cache_bytes=6 * 80)  # 6 steps, 3 chunks
    loads = count_loads(monkeypatch)
    single = every_window(data, length=1)
    for steps, decoded in [([0], [0]), ([2], [1]), ([1, 4], [2]), ([6], [3]), ([0], []), ([2], [1]), ([5], [2])]:
        loads.clear()
        read(reader, single, steps, keep=True)
        assert [index[0] for _, index in loads] == decoded
    loads.clear()
    read(reader, single, np.arange(14), keep=True)  # more than fits: straight into the batch
    assert len(loads) == 7


@pytest.mark.parametrize("memory", [0, 700, 1500, 2**20])
@pytest.mark.parametrize("chunk", [1, 3])
def test_reads_may_overlap(tmp_path, monkeypatch, memory, chunk):
    """Up to three reads under way, ended in any order, none of which may empty a slot that another one needs."""
    monkeypatch.setattr(channels, "SMALL_CHUNK", 0)
    write_record(record(("u", ("trajectory", "time", "y", "x"))), tmp_path / "s.zarr", chunks={"time": chunk})
    data = open_record(str(tmp_path / "s.zarr"))
    reader, windows = WindowReader(data, {"state": ["u"]}, cache_bytes=memory), every_window(data)
    data, random, under_way = data.load(), np.random.default_rng(0), []
    for _ in range(150):
        if len(under_way) == 3:
            finish, indices, out = under_way.pop(random.integers(3))
            finish()
            np.testing.assert_array_equal(out["state"], expected(data, {"state": ["u"]}, windows, indices)["state"])
        indices = random.integers(len(windows), size=3)
        out = {"state": np.full(reader.buffer_shape("state", windows, 3), 7e7, "f4")}
        under_way.append((reader.start(windows, indices, out, keep=True), indices, out))
    for finish, _, _ in under_way:
        finish()


@pytest.mark.parametrize("small", [0, 2**17])
def test_what_failed_to_load_is_forgotten(tmp_path, monkeypatch, small):
    """After the chunk is repaired, the same reader reads it, and nothing that it had only half decoded."""
    monkeypatch.setattr(channels, "SMALL_CHUNK", small)
    write_record(record(("u", ("time", "y", "x"))), tmp_path / "s.zarr", chunks={"time": 2})
    data = open_record(str(tmp_path / "s.zarr"))
    reader, windows, chunk = WindowReader(data, {"state": ["u"]}), every_window(data), tmp_path / "s.zarr/u/c/3/0/0"
    good = chunk.read_bytes()
    chunk.write_bytes(flip(-1)(bytearray(good)))
    out = [{"state": np.empty(reader.buffer_shape("state", windows, 1), "f4")} for _ in range(2)]
    with ThreadPoolExecutor(1) as other:  # small chunks are read by the calling thread, if it is not the main thread
        for _ in range(2):
            with pytest.raises(InputError, match=r"chunk \(3, 0, 0\) is damaged"):
                other.submit(read, reader, windows, [6]).result()
    first = reader.start(windows, [6], out[0])
    second = reader.start(windows, [6], out[1])
    for finish in (second, first):
        with pytest.raises(InputError, match=r"chunk \(3, 0, 0\) is damaged"):
            finish()
    chunk.write_bytes(good)
    np.testing.assert_array_equal(read(reader, windows, [6])["state"][0, :, 0], data.u.values[6:8])


def test_two_readers_of_one_memory(tmp_path, monkeypatch):
    """Training and validation share a reader, each from a thread of its own."""
    monkeypatch.setattr(channels, "SMALL_CHUNK", 0)
    write_record(record(("u", ("trajectory", "time", "y", "x"))), tmp_path / "s.zarr", chunks={"time": 3})
    data = open_record(str(tmp_path / "s.zarr"))
    reader, windows = WindowReader(data, {"state": ["u"]}, cache_bytes=1500), every_window(data)
    data = data.load()

    def many(seed):
        random = np.random.default_rng(seed)
        for _ in range(100):
            indices = random.integers(len(windows), size=3)
            got = read(reader, windows, indices, keep=True)["state"]
            np.testing.assert_array_equal(got, expected(data, {"state": ["u"]}, windows, indices)["state"])

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(many, range(3)))


def test_memory_is_shared_by_roles(tmp_path):
    data = many_roles()
    write_record(data, tmp_path / "s.zarr")
    reader = WindowReader(open_record(str(tmp_path / "s.zarr")), ROLES, cache_bytes=8000)
    held = {role: cache.data.nbytes for role, cache in reader._caches.items()}
    assert held["static"] == 3 * 160 and sum(held.values()) <= 8000
    assert min(held[r] for r in ("state", "forcing", "diagnostic")) > 1000
    assert reader.block_plan(2).resident >= 1


def test_threads_come_back_after_a_fork(tmp_path):
    write_record(record(("u", ("time", "y", "x"))), tmp_path / "s.zarr")
    data = open_record(str(tmp_path / "s.zarr"))
    reader = WindowReader(data, {"state": ["u"]}, cache_bytes=0)
    windows = every_window(data)
    before = read(reader, windows, [5])["state"]
    child = os.fork()
    if child == 0:
        same = np.array_equal(read(reader, windows, [5])["state"], before)
        os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# ---------------------------------------------------------------------------------------------- bad bytes


@pytest.fixture
def damaged(tmp_path):
    """Writes a store, lets a function change the bytes of a file of it, and returns a reader of the rest."""

    def make(change, file="u/c/5/0/0", shards=None):
        write_record(record(("u", ("time", "y", "x"))), tmp_path / "s.zarr", shards=shards)
        data = open_record(str(tmp_path / "s.zarr"))
        reader = WindowReader(data, {"state": ["u"]}, cache_bytes=0)
        target = tmp_path / "s.zarr" / file
        content = change(bytearray(target.read_bytes()))
        target.unlink()
        if content is not None:
            target.write_bytes(content)
        return reader, every_window(data)

    return make


def flip(position):
    """Flip one bit."""

    def change(content):
        content[position] ^= 4
        return content

    return change


@pytest.mark.parametrize(
    "change", [flip(0), flip(7), flip(40), flip(-1), lambda c: c[:-3], lambda c: b"", lambda c: c + c]
)
def test_a_damaged_chunk_is_named(damaged, change):
    reader, windows = damaged(change)
    read(reader, windows, [0, 3, 6])
    with pytest.raises(
        InputError, match=r"variable 'u', chunk \(5, 0, 0\) is damaged.*u/c/5/0/0.*workbench dataset verify"
    ):
        read(reader, windows, [0, 5])


@pytest.mark.parametrize("position", [5, -30, -2])
def test_a_damaged_shard_is_named(damaged, position):
    reader, windows = damaged(flip(position), "u/c/1/0/0", {"time": 4})
    with pytest.raises(InputError, match=r"variable 'u', chunk \([4567], 0, 0\) is damaged.*u/c/1/0/0"):
        read(reader, windows, [4, 5, 6])
    read(reader, windows, [0, 9])


def test_a_truncated_shard_is_named(damaged):
    reader, windows = damaged(lambda c: c[:20], "u/c/1/0/0", {"time": 4})
    with pytest.raises(InputError, match="too short for its index"):
        read(reader, windows, [4])


def test_a_shard_index_that_points_beyond_the_file(damaged):
    def change(content):
        index = np.frombuffer(bytes(content[-68:-4]), "<u8").copy()
        index[0] += 10**6
        return content[:-68] + index.tobytes() + google_crc32c.value(index.tobytes()).to_bytes(4, "little")

    reader, windows = damaged(change, "u/c/1/0/0", {"time": 4})
    with pytest.raises(InputError, match="points beyond"):
        read(reader, windows, [4])


def test_a_chunk_missing_from_a_complete_store_is_an_error(damaged):
    reader, windows = damaged(lambda content: None)
    with pytest.raises(InputError, match=r"variable 'u', chunk \(5, 0, 0\) is missing from a store that was complete"):
        read(reader, windows, [4])


def test_a_chunk_missing_from_a_complete_sharded_store_is_an_error(damaged):
    reader, windows = damaged(lambda content: None, "u/c/1/0/0", {"time": 4})
    with pytest.raises(InputError, match=r"chunk \(4, 0, 0\) is missing"):
        read(reader, windows, [4])


@pytest.mark.parametrize("codec", ["none", "crc", "blosc", "zstd", "crc inside zstd", "gzip"])
def test_a_chunk_of_another_size_is_refused(tmp_path, codec):
    """A chunk from another array decodes without complaint, but does not fill its place."""
    for name, y in (("a", 5), ("b", 4)):
        layout = (["time", "y", "x"], {"time": 1, "y": y, "x": 4}, None, 3, "<f4", codec, False, {})
        write_zarr(str(tmp_path / name), *layout)
    for here, there in (("a", "b"), ("b", "a")):
        data = open_record(str(tmp_path / here))
        reader = WindowReader(data, {"state": ["u"]}, cache_bytes=0)
        shutil.copy(tmp_path / there / "u/c/5/0/0", tmp_path / here / "u/c/5/0/0")
        with pytest.raises(InputError, match=r"chunk \(5, 0, 0\) is damaged \(\d+ bytes"):
            read(reader, every_window(data), [5])
        shutil.copy(tmp_path / here / "u/c/6/0/0", tmp_path / here / "u/c/5/0/0")


def test_a_damaged_netcdf_file_is_named(tmp_path):
    record(("u", ("time", "y", "x"))).to_netcdf(
        tmp_path / "u.nc", encoding={"u": {"zlib": True, "chunksizes": (1, 5, 4)}}
    )
    data = open_record(str(tmp_path / "u.nc"))
    reader = WindowReader(data, {"state": ["u"]}, cache_bytes=0)
    table = reader._channels["state"]._sources[0]._array.files
    with open(tmp_path / "u.nc", "r+b") as file:
        file.seek(int(table._offsets[5, 0, 0]))
        file.write(b"\xff" * 20)
    with pytest.raises(InputError, match=r"variable 'u', chunk \(5, 0, 0\) is damaged.*u\.nc"):
        read(reader, every_window(data), [5])


def test_a_file_that_a_library_cannot_read_is_named(tmp_path):
    values = record(("u", ("time", "y", "x"))).u
    values.to_netcdf(tmp_path / "u.nc", encoding={"u": {"fletcher32": True, "chunksizes": (1, 5, 4)}})
    values = values.values
    data = open_record(str(tmp_path / "u.nc"))
    reader = WindowReader(data, {"state": ["u"]}, cache_bytes=0)
    at = (tmp_path / "u.nc").read_bytes().find(values[5].tobytes())
    with open(tmp_path / "u.nc", "r+b") as file:
        file.seek(at)
        file.write(b"\x01" * 8)
    with pytest.raises(InputError, match=r"variable 'u' of .*u\.nc, time steps 5 to 6 cannot be read"):
        read(reader, every_window(data), [5])


# ---------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("sizes", [SIZES, {**SIZES, "y": 200, "x": 200}])
@pytest.mark.parametrize("memory", [0, 2**26])
def test_a_missing_value_is_named(tmp_path, sizes, memory):
    data = record(
        ("v", ("trajectory", "time", "y", "x")), ("u", ("trajectory", "time", "level", "y", "x")), sizes=sizes
    )
    data["u"][2, 9, 1, 3, 2] = np.nan
    write_record(data, tmp_path / "s.zarr")
    data = open_record(str(tmp_path / "s.zarr"))
    reader = WindowReader(data, {"state": ["v", "u"]}, cache_bytes=memory)
    windows = every_window(data)
    read(reader, windows, [0, 1], missing="error")
    bad = [0, 2 * 13 + 8]
    where = "variable 'u' has a missing value .* at trajectory 2.0, time 9.0, level 1.0, y 3.0, x 2.0"
    for _ in range(2):
        with pytest.raises(InputError, match=f"{where}.*data.missing: mask"):
            read(reader, windows, bad, missing="error")
    assert np.isnan(read(reader, windows, bad)["state"]).sum() == 1


def test_missing_values_outside_the_windows_do_not_matter(tmp_path):
    data = record(("u", ("time", "y", "x")))
    data["u"][9, 4] = np.nan
    write_record(data, tmp_path / "s.zarr", chunks={"time": 7})
    crop = {"y": (0, 4)}
    reader = WindowReader(open_record(str(tmp_path / "s.zarr"), crop), {"state": ["u"]}, crop=crop)
    read(reader, every_window(reader.dataset), [7, 8, 9], missing="error")
    reader = WindowReader(open_record(str(tmp_path / "s.zarr")), {"state": ["u"]})
    read(reader, every_window(reader.dataset), [7, 10], missing="error")


def test_a_record_changed_after_opening_is_refused(tmp_path):
    write_record(record(("u", ("time", "y", "x"))), tmp_path / "s.zarr")
    data = open_record(str(tmp_path / "s.zarr"))
    changed = data.assign(u=data.u * 2)
    changed.encoding = data.encoding
    with pytest.raises(InputError, match="u in .*s.zarr differ from the dataset"):
        WindowReader(changed, {"state": ["u"]})
    with pytest.raises(
        InputError, match="'u' has 3 points along 'y', its file .* has 5: expected the record as it was opened"
    ):
        WindowReader(data.isel(y=slice(3)), {"state": ["u"]})
    with pytest.raises(InputError, match="cropped by {'y': \\(1, 4\\)}"):
        WindowReader(data, {"state": ["u"]}, crop={"y": (1, 4)})


def test_a_long_record_is_checked_without_dask(tmp_path, monkeypatch):
    monkeypatch.setattr(access, "LARGE_GRAPH", 0)
    write_record(record(("u", ("trajectory", "time", "y", "x"))), tmp_path / "s.zarr")
    crop = {"time": (2, 12), "y": (1, 4), "trajectory": (1, 3)}
    check(str(tmp_path / "s.zarr"), {"state": ["u"]}, crop=crop)
    monkeypatch.setattr(ChunkedArray, "load", lambda self, index, out, scratch: out.fill(1))
    with pytest.raises(InputError, match="differ from the dataset"):
        WindowReader(open_record(str(tmp_path / "s.zarr")), {"state": ["u"]})


def test_variables_that_cannot_be_read():
    data = many_roles()
    with pytest.raises(InputError, match="variable 'w' is not in the record, which has u, v"):
        WindowReader(data, {"state": ["w"]})
    with pytest.raises(InputError, match="variable 'heat' changes in time: list it under data.forcing"):
        WindowReader(data, {"static": ["heat"]})
    coarse = xr.Dataset({"p": field(("time", "y2", "x"), {**SIZES, "y2": 3})})
    with pytest.raises(InputError, match=r"variable 'p' lies on \('y2', 'x'\), 'heat' on \('y', 'x'\).*share a grid"):
        WindowReader(data.merge(coarse), {"state": ["heat", "p"]})
    lasting = data.assign(heat=(data.heat.dims, np.zeros(data.heat.shape, "m8[ns]")))
    with pytest.raises(InputError, match=r"variable 'heat' holds timedelta64\[ns\]: expected numbers"):
        WindowReader(lasting, {"state": ["heat"]})


def test_buffers_that_do_not_fit():
    data = many_roles()
    reader, windows = WindowReader(data, {"state": ["u"]}), every_window(data)
    with pytest.raises(InputError, match="no buffer for role 'state'"):
        reader.read(windows, np.arange(2), {})
    for wrong in (
        np.empty((2, 2, 2, 5, 4)),
        np.empty((2, 2, 2, 5, 3), "f4"),
        np.empty((2, 2, 2, 4, 5), "f4").swapaxes(3, 4),
    ):
        with pytest.raises(
            InputError, match=r"buffer of role 'state' is .*expected C-contiguous float32\[2, 2, 2, 5, 4\]"
        ):
            reader.read(windows, np.arange(2), {"state": wrong})


def test_no_torch_in_the_reader():
    """The reader serves login nodes and notebooks, too."""
    import subprocess
    import sys

    code = "import sys, workbench.data.reader; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], timeout=60).returncode == 0
