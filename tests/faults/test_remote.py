"""A remote store that misbehaves, and a cache folder that many share: the same numbers to the bit, or a clear error."""

import errno
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest
import yaml
from project import EXPERIMENT, waves
from web import WORDS, Web

from workbench.data import remote, remote_cache
from workbench.data.reader import WindowReader
from workbench.data.remote_cache import CacheLimit, ChunkCache
from workbench.data.store import open_record
from workbench.data.windows import Windows
from workbench.data.writer import write_record
from workbench.errors import DamagedChunk, InputError

aiohttp = pytest.importorskip("aiohttp", reason="the extra 'remote' is not installed")

pytestmark = [pytest.mark.timeout(200), pytest.mark.filterwarnings("ignore:.*Zarr V3 specification")]

STEPS = 16


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    """Pauses as short as a test can bear; the end-to-end test has the real ones."""
    monkeypatch.setattr(remote, "FIRST_PAUSE", 0.001)


@pytest.fixture
def web(tmp_path):
    folder = tmp_path / "served"
    write_record(waves(2, STEPS), folder / "a.zarr", chunks={"time": 1, "trajectory": 1})
    server = Web(folder)
    yield server
    server.close()


WINDOWS = Windows(np.repeat([0, 1], STEPS - 1), np.tile(np.arange(STEPS - 1), 2), 2)


def read(address, cache=None, **options):
    """Every pair of states, in one batch."""
    reader = WindowReader(open_record(address, cache=cache), {"state": ["height"]}, cache_bytes=0, **options)
    out = np.empty(reader.buffer_shape("state", WINDOWS, len(WINDOWS)), np.float32)
    reader.read(WINDOWS, np.arange(len(WINDOWS)), {"state": out})
    return out


def truth(web):
    return read(str(web.folder / "a.zarr"))


def manifest_gone(web):
    """Make the store one of another tool's, whose version only its objects know."""
    (web.folder / "a.zarr.manifest.json").unlink()


# ---------------------------------------------------------------------------------------------- faults that pass


@pytest.mark.parametrize("fault", [500, 503, 429, 408, *WORDS])
def test_faults_that_pass_do_not_show(web, fault, monkeypatch):
    """Every chunk fails the first time; metadata fail as well, except by a flipped bit, which they cannot notice."""
    if fault == "flip":
        web.fault = lambda path, number: fault if "/height/c/" in path and number == 0 else None
    elif fault == "stall":  # of a second
        monkeypatch.setattr(remote, "PATIENCE", 0.6)
        web.fault = lambda path, number: fault if path.endswith("/height/c/0/3/0/0") and number == 0 else None
    else:
        web.fault = lambda path, number: fault if number == 0 else None
    np.testing.assert_array_equal(read(f"{web.address}/a.zarr"), truth(web))


def test_a_netcdf_file_survives_faults(web):
    waves(2, STEPS).to_netcdf(web.folder / "a.nc", engine="h5netcdf")
    web.fault = lambda path, number: (503, "truncate", "reset", None)[min(number, 3)]
    np.testing.assert_array_equal(read(f"{web.address}/a.nc"), truth(web))


def test_a_netcdf_file_that_cannot_be_fetched_is_not_taken_for_damaged(web, monkeypatch):
    monkeypatch.setattr(remote, "READ_AHEAD", 1000)
    encoding = {"height": {"chunksizes": (1, 1, 12, 16)}}
    waves(2, STEPS).to_netcdf(web.folder / "a.nc", engine="h5netcdf", encoding=encoding)
    opened = open_record(f"{web.address}/a.nc")
    reader = WindowReader(opened, {"state": ["height"]}, cache_bytes=0)
    web.fault = lambda path, number: 503
    out = {"state": np.empty(reader.buffer_shape("state", WINDOWS, len(WINDOWS)), np.float32)}
    with pytest.raises(InputError, match="cannot be fetched: .*a.nc gave no usable answer in 7 attempts") as caught:
        reader.read(WINDOWS, np.arange(len(WINDOWS)), out)
    assert not isinstance(caught.value, DamagedChunk)


def in_child(reader, queue):
    out = np.empty(reader.buffer_shape("state", WINDOWS, len(WINDOWS)), np.float32)
    reader.read(WINDOWS, np.arange(len(WINDOWS)), {"state": out})
    queue.put(out)


@pytest.mark.filterwarnings("ignore:.*use of fork")
def test_a_forked_process_opens_connections_of_its_own(web, tmp_path):
    kept = CacheLimit(str(tmp_path / "kept"), 10**8)
    reader = WindowReader(open_record(f"{web.address}/a.zarr", cache=kept), {"state": ["height"]}, cache_bytes=0)
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=in_child, args=(reader, queue))
    child.start()
    np.testing.assert_array_equal(queue.get(), truth(web))
    child.join()
    assert child.exitcode == 0


