import functools
import json

import numpy as np
import pytest
import torch
import xarray as xr

from workbench.data.config import DataConfig
from workbench.data.packing import Packing
from workbench.data.statistics import fit_statistics
from workbench.data.windows import parts
from workbench.errors import InputError
from workbench.models import FNO, Network
from workbench.tasks import ForecastTask, RelativeL2, WeightedMSE
from workbench.tasks.optimisation import Optimisation
from workbench.weights import card_of, describe, export, load, rebuild


class Affine(Network):
    """Adds `gain` times the first `out_channels` inputs: a network whose rollout is known in closed form."""

    def __init__(self, in_channels, out_channels, space, gain: float = 1.0):
        super().__init__(in_channels, out_channels, space)
        self.gain = torch.nn.Parameter(torch.tensor(gain))

    def forward(self, x):
        return self.gain * x[:, : self.out_channels]


@pytest.fixture
def record(tmp_path, monkeypatch) -> xr.Dataset:
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    dims, shape = ("time", "lat", "x"), (60, 4, 6)
    data = {n: (dims, rng.normal(5, 2, shape).astype("f4"), {"units": "K"}) for n in ("a", "b", "f", "d")}
    data["s"] = (dims[1:], rng.normal(0, 1, shape[1:]).astype("f4"), {"units": "1"})
    coords = {
        "time": np.arange(60.0),
        "lat": ("lat", [60.0, 40, 20, 0], {"units": "degrees_north"}),
        "x": np.arange(6.0),
    }
    return xr.Dataset(data, coords=coords)


def packing_of(record, **config) -> Packing:
    chosen = DataConfig(record="x", **{"state": ("a", "b"), **config})
    chunked = record.chunk()
    chunked.encoding["source"] = "memory"
    statistics = fit_statistics(chunked, chosen.variables(), parts(record, chosen)["train"], missing=chosen.missing)
    return Packing.fit(record, chosen, statistics)


def batch_of(packing, record, starts, length) -> dict[str, torch.Tensor]:
    packed = {role: packing.pack(record, role) for role in packing.groups}
    return {
        role: torch.stack([x if role == "static" else x[s : s + length] for s in starts]) for role, x in packed.items()
    }


def test_the_network_is_told_where_the_nodes_lie(record):
    class Attentive(Affine):
        def place(self, coordinates):
            self.coordinates = coordinates

    task = ForecastTask(Attentive).build(packing_of(record))
    assert [axis.tolist() for axis in task.network.coordinates] == [[60, 40, 20, 0], [0, 1, 2, 3, 4, 5]]


def test_the_network_sees_states_forcing_and_statics_in_their_order(record):
    packing = packing_of(record, forcing=("f",), static=("s",), diagnostic=("d",), history=2)
    task = ForecastTask(functools.partial(Affine, gain=0.0)).build(packing)
    assert task.network.in_channels == 2 * 2 + 3 * 1 + 1
    assert task.network.out_channels == 3
    seen = []
    task.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    batch = batch_of(packing, record, [0, 5], 4)
    predictions = [p for p, _ in task.unrolled(batch, training=False)]
    normalised = {role: task.normalisers[role](batch[role]) for role in batch}
    first = [
        normalised["state"][:, :2].flatten(1, 2),
        normalised["forcing"][:, 0:3].flatten(1, 2),
        normalised["static"],
    ]
    torch.testing.assert_close(seen[0], torch.cat(first, 1))
    # With a network that gives zero, a residual task keeps the last state: persistence.
    torch.testing.assert_close(predictions[0][:, :2], normalised["state"][:, 1])
    torch.testing.assert_close(seen[1][:, 4:7], normalised["forcing"][:, 1:4].flatten(1, 2))


def test_rollout_in_training_follows_the_closed_form(record):
    packing = packing_of(record)
    task = ForecastTask(functools.partial(Affine, gain=0.3)).build(packing)
    batch = batch_of(packing, record, [0, 3, 9], 5)
    window = task.normalisers["state"](batch["state"])[:, 0]
    for step, (prediction, _) in enumerate(task.unrolled(batch, training=False), 1):
        torch.testing.assert_close(prediction, window * (1 + 0.3 * task.tendency_scale) ** step)


def test_without_residual_the_network_gives_the_state_itself(record):
    packing = packing_of(record)
    task = ForecastTask(functools.partial(Affine, gain=0.3), residual=False).build(packing)
    window = torch.randn(2, 1, 2, 4, 6)
    torch.testing.assert_close(task.advance(window), 0.3 * window[:, 0])


def test_pushforward_counts_the_last_step_only_and_full_all(record):
    packing = packing_of(record)
    batch = batch_of(packing, record, [0, 3], 4)
    gradients = {}
    for unroll in ("full", "pushforward"):
        task = ForecastTask(functools.partial(Affine, gain=0.3), WeightedMSE(), unroll=unroll).build(packing)
        assert len(list(task.unrolled(batch, training=True))) == (3 if unroll == "full" else 1)
        task.sample_losses(batch, training=True).mean().backward()
        gradients[unroll] = float(task.network.gain.grad)
    # Closed form for the pushforward: d/dgain of (1 + gain s) x_2 with x_2 detached.
    task = ForecastTask(functools.partial(Affine, gain=0.3), WeightedMSE()).build(packing)
    z = task.normalisers["state"](batch["state"])
    scale = task.tendency_scale
    before = z[:, 0] * (1 + 0.3 * scale) ** 2
    error = before * (1 + 0.3 * scale) - z[:, 3]
    weight = task.loss.get_buffer("weight").expand_as(error[0])
    expected = ((2 * error * before * scale * weight).flatten(1).sum(1) / weight.sum()).mean()
    assert gradients["pushforward"] == pytest.approx(float(expected), rel=1e-5)
    assert gradients["full"] != pytest.approx(gradients["pushforward"], rel=1e-2)


