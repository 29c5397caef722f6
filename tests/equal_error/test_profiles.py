"""Plane averages of a channel and their distances, from fields whose statistics are known."""

from itertools import count

import numpy as np
import pytest
import torch
import xarray as xr

from workbench.data.config import DataConfig, Split
from workbench.data.starts import Problem
from workbench.equal_error.profiles import STATISTICS, Profiles, distances, moments
from workbench.equal_error.starts import Starts


def channel(**attrs) -> xr.Dataset:
    rng = np.random.default_rng(0)
    y = np.linspace(0, 2, 9)
    shape = (4, 12, 8, 9, 6)
    mean = {"u": y * (2 - y), "v": 0 * y, "w": 0 * y}
    dims = ("trajectory", "time", "x", "y", "z")
    data = {}
    for name, profile in mean.items():
        noise = 0.1 * (y * (2 - y))[:, None] * rng.standard_normal(shape)
        data[name] = (dims, (profile[:, None] + noise).astype("f4"), {"units": "1", "long_name": name})
    coords = {d: (d, np.arange(n) * 1.0, {"units": "1"}) for d, n in zip(dims, shape, strict=True)}
    return xr.Dataset(data, {**coords, "y": ("y", y, {"units": "1"})}, attrs)


def problem(record: xr.Dataset, state=("w", "u", "v")) -> Problem:
    split = Split(by="trajectory", train=(0, 2), validation=(2, 3), test=(3, 4))
    return Problem.of(record, DataConfig(record="x", state=state, split=split), 4)


def profiles_of(record: xr.Dataset, state=("w", "u", "v"), steps: int = 10) -> Profiles | None:
    return Profiles.of(Starts.choose(problem(record, state), "test", 3), steps)


def test_only_a_channel_has_profiles():
    assert profiles_of(channel()) is None
    assert profiles_of(channel(bulk_velocity=2 / 3), ("u", "v")) is None
    found = profiles_of(channel(bulk_velocity=2 / 3))
    assert (found.channels, found.plane, found.steps) == ((1, 2, 0), (2, 4), 10)


def test_moments_are_plane_averages_in_the_order_u_v_w():
    state = torch.rand(2, 3, 8, 9, 6)
    found = moments(state, (1, 2, 0), (2, 4))
    assert found.shape == (2, 2, 3, 9)
    np.testing.assert_allclose(found[1, 0, 0], state[1, 1].mean((0, 2)), rtol=1e-6)
    np.testing.assert_allclose(found[1, 1, 2], (state[1, 0] ** 2).mean((0, 2)), rtol=1e-6)


def test_distances_of_known_changes():
    """A mean 10 % up is 0.1 away; fluctuations of v doubled are 1 away; nothing else moves."""
    y = np.linspace(0.1, 1, 7)
    mean, rms = np.stack([y, 0 * y, 0 * y]), np.stack([0.2 * y, 0.1 * y, 0.1 * y])
    truth = np.stack([mean, mean**2 + rms**2])
    other_mean, other_rms = mean * 1.1, rms * np.array([1, 2, 1])[:, None]
    found = distances(np.stack([other_mean, other_mean**2 + other_rms**2])[None], truth)
    np.testing.assert_allclose(found, [[0.1, 0.0, 1.0, 0.0]], atol=1e-12)
    assert len(STATISTICS) == found.shape[1]
    assert np.isinf(distances(np.full((2, 3, 7), np.nan), truth)).all()


def test_runs_are_averaged_over_their_second_half():
    profiles = profiles_of(channel(bulk_velocity=2 / 3), steps=4)
    states = (torch.full((2, 3, 8, 9, 6), float(k)) for k in count())
    found = profiles.of_runs(states)
    np.testing.assert_allclose(found[:, 0], 2.5)
    np.testing.assert_allclose(found[:, 1], (4 + 9) / 2)


def test_the_truth_is_as_far_from_itself_as_its_sample_is_small():
    sampling = profiles_of(channel(bulk_velocity=2 / 3)).sampling
    assert sampling[0] < 0.01 and (sampling[1:] < 0.1).all() and (sampling > 0).all()


def test_starts_carry_the_record_s_own_states():
    record = channel(bulk_velocity=2 / 3)
    starts = Starts.choose(problem(record), "test", 3)
    truth, before = starts.truth(range(len(starts))), starts.before(("v",), [1], 2)
    for number, time in enumerate(starts.times):
        expected = np.stack([record[n].values[3, time + 1 : time + 5] for n in ("w", "u", "v")], 1)
        np.testing.assert_array_equal(truth[number], expected)
    np.testing.assert_array_equal(before[0, :, 0], record.v.values[3, starts.times[1] - 1 : starts.times[1] + 1])
    assert starts.interval == 1.0 and starts.groups == (1, len(starts.times))


@pytest.mark.parametrize("wanted", [1, 2, 7])
def test_about_as_many_starts_as_are_wanted(wanted):
    split = Split(by="trajectory", train=(0, 0.25), validation=(0.25, 0.5), test=(0.5, 1))
    config = DataConfig(record="x", state=("u",), split=split)
    starts = Starts.choose(Problem.of(channel(), config, 4), "test", wanted)
    assert wanted <= len(starts) <= wanted + 1
