"""The core of Prithvi WxC inside other networks: its blocks are the published ones, its output reaches the result."""

from functools import partial

import pytest
import torch

from workbench.errors import InputError
from workbench.models import Downscaling, FluxUNet, PrithviCore, ResidualBlocks
from workbench.models.prithvi import PrithviWxC

SIZES = {"embed_dim": 16, "n_heads": 2, "n_blocks_encoder": 1}
CORE = partial(PrithviCore, **SIZES, mask_unit_size_px=(4, 4))
BLOCKS = partial(ResidualBlocks, blocks=2)


def downscaling(body=CORE, **options):
    torch.manual_seed(0)
    return Downscaling((3, 2), 1, ((4, 6), (16, 24)), width=8, upscale=(2, 2), body=body, **options)


def flux(body=CORE, **options):
    torch.manual_seed(0)
    return FluxUNet(3, 5, (8, 12), width=4, levels=3, body=body, **options)


def run(network):
    torch.manual_seed(1)
    if isinstance(network, Downscaling):
        return network(torch.randn(2, 3, 4, 6), torch.randn(2, 2, 16, 24))
    return network(torch.randn(2, 3, 8, 12))


def test_the_blocks_take_the_weights_of_a_pretrained_network_and_do_the_same():
    options = SIZES | {"n_blocks_decoder": 1}
    torch.manual_seed(0)
    whole = PrithviWxC(2, 4, (8, 12), mask_unit_size_px=(4, 4), patch_size_px=(1, 1), decoder_shifting=False, **options)
    core = PrithviCore(7, (8, 12), mask_unit_size_px=(4, 4), **options)
    core.take(whole.state_dict(), "weights.pt")
    tokens = torch.randn(6, 2, 16, 16)
    torch.testing.assert_close(core.decoder(core.encoder(tokens)), whole.decoder(whole.encoder(tokens)), rtol=0, atol=0)
    with pytest.raises(InputError, match="weights.pt has nothing for 'encoder.lgl_block.transformers.3"):
        PrithviCore(7, (8, 12), **(options | {"n_blocks_encoder": 2}), mask_unit_size_px=(4, 4)).take(
            whole.state_dict(), "weights.pt"
        )
    with pytest.raises(InputError, match=r"embed_dim must be a multiple of n_heads \(3\), found 16"):
        PrithviCore(7, (8, 12), 16, 3)


@pytest.mark.parametrize(("make", "shape"), [(downscaling, (2, 1, 16, 24)), (flux, (2, 5, 8, 12))])
@pytest.mark.parametrize("body", [CORE, BLOCKS])
def test_every_weight_of_the_body_moves_the_result(make, shape, body):
    """The published fine-tuning multiplied the core's output by 0: nothing of it reached the fluxes."""
    network = make(body)
    found = run(network)
    assert found.shape == shape
    found.square().mean().backward()
    for name, parameter in network.body.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    with torch.no_grad():
        for parameter in network.body.parameters():
            parameter.mul_(1.5)
    assert (run(network) - found).abs().max() > 1e-4 * found.abs().max()


def test_the_core_takes_any_batch_and_its_residual_sums_stay_in_float32_under_autocast():
    core, features = CORE(8, (8, 12)), torch.randn(3, 8, 8, 12)
    whole = core(features)
    torch.testing.assert_close(torch.cat([core(f[None]) for f in features]), whole)
    with torch.autocast("cpu", torch.bfloat16):
        low = core(features.bfloat16())
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, whole, atol=0.03, rtol=0.03)


def test_learnt_maps_start_from_nothing_and_a_network_with_a_regression_from_the_regression():
    network = downscaling(learned_fields=2)
    assert not network.learned.any()
    run(network).square().mean().backward()
    assert network.learned.grad.abs().max() > 0
    assert not run(downscaling(local_regression=True)).any(), "what is fitted is what training starts from"


def test_the_local_regression_is_the_linear_map_of_the_cells_around():
    network = downscaling(local_regression=True)
    with torch.no_grad():
        network.linear[:, 4] = 1.0  # of nine cells the middle one, of the first channel
    means = torch.randn(2, 3, 4, 6)
    repeated = means[:, :1].repeat_interleave(4, 2).repeat_interleave(4, 3)
    torch.testing.assert_close(network.regressed(means), repeated)


def test_a_plain_flux_network_moves_with_the_flow_on_a_periodic_grid():
    network = flux(partial(BLOCKS, periodic=(True, True)), periodic=True).eval()
    x = torch.randn(1, 3, 8, 12)
    torch.testing.assert_close(network(x.roll((3, 5), (2, 3))), network(x).roll((3, 5), (2, 3)), atol=1e-5, rtol=1e-4)


def test_rises_that_do_not_make_up_a_cell_are_refused():
    with pytest.raises(InputError, match="upscale with the product data.coarsen"):
        Downscaling((1, 0), 1, ((4, 6), (16, 24)), upscale=(2, 3))