def test_relative_l2_is_that_of_physical_fields(record):
    packing = packing_of(record)
    task = ForecastTask(functools.partial(Affine, gain=0.0)).build(packing)
    batch = batch_of(packing, record, [0, 7], 2)
    losses = task.sample_losses(batch, training=False)
    physical = batch["state"].double()
    expected = (physical[:, 1] - physical[:, 0]).flatten(1).norm(dim=1) / physical[:, 1].flatten(1).norm(dim=1)
    torch.testing.assert_close(losses.double(), expected, rtol=1e-5, atol=0)


def test_weighted_mse_of_a_constant_error_is_its_square_on_any_weights(record):
    packing = packing_of(record)
    loss = WeightedMSE({"a": 3.0})
    area = torch.rand(4, 6) + 0.1
    loss.build(packing.groups["state"], area)
    truth = torch.randn(3, 2, 4, 6)
    torch.testing.assert_close(loss(truth + 2.0, truth), torch.full((3,), 4.0))
    one = truth.clone()
    one[:, 0] += 1.0
    torch.testing.assert_close(loss(one, truth), torch.full((3,), 0.75))
    with pytest.raises(InputError, match="loss weight for 'z'"):
        WeightedMSE({"z": 1.0}).build(packing.groups["state"], area)


@pytest.mark.parametrize("loss", [RelativeL2(), RelativeL2("normalised"), WeightedMSE()])
def test_missing_points_do_not_count_and_stay_missing(record, loss):
    record["a"][:, 1, 2] = np.nan
    packing = packing_of(record, missing="mask")
    task = ForecastTask(functools.partial(Affine, gain=0.1), loss).build(packing)
    assert task.network.in_channels == 4
    batch = batch_of(packing, record, [0, 3], 3)
    pairs = list(task.unrolled(batch, training=False))
    for prediction, _ in pairs:
        missing = torch.isnan(prediction)
        assert missing[:, 0, 1, 2].all() and missing.sum() == 2
    losses = task.sample_losses(batch, training=True)
    assert torch.isfinite(losses).all()
    losses.mean().backward()
    assert torch.isfinite(task.network.gain.grad)


def test_a_task_describes_itself_and_is_rebuilt(record, tmp_path):
    packing = packing_of(record)
    torch.manual_seed(0)
    task = ForecastTask(
        functools.partial(FNO, width=4, modes=2, layers=1),
        WeightedMSE({"a": 2.0}),
        noise=0.01,
        optimisation=Optimisation(learning_rate=3e-3, betas=(0.8, 0.9)),
    ).build(packing)
    description = json.loads(json.dumps(describe(task)))
    again = rebuild(description)
    assert describe(again) == describe(task) and again.optimisation == task.optimisation
    path = export(task, tmp_path / "m.safetensors", card_of(task))
    loaded, card = load(path)
    assert card["parameters"] == sum(p.numel() for p in task.network.parameters())
    window = torch.randn(1, 1, 2, 4, 6)
    with torch.no_grad():
        assert torch.equal(loaded.advance(window), task.eval().advance(window))
    with pytest.raises(InputError, match="exists already"):
        export(task, path, card_of(task))


def test_only_trusted_classes_are_built(record, tmp_path):
    task = ForecastTask(functools.partial(Affine, gain=0.2)).build(packing_of(record))
    path = export(task, tmp_path / "m.safetensors", card_of(task))
    with pytest.raises(InputError, match="name the class .*Affine, which is not part of Workbench"):
        load(path)
    evil = {"class_path": "subprocess.Popen", "init_args": {"args": ["true"]}}
    with pytest.raises(InputError, match="subprocess.Popen, which is not part of Workbench"):
        rebuild({"class_path": "workbench.tasks.forecast.ForecastTask", "init_args": {"network": evil}})
    with pytest.raises(InputError, match="cannot be built"):
        rebuild({"class_path": "workbench.data.config.DataConfig", "init_args": {}})


def test_weights_of_another_model_are_refused_by_name(record, tmp_path):
    packing = packing_of(record)
    small = ForecastTask(functools.partial(FNO, width=4, modes=2, layers=1)).build(packing)
    large = ForecastTask(functools.partial(FNO, width=4, modes=2, layers=2)).build(packing)
    path = export(small, tmp_path / "m.safetensors", card_of(large))
    with pytest.raises(InputError, match="belong to another model than FNO: .* missing"):
        load(path)


def test_roles_on_another_grid_are_refused(record):
    record["line"] = (("time", "x"), record.a.values[:, 0], {"units": "K"})
    with pytest.raises(InputError, match="needs every variable on the grid of the state"):
        ForecastTask(functools.partial(Affine)).build(packing_of(record, forcing=("line",)))
    with pytest.raises(InputError, match="needs data.state"):
        ForecastTask(functools.partial(Affine)).build(packing_of(record, state=(), diagnostic=("a",)))


@pytest.mark.parametrize(("schedule", "end"), [("cosine", 0.0), ("step", 0.5**4), ("constant", 1.0)])
def test_schedules_rise_to_the_peak_and_end_where_they_should(schedule, end):
    chosen = Optimisation(schedule=schedule, warmup=0.1, step_epochs=2, factor=0.5)
    values = [chosen.scale(step, 1000, 10) for step in range(1001)]
    assert values[0] == pytest.approx(0.01) and max(values) == pytest.approx(1.0)
    assert np.all(np.diff(values[:100]) > 0) and np.all(np.diff(values[100:]) <= 0)
    assert values[999] == pytest.approx(end, abs=1e-4)
