"""The ensemble of lifetimes: every network is trained as if alone, and none sees the fold that it leaves out."""

from types import SimpleNamespace

import battery
import numpy as np
import pytest
import torch
from torch import nn

from workbench import lifetimes
from workbench.attributions import attributions, log_life
from workbench.conformal import cross_conformal
from workbench.data.cell_curves import open_cells
from workbench.data.cell_module import CellDataModule
from workbench.data.cell_packing import CellPacking
from workbench.data.cells_config import CellsConfig
from workbench.errors import InputError
from workbench.models import FPNN
from workbench.tasks import LifetimeTask
from workbench.tasks.lifetime import ALL, signature
from workbench.tasks.network_ensemble import NetworkEnsemble

SPLITS = ("train", "train", "test2")


def small(variables: int, cycles: int, points: int, **options) -> nn.Module:
    return FPNN(variables, cycles, points, **({"width": 8, "blocks": 0, "dropout": 0.0} | options))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("cells") / "cells.nc"
    battery.cells().to_netcdf(path)
    data = CellDataModule(str(path), points=20, cycles=12, split="policy", folds=3, batch_size=8)
    data.setup()
    return data


@pytest.fixture(scope="module")
def batches(tmp_path_factory):
    """The same cells in three batches, the last of which is tested; twelve policies, so that no batch is a fold."""
    path, number = tmp_path_factory.mktemp("batches") / "cells.nc", np.arange(36) // 12
    labels = {"batch": ("cell", np.array(["x", "y", "z"])[number]), "split": ("cell", np.array(SPLITS)[number])}
    battery.cells(policies=12).assign_coords(labels).to_netcdf(path)
    data = CellDataModule(str(path), points=20, cycles=12, folds=3, batch_size=8)
    data.setup()
    return data


def task_of(data, members=2, noise=(0.0, 0.0), **options):
    return LifetimeTask(small, members, noise, **options).build(data.packing)


@pytest.fixture
def batch(data):
    return next(iter(data.train_dataloader()))


def network_of(task, number):
    """One network of the ensemble by itself."""
    network = task.make_network(*task.packing.shape)
    parameters = {n: task.network.get_parameter(key)[number].clone() for n, key in task.network.names.items()}
    network.load_state_dict(parameters)
    return network


def test_the_ensemble_gives_what_each_network_gives_alone(data, batch):
    task = task_of(data)
    found = task.estimates(batch["raw"], batch["change"])
    for number in (0, 1, 5):
        alone = network_of(task, number)(batch["raw"], batch["change"])
        torch.testing.assert_close(found[number], alone, rtol=1e-4, atol=1e-5)


def test_members_differ_by_their_seed_and_not_by_their_number(data):
    few, many = task_of(data, members=1).network, task_of(data, members=3).network
    for name in few.names.values():
        first, others = few.get_parameter(name), many.get_parameter(name)
        torch.testing.assert_close(first[0], others[0])
    weights = others if others.dim() > 2 else many.get_parameter("head/1/weight")
    assert not torch.equal(weights[0], weights[1]) and torch.equal(weights[1], weights[4])


def test_a_step_is_that_of_each_network_alone_on_the_cells_that_it_may_see(data, batch):
    task = task_of(data)
    alone = {number: network_of(task, number) for number in (0, 3)}
    loss = task.sample_losses(batch, training=True).mean() * task.network.count
    torch.optim.AdamW(task.network.parameters(), lr=1e-2).zero_grad()
    loss.backward()
    for number, network in alone.items():
        seen = batch["fold"] != task.held_out[number]
        assert number == 0 or not seen.all()
        own = nn.functional.smooth_l1_loss(network(batch["raw"][seen], batch["change"][seen]), batch["target"][seen])
        own.backward()
        for name, parameter in network.named_parameters():
            gradient = task.network.get_parameter(task.network.names[name]).grad[number]
            torch.testing.assert_close(gradient, parameter.grad, rtol=1e-3, atol=1e-6)


