"""What every network on the life of cells promises: how it is built, what it maps, that many of them run as one."""

import inspect

import pytest
import torch
from torch.func import functional_call, stack_module_state, vmap

import workbench.models
from workbench.models import CellNetwork, CyclePatch

NETWORKS = [n for n in CellNetwork.__subclasses__() if n.__module__.startswith("workbench.")]
SHAPE = (2, 9, 40)


def test_every_network_is_exported():
    assert NETWORKS
    for network in NETWORKS:
        assert getattr(workbench.models, network.__name__) is network


@pytest.mark.parametrize("network", NETWORKS)
def test_constructor(network):
    parameters = list(inspect.signature(network).parameters.values())
    assert [p.name for p in parameters[:3]] == ["variables", "cycles", "points"]
    documented = inspect.getdoc(network)
    for p in parameters[3:]:
        assert p.default is not p.empty, f"{p.name} has no default: an empty configuration must work"
        assert f"\n    {p.name}: " in documented, f"{p.name} is not explained"


@pytest.mark.parametrize("network", NETWORKS)
def test_both_videos_and_all_parameters_are_used(network):
    model = network(*SHAPE)
    raw, change = (torch.randn(3, *SHAPE, requires_grad=True) for _ in range(2))
    y = model(raw, change)
    assert y.shape == (3,) and y.dtype == torch.float32
    y.square().mean().backward()
    assert all(x.grad.isfinite().all() and x.grad.any() for x in (raw, change, *model.parameters()))


@pytest.mark.parametrize("network", NETWORKS)
def test_many_networks_run_as_one(network):
    """The same values as one after the other, and random numbers of its own for each."""
    models = [network(*SHAPE).eval() for _ in range(3)]
    raw, change = torch.randn(2, 3, 5, *SHAPE)
    weights, _ = stack_module_state(models)
    together = vmap(lambda w, r, c: functional_call(models[0], w, (r, c)), randomness="different")
    expected = torch.stack([m(r, c) for m, r, c in zip(models, raw, change, strict=True)])
    torch.testing.assert_close(together(weights, raw, change), expected, rtol=1e-4, atol=1e-5)
    models[0].train()
    same = {name: w[:1].expand_as(w) for name, w in weights.items()}
    first, second, _ = together(same, raw[:1].expand_as(raw), change[:1].expand_as(change))
    assert not torch.allclose(first, second)


def test_cyclepatch_sees_the_order_of_cycles_only_when_it_joins_them():
    """Tokens are made from each cycle alone, by the same weights."""
    model = CyclePatch(*SHAPE).eval()
    raw, change = torch.randn(2, 1, *SHAPE)
    order = torch.randperm(SHAPE[1])
    tokens = lambda r, c: model.within(model.embed(torch.cat([r, c], 1).transpose(1, 2).flatten(2)))  # noqa: E731
    torch.testing.assert_close(tokens(raw[:, :, order], change[:, :, order]), tokens(raw, change)[:, order])
    assert not torch.allclose(model(raw[:, :, order], change[:, :, order]), model(raw, change))
