"""Ensembles of several networks: members of one forecast, each as its network alone makes it."""

import functools
import json

import numpy as np
import pytest
import xarray as xr
import yaml

from workbench.commands import ensemble
from workbench.commands.rollout import main
from workbench.data.config import DataConfig
from workbench.data.packing import Packing
from workbench.data.statistics import fit_statistics
from workbench.data.store import open_record
from workbench.data.windows import parts
from workbench.data.writer import write_record
from workbench.errors import InputError
from workbench.evaluate import main as evaluate
from workbench.models.fno import FNO
from workbench.tasks import ForecastTask
from workbench.weights import card_of, export


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A record, an experiment, and the weights of two networks that differ by their start."""
    import torch

    folder = tmp_path_factory.mktemp("ensemble")
    rng = np.random.default_rng(0)
    record = xr.Dataset(
        {"u": (("time", "y", "x"), rng.normal(size=(80, 6, 8)).astype("f4"), {"units": "m"})},
        {"time": ("time", np.arange(80.0), {"units": "s"}), "y": np.arange(6.0), "x": np.arange(8.0)},
    )
    write_record(record, folder / "record.zarr", chunks={"time": 10})
    config = {
        "data": {"record": str(folder / "record.zarr"), "state": ["u"]},
        "rollout": {"steps": 4, "starts": 3, "batch_size": 2, "block": 3},
        "evaluate": {"metrics": ["rmse"], "baselines": ["persistence"], "resamples": 50},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(config))
    opened = open_record(str(folder / "record.zarr"))
    data = DataConfig(record="x", state=("u",))
    statistics = fit_statistics(opened, data.variables(), parts(opened, data)["train"])
    for seed in (0, 1):
        torch.manual_seed(seed)
        network = functools.partial(FNO, width=4, modes=(2, 2), layers=1)
        task = ForecastTask(network).build(Packing.fit(opened, data, statistics)).eval()
        export(task, folder / f"{seed}.safetensors", card_of(task))
    return folder


def roll(folder, run, *words):
    assert main(["-c", str(folder / "run.yaml"), "--run-dir", str(run), *words]) == 0
    return xr.open_zarr(run / "rollout.zarr").load()


def weights(folder, *seeds):
    return ["--weights", *(str(folder / f"{seed}.safetensors") for seed in seeds)]


def test_each_network_is_a_member_as_it_is_alone(folder, tmp_path):
    both = roll(folder, tmp_path / "both", *weights(folder, 0, 1))
    assert both.member.values.tolist() == [0, 1] and both.u.dims[0] == "member"
    for seed in (0, 1):
        alone = roll(folder, tmp_path / str(seed), *weights(folder, seed))
        np.testing.assert_array_equal(both.u[seed], alone.u[0])
        xr.testing.assert_equal(both.valid_time, alone.valid_time)
    assert float(abs(both.u[0] - both.u[1]).max()) > 1e-4
    assert both.attrs["workbench_checkpoint"].count(".safetensors") == 2
    assert sorted(p.name for p in (tmp_path / "both").iterdir()) == ["rollout.zarr", "rollout.zarr.manifest.json"]


def test_networks_times_perturbations_and_the_scores_of_an_ensemble(folder, tmp_path, capsys):
    words = ["--rollout.members=2", "--rollout.perturbation=0.1"]
    found = roll(folder, tmp_path, *weights(folder, 0, 1), *words)
    assert found.sizes["member"] == 4
    assert float(abs(found.u[2] - found.u[3]).max()) > 1e-3
    capsys.readouterr()
    assert evaluate(["-c", str(folder / "run.yaml"), "--run-dir", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "crps_fair over 3 starts" in printed and "spread_skill_ratio over 3 starts" in printed


def test_a_killed_ensemble_keeps_the_networks_that_are_done(folder, tmp_path, monkeypatch):
    whole = roll(folder, tmp_path / "whole", *weights(folder, 0, 1))
    calls, real = [], ensemble.roll_out

    def dies(experiment, source, *rest, **options):
        calls.append(source)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(experiment, source, *rest, **options)

    monkeypatch.setattr(ensemble, "roll_out", dies)
    with pytest.raises(KeyboardInterrupt):
        roll(folder, tmp_path / "killed", *weights(folder, 0, 1))
    assert not (tmp_path / "killed" / "rollout.zarr").exists()
    again = roll(folder, tmp_path / "killed", *weights(folder, 0, 1))
    assert [call[-13] for call in calls] == ["0", "1", "1"]
    np.testing.assert_array_equal(again.u, whole.u)


def test_stopped_members_keep_their_numbers(folder, tmp_path):
    one = roll(folder, tmp_path / "0", *weights(folder, 0))
    note = {"member": 0, "init_time": str(one.init_time.values[0]), "step": 2, "variable": "u", "index": [0, 0]}
    stopped = one.assign_attrs(workbench_stopped=json.dumps([note]))
    chunked = [d.drop_encoding().chunk(init_time=2, lead_time=3) for d in (one, stopped)]
    for name, part in zip("ab", chunked, strict=True):
        part.to_zarr(tmp_path / f"{name}.zarr", consolidated=False)
    ensemble.join_members([tmp_path / "a.zarr", tmp_path / "b.zarr"], tmp_path / "joined.zarr")
    with xr.open_zarr(tmp_path / "joined.zarr") as joined:
        assert [n["member"] for n in json.loads(joined.attrs["workbench_stopped"])] == [1]
        np.testing.assert_array_equal(joined.u[1], one.u[0])


def test_what_does_not_go_together(folder, tmp_path):
    one = roll(folder, tmp_path / "0", *weights(folder, 0)).drop_encoding().chunk(init_time=2)
    one.to_zarr(tmp_path / "a.zarr", consolidated=False)
    one.isel(init_time=slice(0, 2)).to_zarr(tmp_path / "b.zarr", consolidated=False)
    one.rename(u="w").to_zarr(tmp_path / "c.zarr", consolidated=False)
    for other, match in (("b", "'u' of the forecast by .* differs from that of the first"), ("c", "not by both")):
        with pytest.raises(InputError, match=match):
            ensemble.join_members([tmp_path / "a.zarr", tmp_path / f"{other}.zarr"], tmp_path / "joined.zarr")
    assert not (tmp_path / "joined.zarr").exists()


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--rollout.format=netcdf"], "several networks or masks is written as Zarr"),
        (["--rollout.mask_ratio=0.5"], "mask_ratio is 0.5 with 1 members and perturbation 0.0: masks make"),
        (["--rollout.mask_ratio=1"], "rollout.mask_ratio is 1.*: expected a fraction"),
        (["--rollout.mask_ratio=0.5", "--rollout.members=2"], "the model's network is FNO"),
    ],
)
def test_bad_ensembles(folder, tmp_path, words, match):
    with pytest.raises(InputError, match=match):
        main(["-c", str(folder / "run.yaml"), "--run-dir", str(tmp_path), *weights(folder, 0, 1), *words])
