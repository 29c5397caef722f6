"""A small project as a user has it: a record, an experiment file, and the command."""

import contextlib
import io
import os
import subprocess
import sys
import warnings
from pathlib import Path
from unittest import mock

import numpy as np
import xarray as xr

from workbench import cli

EXPERIMENT = """
# Travelling waves
data:
  record: waves.nc
  state: [height]
  history: 1
  horizon: 2
  split: {by: trajectory, train: [0, 0.6], validation: [0.6, 0.8], test: [0.8, 1]}
  batch_size: 8
model:
  class_path: ForecastTask
  init_args:
    network: {class_path: FNO, init_args: {width: 8, modes: [4, 4], layers: 2, projection: 16}}
    optimisation: {learning_rate: 5.0e-3}
trainer: {max_epochs: 6, accelerator: cpu, enable_progress_bar: false, enable_model_summary: false}
rollout: {steps: 5, starts: 4}
evaluate: {metrics: [rmse, correlation, acc], baselines: [persistence, climatology], spectra: [x], resamples: 200}
"""


def waves(trajectories: int = 10, steps: int = 16) -> xr.Dataset:
    """Waves of random amplitude and phase that travel at known speed on a periodic grid of metres."""
    rng = np.random.default_rng(0)
    x, y = np.arange(16) / 16, np.arange(12) / 12
    time = np.arange(steps) * 0.25
    fields = np.zeros((trajectories, steps, 12, 16))
    for k, m in ((1, 0), (2, 1), (0, 1), (3, 2)):
        amplitude, phase = rng.normal(0, 1, trajectories), rng.uniform(0, 2 * np.pi, trajectories)
        angle = 2 * np.pi * (k * x[None, None, None] + m * y[None, None, :, None] - 0.4 * time[None, :, None, None])
        fields += amplitude[:, None, None, None] * np.cos(angle + phase[:, None, None, None])
    attrs = {"units": "m", "long_name": "surface height"}
    return xr.Dataset(
        {"height": (("trajectory", "time", "y", "x"), fields.astype("f4"), attrs)},
        coords={
            "trajectory": np.arange(trajectories),
            "time": ("time", time, {"units": "s"}),
            "y": ("y", y, {"units": "m"}),
            "x": ("x", x, {"units": "m"}),
        },
        attrs={"title": "Travelling waves", "licence": "CC0-1.0"},
    )


def run(folder: Path, *words: str, ok: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in `folder` as a user would."""
    env = {**os.environ, "WORKBENCH_DATA": str(folder / "data"), "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, "-m", "workbench", *words]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=240)
    assert not ok or done.returncode == 0, done.stdout + done.stderr
    return done


def call(folder: Path, *words: str, ok: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in this process, which has paid for its imports; like `run` in everything else."""
    env = {"WORKBENCH_DATA": str(folder / "data"), **environment}
    out, err = io.StringIO(), io.StringIO()
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.chdir(folder))
        stack.enter_context(mock.patch.dict(os.environ, env))
        stack.enter_context(mock.patch.object(sys, "path", [*sys.path]))
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("default")
        status = cli.main(list(words))
    done = subprocess.CompletedProcess(words, status, out.getvalue(), err.getvalue())
    assert not ok or status == 0, done.stdout + done.stderr
    return done