def test_a_held_out_cell_does_not_move_the_networks_that_leave_it_out(data, batch):
    task, gradients = task_of(data), []
    for shift in (0.0, 50.0):
        changed = {**batch, "target": batch["target"] + shift * (batch["fold"] == 1)}
        task.zero_grad()
        task.sample_losses(changed, training=True).mean().backward()
        gradients.append(task.network.get_parameter("head/1/weight").grad.clone())
    left_out = task.held_out == 1
    torch.testing.assert_close(gradients[0][left_out], gradients[1][left_out])
    assert (gradients[0] - gradients[1]).abs().amax((1, 2))[~left_out].min() > 0


def test_gradients_are_clipped_by_the_norm_of_each_network(data, batch):
    task = task_of(data)
    (task.sample_losses(batch, training=True).mean() * task.network.count).backward()

    def norms():
        return torch.stack([p.grad.flatten(1).square().sum(1) for p in task.network.parameters()]).sum(0).sqrt()

    before, limit = norms(), float(norms().median())
    task.configure_gradient_clipping(None, limit)
    torch.testing.assert_close(norms(), before.clamp_max(limit), rtol=1e-4, atol=1e-6)


def validated(data):
    """A task with the residuals of its first state."""
    task = task_of(data).eval()
    task.log = lambda *_, **__: None
    task.on_validation_epoch_start()
    with torch.no_grad():
        for number, batch in enumerate(data.val_dataloader()):
            task.validation_step(batch, number)
    task.on_validation_epoch_end()
    return task


def test_a_batch_is_left_out_as_a_policy_is(batches):
    task, train = task_of(batches, members=1), batches.part(train=True)
    folds, batch = train["batch_fold"].values, train["batch"].values
    assert batches.packing.batches == ("x", "y") and batches.packing.batch_folds == 2
    assert sorted(set(zip(batch.tolist(), folds.tolist(), strict=True)))[0][1] in (3, 4) and len(set(folds)) == 2
    assert all(len(set(folds[batch == name])) == 1 for name in ("x", "y"))
    assert task.held_out.tolist() == [-1, 0, 1, 2, 3, 4]
    cells = batches.training_cells()
    seen = ~task._left_out(cells)
    for number, fold in enumerate(task.held_out):
        expected = (cells["fold"] != fold) & (cells["batch_fold"] != fold)
        assert torch.equal(seen[number], expected) and (fold == ALL) == bool(expected.all())


def test_cells_of_a_new_batch_have_intervals_from_batches_that_were_left_out(batches):
    task = validated(batches)
    known, tested = batches.part(train=True), batches.part(train=False)
    found = [lifetimes.predict(task, cells, "here") for cells in (known, tested)]
    assert [sorted(set(lives["new_batch"].values)) for lives in found] == [[0], [1]]
    groups = [task.predict_log_life(*batches.packing.pack(c)).reshape(6, 2, -1).mean(1)[1:] for c in (known, tested)]
    for lives, by_fold, kind in zip(found, groups, ("", "batch_"), strict=True):
        residuals, folds = (task.network.get_buffer(kind + name).numpy() for name in ("residuals", "folds"))
        low, high = cross_conformal(by_fold, residuals, folds, 0.9)
        np.testing.assert_allclose(lives["predicted_life_lower"], np.exp(low))
        np.testing.assert_allclose(lives["predicted_life_upper"], np.exp(high))
    nameless = lifetimes.predict(task, known.drop_vars("batch"), "here")
    assert (nameless["new_batch"] == 1).all()
    fold = known["batch_fold"].values[5]
    expected = np.log(known["cycle_life"].values[5]) - groups[0][fold, 5]
    np.testing.assert_allclose(task.network.get_buffer("batch_residuals")[5], expected, rtol=1e-4)


