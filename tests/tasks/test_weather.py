"""The weather task hands a network what the paper hands it, and steps in rollouts as in training."""

import json
from dataclasses import replace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import weather as small
import xarray as xr

from workbench.data.climatology import climatology_at
from workbench.data.climatology_store import open_climatology
from workbench.data.store import open_data
from workbench.data.windows import parts
from workbench.errors import InputError
from workbench.models import FNO
from workbench.models.prithvi_published import published_state
from workbench.plan import ForecastPlan
from workbench.rollout import write_rollout
from workbench.tasks import AnomalyMSE, ForecastTask
from workbench.tasks.anomalies import NOMINAL_PRESSURE
from workbench.weights import card_of, describe, export, load, rebuild


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weather")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_DATA", str(folder))
        yield small.stored(folder)


@pytest.fixture(scope="module")
def data(record):
    return small.module(record, horizon=3, batch_size=4)


@pytest.fixture(scope="module")
def batch(data):
    return next(iter(data.loader("train", "full")))


def calls(task):
    """What its network is called with."""
    seen = []
    task.network.register_forward_pre_hook(lambda _, args, kwargs: seen.append((*args, kwargs)), with_kwargs=True)
    return seen


def test_the_network_sees_physical_states_calendar_surface_times_and_climatology(data, batch):
    task = small.task(data.packing).eval()
    seen = calls(task)
    predictions = [p for p, _ in task.unrolled(batch, training=False)]
    assert len(seen) == 3
    state = task.normalisers["state"]
    window = batch["state"][:, :2]
    for step, (x, static, input_time, lead_time, climate, options) in enumerate(seen):
        torch.testing.assert_close(x, window, rtol=1e-6, atol=0)
        expected = torch.cat([batch["forcing"][:, step + 1], batch["static"]], 1)
        torch.testing.assert_close(static, expected, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(climate, batch["climatology"][:, step], rtol=1e-6, atol=0)
        assert input_time.tolist() == lead_time.tolist() == [12.0] * 4 and options == {"mask_ratio": 0.0}
        window = torch.cat([window[:, 1:], state.inverse(predictions[step])[:, None]], 1)


def test_drawn_times_reach_the_network_and_later_inputs_are_a_lead_apart(record):
    data = small.module(record, input_deltas=(1, 2), leads=(1, 3), horizon=2, batch_size=6)
    batch = next(iter(data.loader("train", "full")))
    task = small.task(data.packing).eval()
    seen = calls(task)
    task.sample_losses(batch, training=False)
    assert len(set(batch["lead_time"].tolist())) == 2
    first, second = seen
    assert torch.equal(first[2], batch["input_delta"]) and torch.equal(first[3], batch["lead_time"])
    assert torch.equal(second[2], batch["lead_time"]) and torch.equal(second[3], batch["lead_time"])


@pytest.mark.parametrize("residual", ["climate", "temporal", "none"])
def test_a_network_that_adds_nothing_gives_its_base(data, batch, residual):
    task = small.task(data.packing, residual=residual).eval()
    torch.nn.init.zeros_(task.network.unembed.weight)
    torch.nn.init.zeros_(task.network.unembed.bias)
    state, group = task.normalisers["state"], data.packing.groups["state"]
    for step, (prediction, _) in enumerate(task.unrolled(batch, training=False)):
        base = {
            "climate": batch["climatology"][:, step],
            "temporal": batch["state"][:, 1],
            "none": torch.tensor(group.mean).view(-1, 1, 1).expand(4, 3, *small.SPACE),
        }[residual]
        torch.testing.assert_close(state.inverse(prediction), base, rtol=1e-6, atol=0)
    expected = {"climate": group.anomaly_std, "temporal": group.tendency_std, "none": group.std}[residual]
    torch.testing.assert_close(task.network.output_scalers.flatten(), torch.tensor(expected))


def plan(record, config, starts, steps, **options):
    opened = open_data(config)
    climatology = open_climatology(opened, config, parts(opened, config)) if config.climatology else None
    return ForecastPlan(
        opened, np.zeros(1, int), np.array(starts), steps, batch_size=2, block=3, climatology=climatology, **options
    )


def test_rollouts_add_to_the_climatology_of_the_time_that_is_forecast_even_past_the_record(record, data, tmp_path):
    """With a network that adds nothing, over the end of a year and of the record."""
    task = small.task(data.packing).eval()
    torch.nn.init.zeros_(task.network.unembed.weight)
    torch.nn.init.zeros_(task.network.unembed.bias)
    chosen = plan(record, small.config(record), [729, 1459, 1440], 5)
    assert chosen.record.sizes["time"] == 1460
    out = xr.open_zarr(write_rollout(task, chosen, tmp_path / "out.zarr").path).isel(member=0)
    assert str(out.valid_time.values.max())[:13] == "2003-01-03T00"
    expected = climatology_at(chosen.climatology.load(), out.valid_time)
    for name in ("t", "slp"):
        np.testing.assert_allclose(out[name], expected[name].transpose(*out[name].dims), rtol=1e-6)


def test_a_rollout_is_what_training_unrolls(record, data, tmp_path):
    """Also where the calendar of the last steps is derived beyond the record."""
    task = small.task(data.packing).eval()
    loader = data.loader("test", "none")
    batch = next(iter(loader))
    starts = loader.windows.start[batch["index"].numpy()] + 1
    chosen = plan(record, small.config(record), starts, 3)
    chosen.record = open_data(small.config(record, crop={"time": (0, int(starts.max()) + 2)}))
    out = xr.open_zarr(write_rollout(task, chosen, tmp_path / "out.zarr").path).isel(member=0)
    found = np.concatenate([out.t, out.slp.expand_dims("level", 2)], 2)
    with torch.no_grad():
        pairs = list(task.unrolled(batch, training=False))
    expected = torch.stack([task.normalisers["state"].inverse(p) for p, _ in pairs], 1)
    np.testing.assert_allclose(found, expected, rtol=2e-5)


def test_a_rollout_without_its_climatology_is_refused(record, data, tmp_path):
    bare = plan(record, small.config(record, climatology=None), [5], 2)
    with pytest.raises(InputError, match=r"adds to a climatology, and this forecast has none: .* data.climatology"):
        write_rollout(small.task(data.packing).eval(), bare, tmp_path / "out.zarr")
    assert not list(tmp_path.iterdir())
    write_rollout(small.task(data.packing, residual="temporal").eval(), bare, tmp_path / "out.zarr")


def test_forcing_of_the_record_ends_with_it(record, tmp_path):
    ice = small.config(record, state=("t",), forcing=(*small.CALENDAR, "slp"))
    packing = small.module(record, state=ice.state, forcing=ice.forcing).packing
    with pytest.raises(InputError, match="the forecast needs slp up to time index 1460, the record .* ends at 1459"):
        write_rollout(small.task(packing).eval(), plan(record, ice, [1459], 1), tmp_path / "out.zarr")


class Notes(pl.Callback):
    """Masking of every call of the network in training."""

    def __init__(self):
        self.seen = []

    def on_fit_start(self, trainer, module):
        def note(network, args, options):
            self.seen.append((module.training, module.global_step, network.masking, options["mask_ratio"]))

        module.network.register_forward_pre_hook(note, with_kwargs=True)


def train(data, task, **options):
    settled = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(**settled, max_epochs=1, enable_model_summary=False, num_sanity_val_steps=0, **options)
    trainer.fit(task, datamodule=data)
    return task


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec", "ignore:GPU available")
@pytest.mark.parametrize("mode", ["both", "local"])
def test_kinds_of_masking_alternate_by_gradient_step_and_later_steps_see_all(record, mode):
    data = small.module(record, horizon=2, batch_size=64)
    notes = Notes()
    task = small.task(None, mask_ratio=0.5, masking_mode=mode)
    train(data, task, limit_train_batches=8, accumulate_grad_batches=2, limit_val_batches=1, callbacks=[notes])
    trained = [note for note in notes.seen if note[0]]
    kinds = ["local", "global", "local", "global"] if mode == "both" else ["local"] * 4
    expected = [(True, step, kind, ratio) for step, kind in enumerate(kinds) for _ in range(2) for ratio in (0.5, 0.0)]
    assert trained == expected
    assert {note[3] for note in notes.seen if not note[0]} == {0.0} and task.network.mask_ratio_inputs == 0


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec", "ignore:GPU available")
@pytest.mark.parametrize("kind", ["published", "exported"])
def test_a_training_starts_from_weights_and_their_scalers(record, data, tmp_path, kind):
    """Published layout: state dict under model_state, with the masks of moved windows, beside optimiser moments."""
    source = small.task(data.packing, decoder_shifting=True, n_blocks_decoder=2)
    with torch.no_grad():
        for parameter in source.network.parameters():
            parameter.add_(0.1)
    source.network.output_scalers.mul_(2)
    path = tmp_path / ("weights.pt" if kind == "published" else "weights.safetensors")
    if kind == "published":
        state = published_state(source.network)
        assert any("local_mask" in name for name in state)
        torch.save({"model_state": state, "optimizer": {"exp_avg": torch.zeros(3)}}, path)
    else:
        export(source, path, card_of(source))
    begun = small.task(None, weights=str(path), decoder_shifting=True, n_blocks_decoder=2)
    train(small.module(record, batch_size=64), begun, max_steps=0)
    for (name, found), expected in zip(
        begun.network.state_dict().items(), source.network.state_dict().values(), strict=True
    ):
        assert torch.equal(found, expected), name
    with pytest.raises(InputError, match="no weights file at nowhere.pt"):
        train(small.module(record, batch_size=64), small.task(None, weights="nowhere.pt"), max_steps=0)


def test_the_loss_is_the_papers(data, batch):
    """Mean of cos(latitude) times squares over anomaly variances, over the mean of the cosines."""
    task = small.task(data.packing).eval()
    prediction, _ = next(task.unrolled(batch, training=False))
    found = task.loss(prediction, task.normalisers["state"](batch["state"][:, 2]))
    state, variance = task.normalisers["state"], np.array(data.packing.groups["state"].anomaly_std) ** 2
    squares = (state.inverse(prediction).double() - batch["state"][:, 2].double()).detach().numpy() ** 2
    cosines = np.cos(np.deg2rad(data.packing.spec.axis("lat").values))
    published = (cosines[:, None] * squares / variance[:, None, None]).mean((1, 2, 3))
    np.testing.assert_allclose(found.detach(), published / cosines.mean(), rtol=2e-4)


def test_published_weights_are_of_variables_and_levels(data):
    state = data.packing.groups["state"]
    count = len(NOMINAL_PRESSURE)
    group = replace(
        state, variables=("T", "QI", "U10M", "SLP", "TQV"), levels=(count, count, 1, 1, 1),
        **{name: (1.0,) * (2 * count + 3) for name in ("mean", "std", "tendency_std", "anomaly_std")},
    )  # fmt: skip
    loss = AnomalyMSE({"TQV": 0.5}, published=True)
    loss.build(group, torch.ones(small.SPACE))
    weights = loss.weight[:, 0, 0]
    pressure = torch.tensor(NOMINAL_PRESSURE)
    torch.testing.assert_close(weights[:count], pressure / pressure.mean())
    torch.testing.assert_close(weights[count : 2 * count], 0.1 * pressure / pressure.mean())
    torch.testing.assert_close(weights[2 * count :], torch.tensor([1.0, 0.1, 0.5]))
    with pytest.raises(InputError, match="for the 14 levels of the published model; 't' has 2"):
        AnomalyMSE(published=True).build(state, torch.ones(small.SPACE))


def test_missing_values_do_not_count_and_stay_missing(record, tmp_path):
    """Nothing over land."""
    holes = small.weather()
    holes["slp"][:, 2:4, 5] = np.nan
    holes.to_netcdf(tmp_path / "holes.nc")
    data = small.module(tmp_path / "holes.nc", missing="mask", horizon=2)
    batch = next(iter(data.loader("train", "full")))
    task = small.task(data.packing)
    for prediction, _ in task.unrolled(batch, training=True):
        missing = torch.isnan(prediction)
        assert missing[:, 2, 2:4, 5].all() and missing.sum() == 2 * len(prediction)
    losses = task.sample_losses(batch, training=True)
    losses.mean().backward()
    assert torch.isfinite(losses).all() and torch.isfinite(task.network.unembed.weight.grad).all()


def test_a_task_describes_itself_and_its_weights_are_its_own(data, batch, tmp_path):
    task = small.task(data.packing, mask_ratio=0.3, loss=AnomalyMSE({"t": 2.0}), weights="elsewhere.pt").eval()
    assert describe(rebuild(json.loads(json.dumps(describe(task))))) == describe(task)
    path = export(task, tmp_path / "m.safetensors", card_of(task))
    loaded, _ = load(path)
    with torch.no_grad():
        for (one, _), (other, _) in zip(
            task.unrolled(batch, training=False), loaded.unrolled(batch, training=False), strict=True
        ):
            assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"forcing": small.CALENDAR[::-1]}, "needs the calendar first in data.forcing: expected .cos_day_of_year"),
        ({"forcing": ()}, r"needs the calendar first .* found \[\]"),
        ({"climatology": None}, "names none: set data.climatology to fit .* or take residual: temporal"),
        ({"history": 1}, "the network takes 2 states, data.history is 1"),
        (
            {"state": ("t",), "diagnostic": ("slp",)},
            "predicts what it takes in: list what is under data.diagnostic",
        ),
        (
            {"crop": {"lat": (0, 7)}},
            "7 points of latitude are no whole number of mask units of 4: crop to 4 or pad",
        ),
    ],
)
def test_what_the_network_cannot_use_is_refused(record, options, message):
    packing = small.module(record, **options).packing
    with pytest.raises(InputError, match=message):
        small.task(packing)


