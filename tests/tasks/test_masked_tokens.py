"""Masked tokens at inference: another draw for each seed, sample and state; the same for the same ones."""

from types import SimpleNamespace

import pytest
import torch

from workbench.errors import InputError
from workbench.models.fno import FNO
from workbench.models.prithvi import PrithviWxC
from workbench.tasks.masked_tokens import _order, mask_tokens

SPACE, CHANNELS, STATIC = (8, 12), 3, 6
SMALL = {"embed_dim": 16, "n_heads": 2, "n_blocks_encoder": 2, "n_blocks_decoder": 2, "mask_unit_size_px": (4, 4)}


def network(**options):
    torch.manual_seed(0)
    model = PrithviWxC(CHANNELS, STATIC, SPACE, **(SMALL | options)).eval()
    model.place((torch.linspace(-70, 75, 8).double(), torch.linspace(-180, 150, 12).double()))
    return model


def inputs(batch=2):
    torch.manual_seed(1)
    x, static, climate = (torch.randn(batch, *shape, *SPACE) for shape in ((2, CHANNELS), (STATIC,), (CHANNELS,)))
    hours = torch.full((batch,), 6.0)
    return x, static, hours, hours, climate


@pytest.mark.parametrize("masking", ["local", "global"])
def test_a_masked_call_is_the_network_with_that_order(masking):
    plain, masked = network(masking_mode=masking), network(masking_mode=masking)
    mask_tokens(SimpleNamespace(network=masked, begin=None), 0.5, seed=3, steps="all")
    given = inputs()
    with torch.no_grad():
        found = masked(*given)
        order = _order(plain, given[0], 0.5, 3)
        torch.testing.assert_close(found, plain(*given, order=order))
        assert (found - plain(*given)).abs().max() > 1e-3
    count = 4 if masking == "local" else 6
    assert order.masked.shape[-1] == count // 2


def test_draws_differ_by_seed_and_state_and_not_by_company():
    model, (x, *_) = network(), inputs()
    one = _order(model, x, 0.5, 3)
    assert not torch.equal(one.masked[0], one.masked[1])
    assert torch.equal(_order(model, x[1:], 0.5, 3).masked[0], one.masked[1])
    assert not torch.equal(_order(model, x, 0.5, 4).masked, one.masked)
    assert not torch.equal(_order(model, x + 1, 0.5, 3).masked, one.masked)


def test_the_draws_of_others_go_on_as_if_nothing_had_been_drawn():
    model, (x, *_) = network(), inputs()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    _order(model, x, 0.5, 3)
    assert torch.equal(torch.rand(3), expected)


def test_a_network_without_tokens_is_refused():
    with pytest.raises(InputError, match="the model's network is FNO: make members with rollout.perturbation"):
        network = FNO(1, 1, (8, 8), width=4, modes=(2, 2), layers=1)
        mask_tokens(SimpleNamespace(network=network, begin=None), 0.5, 0)
