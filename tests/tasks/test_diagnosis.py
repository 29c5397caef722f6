"""Fields at the instants that are seen: what a task may see, what it keeps exactly, frozen and pretrained cores."""

import functools

import numpy as np
import pytest
import torch
import xarray as xr

from workbench.data.cells import along_axes, means_of
from workbench.data.config import DataConfig
from workbench.data.packing import Packing
from workbench.data.statistics import fit_statistics
from workbench.data.windows import parts
from workbench.errors import InputError
from workbench.models import FNO, Downscaling, FluxUNet, PrithviCore, ResidualBlocks
from workbench.models.prithvi import PrithviWxC
from workbench.tasks import DiagnosisTask, DownscalingTask, ForecastTask
from workbench.weights import card_of, describe, export, load, rebuild

SIZES = {"embed_dim": 8, "n_heads": 2, "n_blocks_encoder": 0}
CORE = functools.partial(PrithviCore, **SIZES, mask_unit_size_px=(2, 2))
FINE = functools.partial(Downscaling, width=4, upscale=(2, 2), learned_fields=1, body=CORE)
FLUX = functools.partial(FluxUNet, width=4, levels=2, body=CORE)


@pytest.fixture(scope="module")
def record() -> xr.Dataset:
    rng = np.random.default_rng(0)
    dims, shape = ("time", "lat", "lon"), (20, 8, 16)
    data = {n: (dims, rng.normal(5, 2, shape).astype("f4"), {"units": "K"}) for n in ("t", "u", "q")}
    data["s"] = (dims[1:], rng.normal(0, 1, shape[1:]).astype("f4"), {"units": "1"})
    coords = {
        "time": np.arange(20.0),
        "lat": ("lat", np.linspace(40, 54, 8), {"units": "degrees_north"}),
        "lon": ("lon", np.arange(16.0), {"units": "degrees_east"}),
    }
    return xr.Dataset(data, coords)


def built(record, task, **roles):
    config = DataConfig("memory", **({"horizon": 0} | roles))
    chunked = record.chunk()
    chunked.encoding["source"] = "memory"
    packing = Packing.fit(record, config, fit_statistics(chunked, config.variables(), parts(record, config)["train"]))
    torch.manual_seed(0)
    return task.build(packing), {role: packing.pack(record, role) for role in packing.groups}


def sample(fields):
    """Four instants of each role, as the loader gives them."""
    return {role: (f.expand(4, *f.shape) if role == "static" else f[:4, None]).clone() for role, f in fields.items()}


def downscaling(record, **options):
    roles = {"state": ("t",), "forcing": ("u",), "static": ("s",), "coarsen": 4}
    return built(record, DownscalingTask(FINE, **options), **roles)


def test_a_fine_field_has_the_means_that_were_given_and_sees_nothing_else(record):
    task, fields = downscaling(record)
    with torch.no_grad():
        for parameter in task.parameters():
            parameter.normal_(0, 0.3)
    batch = sample(fields)
    found = task.diagnose(batch)
    maps = means_of(task.packing.spec, ("lat", "lon"), 4)
    given = along_axes(batch["state"][:, 0].double().numpy(), maps)
    np.testing.assert_allclose(along_axes(found.detach().double().numpy(), maps), given, atol=2e-5)
    noise = torch.randn(4, 1, 1, 8, 16)
    means = torch.from_numpy(along_axes(noise.double().numpy(), maps)).float()
    inside = noise - means.repeat_interleave(4, -1).repeat_interleave(4, -2)
    for role in ("state", "forcing"):
        torch.testing.assert_close(task.diagnose(batch | {role: batch[role] + inside}), found, atol=1e-4, rtol=1e-5)
        assert not torch.allclose(task.diagnose(batch | {role: batch[role] + noise}), found, atol=1e-3)
    assert not torch.allclose(task.diagnose(batch | {"static": batch["static"] + 1}), found, atol=1e-4)


def test_the_loss_falls_for_both_tasks_and_every_weight_has_a_gradient(record):
    flux = built(record, DiagnosisTask(FLUX), forcing=("t", "u"), static=("s",), diagnostic=("q",))
    for task, fields in (downscaling(record), flux):
        batch, optimiser = sample(fields), torch.optim.Adam(task.parameters(), 1e-2)
        losses = []
        for _ in range(12):
            loss = task.sample_losses(batch, training=True)
            assert loss.shape == (4,)
            optimiser.zero_grad()
            loss.mean().backward()
            assert all(p.grad is not None for p in task.parameters())
            optimiser.step()
            losses.append(loss.mean().item())
        assert losses[-1] < 0.9 * losses[0]


