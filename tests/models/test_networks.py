"""What every network promises to the tasks: how it is built, what it maps, how it is stored."""

import copy
import inspect

import pytest
import torch
from safetensors.torch import load, save

import workbench.models
from workbench.models import Network, TransientNetwork


def own(kind):
    return [network for network in kind.__subclasses__() if network.__module__.startswith("workbench.")]


NETWORKS, TRANSIENT = own(Network), own(TransientNetwork)
SPACE = (24, 25)
WINDOWED = (24, 24)
"""For a network that divides its grid into windows."""


def space_of(network):
    return WINDOWED if network is workbench.models.FluxUNet else SPACE


def test_every_network_is_exported():
    assert NETWORKS and TRANSIENT
    for network in NETWORKS + TRANSIENT:
        assert getattr(workbench.models, network.__name__) is network


@pytest.mark.parametrize("network", NETWORKS + TRANSIENT)
def test_constructor(network):
    parameters = list(inspect.signature(network).parameters.values())
    assert [p.name for p in parameters[:3]] == ["in_channels", "out_channels", "space"]
    assert all(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters)
    documented = inspect.getdoc(network)
    for p in parameters[3:]:
        assert p.default is not p.empty, f"{p.name} has no default: an empty configuration must work"
        assert f"\n    {p.name}: " in documented, f"{p.name} is not explained"
    assert "Good values" in documented


@pytest.mark.parametrize("network", NETWORKS)
def test_forward(network):
    space = space_of(network)
    model = network(3, 2, space)
    assert (model.in_channels, model.out_channels, model.space) == (3, 2, space)
    y = model(torch.randn(2, 3, *space))
    assert y.shape == (2, 2, *space) and y.dtype == torch.float32
    y.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("network", NETWORKS)
def test_state_round_trips_through_safetensors(network):
    space = space_of(network)
    model, other = network(1, 1, space), network(1, 1, space)
    other.load_state_dict(load(save(model.state_dict())))
    x = torch.randn(1, 1, *space)
    assert torch.equal(model(x), other(x)) and torch.equal(model(x), copy.deepcopy(model)(x))
    assert not any(tensor.is_complex() for tensor in model.state_dict().values())
