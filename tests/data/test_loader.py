"""The loader: every sample once, exact resume, buffers that nobody overwrites, errors that arrive, threads that end."""

import gc
import itertools
import json
import logging
import threading

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import xarray as xr
from pytorch_lightning.callbacks import ModelCheckpoint
from spinning import CLOCK

from workbench.data import loader as loader_module
from workbench.data.ahead import Loan
from workbench.data.loader import WindowLoader
from workbench.data.reader import WindowReader
from workbench.data.store import open_record
from workbench.data.windows import Windows
from workbench.data.writer import write_record
from workbench.errors import DamagedChunk, InputError

TIMES = 40
pytestmark = pytest.mark.timeout(200)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Two trajectories of 40 steps on 3 x 4 points, with a mask; four steps a chunk."""
    path = tmp_path_factory.mktemp("loader") / "s.zarr"
    dims = ("trajectory", "time", "y", "x")
    values = np.random.default_rng(0).normal(size=(2, TIMES, 3, 4)).astype("f4")
    attrs = {"units": "1", "long_name": "a field"}
    data = xr.Dataset(
        {"u": (dims, values, attrs), "mask": (("y", "x"), values[0, 0], attrs)},
        {d: (d, np.arange(float(n)), {"units": "1"}) for d, n in zip(dims, values.shape, strict=True)},
    )
    return str(write_record(data, path, chunks={"time": 4}))


def windows(length=3):
    starts = np.arange(TIMES - length + 1)
    return Windows(np.repeat([0, 1], len(starts)), np.tile(starts, 2), length)


def make(store, *, memory=2**20, batch_size=7, found=None, threads=2, **options):
    """A loader with a reader of its own, as a new process would have it."""
    roles = {"state": ["u"], "static": ["mask"]}
    reader = WindowReader(open_record(store), roles, threads=threads, cache_bytes=memory)
    return WindowLoader(reader, windows() if found is None else found, batch_size=batch_size, **options)


def copy_of(batch):
    return {name: tensor.clone() for name, tensor in batch.items()}


def same(a, b):
    return len(a) == len(b) and all(
        x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x) for x, y in zip(a, b, strict=True)
    )


def loader_threads():
    return [t for t in threading.enumerate() if t.name == "workbench-loader"]


# ---------------------------------------------------------------------------------------------- batches


@pytest.mark.parametrize("shuffle", ["none", "full", "block"])
@pytest.mark.parametrize("memory", [0, 1000, 2**20])
def test_batches_hold_what_the_record_holds(store, shuffle, memory):
    data, found = open_record(store).load(), windows()
    loader = make(store, shuffle=shuffle, memory=memory)
    seen = []
    for batch in loader:
        assert {k: v.dtype for k, v in batch.items()} == {
            "state": torch.float32,
            "static": torch.float32,
            "index": torch.int64,
        }
        for k, i in enumerate(batch["index"].tolist()):
            expected = data.u.values[found.trajectory[i], found.times(i)][:, None]
            np.testing.assert_array_equal(batch["state"][k].numpy(), expected)
            np.testing.assert_array_equal(batch["static"][k, 0].numpy(), data.mask.values)
        seen += batch["index"].tolist()
    assert sorted(seen) == list(range(len(found)))
    assert (seen == sorted(seen)) == (shuffle == "none")


def test_sizes_and_number_of_batches(store):
    loader = make(store, batch_size=7)
    sizes = [len(batch["index"]) for batch in loader]
    assert len(sizes) == len(loader) == 11 and sum(sizes) == 76 and set(sizes) == {6, 7}


def test_every_epoch_has_its_own_order(store):
    loader = make(store, shuffle="full")
    epochs = [[i for b in loader for i in b["index"].tolist()] for _ in range(3)]
    assert len(set(map(tuple, epochs))) == 3 and loader.epoch == 2
    again = make(store, shuffle="full")
    again.set_epoch(2)
    assert [i for b in again for i in b["index"].tolist()] == epochs[2]
    again.set_epoch(0)
    assert [i for b in again for i in b["index"].tolist()] == epochs[0]


@pytest.mark.parametrize("shuffle", ["none", "full", "block"])
@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_ranks_share_an_epoch(store, shuffle, world_size):
    loaders = [make(store, shuffle=shuffle, rank=r, world_size=world_size) for r in range(world_size)]
    assert len({len(loader) for loader in loaders}) == 1
    batches = [[b["index"].tolist() for b in loader] for loader in loaders]
    assert {len(b) for b in batches} == {len(loaders[0])}
    assert sorted(i for rank in batches for b in rank for i in b) == list(range(76))


def test_more_ranks_than_windows(store):
    with pytest.raises(InputError, match="2 windows cannot be shared out to 3 ranks"):
        make(store, found=Windows(np.zeros(2, int), np.arange(2), 3), world_size=3)


# ---------------------------------------------------------------------------------------------- resume


@pytest.mark.parametrize("shuffle", ["none", "full", "block"])
def test_resuming_at_any_batch_gives_the_same_batches(store, shuffle):
    options = {"shuffle": shuffle, "memory": 1000, "seed": 4}
    loader, states, batches = make(store, **options), [], []
    for _ in range(2):
        for batch in loader:
            states.append(json.loads(json.dumps(loader.state_dict())))
            batches.append(copy_of(batch))
    for stop, state in enumerate(states, start=1):
        again = make(store, **options)
        again.load_state_dict(state)
        rest = [copy_of(b) for _ in range(2) for b in again][: len(batches) - stop]
        assert same(rest, batches[stop:]), f"after batch {stop}"


def test_state_counts_what_was_delivered_not_what_was_read_ahead(store, monkeypatch):
    loader = make(store, prefetch=5)
    started, further, real = itertools.count(1), threading.Event(), loader.reader.start

    def start(*args, **options):
        if next(started) == 6:
            further.set()
        return real(*args, **options)

    monkeypatch.setattr(loader.reader, "start", start)
    running = iter(loader)
    next(running), next(running)
    assert further.wait(60)
    assert [leg["steps"] for leg in loader.state_dict()["progress"]["legs"]] == [2]
    assert loader.batches_done == 2
    running.close()


def test_state_before_the_first_batch_and_behind_the_last(store):
    loader = make(store, shuffle="full")
    first = loader.state_dict()
    epoch0 = [copy_of(b) for b in loader]
    behind = loader.state_dict()
    epoch1 = [copy_of(b) for b in loader]
    for state, epoch in ((first, epoch0), (behind, epoch1)):
        again = make(store, shuffle="full")
        again.load_state_dict(state)
        assert same([copy_of(b) for b in again], epoch)


def test_state_passes_through_a_safe_checkpoint(store, tmp_path):
    loader = make(store)
    next(iter(loader))
    torch.save(loader.state_dict(), tmp_path / "state.pt")
    again = make(store)
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert again.state_dict() == loader.state_dict()


@pytest.mark.parametrize("legs", [[(1, 4), (3, 2)], [(3, 2), (1, 3)], [(2, 1), (4, 1), (2, 1)]])
@pytest.mark.parametrize("shuffle", ["full", "block"])
def test_resuming_on_other_ranks_covers_the_rest_of_the_epoch(store, legs, shuffle, caplog):
    state, seen, behind = None, [], 0
    for (before, _), (world_size, steps) in zip([(None, 0), *legs], [*legs, (1, 10**6)], strict=True):
        loaders = [make(store, shuffle=shuffle, rank=r, world_size=world_size) for r in range(world_size)]
        for loader in loaders:
            if state:
                loader.load_state_dict(state)
            behind = len(loader) - loader.batches_done
            for _, batch in zip(range(min(steps, behind)), loader, strict=False):
                seen += batch["index"].tolist()
        states = [loader.state_dict() for loader in loaders]
        assert all(s == states[0] for s in states), "rank 0 saves for all"
        state = states[0]
        assert (f"epoch 0 goes on with {world_size} ranks" in caplog.text) == (before not in (None, world_size))
        caplog.clear()
    assert sorted(seen) == list(range(76))


def test_an_epoch_that_was_loaded_keeps_its_place_when_its_number_is_set(store):
    """A Lightning trainer loads the state, then calls set_epoch on the batch sampler's sampler."""
    loader = make(store)
    running = iter(loader)
    next(running), next(running)
    again = make(store)
    again.load_state_dict(loader.state_dict())
    again.batch_sampler.sampler.set_epoch(0)
    assert len(list(again)) == len(loader) - 2


