"""Builds that are killed at any moment, or run into a full disk, go on and end with the same bytes."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr

from workbench.data import integrity
from workbench.data.writer import StoreWriter
from workbench.errors import InputError

pytestmark = pytest.mark.timeout(280)

BUILDER = '''
"""Builds a store in forked processes: reads how many steps each may take, writes what became of them."""
import contextlib, json, os, signal, sys, threading
import numpy as np
import xarray as xr
import zarr
from workbench.data import integrity
from workbench.data.writer import StoreWriter

with contextlib.suppress(ImportError):
    import distributed  # as xarray does where it is: once, not in every process

WATCHED = {"open", "os.rename", "os.remove", "os.mkdir", "os.truncate", "shutil.rmtree", "os.rmdir"}

values = np.random.default_rng(0).normal(size=(3, 2, 500)).astype("f4")
record = xr.Dataset({"u": (("trajectory", "time", "x"), values, {"units": "1"})}).chunk()  # imports dask once for all

def build(folder):
    chunks = {"trajectory": 1, "time": 1}
    writer = StoreWriter(folder + "/a.zarr", record, chunks=chunks, identity={"seed": 1})
    kept = len(writer.done)
    for t in range(3):
        if str(t) not in writer.done:
            writer.write(str(t), {"u": values[t : t + 1]}, {"trajectory": slice(t, t + 1)})
    writer.finish({"made": "here"})
    return kept

def die_at(step):
    """SIGKILL before the given one of the operations that change files."""
    count, lock = 0, threading.Lock()
    def hook(event, arguments):
        nonlocal count
        writes = event != "open" or (isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"))
        if event in WATCHED and writes:
            with lock:
                count += 1
                if count == step:
                    os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)

def forked(step, folder):
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        die_at(step)
        os.write(write, json.dumps(build(folder)).encode())
        os._exit(0)
    os.close(write)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with os.fdopen(read) as answer:
        return status, answer.read()

def main(folder, first, every):
    killed, kept, step = 0, set(), first
    while True:
        place = f"{folder}/{step}"
        os.mkdir(place)
        status, _ = forked(step, place)
        if status == 0:
            break
        assert status == -signal.SIGKILL, status
        if os.path.exists(place + "/a.zarr"):  # killed between the renaming and the end
            kept.add(3)
        else:
            status, answer = forked(-1, place)
            assert status == 0, status
            kept.add(int(answer))
        killed, step = killed + 1, step + every
    print(json.dumps([killed, sorted(kept), step]))

main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
'''


def content(store):
    return {p.relative_to(store).as_posix(): p.read_bytes() for p in store.rglob("*") if p.is_file()}


@pytest.mark.parametrize("every", [17, pytest.param(1, marks=pytest.mark.slow)])
def test_a_build_killed_before_any_change_of_a_file_goes_on_and_ends_equal(tmp_path, every):
    """SIGKILL before each file that is opened for writing, renamed or removed; then the same build again."""
    script = tmp_path / "builder.py"
    script.write_text(BUILDER)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), str(tmp_path), "1", str(every)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    killed, kept, whole = json.loads(done.stdout)
    print(f"{killed} kills of builds survived")
    assert killed > 60 / every and (kept == [0, 1, 2, 3] or every > 1)
    expected = content(tmp_path / str(whole) / "a.zarr")
    for step in range(1, whole, every):
        store = tmp_path / str(step) / "a.zarr"
        assert content(store) == expected, step
        assert list(integrity.faults(str(store))) == [], step


# ---------------------------------------------------------------------------------------------- full disk


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB, which root may make."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = shutil.which("mount") and os.geteuid() == 0
    mounted = (
        mounted
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True
        ).returncode
    )
    if not mounted:
        pytest.skip("a file system of a fixed size can be mounted by root only")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def record():
    dims = ("trajectory", "time", "x")
    values = np.random.default_rng(0).normal(size=(4, 2, 10_000)).astype("f4")
    return xr.Dataset({"u": (dims, values, {"units": "1"})})


def build(path):
    """Four regions of 80 kB; which of them had to be written."""
    whole = record()
    writer = StoreWriter(path, whole.chunk(), chunks={"trajectory": 1, "time": 1}, identity={"seed": 1})
    try:
        todo = [t for t in range(4) if str(t) not in writer.done]
        for t in todo:
            writer.write(str(t), {"u": whole.u.values[t : t + 1]}, {"trajectory": slice(t, t + 1)})
        writer.finish()
        return todo
    finally:
        writer.close()


KEPT = {0: 0, 8: 0, 40: 0, 150: 1, 300: 3, 330: 3, 332: 4, 334: 4}
"""Free room in kB -> regions that were written before the disk was full."""


@pytest.mark.parametrize("free", KEPT)
def test_a_full_disk_is_said_and_the_build_goes_on_where_it_was(small_disk, tmp_path, free):
    """With room for nothing, for the metadata, for a region or three, and for all but the manifest (kB)."""
    build(tmp_path / "a.zarr")
    room = shutil.disk_usage(small_disk).free
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(room - 1024 * free))
    with pytest.raises(
        InputError, match=r"the disk is full: .*a.zarr takes at most 0.3 MB .* MB are free; free some space"
    ):
        build(small_disk / "a.zarr")
    assert not (small_disk / "a.zarr").exists()
    ballast.unlink()
    assert build(small_disk / "a.zarr") == list(range(KEPT[free], 4))
    assert content(small_disk / "a.zarr") == content(tmp_path / "a.zarr")
    assert list(integrity.faults(str(small_disk / "a.zarr"))) == []
    assert sorted(p.name for p in small_disk.iterdir()) == ["a.zarr", "a.zarr.manifest.json"]


def test_a_journal_that_was_cut_off_is_mended(tmp_path):
    whole = record()
    chunks = {"trajectory": 1, "time": 1}
    writer = StoreWriter(tmp_path / "a.zarr", whole.chunk(), chunks=chunks)
    for t in range(2):
        writer.write(f"region {t}", {"u": whole.u.values[t : t + 1]}, {"trajectory": slice(t, t + 1)})
    writer.close()
    journal = tmp_path / ".a.zarr.journal"
    os.truncate(journal, journal.stat().st_size - 3)
    again = StoreWriter(tmp_path / "a.zarr", whole.chunk(), chunks=chunks)
    assert again.done == {"region 0"}
    again.write("region 1", {"u": whole.u.values[1:2]}, {"trajectory": slice(1, 2)})
    again.close()
    last = StoreWriter(tmp_path / "a.zarr", whole.chunk(), chunks=chunks)
    assert last.done == {"region 0", "region 1"}
    last.close()
