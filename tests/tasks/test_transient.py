import functools
import math

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import xarray as xr

from workbench.commands import predict
from workbench.data.config import DataConfig, Split
from workbench.data.packing import Packing
from workbench.data.statistics import fit_statistics
from workbench.data.store import open_record
from workbench.data.windows import parts
from workbench.data.writer import write_record
from workbench.errors import InputError
from workbench.models.deepfea import DeepFEA
from workbench.plan import ForecastPlan
from workbench.rollout import write_rollout
from workbench.tasks import NELO, TransientTask
from workbench.weights import card_of, export, load

SMALL = functools.partial(DeepFEA, hidden=(4, 3), peephole="channel")
SUPPORTS = {"supports": {"displacement_x": "support_x"}, "prescribed": {"displacement_x": "pull_x"}}


@pytest.fixture(scope="module")
def record(tmp_path_factory) -> xr.Dataset:
    """Nodes on 4 x 5, elements on 3 x 4, and whatever numbers."""
    rng = np.random.default_rng(0)
    nodes, elements = ("node_y", "node_x"), ("elem_y", "elem_x")
    sizes = {"node_y": 4, "node_x": 5, "elem_y": 3, "elem_x": 4}

    def variable(dims, units, scale=1.0):
        shape = [{"trajectory": 6, "time": 9, **sizes}[d] for d in dims]
        return dims, (scale * rng.normal(0.5, 1, shape)).astype("f4"), {"units": units, "long_name": units}

    timed = ("trajectory", "time")
    data = {name: variable((*timed, *nodes), "m", 0.01) for name in ("displacement_x", "displacement_y", "pull_x")}
    data |= {name: variable((*timed, *nodes), "N", 100.0) for name in ("load_x", "load_y")}
    data["von_mises"] = variable((*timed, *elements), "Pa", 1e5)
    data["solid"] = variable(("trajectory", *elements), "1")
    data["node_density"] = variable(("trajectory", *nodes), "kg m-3", 1e3)
    flag = np.zeros((6, 4, 5), "f4")
    flag[:, :, 0] = 1
    data["support_x"] = (("trajectory", *nodes), flag, {"units": "1", "long_name": "support"})
    coords = {d: (d, np.arange(n) / n, {"units": "m"}) for d, n in sizes.items()}
    coords |= {"trajectory": np.arange(6), "time": ("time", np.arange(9) * 0.1, {"units": "s"})}
    path = tmp_path_factory.mktemp("structures") / "record.zarr"
    return open_record(str(write_record(xr.Dataset(data, coords=coords), path)))


def config_of(**changes) -> DataConfig:
    standard = {
        "state": ("displacement_x", "displacement_y"),
        "forcing": ("load_x", "load_y", "pull_x"),
        "static": ("support_x", "node_density"),
        "diagnostic": ("von_mises",),
        "horizon": 6,
        "split": Split("trajectory", (0, 4), (4, 5), (5, 6)),
    }
    return DataConfig(record="x", **{**standard, **changes})


def task_of(record, data=None, network=SMALL, **options) -> TransientTask:
    torch.manual_seed(0)
    data = data or config_of()
    statistics = fit_statistics(record, data.variables(), parts(record, data)["train"], missing=data.missing)
    return TransientTask(network, **options).build(Packing.fit(record, data, statistics))


def batch_of(task, record, length) -> dict[str, torch.Tensor]:
    packed = {role: task.packing.pack(record, role) for role in task.packing.groups}
    return {role: x if role == "static" else x[:, :length] for role, x in packed.items()}


