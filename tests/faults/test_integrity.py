"""Every flipped byte, anywhere in a store, is found; so is what is cut off, missing or too much."""

import random
import shutil

import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workbench.commands import dataset
from workbench.data import integrity
from workbench.data.writer import write_record
from workbench.errors import InputError


def small(path, **layout):
    dims = ("time", "y", "x")
    attrs = {"units": "m", "long_name": "height"}
    values = np.random.default_rng(0).normal(size=(6, 4, 5)).astype("f4")
    record = xr.Dataset(
        {"height": (dims, values, attrs)},
        {d: (d, np.arange(float(n)), {"units": "1"}) for d, n in zip(dims, values.shape, strict=True)},
    )
    return write_record(record, path, **layout)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("integrity")
    return [small(folder / "chunks.zarr"), small(folder / "shards.zarr", shards={"time": 3})]


def files_of(store):
    """All files that belong to a store, the manifest among them."""
    return [integrity.manifest_path(store), *sorted(p for p in store.rglob("*") if p.is_file())]


def found_after(store, file, content):
    """The faults that are found while `file` holds `content` (None: while it is not there)."""
    before = file.read_bytes()
    try:
        file.unlink() if content is None else file.write_bytes(content)
        return list(integrity.faults(str(store), threads=1))
    finally:
        file.write_bytes(before)


def flipped(content, at, bits):
    changed = bytearray(content)
    changed[at] ^= bits
    return bytes(changed)


def test_an_untouched_store_is_as_it_was_written(stores, capsys):
    for store in stores:
        assert list(integrity.faults(str(store))) == []
        assert dataset.main(["verify", str(store)]) == 0
    assert "as it was written" in capsys.readouterr().out


@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_every_byte_of_metadata_shards_and_manifest_is_covered(stores, every):
    """One byte after the other, a random change of each: exhaustive in the slow case."""
    store, rng, tried = stores[1], random.Random(0), 0
    for file in files_of(store):
        content = file.read_bytes()
        for at in range(0, len(content), every):
            faults = found_after(store, file, flipped(content, at, rng.randrange(1, 256)))
            assert len(faults) == 1 and str(file) in faults[0], (file, at, faults)
            tried += 1
    print(f"{tried} bytes flipped, {tried} found")
    assert tried > 7000 / every


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_flipped_byte_of_any_file_is_found(stores, data):
    store = data.draw(st.sampled_from(stores))
    file = data.draw(st.sampled_from(files_of(store)))
    content = file.read_bytes()
    changed = flipped(content, data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(1, 255)))
    faults = found_after(store, file, changed)
    assert len(faults) == 1 and str(file) in faults[0]


def test_what_is_cut_off_missing_or_too_much_is_found(stores):
    for store in stores:
        for file in files_of(store):
            content = file.read_bytes()
            for wrong in (content[:-1], content[: len(content) // 2], b"", content + b"\0", None):
                faults = found_after(store, file, wrong)
                assert len(faults) == 1 and str(file) in faults[0], (file, faults)
        (store / "height" / "note.txt").write_text("surplus")
        faults = list(integrity.faults(str(store)))
        (store / "height" / "note.txt").unlink()
        assert len(faults) == 1 and "note.txt: surplus" in faults[0]


def test_the_fault_says_which_chunk(stores, capsys):
    file = stores[0] / "height" / "c" / "2" / "0" / "0"
    content = file.read_bytes()
    file.write_bytes(flipped(content, 30, 4))
    assert dataset.main(["verify", str(stores[0])]) == 1
    file.write_bytes(content)
    said = capsys.readouterr().out
    assert f"variable 'height', chunk (2, 0, 0): {file}: its CRC-32C does not match" in said
    assert said.endswith(f"{stores[0]}: 1 faults\n")


def test_without_a_manifest_the_chunks_are_decoded(stores, tmp_path):
    copy = shutil.copytree(stores[0], tmp_path / "copy.zarr")
    chunk = copy / "height" / "c" / "4" / "0" / "0"
    chunk.write_bytes(flipped(chunk.read_bytes(), 20, 1))
    faults = list(integrity.faults(str(copy)))
    assert len(faults) == 2 and "manifest.json: missing; it lies beside" in faults[0]
    assert "variable 'height', chunk (4, 0, 0)" in faults[1]
    with pytest.raises(InputError, match="manifest.json: missing"):
        integrity.read_manifest(copy)


def test_a_foreign_store_needs_no_manifest(tmp_path):
    xr.Dataset({"a": ("x", np.arange(9.0))}).to_zarr(tmp_path / "f.zarr", zarr_format=2, consolidated=False)
    assert list(integrity.faults(str(tmp_path / "f.zarr"))) == []
    chunk = tmp_path / "f.zarr" / "a" / "0"
    chunk.write_bytes(chunk.read_bytes()[:9])
    assert len(list(integrity.faults(str(tmp_path / "f.zarr")))) == 1
    (tmp_path / "f.zarr" / ".zgroup").write_bytes(b"{")
    (fault,) = integrity.faults(str(tmp_path / "f.zarr"))
    assert "metadata cannot be read" in fault


def test_netcdf_has_nothing_to_check(tmp_path):
    xr.Dataset({"a": ("x", np.arange(9.0))}).to_netcdf(tmp_path / "f.nc")
    with pytest.raises(InputError, match="f.nc is not a local Zarr store: only its chunks carry checksums"):
        dataset.main(["verify", str(tmp_path / "f.nc")])