def test_state_of_other_windows_is_refused(store):
    state = make(store).state_dict()
    with pytest.raises(
        InputError, match=r"checkpoint was written on \[76, 3, 1, .*\[78, 2, 1, .*same record and data.split"
    ):
        make(store, found=windows(2)).load_state_dict(state)


class Recorder(pl.LightningModule):
    """Writes down which windows it was given."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen = []

    def training_step(self, batch, number):
        self.seen.append((self.current_epoch, batch["index"].tolist()))
        return (self.weight * batch["state"]).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(store, folder, checkpoint=None):
    """Three epochs under Lightning; what came in which epoch."""
    module = Recorder()
    trainer = pl.Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[
            ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1),
            ModelCheckpoint(folder, "end-{epoch}", save_top_k=-1, save_on_train_epoch_end=True),
        ],
    )
    trainer.fit(module, make(store, shuffle="full", batch_size=20), ckpt_path=checkpoint)
    return module.seen


@pytest.mark.filterwarnings(
    "ignore:.*LeafSpec",
    "ignore:.*does not have many workers",
    "ignore:.*isinstance.treespec",
    "ignore:The dirpath has changed",
)
def test_lightning_resumes_at_every_checkpoint(store, tmp_path, monkeypatch):
    monkeypatch.setattr(logging.getLogger("pytorch_lightning"), "disabled", True)
    whole = fit(store, tmp_path)
    assert [epoch for epoch, _ in whole] == [0] * 4 + [1] * 4 + [2] * 4
    for epoch in range(3):
        assert sorted(i for e, index in whole for i in index if e == epoch) == list(range(76))
    checkpoints = {f"step={n}.ckpt": n for n in (1, 3, 4, 5, 7, 8)} | {f"end-epoch={e}.ckpt": 4 * e + 4 for e in (0, 1)}
    for name, done in checkpoints.items():
        assert fit(store, tmp_path / "again" / name, tmp_path / name) == whole[done:], name


# ---------------------------------------------------------------------------------------------- buffers


def test_a_batch_lives_as_long_as_it_is_held(store):
    held = list(make(store, shuffle="full"))
    fresh = [copy_of(b) for b in make(store, shuffle="full")]
    assert same(held, fresh)
    kept = [b["state"][1:, 0] for b in make(store, shuffle="full")]
    assert all(torch.equal(k, f["state"][1:, 0]) for k, f in zip(kept, fresh, strict=True))


def test_training_runs_in_a_fixed_set_of_buffers(store):
    loader = make(store, prefetch=3)
    for _ in range(5):
        for batch in loader:
            assert torch.isfinite(batch["state"]).all()
    assert len(loader._buffers) <= loader.prefetch + 4


def test_a_buffer_waits_for_the_copies_to_the_gpu(monkeypatch):
    """Without a GPU: what happens around the last reference to a page-locked batch."""
    log = []

    class Event:
        def record(self):
            log.append("record")

        def synchronize(self):
            log.append("wait")

    monkeypatch.setattr(torch.cuda, "Event", Event)
    loan = Loan({"state": (2, 3)}, pin=False)
    loan._pin = True
    views = loan.begin(2)
    assert not loan.is_over() and not log
    del views
    assert loan.is_over() and log == ["record"]
    loan.begin(1)
    assert log[:2] == ["record", "wait"]


# ---------------------------------------------------------------------------------------------- threads, errors


def test_an_abandoned_iterator_ends_its_thread(store):
    loader = make(store)
    iter(loader)
    assert not loader_threads(), "nothing runs before the first batch is asked for"
    for _ in range(3):
        for _ in loader:
            assert len(loader_threads()) == 1
            break
        assert not loader_threads()
    running = iter(loader)
    next(running)
    del running
    gc.collect()
    assert not loader_threads()
    assert loader.epoch == 3, "an epoch that was left counts as run"


def test_two_iterators_do_not_disturb_each_other(store):
    loader, alone = make(store, shuffle="none"), [copy_of(b) for b in make(store, shuffle="none")]
    pairs = [(copy_of(a), copy_of(b)) for a, b in zip(loader, loader, strict=True)]
    assert same([a for a, _ in pairs], alone) and same([b for _, b in pairs], alone)


def test_a_damaged_chunk_arrives_as_an_error(store, tmp_path):
    write_record(open_record(store).load(), tmp_path / "s.zarr")
    loader = make(str(tmp_path / "s.zarr"), shuffle="none", memory=0, batch_size=5)
    chunk = tmp_path / "s.zarr" / "u" / "c" / "0" / "30" / "0" / "0"
    content = bytearray(chunk.read_bytes())
    content[-9] ^= 1
    chunk.write_bytes(content)
    running, good = iter(loader), 0
    with pytest.raises(InputError, match=r"variable 'u', chunk \(0, 30, 0, 0\) is damaged"):
        for _ in running:
            good += 1
    assert good == 5, "the batches before the damaged one were delivered"
    assert not loader_threads()
    with pytest.raises(StopIteration):
        next(running)


def test_a_missing_value_arrives_as_an_error_or_is_passed_on(store, tmp_path):
    data = open_record(store).load()
    data["u"][1, 7, 2, 3] = np.nan
    path = str(write_record(data, tmp_path / "s.zarr"))
    with pytest.raises(InputError, match="variable 'u' has a missing value .* trajectory 1.0, time 7.0, y 2.0, x 3.0"):
        list(make(path))
    assert sum(int(torch.isnan(b["state"]).sum()) for b in make(path, missing="mask")) == 3


def test_any_failure_of_the_thread_arrives(store, monkeypatch):
    loader = make(store)

    def fail(*_, **__):
        raise MemoryError("no more")

    monkeypatch.setattr(loader.reader, "start", fail)
    with pytest.raises(MemoryError, match="no more"):
        next(iter(loader))
    assert not loader_threads()


def test_waiting_is_measured(store, monkeypatch):
    """On a clock that nothing else moves: a batch takes 10 ms to read and 30 ms to work on."""
    monkeypatch.setattr(loader_module, "time", CLOCK)
    for threads in (0, 2):
        loader = make(store, threads=threads)
        assert loader.fraction_waited == 0.0
        real = loader.reader.start

        def start(*args, real=real, **options):
            CLOCK.wait(0.01)
            return real(*args, **options)

        if not threads:  # what threads read ahead, nobody waits for
            monkeypatch.setattr(loader.reader, "start", start)
        for _ in loader:
            CLOCK.wait(0.03)
        count = 0 if threads else len(loader)
        assert loader.waited == pytest.approx(0.01 * count)
        assert loader.fraction_waited == pytest.approx(0.01 * count / (0.01 * count + 0.03 * (len(loader) - 1)))


# ---------------------------------------------------------------------------------------------- damage


def damaged_store(store, folder, chunks):
    """The store, one step a chunk, with damage in some chunks (trajectory, time)."""
    path = write_record(open_record(store).load(), folder / "s.zarr")
    for trajectory, at in chunks:
        file = path / "u" / "c" / str(trajectory) / str(at) / "0" / "0"
        content = bytearray(file.read_bytes())
        content[-9] ^= 1
        file.write_bytes(content)
    return str(path)


def touched(found, chunks):
    return {i for i in range(len(found)) if any((found.trajectory[i], t) in chunks for t in map(int, found.times(i)))}


DAMAGE = [(0, 0), (0, 12), (1, 30), (1, 31), (1, 39)]


@pytest.mark.parametrize("shuffle", ["none", "full", "block"])
@pytest.mark.parametrize("memory", [0, 2**20])
@pytest.mark.parametrize("threads", [0, 2])
def test_damaged_samples_are_replaced_by_others_of_the_batch(store, tmp_path, shuffle, memory, threads, caplog):
    sound, found = damaged_store(store, tmp_path / "sound", []), windows()
    path, bad = damaged_store(store, tmp_path, DAMAGE), touched(found, DAMAGE)
    data = open_record(store).load()
    reader = WindowReader(open_record(path), {"state": ["u"]}, cache_bytes=memory, threads=threads)
    loader = WindowLoader(reader, found, batch_size=7, shuffle=shuffle, damaged="skip")
    undamaged = make(sound, shuffle=shuffle, memory=memory)
    for _ in range(2):
        whole = [batch["index"].tolist() for batch in undamaged]
        got = [copy_of(batch) for batch in loader]
        for batch, wanted in zip(got, whole, strict=True):
            index = batch["index"].tolist()
            good = [i for i in wanted if i not in bad]
            assert all(a == b for a, b in zip(index, wanted, strict=True) if b not in bad)
            assert not good or set(index) == set(good)
            for k, i in enumerate(index):
                np.testing.assert_array_equal(
                    batch["state"][k, :, 0], data.u.values[found.trajectory[i], found.times(i)]
                )
    assert loader.replaced == 2 * len(bad) and len(loader.damage) == len(DAMAGE)
    assert caplog.text.count("data.damaged: skip replaces the samples that touch it") == len(DAMAGE)


def test_a_batch_that_is_damaged_whole_takes_the_next_good_sample(store, tmp_path):
    chunks = [(0, t) for t in range(4, 16)]
    reader = WindowReader(open_record(damaged_store(store, tmp_path, chunks)), {"state": ["u"]})
    loader = WindowLoader(reader, windows(), batch_size=4, shuffle="none", damaged="skip")
    index = [batch["index"].tolist() for batch in loader]
    assert index[:5] == [[0, 1, 0, 1], [16] * 4, [16] * 4, [16] * 4, [16, 17, 18, 19]]


def test_a_record_without_a_good_sample_is_an_error(store, tmp_path):
    chunks = [(r, t) for r in (0, 1) for t in range(0, TIMES, 3)]
    reader = WindowReader(open_record(damaged_store(store, tmp_path, chunks)), {"state": ["u"]})
    with pytest.raises(InputError, match="every sample is damaged: variable 'u', chunk"):
        list(WindowLoader(reader, windows(), batch_size=4, damaged="skip"))


@pytest.mark.parametrize("world_size", [1, 2])
def test_resuming_around_damage_is_exact_and_ranks_stay_in_step(store, tmp_path, world_size):
    path = damaged_store(store, tmp_path, DAMAGE)

    def loaders():
        options = {"batch_size": 5, "shuffle": "full", "world_size": world_size, "damaged": "skip"}
        readers = [WindowReader(open_record(path), {"state": ["u"]}) for _ in range(world_size)]
        return [WindowLoader(reader, windows(), rank=r, **options) for r, reader in enumerate(readers)]

    whole, states = [], []
    for loader in loaders():
        batches = []
        for batch in loader:
            batches.append(copy_of(batch))
            states.append(loader.state_dict())
        whole.append(batches)
    steps = len(whole[0])
    assert {len(batches) for batches in whole} == {steps}
    for stop in range(1, steps, 3):
        for rank, loader in enumerate(loaders()):
            loader.load_state_dict(states[stop - 1])
            assert same([copy_of(b) for b in loader], whole[rank][stop:])


def test_what_the_system_refuses_is_no_damage(store, tmp_path, monkeypatch):
    """A file that may not be read is whole for all we know: it must not be trained around."""
    loader = make(store, damaged="skip", memory=0)
    monkeypatch.setattr("os.preadv", lambda *_: (_ for _ in ()).throw(OSError(5, "Input/output error")))
    with pytest.raises(InputError, match="Input/output error") as raised:
        next(iter(loader))
    assert not isinstance(raised.value, DamagedChunk)