@pytest.mark.parametrize("history", [1, 3])
@pytest.mark.parametrize("options", [{}, {"target": "increment", "loads": "both", **SUPPORTS}])
def test_a_written_rollout_is_one_long_run(tmp_path, record, history, options):
    task = task_of(record, config_of(history=history), **options).eval()
    plan = ForecastPlan(record, np.array([0, 4]), np.array([2]), 6, batch_size=2, block=4)
    out = xr.open_zarr(write_rollout(task, plan, tmp_path / "out.zarr").path)
    assert out.displacement_x.dims == ("member", "trajectory", "init_time", "lead_time", "node_y", "node_x")
    assert out.von_mises.dims == ("member", "trajectory", "init_time", "lead_time", "elem_y", "elem_x")

    chosen = record.isel(trajectory=[0, 4], time=slice(3 - history, 9))
    z = {role: task.normalisers[role](x) for role, x in batch_of(task, chosen, 9).items()}
    fixed = task.fixed(z["static"])
    with torch.no_grad():
        states, fed = z["state"][:, :-1], [t >= history for t in range(5 + history)]
        if fixed is not None:  # the truth at supports is what the record prescribes
            for t in range(history, states.shape[1]):
                held = task.at_supports(states[:, t], z["forcing"][:, t : t + 1])[:, 0]
                states[:, t] = torch.where(fixed, held, states[:, t])
        found = task.network(states, task.known(z["forcing"]), z["static"], fixed=fixed, fed=fed, scale=task.scale)
    physical = task.normalisers["state"].inverse(found.nodes[:, history - 1 :]).numpy()
    elements = task.normalisers["diagnostic"].inverse(found.elements[:, history - 1 :]).numpy()
    np.testing.assert_allclose(out.von_mises.values[0, :, 0], elements[:, :, 0], rtol=1e-4, atol=1.0)
    free = np.s_[..., 1:]
    np.testing.assert_allclose(out.displacement_x.values[0, :, 0][free], physical[:, :, 0][free], rtol=1e-4, atol=1e-6)
    if fixed is not None:
        pulled = record.pull_x.isel(trajectory=[0, 4], time=slice(3, 9), node_x=0).values
        np.testing.assert_allclose(out.displacement_x.isel(node_x=0).values[0, :, 0], pulled, atol=1e-7)


def test_a_killed_rollout_goes_on_with_its_memory(tmp_path, record):
    task = task_of(record).eval()
    plan = ForecastPlan(record, np.array([0, 4]), np.array([1]), 6, batch_size=2, block=2)
    whole = xr.open_zarr(write_rollout(task, plan, tmp_path / "whole.zarr").path).load()

    def stop(done, total):
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_rollout(task, plan, tmp_path / "killed.zarr", progress=stop)
    steps = []
    path = write_rollout(task, plan, tmp_path / "killed.zarr", progress=lambda done, total: steps.append(done)).path
    assert steps[0] in (4, 6)
    xr.testing.assert_equal(xr.open_zarr(path).load(), whole)


@pytest.mark.parametrize("history", [1, 3])
def test_blocks_of_steps_give_what_single_steps_give(tmp_path, record, history):
    """Ensembles, supports that move, and in each batch a forecast that leaves the finite numbers at its third step."""
    pulled = record.pull_x.load().copy()
    pulled[5, 5] = 3e38
    task = task_of(record, config_of(history=history), target="increment", **SUPPORTS).eval()
    calls = []
    task.network.register_forward_hook(lambda *_: calls.append(1))
    found = []
    for block in (1, 4):
        calls.clear()
        plan = ForecastPlan(
            record.assign(pull_x=pulled), np.array([0, 4, 5]), np.array([2]), 6,
            members=2, perturbation=0.1, batch_size=3, block=block,
        )  # fmt: skip
        outcome = write_rollout(task, plan, tmp_path / f"{block}.zarr")
        assert len(calls) == 2 * (math.ceil(6 / block) + (history > 1))
        found.append((xr.open_zarr(outcome.path).load(), outcome.stopped))
    (single, stopped), (blocks, also) = found
    assert [(note["trajectory"], note["step"], note["index"]) for note in stopped] == 2 * [(5, 3, [0, 0])]
    assert also == stopped
    for name, values in single.data_vars.items():
        scale = float(abs(values).max())
        np.testing.assert_allclose(blocks[name].values, values.values, rtol=0, atol=1e-5 * scale)
        assert np.isnan(values.values[:, 2, :, 2:]).all() and np.isfinite(values.values[:, :2]).all()
        assert np.isfinite(values.values[:, 2, :, :2]).all()


def test_steps_past_the_history_see_the_truth_as_often_as_the_schedule_says(record):
    task = task_of(record)
    assert task.draw(6, 2, 0.0) == [False, False, True, True, True, True]
    assert task.draw(6, 2, 1.0) == [False] * 6
    drawn = task.draw(4000, 1, 0.3)
    assert 0.27 < 1 - np.mean(drawn) < 0.33


def test_nelo_is_the_published_schedule_at_any_budget():
    nelo = NELO()
    published = [nelo.probability(epoch, 1000) for epoch in range(1000)]
    assert published[:41] == [1.0] * 41 and published[41] == 0.7 and published[80] == 0.7
    assert published[520] == pytest.approx(0.7**12) and published[521] == 0.0 and max(published[521:]) == 0.0
    for epochs in (10, 50, 100):
        shorter = [nelo.probability(epoch, epochs) for epoch in range(epochs)]
        assert shorter[0] == 1.0 and shorter[math.ceil(0.52 * epochs) + 1] == 0.0
        assert np.all(np.diff(shorter) <= 0)
    assert NELO("teacher").probability(999, 1000) == 1.0 and NELO("free").probability(0, 1000) == 0.0