def test_training_starts_from_a_regression_that_finds_what_is_linear(record):
    task = built(record, DownscalingTask(functools.partial(FINE, local_regression=True)), state=("t",), coarsen=4)[0]
    coarse = np.random.default_rng(3).normal(5, 2, (400, 1, 2, 4)).repeat(4, -1).repeat(4, -2)
    pattern = np.random.default_rng(4).normal(size=(2, 1, 8, 16))
    maps = means_of(task.packing.spec, ("lat", "lon"), 4)
    pattern -= along_axes(pattern, maps).repeat(4, -1).repeat(4, -2)
    fine = torch.from_numpy(coarse + pattern[0] + 0.3 * np.roll(coarse, 4, -1) * pattern[1]).float()[:, None]
    assert task.network.linear is not None and "linear" in task.network.state_dict()
    task.fit_linear({"state": part} for part in fine.split(100))
    inside = (..., slice(8, 16))  # where the neighbour to the west is no edge
    wrong = (task.diagnose({"state": fine}) - fine[:, 0])[inside]
    assert float(wrong.square().mean().sqrt().detach()) < 0.02 * float(fine.std())


def test_a_frozen_core_takes_pretrained_weights_and_keeps_them(record, tmp_path, monkeypatch):
    whole = PrithviWxC(1, 4, (2, 4), **SIZES, n_blocks_decoder=0, patch_size_px=(1, 1), mask_unit_size_px=(2, 2),
                       decoder_shifting=False)  # fmt: skip
    path = tmp_path / "published.pt"
    torch.save({"model_state": whole.state_dict()}, path)
    task = DownscalingTask(FINE, pretrained=str(path), frozen=True)
    other, fields = downscaling(record)

    class Trainer:
        datamodule = type("Data", (), {"packing": other.packing})

    monkeypatch.setattr(DownscalingTask, "trainer", Trainer, raising=False)
    task.configure_model()
    blocks = {name: p.detach().clone() for name, p in task.core().blocks().items()}
    for name, values in blocks.items():
        torch.testing.assert_close(values, whole.state_dict()[name], rtol=0, atol=0)
    optimiser = torch.optim.AdamW(task.parameters(), 1e-2, weight_decay=0.1)
    task.sample_losses(sample(fields), training=True).mean().backward()
    optimiser.step()
    for name, parameter in task.core().blocks().items():
        assert torch.equal(parameter, blocks[name]), name
    assert task.core().embed.weight.grad.abs().max() > 0, "the gradient passes through the frozen blocks"
    plain = functools.partial(FINE, body=functools.partial(ResidualBlocks, blocks=1))
    with pytest.raises(InputError, match="Downscaling has none: set its body to PrithviCore"):
        DownscalingTask(plain, frozen=True).build(other.packing)


def test_a_task_goes_into_a_file_and_comes_back(record, tmp_path):
    task, fields = downscaling(record, interpolate="bilinear")
    path = export(task, tmp_path / "task.safetensors", card_of(task))
    again, card = load(path)
    assert card["first_lead"] == 0 and again.packing.coarsen == 4 and again.interpolate == "bilinear"
    assert describe(rebuild(card["task"])) == describe(task)
    batch = sample(fields)
    torch.testing.assert_close(again.diagnose(batch), task.eval().diagnose(batch), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("task", "roles", "message"),
    [
        (DownscalingTask(FINE), {"state": ("t",)}, "needs data.coarsen"),
        (DownscalingTask(FINE), {"forcing": ("t",), "diagnostic": ("q",), "coarsen": 4}, "gives data.state from"),
        (DownscalingTask(FINE), {"state": ("t",), "coarsen": 3}, "'lat' has 8 points: crop to 6"),
        (DiagnosisTask(FLUX), {"state": ("t",)}, "gives data.diagnostic from data.forcing"),
        (DiagnosisTask(FLUX), {"forcing": ("t",), "diagnostic": ("q",), "coarsen": 4}, "done by DownscalingTask"),
    ],
)  # fmt: skip
def test_roles_that_do_not_go_together_are_refused(record, task, roles, message):
    with pytest.raises(InputError, match=message):
        built(record, task, **roles)


def test_a_diagnosis_has_no_horizon_and_a_forecast_has_one(record):
    task, fields = built(record, DiagnosisTask(FLUX), forcing=("t",), diagnostic=("q",))
    batch = {role: torch.stack([f[:2], f[1:3]]) for role, f in fields.items()}
    with pytest.raises(InputError, match="set data.horizon: 0, found 1"):
        task.sample_losses(batch, training=True)
    network = functools.partial(FNO, width=4, modes=(2, 2), layers=1)
    task, fields = built(record, ForecastTask(network), state=("t",))
    with pytest.raises(InputError, match="data.horizon is 0, and a forecast has at least one state ahead"):
        task.sample_losses({"state": fields["state"][:2, None]}, training=True)
    with pytest.raises(InputError, match="data.coarsen is 4 and data.horizon 1"):
        DataConfig("memory", ("t",), coarsen=4)