def test_a_grid_that_lies_the_other_way_is_refused(record, tmp_path):
    small.weather().transpose(..., "lon", "lat").to_netcdf(tmp_path / "turned.nc")
    with pytest.raises(InputError, match=r"\(latitude, longitude\) in degrees, in this order; found \('lon', 'lat'\)"):
        small.task(small.module(tmp_path / "turned.nc").packing)


def test_times_that_a_task_does_not_know_are_refused(data, record):
    def check(task, **options):
        task.check_data(small.config(record, **options))

    plain = ForecastTask(FNO)
    with pytest.raises(InputError, match=r"ForecastTask takes one step .* data.leads \[2, 4\] draws: .* WeatherTask"):
        check(plain, leads=(2, 4))
    with pytest.raises(InputError, match="what data.input_deltas"):
        check(plain, input_deltas=(1, 2))
    task = small.task(None)
    check(task, leads=(0, 2), input_deltas=(1, 2))
    with pytest.raises(InputError, match=r"leads \[0, 2\] with data.horizon 2: a step of lead 0 stays where it is"):
        check(task, leads=(0, 2), horizon=2)
    with pytest.raises(InputError, match="the inputs are not evenly apart; set data.history to 2"):
        check(task, leads=(1, 2), horizon=2, history=3)
    with pytest.raises(InputError, match="mask_ratio is 1.0: expected a fraction"):
        small.task(None, mask_ratio=1.0)
    with pytest.raises(InputError, match="mask_ratio_inputs 0.5: say model.init_args.mask_ratio instead"):
        small.task(data.packing, mask_ratio_inputs=0.5)
