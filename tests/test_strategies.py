"""Sums of what a GPU holds, by hand; and sums over tensors beside what a process really takes."""

import numpy as np
import pytest
import torch
import weather
import xarray as xr

from workbench import experiment as experiments
from workbench.commands import plan
from workbench.commands.rollout import class_paths
from workbench.data.module import RecordDataModule
from workbench.errors import InputError
from workbench.memory import Alive
from workbench.strategies import Need, choose, strategies
from workbench.weights import rebuild

NEED = Need(parameters=1000, weights=4000, gradients=4000, optimiser=8000, fixed=100, sample=500, block=50)
AGAIN = Need(parameters=1000, weights=4000, gradients=4000, optimiser=8000, fixed=100, sample=50, block=50)


def test_sums_by_strategy():
    found = {s.label: s for s in strategies(NEED, AGAIN, 4)}
    assert found["ddp"].states == 16000 + 4000, "a second copy of the gradients, in buckets"
    assert found["fsdp"].states == 16000 / 4 + 2 * 50 * 8, "a quarter of everything, and two blocks"
    assert found["ddp"].total(3) == 20000 + 100 + 1500 and found["ddp, checkpointed"].total(3) == 20000 + 100 + 150
    assert found["fsdp"].largest(4900 + 500 * 7.5) == 7 and found["ddp"].largest(20000) == 0
    (single,) = strategies(Need(1000, 4000, 4000, 8000, 0, 1, 0), None, 1)
    assert (single.label, single.states) == ("single", 16000)


@pytest.mark.parametrize(
    "memory, words",
    [
        (1e6, "--trainer.strategy=ddp --data.batch_size=4"),
        (20400, "--trainer.strategy=ddp --data.batch_size=4"),
        (6000, "--trainer.strategy=fsdp --data.batch_size=4"),
        (5050, "--trainer.strategy=fsdp --data.batch_size=3 --trainer.accumulate_grad_batches=2"),
        (4000, None),
    ],
)
def test_the_first_that_fits_is_taken(memory, words):
    """Where none does, the one that holds most of the batch, its gradients added up."""
    choice = choose(list(strategies(NEED, AGAIN, 4)), memory, 4)
    assert (choice and choice.words()) == words


def test_every_tensor_that_is_alive_counts_once():
    known = torch.zeros(1000)
    with Alive([known]) as alive:
        a = torch.ones(250)  # 1000 bytes
        a.view(5, 50)[1:].add_(1)
        b = a + a  # 1000 more
        del a
        known.add_(1)
        c = b * 2
        del b
    assert alive.peak == 2000 and alive.now == 1000 and len(c) == 250


def test_the_sum_holds_what_a_step_keeps_for_its_gradients(tmp_path, monkeypatch):
    """The activations of a UNet, beside what autograd saves in a real step; the rest is gone when its layer is done."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path / "data"))
    values = np.random.default_rng(0).normal(size=(12, 64, 64)).astype("f4")
    axes = {"time": ("time", np.arange(12.0), {"units": "s"})}
    axes |= {dim: (dim, np.arange(64.0), {"units": "m"}) for dim in ("y", "x")}
    xr.Dataset({"u": (("time", "y", "x"), values, {"units": "m s-1"})}, axes).to_netcdf("big.nc")
    (tmp_path / "big.yaml").write_text(BIG)
    experiment = experiments.load(["big.yaml"])
    data = RecordDataModule(**{k: getattr(experiment.data, k) for k in experiment.data.__dataclass_fields__})
    data.setup()
    task = rebuild(experiment.config["model"], class_paths(experiment.config)).build(data.packing)
    batch = next(iter(data.train_dataloader()))
    saved = {}

    def save(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        loss = task.sample_losses(batch, True).mean()
    for parameter in task.parameters():
        saved.pop(parameter.untyped_storage().data_ptr(), None)
    needed, again = plan.needs(experiment)
    assert again is None and needed.optimiser == 2 * needed.gradients == 8 * needed.parameters
    share = sum(saved.values()) / (needed.fixed + len(batch["index"]) * needed.sample)
    print(f"{share:.3f} of the sum are saved")
    assert 0.85 < share < 1 and loss.requires_grad


BIG = """
data: {record: big.nc, state: [u], batch_size: 8, split: {train: [0, 0.8], validation: [0.8, 0.9], test: [0.9, 1]}}
model: {class_path: ForecastTask, init_args: {network: {class_path: UNet, init_args: {width: 16}}}}
"""


def test_the_command(tmp_path, monkeypatch, capsys):
    """A network in blocks has all strategies, on a record that nobody has read."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path / "data"))
    weather.stored(tmp_path)
    (tmp_path / "e.yaml").write_text(weather.EXPERIMENT)
    assert plan.main(["-c", "e.yaml", "--gpus", "2", "--memory", "0.001"]) == 0
    out = capsys.readouterr().out
    assert "14,028 parameters" in out
    assert [line[:20].strip() for line in out.splitlines()[3:7]] == [
        "ddp", "ddp, checkpointed", "fsdp", "fsdp, checkpointed"
    ]  # fmt: skip
    assert "take fsdp, checkpointed: --trainer.strategy=fsdp --data.batch_size=" in out
    assert "--trainer.accumulate_grad_batches=" in out
    assert not (tmp_path / "data").exists(), "no statistics are computed"


def test_no_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    weather.stored(tmp_path)
    (tmp_path / "e.yaml").write_text(weather.EXPERIMENT.partition("model:")[0])
    with pytest.raises(InputError, match="the experiment has no model section"):
        plan.main(["-c", "e.yaml"])
