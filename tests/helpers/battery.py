"""A small record of battery cells whose life shows in how their discharge curves change, and an experiment on it."""

import numpy as np
import xarray as xr

EXPERIMENT = """
# Life of made-up cells
data: {record: cells.nc, points: 12, cycles: 12, split: policy, folds: 3, batch_size: 8}
model:
  class_path: LifetimeTask
  init_args:
    network: {class_path: FPNN, init_args: {blocks: 0, width: 8}}
    members: 2
    optimisation: {learning_rate: 1.0e-2}
trainer: {max_epochs: 8, check_val_every_n_epoch: 4, gradient_clip_val: 1.0, accelerator: cpu,
          enable_progress_bar: false, enable_model_summary: false, log_every_n_steps: 1}
evaluate: {baselines: [mean_life, variance_model], resamples: 200}
sweep: {cycles: [8], depths: [0, 1]}
"""


def cells(count: int = 36, cycles: int = 30, policies: int = 9, seed: int = 0) -> xr.Dataset:
    """Cells of `policies` charging policies; the shorter the life, the faster the curves sag around 3.2 V."""
    rng = np.random.default_rng(seed)
    policy = np.arange(count) % policies
    life = np.round(500 * np.exp(rng.normal(0, 0.4, policies)[policy] + rng.normal(0, 0.1, count)))
    voltage, cycle = np.linspace(3.5, 2.0, 60), np.arange(1, cycles + 1)
    whole = 1.07 / (1 + np.exp((voltage - 3.15) / 0.05))
    sag = 20.0 / life[:, None, None] * cycle[:, None] / 30 * np.exp(-(((voltage - 3.2) / 0.08) ** 2))
    noise = 2e-4 * rng.normal(size=(count, cycles, 1)) * whole
    capacity = (whole - sag + noise).astype("f4")
    names = [f"c{i}" for i in range(count)]
    about = {
        "policy": ("cell", [f"policy {p}" for p in policy]),
        "barcode": ("cell", [f"EL{i:04d}" for i in range(count)]),
        "cell": ("cell", names),
        "cycle": ("cycle", cycle),
        "voltage": ("voltage", voltage, {"units": "V"}),
    }
    attrs = {"units": "Ah", "long_name": "discharge capacity"}
    return xr.Dataset(
        {
            "discharge_capacity": (("cell", "cycle", "voltage"), capacity, attrs),
            "cycle_life": ("cell", life, {"units": "1", "long_name": "cycle life"}),
        },
        about,
        {"title": "Made-up cells", "licence": "CC0-1.0"},
    )