def test_pauses_grow_and_differ(monkeypatch):
    import asyncio

    monkeypatch.setattr(remote, "FIRST_PAUSE", 0.2)
    pauses = []

    async def note(pause):
        pauses.append(pause)

    async def fail():
        raise ConnectionResetError("gone")

    monkeypatch.setattr(asyncio, "sleep", note)
    with pytest.raises(remote.Unreachable, match="x gave no usable answer in 7 attempts.*ConnectionResetError gone"):
        asyncio.run(remote.patiently("x", fail))
    longest = 0.2 * 2.0 ** np.arange(6)
    assert len(pauses) == 6 and (longest / 2 <= pauses).all() and (pauses <= longest).all()
    assert len({p / longest[i] for i, p in enumerate(pauses)}) == 6


def response_error(status):
    return aiohttp.ClientResponseError(None, (), status=status)


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (response_error(503), True),
        (response_error(429), True),
        (response_error(403), False),
        (response_error(416), False),
        (TimeoutError(), True),
        (ConnectionRefusedError(), True),
        (aiohttp.ServerDisconnectedError(), True),
        (aiohttp.ClientPayloadError(), True),
        (EOFError(), True),
        (OSError(errno.EBUSY, "Please reduce your request rate"), True),
        (OSError(errno.EINVAL, "The authorization header is malformed"), False),
        (PermissionError("Access Denied"), False),
        (FileNotFoundError(), False),
        (ValueError("a bug"), False),
    ],
)
def test_what_may_pass(error, passes):
    assert remote.temporary(error) == passes


# ---------------------------------------------------------------------------------------------- faults that stay


@pytest.mark.parametrize("fault", [503, "truncate", "reset"])
def test_the_last_attempt_names_everything(web, fault):
    opened = open_record(f"{web.address}/a.zarr")
    reader = WindowReader(opened, {"state": ["height"]}, cache_bytes=0)
    web.fault = lambda path, number: fault if path.endswith("/c/1/4/0/0") else None
    out = {"state": np.empty(reader.buffer_shape("state", WINDOWS, len(WINDOWS)), np.float32)}
    message = (
        r"variable 'height', chunk \(1, 4, 0, 0\) cannot be fetched: http://127.0.0.1:\d+/a.zarr/height/c/1/4/0/0 gave "
        r"no usable answer in 7 attempts, the last time \w+"
    )
    web.asked.clear()
    with pytest.raises(InputError, match=message) as caught:
        reader.read(WINDOWS, np.arange(len(WINDOWS)), out)
    assert not isinstance(caught.value, DamagedChunk)  # an outage is no reason to leave samples out
    # A request on a connection that was kept open is sent a second time by aiohttp when that was closed meanwhile.
    assert web.asked["GET", "/a.zarr/height/c/1/4/0/0", None] in (range(7, 15) if fault == "reset" else (7,))
    web.fault = lambda path, number: None
    reader.read(WINDOWS, np.arange(len(WINDOWS)), out)
    np.testing.assert_array_equal(out["state"], truth(web))


def test_refused_at_once(web):
    web.fault = lambda path, number: 403 if path.endswith("/c/0/0/0/0") else None
    with pytest.raises(InputError, match=r"'height', chunk \(0, 0, 0, 0\) cannot be fetched: .* is refused .*403"):
        read(f"{web.address}/a.zarr")
    assert web.asked["GET", "/a.zarr/height/c/0/0/0/0", None] == 1
    web.fault = lambda path, number: 403
    with pytest.raises(InputError, match=r"cannot open '.*a.zarr' as Zarr: .*zarr.json is refused .*403.*credentials"):
        open_record(f"{web.address}/a.zarr")


def test_a_fetch_that_failed_before_its_turn_came_is_not_made_again(web):
    """All requests of a batch are under way at once: most have failed when the first error is raised."""
    reader = WindowReader(open_record(f"{web.address}/a.zarr"), {"state": ["height"]}, cache_bytes=0)
    web.asked.clear()
    web.fault = lambda path, number: 403
    out = {"state": np.empty(reader.buffer_shape("state", WINDOWS, len(WINDOWS)), np.float32)}
    finish = reader.start(WINDOWS, np.arange(len(WINDOWS)), out)
    with pytest.raises(InputError, match="is refused"):
        finish()
    assert max(web.chunks("height").values()) == 1


