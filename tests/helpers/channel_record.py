"""Synthetic channel records: a parabola with noise that vanishes at the walls and remembers."""

import numpy as np
import xarray as xr


def wall_nodes(count: int) -> np.ndarray:
    """Nodes from 0 to 2, denser at the walls, mirrored about the centre."""
    return 1.0 - np.cos(np.pi * np.arange(count) / (count - 1))


def channel(
    trajectories: int = 2,
    times: int = 40,
    points: tuple[int, int, int] = (8, 9, 6),
    *,
    seed: int = 0,
    amplitude: float = 0.1,
    memory: float = 0.5,
    start: int = 0,
    flow: float = 1.0,
) -> xr.Dataset:
    """``(trajectory, time, x, y, z)``; u' and v' correlated so that the Reynolds stress has its sign at both walls."""
    rng = np.random.default_rng(seed)
    nx, ny, nz = points
    y = wall_nodes(ny)
    noise = rng.normal(size=(3, trajectories, times, nx, ny, nz))
    for t in range(1, times):
        noise[:, :, t] = memory * noise[:, :, t - 1] + np.sqrt(1 - memory**2) * noise[:, :, t]
    noise[1] = 0.8 * noise[1] - 0.6 * np.sign(1 - y)[:, None] * noise[0]
    shape = (y * (2 - y))[:, None]
    fields = amplitude * noise * shape
    fields[0] += flow * shape
    one = {"units": "1"}
    dims = ("trajectory", "time", "x", "y", "z")
    return xr.Dataset(
        {n: (dims, f.astype("f4"), {"units": "1", "long_name": n}) for n, f in zip("uvw", fields, strict=True)},
        {
            "trajectory": np.arange(trajectories),
            "time": ("time", np.arange(start, start + times) * 1.0, one),
            "x": ("x", np.arange(nx) * np.pi / nx, {**one, "period": np.pi}),
            "y": ("y", y, one),
            "z": ("z", np.arange(nz) * 1.2 / nz, {**one, "period": 1.2}),
        },
        {"viscosity": 1e-3, "title": "synthetic channel", "periodic": "x z"},
    )


def rollout(states: xr.Dataset, init_time: float) -> xr.Dataset:
    """States of one trajectory as a forecast from `init_time`, ``(member, trajectory, init_time, lead_time, ...)``."""
    one = {"units": "1"}
    leads = np.arange(1.0, states.sizes["time"] + 1)
    forecast = states.rename(time="lead_time").assign_coords(lead_time=("lead_time", leads, one))
    forecast = forecast.expand_dims(member=[0], init_time=[init_time])
    forecast = forecast.transpose("member", "trajectory", "init_time", "lead_time", "x", "y", "z")
    valid = ("init_time", "lead_time"), init_time + leads[None]
    forecast = forecast.assign_coords(valid_time=valid)
    forecast["init_time"].attrs.update(one)
    return forecast
