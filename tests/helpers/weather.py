"""A small record of the weather with what belongs to it: calendar, climatology, task."""

import functools

import numpy as np
import pandas as pd
import torch
import xarray as xr

from workbench.data.config import DataConfig, Split
from workbench.data.module import RecordDataModule
from workbench.data.writer import write_record
from workbench.models import PrithviWxC
from workbench.tasks import WeatherTask

CALENDAR = ("cos_day_of_year", "sin_day_of_year", "cos_hour_of_day", "sin_hour_of_day")
SPACE = (8, 12)
NETWORK = {
    "embed_dim": 16, "n_heads": 2, "n_blocks_encoder": 1, "n_blocks_decoder": 0, "mask_unit_size_px": (4, 6),
    "decoder_shifting": False,
}  # fmt: skip

EXPERIMENT = """
data:
  record: weather.zarr
  state: [t, slp]
  forcing: [cos_day_of_year, sin_day_of_year, cos_hour_of_day, sin_hour_of_day]
  static: [land]
  climatology: fit
  history: 2
  split:
    train: ['2001-01-01', '2001-12-31']
    validation: ['2002-01-01', '2002-06-30']
    test: ['2002-07-01', '2002-12-31']
  batch_size: 32
rollout: {steps: 3, starts: 4}
evaluate: {baselines: [persistence, climatology], resamples: 50}
model:
  class_path: WeatherTask
  init_args:
    network:
      class_path: PrithviWxC
      init_args:
        {embed_dim: 16, n_heads: 2, n_blocks_encoder: 1, n_blocks_decoder: 0, mask_unit_size_px: [4, 6],
         decoder_shifting: false}
trainer:
  max_epochs: 2
  accelerator: cpu
  enable_progress_bar: false
  enable_model_summary: false
"""
FNO = """
model:
  class_path: ForecastTask
  init_args: {network: {class_path: FNO, init_args: {width: 4, modes: [2, 2], layers: 1}}}
trainer: {max_epochs: 1, accelerator: cpu, enable_progress_bar: false, enable_model_summary: false}
"""


def weather(years: int = 2) -> xr.Dataset:
    """Twice a day from 2001 on: temperature on two levels and sea level pressure, with seasons; land; height."""
    time = pd.date_range("2001-01-01", f"{2000 + years}-12-31 12:00", freq="12h")
    random, season = np.random.default_rng(0), np.cos(2 * np.pi * time.day_of_year.values / 365)
    noon = (time.hour.values == 12).astype(float)
    smooth = random.normal(size=(len(time), 4, 1, 1)) * np.cos(np.linspace(0, np.pi, SPACE[1]))
    t = 280 + 10 * season[:, None, None, None] + 3 * noon[:, None, None, None] + 2 * smooth[:, :2]
    t = t + random.normal(size=(len(time), 2, *SPACE))
    slp = 1e5 + 500 * season[:, None, None] + 300 * smooth[:, 2] + 50 * random.normal(size=(len(time), *SPACE))
    return xr.Dataset(
        {
            "t": (("time", "level", "lat", "lon"), t.astype("f4"), {"units": "K", "long_name": "temperature"}),
            "slp": (("time", "lat", "lon"), slp.astype("f4"), {"units": "Pa", "long_name": "sea level pressure"}),
            "land": (("lat", "lon"), random.random(SPACE).astype("f4"), {"units": "1"}),
        },
        {
            "time": time,
            "level": ("level", [500.0, 850.0], {"units": "hPa"}),
            "lat": ("lat", np.linspace(60.0, 25.0, SPACE[0]), {"units": "degrees_north"}),
            "lon": ("lon", np.linspace(-30.0, 25.0, SPACE[1]), {"units": "degrees_east"}),
        },
    )


def config(record, **options) -> DataConfig:
    chosen = {
        "state": ("t", "slp"), "forcing": CALENDAR, "static": ("land",), "history": 2, "climatology": "fit",
        "split": Split(
            train=("2001-01-01", "2001-12-31"), validation=("2002-01-01", "2002-06-30"),
            test=("2002-07-01", "2002-12-31"),
        ),
    }  # fmt: skip
    return DataConfig(record=str(record), **{**chosen, **options})


def module(record, **options) -> RecordDataModule:
    """The data module, set up."""
    found = RecordDataModule(**vars(config(record, **options)))
    found.prepare_data()
    found.setup()
    return found


def task(packing, **options) -> WeatherTask:
    """A small task; `residual` and other arguments of the network may be among the options."""
    own = {k: options.pop(k) for k in ("loss", "mask_ratio", "noise", "horizons", "weights") if k in options}
    torch.manual_seed(0)
    made = WeatherTask(functools.partial(PrithviWxC, **{**NETWORK, **options}), **own)
    return made.build(packing) if packing is not None else made


def stored(folder) -> str:
    return str(write_record(weather(), folder / "weather.zarr", chunks={"time": 100}))