def test_metadata_that_cannot_be_fetched(web):
    opened = open_record(f"{web.address}/a.zarr")
    web.fault = lambda path, number: 503 if path.endswith("height/zarr.json") else None
    with pytest.raises(InputError, match="the metadata of variable 'height' cannot be fetched: .* in 7 attempts"):
        WindowReader(opened, {"state": ["height"]})


def test_a_chunk_that_stays_damaged_is_fetched_three_times(web):
    opened = open_record(f"{web.address}/a.zarr")
    reader = WindowReader(opened, {"state": ["height"]}, cache_bytes=0)
    web.asked.clear()
    web.fault = lambda path, number: "flip" if path.endswith("/c/1/4/0/0") else None
    out = {"state": np.empty(reader.buffer_shape("state", WINDOWS, len(WINDOWS)), np.float32)}
    message = (
        r"chunk \(1, 4, 0, 0\) is damaged \(its CRC-32C does not match\): http://.*/height/c/1/4/0/0, fetched 3 times"
    )
    with pytest.raises(DamagedChunk, match=message):
        reader.read(WINDOWS, np.arange(len(WINDOWS)), out)
    assert web.asked["GET", "/a.zarr/height/c/1/4/0/0", None] == 3


# ---------------------------------------------------------------------------------------------- cache on disk


@pytest.mark.parametrize("manifest", [True, False])
def test_what_was_read_before_is_not_fetched_again(web, tmp_path, manifest):
    if not manifest:
        manifest_gone(web)
    kept = CacheLimit(str(tmp_path / "kept"), 10**8)
    first = read(f"{web.address}/a.zarr", kept)
    web.asked.clear()
    remote._connected.cache_clear()  # as in another process
    np.testing.assert_array_equal(read(f"{web.address}/a.zarr", kept), first)
    np.testing.assert_array_equal(first, truth(web))
    assert not web.chunks("height")
    asked = sum(n for (method, path, _), n in web.asked.items() if method == "HEAD" and "/height/c/" in path)
    assert asked == (0 if manifest else 2 * STEPS)  # without a manifest, each object is asked for its version


@pytest.mark.parametrize("manifest", [True, False])
def test_a_changed_store_is_never_served_stale(web, tmp_path, manifest):
    if not manifest:
        manifest_gone(web)
    kept = CacheLimit(str(tmp_path / "kept"), 10**8)
    before = read(f"{web.address}/a.zarr", kept)
    changed = waves(2, STEPS)
    write_record(
        changed.assign(height=changed.height * 2),
        web.folder / "a.zarr",
        overwrite=True,
        chunks={"time": 1, "trajectory": 1},
    )
    if not manifest:
        manifest_gone(web)
    remote._connected.cache_clear()
    np.testing.assert_array_equal(read(f"{web.address}/a.zarr", kept), 2 * before)


def test_without_versions_nothing_is_kept(web, tmp_path, monkeypatch):
    manifest_gone(web)
    monkeypatch.setattr(remote, "VERSIONS", ("none",))
    kept = CacheLimit(str(tmp_path / "kept"), 10**8)
    for _ in range(2):
        web.asked.clear()
        np.testing.assert_array_equal(read(f"{web.address}/a.zarr", kept), truth(web))
        assert len(web.chunks("height")) == 2 * STEPS


