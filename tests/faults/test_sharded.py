"""A training whose blocks lie in parts on two ranks is that of two whole copies, and goes on with any number of ranks.

Real processes on CPUs, over gloo.
"""

import json
import shutil

import pytest
import torch
import weather as small
from project import call
from trainings import differences

from workbench.exit_status import REQUEUE
from workbench.models.parts import whole
from workbench.models.stored import read_state
from workbench.weights import load

pytestmark = pytest.mark.long

CALLBACK = '''
import json, os, signal, time
import pytorch_lightning as pl

class Parts(pl.Callback):
    """Writes down which part of its parameters this rank holds."""
    def on_train_start(self, trainer, module):
        parts = {n: p.to_local().numel() / p.numel() for n, p in module.named_parameters() if hasattr(p, "to_local")}
        with open(f"{trainer.default_root_dir}/parts{trainer.global_rank}.json", "w") as file:
            json.dump(parts, file)
    def on_train_batch_end(self, trainer, module, outputs, batch, number):
        if "STOP" in os.environ:
            time.sleep(0.3)
            if os.environ["STOP"] == str(trainer.global_step):
                os.kill(os.getpid(), signal.SIGTERM)
        with open(f"{trainer.default_root_dir}/seen{trainer.global_rank}.json", "a") as file:
            print(batch["index"].tolist(), file=file)
'''
SHORT = [
    "--trainer.limit_train_batches=4",
    "--trainer.limit_val_batches=2",
    "--model.init_args.optimisation.schedule=constant",
]


@pytest.fixture(scope="module")
def runs(server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    small.stored(folder)
    (folder / "helpers.py").write_text(CALLBACK)
    (folder / "e.yaml").write_text(small.EXPERIMENT + "  callbacks: [{class_path: helpers.Parts}]\n")
    (folder / "fno.yaml").write_text(small.EXPERIMENT.partition("model:")[0] + small.FNO)

    def run(run_dir, *words, ranks=2, experiment="e.yaml", **options):
        words = ["fit", "-c", experiment, "--run-dir", run_dir, *SHORT, *words]
        return server.run(folder, *words, ranks=ranks, WORKBENCH_DATA=str(folder / "data"), **options)

    run.folder = folder
    return run


def last(runs, name):
    path = runs.folder / name / "checkpoints" / "last.ckpt"
    return whole(path, torch.load(path, weights_only=True))


@pytest.fixture(scope="module")
def copies(runs):
    statuses, out, _ = runs("whole", "--trainer.strategy=ddp")
    assert statuses == [0, 0], out
    return last(runs, "whole")


def test_two_ranks_with_half_of_every_block_are_two_whole_copies(runs, copies):
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
    for name, values in copies["state_dict"].items():
        torch.testing.assert_close(found["state_dict"][name], values, rtol=1e-4, atol=1e-6, msg=name)
    task, card = load(runs.folder / "parts" / "checkpoints" / "best.ckpt")
    assert card["parameters"] == sum(p.numel() for p in task.network.parameters())


@pytest.mark.slow
def test_a_sharded_training_goes_on_without_sharding(runs, copies):
    """From the parts of two ranks, on one."""
    statuses, out, _ = runs("alone", "--trainer.strategy=fsdp", "--trainer.max_epochs=1")
    assert statuses == [0, 0], out
    statuses, out, _ = runs("alone", "--resume", ranks=1)
    assert statuses == [0], out
    found = last(runs, "alone")
    assert (found["epoch"], found["global_step"]) == (copies["epoch"], copies["global_step"])
    assert list((runs.folder / "alone" / "checkpoints").glob("last.parts-*")) == []


@pytest.mark.parametrize("batch", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_a_sharded_training_that_is_told_to_stop_goes_on_to_the_bit(runs, batch):
    """Each rank reads its own parts again; what a killed save has left is cleared away with the next."""
    name, fsdp = f"stopped{batch}", "--trainer.strategy=fsdp"
    statuses, out, _ = runs(name, fsdp, "--resume-or-start", kill_all=False, STOP=str(batch))
    assert statuses == [REQUEUE, REQUEUE], out
    checkpoints = runs.folder / name / "checkpoints"
    (checkpoints / "last.parts-killed").mkdir()
    statuses, out, _ = runs(name, fsdp, "--resume-or-start")
    assert statuses == [0, 0] and "attempt 2, from step" in out[0], out
    assert differences(last(runs, "parts"), last(runs, name)) == []
    assert len(list(checkpoints.glob("last.parts-*"))) == 1


def test_verbs_read_weights_in_parts(runs):
    """A rollout of them, their loss, one file made of them with the same tensors; without the folder, a clear error."""
    words = ["-c", "e.yaml", "--run-dir", "parts"]
    call(runs.folder, "rollout", *words)
    assert "validation_loss" in call(runs.folder, "validate", *words).stdout
    call(runs.folder, "export", *words, "-o", "one.safetensors")
    call(runs.folder, "rollout", *words, "--weights", "one.safetensors", "--overwrite")
    best = runs.folder / "parts" / "checkpoints" / "best.ckpt"
    tensors, expected = read_state(runs.folder / "one.safetensors"), read_state(best)
    assert differences(tensors, expected) == [] and len(tensors) > 20
    shutil.copy(best, runs.folder / "copy.ckpt")
    done = call(runs.folder, "rollout", *words, "--weights", "copy.ckpt", "--overwrite", ok=False)
    assert done.returncode == 2 and "which is not there: copy the folder along with the file" in done.stderr


def test_a_network_that_is_not_made_for_it_is_refused(runs):
    statuses, out, _ = runs("fno", "--trainer.strategy=fsdp", experiment="fno.yaml", kill_all=False)
    assert 2 in statuses
    assert "ForecastTask does not spread its network over devices in parts: use ddp" in "".join(out)
