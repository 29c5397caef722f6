"""A training whose blocks lie in parts on two ranks is that of two whole copies, and goes on with any number of ranks.

Real processes on CPUs, over gloo.
"""

import json

import pytest
import torch
import weather as small
from ranks import Server

from workbench.weights import load

CALLBACK = '''
import json
import pytorch_lightning as pl

class Parts(pl.Callback):
    """Writes down which part of its parameters this rank holds."""
    def on_train_start(self, trainer, module):
        parts = {n: p.to_local().numel() / p.numel() for n, p in module.named_parameters() if hasattr(p, "to_local")}
        with open(f"{trainer.default_root_dir}/parts{trainer.global_rank}.json", "w") as file:
            json.dump(parts, file)
    def on_train_batch_end(self, trainer, module, outputs, batch, number):
        with open(f"{trainer.default_root_dir}/seen{trainer.global_rank}.json", "a") as file:
            print(batch["index"].tolist(), file=file)
'''
SHORT = ["--trainer.limit_train_batches=4", "--model.init_args.optimisation.schedule=constant"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    small.stored(folder)
    (folder / "helpers.py").write_text(CALLBACK)
    (folder / "e.yaml").write_text(small.EXPERIMENT + "  callbacks: [{class_path: helpers.Parts}]\n")
    (folder / "fno.yaml").write_text(small.EXPERIMENT.partition("model:")[0] + small.FNO)
    with Server() as server:

        def run(run_dir, *words, ranks=2, experiment="e.yaml", **options):
            words = ["fit", "-c", experiment, "--run-dir", run_dir, *SHORT, *words]
            return server.run(folder, *words, ranks=ranks, WORKBENCH_DATA=str(folder / "data"), **options)

        run.folder = folder
        yield run


def last(runs, name):
    return torch.load(runs.folder / name / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.fixture(scope="module")
def whole(runs):
    statuses, out, _ = runs("whole", "--trainer.strategy=ddp")
    assert statuses == [0, 0], out
    return last(runs, "whole")


def test_two_ranks_with_half_of_every_block_are_two_whole_copies(runs, whole):
    statuses, out, _ = runs("parts", "--trainer.strategy=fsdp")
    assert statuses == [0, 0], out
    found = last(runs, "parts")
    held = [json.loads((runs.folder / "parts" / f"parts{rank}.json").read_text()) for rank in (0, 1)]
    expected = {name for name in found["state_dict"] if name.endswith(("weight", "bias", "mask_token"))}
    assert held[0].keys() == {name for name in expected if name.startswith("network.")}
    for name, part in held[0].items():
        assert part + held[1][name] == 1
        assert part == 0.5 or found["state_dict"][name].shape[0] == 1
    seen = {(run, r): (runs.folder / run / f"seen{r}.json").read_text() for run in ("whole", "parts") for r in (0, 1)}
    assert seen["whole", 0] == seen["parts", 0] and seen["whole", 1] == seen["parts", 1]
    indices = [{i for line in seen["parts", r].splitlines()[:4] for i in json.loads(line)} for r in (0, 1)]
    assert len(indices[0]) > 50 and not indices[0] & indices[1], "every rank has samples of its own"
    for name, values in whole["state_dict"].items():
        torch.testing.assert_close(found["state_dict"][name], values, rtol=1e-4, atol=1e-6, msg=name)
    task, card = load(runs.folder / "parts" / "checkpoints" / "best.ckpt")
    assert card["parameters"] == sum(p.numel() for p in task.network.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 1])
def test_a_sharded_training_goes_on(runs, whole, ranks):
    """From its only kind of checkpoint, a whole file: sharded again, or on one rank without sharding."""
    name = f"resumed{ranks}"
    statuses, out, _ = runs(name, "--trainer.strategy=fsdp", "--trainer.max_epochs=1")
    assert statuses == [0, 0], out
    words = ["--trainer.strategy=fsdp"] if ranks == 2 else []
    statuses, out, _ = runs(name, "--resume", *words, ranks=ranks)
    assert statuses == [0] * ranks, out
    found = last(runs, name)
    assert (found["epoch"], found["global_step"]) == (whole["epoch"], whole["global_step"])
    if ranks == 2:
        for key, values in whole["state_dict"].items():
            torch.testing.assert_close(found["state_dict"][key], values, rtol=1e-4, atol=1e-6, msg=key)


def test_a_network_that_is_not_made_for_it_is_refused(runs):
    statuses, out, _ = runs("fno", "--trainer.strategy=fsdp", experiment="fno.yaml", kill_all=False)
    assert 2 in statuses
    assert "ForecastTask does not spread its network over devices in parts: use ddp" in "".join(out)