def test_losses_by_hand(record):
    nodes, elements = torch.randn(2, 3, 2, 4, 5), torch.randn(2, 3, 1, 3, 4)
    truths = (torch.randn_like(nodes), torch.randn_like(elements))
    squares = [(p - t).square().flatten(1).mean(1) for p, t in zip((nodes, elements), truths, strict=True)]
    branches = task_of(record, nelo=NELO(node_weight=3.0)).branches
    torch.testing.assert_close(branches((nodes, elements), truths, True), 3 * squares[0] + squares[1])
    learned = task_of(record, nelo=NELO(balance="uncertainty")).branches
    with torch.no_grad():
        learned.log_variances.copy_(torch.tensor([0.5, -1.0]))
    weighted = np.exp(-0.5) * squares[0] + np.exp(1.0) * squares[1] - 0.5
    torch.testing.assert_close(learned((nodes, elements), truths, True), weighted)
    torch.testing.assert_close(learned((nodes, elements), truths, False), squares[0] + squares[1])


@pytest.mark.parametrize(("error", "axes"), [("relative_channels", (1, 3, 4)), ("relative", (1, 2, 3, 4))])
def test_relative_losses_by_hand(record, error, axes):
    nodes, elements = torch.randn(2, 3, 2, 4, 5), torch.randn(2, 3, 1, 3, 4)
    truths = (torch.randn_like(nodes), torch.randn_like(elements))
    task = task_of(record, nelo=NELO(error=error))
    expected = 0
    for role, prediction, truth in zip(("state", "diagnostic"), (nodes, elements), truths, strict=True):
        inverse, std = task.normalisers[role].inverse, task.normalisers[role].std
        gap, size = (inverse(prediction) - inverse(truth)) / std, inverse(truth) / std
        expected += (gap.square().sum(axes) / size.square().sum(axes)).reshape(2, -1).mean(1)
    torch.testing.assert_close(task.branches((nodes, elements), truths, True), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "options", [{"unroll": "pushforward", "segment": 2}, {"segment": 2}, {"nelo": NELO("teacher")}]
)
def test_every_way_to_train_gives_the_same_loss_or_its_own_gradient(record, options):
    one, other = (task_of(record, **o) for o in ({"nelo": NELO("free")}, {"nelo": NELO("free"), **options}))
    batch = batch_of(one, record, 7)
    losses = [task.sample_losses(batch, training=True).mean() for task in (one, other)]
    slopes = [
        torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(task.network.parameters()))])
        for loss, task in zip(losses, (one, other), strict=True)
    ]
    same_loss, same_slope = (torch.allclose(*pair, rtol=1e-4, atol=1e-6) for pair in (losses, slopes))
    assert same_loss == ("nelo" not in options)
    assert same_slope == (options == {"segment": 2})


class Batches(pl.LightningDataModule):
    """One batch an epoch, without a record."""

    def __init__(self, batch):
        super().__init__()
        self.batch = batch

    def train_dataloader(self):
        return torch.utils.data.DataLoader([self.batch], batch_size=None)

    def val_dataloader(self):
        return torch.utils.data.DataLoader([self.batch], batch_size=None)

    def optimiser_steps(self, trainer):
        return trainer.max_epochs


def train(task, batch, epochs, folder, checkpoint=None, stop=None):
    seen = []

    class Note(pl.Callback):
        def on_train_epoch_start(self, trainer, module):
            seen.append(module.probability())
            if stop is not None and trainer.current_epoch == stop:
                trainer.should_stop = True

    options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        enable_checkpointing=False,
        callbacks=[Note()],
        default_root_dir=folder,
        **options,
    )
    trainer.fit(task, datamodule=Batches(batch), ckpt_path=checkpoint, weights_only=False)
    return trainer, seen


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec")
def test_the_schedule_goes_on_after_a_checkpoint(record, tmp_path):
    options = {"nelo": NELO(interval=0.1), "network": SMALL}
    batch = batch_of(task_of(record), record, 7)
    _, whole = train(task_of(record, **options), batch, 10, tmp_path)
    trainer, before = train(task_of(record, **options), batch, 10, tmp_path, stop=4)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    _, after = train(task_of(record, **options), batch, 12, tmp_path, str(tmp_path / "half.ckpt"))
    assert whole[:3] == [1.0, 1.0, 0.7] and len(before) == 5
    assert before + after[:5] == whole
    with pytest.raises(InputError, match="max_epochs is -1"):
        train(task_of(record, **options), batch, -1, tmp_path)


