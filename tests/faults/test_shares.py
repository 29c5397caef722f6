"""Several processes fill one store at once, each a share: nothing is lost, whoever dies, and the bytes are the same."""

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from workbench.data import integrity
from workbench.data.writer import StoreWriter
from workbench.errors import InputError
from workbench.locks import take_lock
from workbench.share import Share

PIECES, SHARES = 11, 4
VALUES = np.random.default_rng(0).normal(size=(PIECES, 200)).astype("f4")

WRITER = '''
"""Forks the asked-for shares, all at once; a share that is to be killed dies before its second piece."""
import json, os, signal, sys
sys.path.insert(0, HERE)
import test_shares

folder, numbers, killed = json.loads(sys.argv[1])
pids = []
for number in numbers:
    pids.append(os.fork())
    if not pids[-1]:
        try:
            test_shares.write(folder, number, number == killed)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]))
'''


def open_writer(folder, share=None, seed=1):
    record = xr.Dataset({"u": (("trajectory", "x"), VALUES, {"units": "1"})})
    identity, chunks = {"seed": seed}, {"trajectory": 1}
    return StoreWriter(f"{folder}/a.zarr", record.chunk(), chunks=chunks, identity=identity, share=share)


def write(folder, number, dies=False):
    """What is missing of a share, or without a number, of all."""
    share = Share(number, SHARES) if number else None
    writer = open_writer(folder, share)
    pieces = range(PIECES)
    missing = [t for t in (share.of(pieces) if share else pieces) if str(t) not in writer.done]
    for count, t in enumerate(missing):
        if dies and count == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        writer.write(str(t), {"u": VALUES[t : t + 1]}, {"trajectory": slice(t, t + 1)})
        writer.spend(0.5, 2)
    spent = writer.journal.spent()
    writer.finish()
    return missing, spent


def processes(server, folder, numbers, killed=None):
    """The statuses of the shares, and what they print."""
    code = WRITER.replace("HERE", repr(str(Path(__file__).parent)))
    status, out = server.script(folder.parent, code, json.dumps([str(folder), numbers, killed]))
    assert status == 0, out
    return json.loads(out.splitlines()[-1]), out


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Checksums of the store that one process wrote alone."""
    folder = tmp_path_factory.mktemp("whole")
    write(folder, None)
    return integrity.checksums(folder / "a.zarr")


def test_shares_divide_the_pieces():
    for count in range(12):
        shares = [Share(k, 5).of(range(count)) for k in range(1, 6)]
        assert [t for share in shares for t in share] == list(range(count))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
    for text in ("3", "0/4", "5/4", "a/b", "-1/4"):
        with pytest.raises(InputError, match="expected NUMBER/COUNT"):
            Share.parse(text)


def test_processes_that_write_at_once_lose_nothing(server, tmp_path, whole):
    folder = tmp_path / "stores"
    folder.mkdir()
    statuses, errors = processes(server, folder, [1, 2, 3, 4])
    assert statuses == [0] * SHARES, errors
    assert not (folder / "a.zarr").exists(), "only a writer of the whole store gives it its name"
    missing, spent = write(folder, None)
    assert missing == [] and spent == (0.5 * PIECES, 2 * PIECES)
    assert integrity.checksums(folder / "a.zarr") == whole
    assert list(integrity.faults(str(folder / "a.zarr"))) == []
    left = [path.name for path in folder.iterdir()]
    assert sorted(left) == ["a.zarr", "a.zarr.manifest.json"]


def test_a_killed_share_goes_on_and_one_that_never_ran_is_made_up_for(server, tmp_path, whole):
    folder = tmp_path / "stores"
    folder.mkdir()
    statuses, errors = processes(server, folder, [1, 2, 3], killed=2)
    assert statuses == [0, -9, 0], errors
    assert write(folder, 2)[0] == list(Share(2, SHARES).of(range(PIECES)))[1:]
    assert write(folder, 2)[0] == []
    assert write(folder, None)[0] == list(Share(4, SHARES).of(range(PIECES)))
    assert integrity.checksums(folder / "a.zarr") == whole


def test_a_store_is_not_finished_under_a_running_share(tmp_path):
    running = open_writer(tmp_path, Share(1, 2))
    with pytest.raises(InputError, match="still writing a share of .*1-of-2"):
        open_writer(tmp_path)
    with pytest.raises(InputError, match="another process is writing"):
        open_writer(tmp_path, Share(1, 2))
    with pytest.raises(InputError, match="still writing a share"):
        open_writer(tmp_path, Share(2, 2), seed=2)
    running.close()
    other = open_writer(tmp_path, Share(2, 2), seed=2)
    assert other.done == set(), "what an earlier run left is of no use"
    other.close()


def test_a_share_waits_while_another_creates_the_store(tmp_path, monkeypatch):
    lock = take_lock(tmp_path / ".a.zarr.lock")
    monkeypatch.setattr("workbench.data.journal.CREATING_SECONDS", 0.2)
    with pytest.raises(InputError, match="writing the whole of"):
        open_writer(tmp_path, Share(1, 2))
    monkeypatch.setattr("workbench.data.journal.CREATING_SECONDS", 30)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(open_writer, tmp_path, Share(1, 2))
        lock.close()
        waiting.result(30).close()