def test_validation_keeps_residuals_of_networks_that_have_not_seen_the_cell(data):
    task = validated(data)
    train = data.part(train=True)
    raw, change = data.packing.pack(train)
    with torch.no_grad():
        found = task.estimates(raw, change)
    target = torch.tensor(data.packing.standardised(train["cycle_life"].values))
    for cell, fold in enumerate(train["fold"].values):
        expected = data.packing.log_std * (target[cell] - found[task.held_out == int(fold), cell].mean())
        torch.testing.assert_close(task.network.residuals[cell], expected, rtol=1e-5, atol=1e-6)
    assert task.network.folds.tolist() == train["fold"].values.tolist()
    torch.testing.assert_close(task.network.signatures, signature(raw, change))
    assert (task.held_out[:2] == ALL).all() and task.test_step(next(iter(data.test_dataloader())), 0) is None


def test_attributions_add_up_to_the_difference_from_their_baselines(data):
    task = task_of(data).eval()
    raw, _ = data.packing.pack(data.part(train=False))
    found = attributions(task, raw[:3], raw[3:5], steps=64)
    with torch.no_grad():
        expected = log_life(task, raw[:3]) - log_life(task, raw[3:5]).mean()
    scale = float(expected.abs().max())
    assert scale > 1e-3
    torch.testing.assert_close(found.sum((1, 2, 3)), expected, rtol=0, atol=0.03 * scale)


def test_a_penalty_makes_networks_shallower(data, batch):
    def deep(*shape):
        return small(*shape, blocks=2, learned_depth=True)

    task = LifetimeTask(deep, 1, depth_penalty=0.1).build(data.packing)
    before = task.network.depths()
    assert before.shape == (4,) and torch.allclose(before, torch.ones(4))
    task.network.depths().sum().backward()
    for parameter in task.network.parameters():
        if parameter.grad is not None:
            parameter.data -= parameter.grad
    assert (task.network.depths() < before).all()


def test_networks_train_on_after_a_validation(data, batch):
    """Lightning puts modes back by setting the attribute of every module, without calling `train`."""

    def dropping(*shape):
        return small(*shape, dropout=0.5)

    task = LifetimeTask(dropping, 1, (0.0, 0.0)).build(data.packing)
    task.eval()
    still = [task.estimates(batch["raw"], batch["change"]) for _ in range(2)]
    assert torch.equal(*still)
    for module in task.modules():
        module.training = True
    moving = [task.estimates(batch["raw"], batch["change"]) for _ in range(2)]
    assert not torch.equal(*moving)


def test_each_network_is_prepared_with_the_cells_that_it_may_see(data):
    def linear(*shape):
        return small(*shape, ridge=True)

    task, cells = LifetimeTask(linear, 1).build(data.packing), data.training_cells()
    task.trainer = SimpleNamespace(
        check_val_every_n_epoch=1, max_epochs=1, world_size=1, datamodule=data, strategy=None
    )
    task.on_fit_start()
    for number, fold in enumerate((ALL, 0, 1, 2)):
        alone, seen = linear(*data.packing.shape), cells["fold"] != fold
        alone.prepare(*(cells[name][seen] for name in ("raw", "change", "target")))
        for name, parameter in alone.ridge.named_parameters():
            torch.testing.assert_close(task.network.get_parameter(f"ridge/{name}")[number], parameter)


def test_networks_that_normalise_over_batches_are_refused(data):
    def leaky(*shape):
        return small(*shape, normalisation="batch")

    with pytest.raises(InputError, match="FPNN normalises over batches, .* set its normalisation to group"):
        NetworkEnsemble(lambda: leaky(*data.packing.shape), [0])


def test_a_packing_of_another_number_of_cycles_makes_another_network(data, tmp_path):
    config = CellsConfig(data.config.record, points=20, cycles=20, split="policy", folds=3)
    cells = open_cells(config)
    task = LifetimeTask(small, 1).build(CellPacking.fit(cells, config))
    raw, change = task.packing.pack(cells)
    assert raw.shape[2] == 19 and task.predict_log_life(raw, change).shape == (4, 36)