def test_learns_a_batch(record):
    task = task_of(record, network=functools.partial(DeepFEA, hidden=(8,)), nelo=NELO("free"), **SUPPORTS)
    batch = batch_of(task, record.isel(trajectory=slice(2)), 4)
    optimiser = torch.optim.Adam(task.parameters(), 1e-2)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        losses.append(task.sample_losses(batch, training=True).mean())
        losses[-1].backward()
        optimiser.step()
    assert losses[-1] < 0.4 * losses[0]


def test_a_forecast_beyond_its_loads_is_refused(record, tmp_path):
    plan = ForecastPlan(record, np.array([0]), np.array([4]), 5)
    with pytest.raises(
        InputError, match=r"needs load_x, load_y, pull_x up to time index 9, .* ends at 8: start earlier"
    ):
        write_rollout(task_of(record).eval(), plan, tmp_path / "none.zarr")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("peephole", ["channel", "full"])
def test_weights_of_another_mesh_are_refused(record, tmp_path, peephole):
    """Also with peepholes that any mesh would take."""
    task = task_of(record, network=functools.partial(SMALL, peephole=peephole)).eval()
    plan = ForecastPlan(record.isel(node_x=slice(4), elem_x=slice(3)), np.array([0]), np.array([0]), 3)
    with pytest.raises(InputError, match=r"does not fit .*: axis 'node_x' has 4 points, expected 5.* grid of training"):
        write_rollout(task, plan, tmp_path / "none.zarr")
    longer = record.assign_coords(node_x=2 * record.node_x)
    with pytest.raises(InputError, match=r"axis 'node_x' runs 0..1.6, expected 0..0.8"):
        write_rollout(task, ForecastPlan(longer, np.array([0]), np.array([0]), 3), tmp_path / "none.zarr")
    assert not list(tmp_path.iterdir())


def test_weights_and_card_rebuild_the_task(record, tmp_path):
    task = task_of(record, **SUPPORTS, nelo=NELO(error="relative")).eval()
    path = export(task, tmp_path / "model.safetensors", card_of(task))
    again, _ = load(path)
    assert isinstance(again, TransientTask) and again.nelo == task.nelo
    batch = batch_of(task, record, 7)
    with torch.no_grad():
        assert torch.equal(again.sample_losses(batch, False), task.sample_losses(batch, False))


def test_predict_starts_from_the_last_state_whose_loads_are_known(record, tmp_path):
    task = task_of(record)
    weights, source = str(export(task, tmp_path / "model.safetensors", card_of(task))), record.encoding["source"]
    rest = (False, "cpu", False)
    found = xr.open_dataset(predict.from_file(weights, source, str(tmp_path / "out.nc"), 5, *rest))
    assert found.init_time.values == record.time.values[[3]] and found.sizes["lead_time"] == 5
    with pytest.raises(InputError, match="has 9 instants, the model needs 10 in a row: 1 to start from and the forc"):
        predict.from_file(weights, source, str(tmp_path / "long.nc"), 9, *rest)


@pytest.mark.parametrize(
    "changes,options,message",
    [
        ({"forcing": ()}, {}, "needs data.forcing: the loads"),
        ({"diagnostic": ()}, {}, "needs data.diagnostic: stress"),
        ({"static": ("solid",)}, {}, r"static variables on \(4, 5\) nodes; \['solid'\] lie on \(3, 4\)"),
        ({"diagnostic": ("pull_x",), "forcing": ("load_x",)}, {}, r"diagnostic variables on \(3, 4\) elements"),
        ({"missing": "mask"}, {}, "fill holes with 0"),
        ({}, {"supports": {"displacement_z": "support_x"}}, "displacement_z.*expected a variable of data.state"),
        ({}, {"unroll": "pushforward"}, "needs a segment of at least 1 step, found 0"),
    ],
)
def test_refuses_what_it_cannot_step(record, changes, options, message):
    with pytest.raises(InputError, match=message):
        task_of(record, config_of(**changes), **options)


def test_refuses_a_schedule_that_does_not_fall():
    with pytest.raises(InputError, match=r"nelo.decay is 1.0 .*expected a decay between 0 and 1"):
        NELO(decay=1.0)