def test_damaged_entries_are_fetched_again(web, tmp_path, caplog):
    kept = CacheLimit(str(tmp_path / "kept"), 10**8)
    expected = read(f"{web.address}/a.zarr", kept)
    files = [p for p in (tmp_path / "kept").glob("??/*") if p.is_file()]
    assert len(files) >= 2 * STEPS
    for number, file in enumerate(files):
        stored = bytearray(file.read_bytes())
        stored[number % len(stored)] ^= 1 << number % 8
        file.write_bytes(stored if number % 3 else stored[: len(stored) // 2])
    np.testing.assert_array_equal(read(f"{web.address}/a.zarr", kept), expected)
    assert "is damaged and is fetched again" in caplog.text
    web.asked.clear()
    np.testing.assert_array_equal(read(f"{web.address}/a.zarr", kept), expected)
    assert not web.chunks("height")


def test_bits_that_flipped_on_the_way_do_not_stay_in_the_cache(web, tmp_path):
    kept = CacheLimit(str(tmp_path / "kept"), 10**8)
    web.fault = lambda path, number: "flip" if "/height/c/" in path and number == 0 else None
    for _ in range(2):
        np.testing.assert_array_equal(read(f"{web.address}/a.zarr", kept), truth(web))
    assert max(web.chunks("height").values()) == 2


def test_a_full_disk_costs_one_warning(web, tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    kept = CacheLimit(str(tmp_path / "kept"), 10**8)
    monkeypatch.setattr(remote_cache.os, "replace", full)
    np.testing.assert_array_equal(read(f"{web.address}/a.zarr", kept), truth(web))
    assert [r.message for r in caplog.records if "no more chunks are kept in" in r.message and "No space" in r.message]
    assert len([r for r in caplog.records if r.levelno >= logging.WARNING]) == 1
    assert not list((tmp_path / "kept" / "tmp").iterdir())


def test_a_cache_that_is_no_folder_is_refused(web, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="data.remote_cache: .*file is no folder to write to"):
        open_record(f"{web.address}/a.zarr", cache=CacheLimit(str(tmp_path / "file"), 10**8))


def folder_bytes(folder):
    """What a folder holds; entries may go while we look."""
    total = 0
    for path in folder.glob("*/*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue
    return total


def fill(folder, limit, seed):
    """Write and read many entries of known content, of which the folder holds few."""
    cache, random = ChunkCache(CacheLimit(str(folder), limit)), np.random.default_rng(seed)
    for number in random.integers(0, 300, 700).tolist():
        content = np.random.default_rng(number).bytes(1000 + number)
        found = cache.get(str(number))
        if found is None:
            cache.put(str(number), content)
        elif found != content:
            os._exit(1)


@pytest.mark.filterwarnings("ignore:.*use of fork")
def test_two_processes_share_a_folder_within_its_limit(tmp_path):
    limit = 100_000
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=fill, args=(tmp_path, limit, seed)) for seed in (1, 2)]
    for writer in writers:
        writer.start()
    largest = 0
    while any(writer.is_alive() for writer in writers):
        largest = max(largest, folder_bytes(tmp_path))
        time.sleep(0.01)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert 0.5 * limit < largest <= limit


def test_the_entries_used_least_recently_go(tmp_path):
    cache = ChunkCache(CacheLimit(str(tmp_path), 100_000))
    for number in range(50):
        cache.put(str(number), bytes(1000))
        os.utime(cache.path(str(number)), (number, number))
    assert cache.get("0") is not None  # used now
    for number in range(50, 120):
        cache.put(str(number), bytes(1000))
    assert cache.get("0") is not None and cache.get("1") is None
    assert folder_bytes(tmp_path) <= 100_000
    cache.put("huge", bytes(10_000))
    assert cache.get("huge") is None


WRITER = """
import sys
from workbench.data.remote_cache import CacheLimit, ChunkCache
cache = ChunkCache(CacheLimit(sys.argv[1], 10**9))
print("ready", flush=True)
number = 0
while True:
    cache.put(str(number), number.to_bytes(4, "little") * 100_000)
    number += 1
"""


def test_a_killed_writer_leaves_no_half_entry(tmp_path):
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE)
    assert writer.stdout.readline() == b"ready\n"
    time.sleep(0.3)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    cache = ChunkCache(CacheLimit(str(tmp_path), 10**9))
    entries = [p for p in tmp_path.glob("??/*") if p.is_file()]
    assert entries and all(p.stat().st_size == 400_004 for p in entries)
    for number in range(len(entries)):
        assert cache.get(str(number)) == number.to_bytes(4, "little") * 100_000
    # What it had not finished goes once nobody can be writing it any more.
    left = tmp_path / "tmp" / "1-0"
    left.touch()
    os.utime(left, (0, 0))
    list(cache._entries())
    assert not left.exists()


# ---------------------------------------------------------------------------------------------- end to end


def test_fit_from_a_server_that_misbehaves(server, tmp_path):
    """Half of all paths fail the first time; what was read for the statistics is not fetched again to train."""
    write_record(waves(6), tmp_path / "served" / "a.zarr", chunks={"time": 4, "trajectory": 1})
    faults = (503, "truncate", "reset", 429)
    web = Web(tmp_path / "served", 0.005)
    web.fault = lambda path, n: faults[zlib.crc32(path.encode()) % 4] if n == 0 and len(web.asked) % 2 else None
    config = yaml.safe_load(EXPERIMENT)
    config["trainer"] |= {"max_epochs": 1}
    config["data"] |= {"record": f"{web.address}/a.zarr", "remote_cache": "kept"}
    (tmp_path / "far.yaml").write_text(yaml.safe_dump(config))
    try:
        (status,), (out,), _ = server.run(tmp_path, "fit", "-c", "far.yaml", "--run-dir", "far")
    finally:
        web.close()
    assert status == 0 and "slower" not in out, out
    assert list((tmp_path / "kept").glob("??/*"))
    assert max(web.chunks("height").values()) <= 2  # once, and once more after a fault
