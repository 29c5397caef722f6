"""A training killed by SIGKILL at some step and resumed ends bitwise where the undisturbed one ends."""

import csv
import os
import signal
import subprocess
import sys
import textwrap

import pytest
import torch
from project import EXPERIMENT, waves

KILLER = """
import os, signal
import pytorch_lightning as pl

class Kill(pl.Callback):
    def __init__(self, step: int = -1):
        self.step = step
    def on_train_batch_end(self, trainer, module, outputs, batch, batch_index):
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)
"""
CHECKPOINT = """
  callbacks:
    - class_path: ModelCheckpoint
      init_args: {every_n_train_steps: 4, filename: last, dirpath: DIR/checkpoints, enable_version_counter: false}
    - {class_path: killer.Kill, init_args: {step: STEP}}
"""


def fit(folder, run_dir, step, *words):
    training = "trainer:\n  max_epochs: 3\n  accelerator: cpu\n  enable_progress_bar: false\n  log_every_n_steps: 1\n"
    text = textwrap.dedent(EXPERIMENT).partition("trainer:")[0].replace("network:", "noise: 0.05\n    network:", 1)
    text += training + CHECKPOINT.strip("\n").replace("DIR", run_dir).replace("STEP", str(step))
    (folder / "waves.yaml").write_text(text)
    env = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "WORKBENCH_DATA": str(folder / "data")}
    command = [sys.executable, "-m", "workbench", "fit", "-c", "waves.yaml", "--run-dir", run_dir, *words]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=240)


def final(folder, run_dir):
    checkpoint = torch.load(folder / run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    with open(folder / run_dir / "metrics.csv", newline="") as file:
        rows = [r for r in csv.DictReader(file)]
    return checkpoint, rows


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    waves(trajectories=6).to_netcdf(folder / "waves.nc")
    (folder / "killer.py").write_text(KILLER)
    done = fit(folder, "whole", -1)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("step", [6, 15])
def test_killed_and_resumed_is_bitwise_the_undisturbed_run(undisturbed, step):
    run_dir = f"killed{step}"
    killed = fit(undisturbed, run_dir, step)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed = fit(undisturbed, run_dir, -1, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    (a, rows_a), (b, rows_b) = final(undisturbed, "whole"), final(undisturbed, run_dir)
    assert a["global_step"] == b["global_step"] > step
    for name, value in a["state_dict"].items():
        assert torch.equal(value, b["state_dict"][name]), name
    for one, other in zip(a["optimizer_states"], b["optimizer_states"], strict=True):
        for key, state in one["state"].items():
            assert torch.equal(state["exp_avg_sq"], other["state"][key]["exp_avg_sq"])
    assert rows_a == rows_b
