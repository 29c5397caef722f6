"""`workbench dataset rechunk`, killed by SIGKILL in either pass and started again, ends with the same numbers."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import xarray as xr

from workbench.data import integrity
from workbench.data.store import open_record

SHAPE = (600, 128, 160)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """49 MB in tiles over all time: with 290 MB of memory, regions of 3 MB in two passes."""
    folder = tmp_path_factory.mktemp("source")
    values = np.random.default_rng(0).normal(size=SHAPE).astype("f4")
    record = xr.Dataset({"u": (("time", "y", "x"), values, {"units": "1"})})
    record.to_zarr(folder / "a.zarr", encoding={"u": {"chunks": (600, 16, 32)}}, consolidated=False)
    return folder / "a.zarr"


def start(folder, source):
    words = ["dataset", "rechunk", str(source), "b.zarr", "--memory", "290MB", "--shards", "time=20"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-m", "workbench", *words]
    return subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)


def regions(journal):
    return journal.read_text().count("\n") - 1 if journal.exists() else 0


def wait_for(journal, count, process):
    end = time.monotonic() + 100
    while regions(journal) < count:
        assert process.poll() is None and time.monotonic() < end, "it ended too soon, or hangs"
        time.sleep(0.001)


def written(store):
    return {p: p.stat().st_mtime_ns for p in (store / "u" / "c").rglob("*") if p.is_file()} if store.exists() else {}


def test_killed_in_both_passes_it_goes_on_and_a_second_one_is_refused(source, tmp_path):
    first, second = tmp_path / ".b.zarr.between0.journal", tmp_path / ".b.zarr.journal"
    kept = {}
    for journal, count in ((first, 2), (second, 2)):
        process = start(tmp_path, source)
        wait_for(journal, count, process)
        os.kill(process.pid, signal.SIGSTOP)
        if journal is second:  # a second copy at the same time
            refused = start(tmp_path, source)
            assert "another process is writing b.zarr" in refused.communicate(timeout=100)[1]
            assert refused.returncode == 2
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL and not (tmp_path / "b.zarr").exists()
        kept[journal] = regions(journal), written(tmp_path / (journal.stem + ".partial"))
    last = start(tmp_path, source)
    error = last.communicate(timeout=200)[1]
    assert last.returncode == 0, error
    count, before = kept[second]
    assert count >= 2 and len(before) >= count
    after = written(tmp_path / "b.zarr")
    same = [p for p in before if after[tmp_path / "b.zarr" / p.relative_to(tmp_path / ".b.zarr.partial")] == before[p]]
    assert len(same) >= count, "regions in the journal are not copied again"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b.zarr", "b.zarr.manifest.json"]
    assert list(integrity.faults(str(tmp_path / "b.zarr"))) == []
    found, expected = (open_record(str(path)).u.load() for path in (tmp_path / "b.zarr", source))
    assert found.encoding["chunks"] == (1, 128, 160)
    assert found.values.tobytes() == expected.values.tobytes()
