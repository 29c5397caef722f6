"""Invariants of a step: kept to rounding by any network, undone by nothing else, and what is refused."""

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from noise_channel import packing_of, record

from workbench.data.grid import mean_one_weights
from workbench.errors import InputError
from workbench.models import FNO
from workbench.tasks import ForecastTask
from workbench.tasks.constraints import Constraints, Invariants
from workbench.weights import card_of, export, load

CHANNEL = Constraints(means=("u",), walls=("y",))


def weighted_mean(packing, values):
    """Physical mean over the volume ``[b, c]``."""
    area = torch.from_numpy(mean_one_weights(packing.spec, packing.groups["state"].space))
    return (values * area).mean((-3, -2, -1))


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000), residual=st.booleans())
def test_a_rollout_keeps_mean_and_walls_in_physical_units(seed, residual):
    torch.manual_seed(seed)
    dataset = record()
    packing = packing_of(dataset)
    network = functools.partial(FNO, width=4, modes=1, layers=1, projection=4)
    task = ForecastTask(network, residual=residual, constraints=CHANNEL).build(packing)
    start = packing.pack(dataset, "state")[:2]
    z = task.normalisers["state"](start)
    with torch.no_grad():
        for _ in range(5):
            z = task.advance(z[:, None])
    found = task.normalisers["state"].inverse(z)
    for node in (0, -1):
        torch.testing.assert_close(found[..., node, :], start[..., node, :], rtol=0, atol=1e-5)
    means = weighted_mean(packing, found) - weighted_mean(packing, start)
    assert means[:, 0].abs().max() < 1e-5
    assert means[:, 1:].abs().max() > 1e-3  # the others are free


def test_a_state_that_obeys_stays_as_it_is():
    dataset = record()
    packing = packing_of(dataset)
    area = torch.from_numpy(mean_one_weights(packing.spec, ("x", "y", "z")))
    invariants = Invariants(CHANNEL, packing.groups["state"], area)
    last = torch.randn(2, 3, 8, 5, 4)
    change = torch.randn(2, 3, 8, 5, 4) * invariants.inside
    change[:, 0] -= (
        invariants.inside
        * ((change[:, 0] * area).mean((1, 2, 3)) / (invariants.inside * area).mean())[:, None, None, None]
    )
    torch.testing.assert_close(invariants(last, last + change), last + change)


def test_horizons_rise_with_the_epochs():
    dataset = record()
    packing = packing_of(dataset)
    network = functools.partial(FNO, width=2, modes=1, layers=1, projection=2)
    task = ForecastTask(network, horizons={0: 1, 3: 4}).build(packing)
    batch = {"state": packing.pack(dataset, "state")[None, :7]}
    seen = []
    for epoch in range(5):
        type(task).current_epoch = property(lambda self, epoch=epoch: epoch)
        seen.append([sum(1 for _ in task.unrolled(batch, training)) for training in (True, False)])
    del type(task).current_epoch
    assert seen == [[1, 6], [1, 6], [1, 6], [4, 6], [4, 6]]


def test_weights_carry_constraints_and_horizons(tmp_path):
    network = functools.partial(FNO, width=2, modes=1, layers=1, projection=2)
    task = ForecastTask(network, constraints=CHANNEL, horizons={0: 1, 3: 4}).build(packing_of(record()))
    export(task, tmp_path / "a.safetensors", card_of(task))
    again, _ = load(tmp_path / "a.safetensors")
    assert again.constraints == CHANNEL and again.horizons == {0: 1, 3: 4}


@pytest.mark.parametrize(
    ("constraints", "message"),
    [
        (Constraints(means=("p",)), "constraints.means names 'p': expected one of \\['u', 'v', 'w'\\]"),
        (Constraints(walls=("q",)), "constraints.walls names 'q': expected one of \\['x', 'y', 'z'\\]"),
    ],
)
def test_unknown_names_are_refused(constraints, message):
    with pytest.raises(InputError, match=message):
        Invariants(constraints, packing_of(record()).groups["state"], torch.ones(8, 5, 4))


@pytest.mark.parametrize("horizons", [{-1: 1}, {0: 0}])
def test_horizons_out_of_range_are_refused(horizons):
    with pytest.raises(InputError, match="expected epochs from 0 with at least 1 step"):
        ForecastTask(functools.partial(FNO), horizons=horizons)
