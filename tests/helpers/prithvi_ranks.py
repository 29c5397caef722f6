"""Two processes that share one Prithvi WxC in parts; each compares with the whole one. Exits with 0 if they agree."""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from workbench.models.prithvi import PrithviWxC
from workbench.models.prithvi_masking import Order
from workbench.models.prithvi_sharding import shard

RANKS = 2
SPACE = (8, 12)


def network():
    torch.manual_seed(0)
    model = PrithviWxC(
        3, 5, SPACE, embed_dim=16, n_heads=2, n_blocks_encoder=2, n_blocks_decoder=2, mask_unit_size_px=(4, 6),
        checkpoint_encoder=(0, 3), mask_ratio_inputs=0.5,
    )  # fmt: skip
    model.place((torch.linspace(-60, 60, 8), torch.linspace(0, 330, 12)))
    return model


def sample(ranks):
    torch.manual_seed(1)
    fields = [torch.randn(RANKS, *shape, *SPACE)[ranks] for shape in ((2, 3), (5,), (3,), (3,))]
    times = [torch.tensor([6.0, 3.0])[ranks], torch.tensor([6.0, 24.0])[ranks]]
    return fields, times


def loss_of(model, ranks):
    torch.manual_seed(2)  # the same tokens are masked for a sample, whichever ranks have it
    orders = torch.rand(RANKS, *model.tiling.shape).argsort(-1)[ranks]
    half = orders.shape[-1] // 2
    (x, static, climate, target), times = sample(ranks)
    y = model(x, static, *times, climate, order=Order(orders[..., :half], orders[..., half:]))
    return (y - target).square().mean()


def compare(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS)
    whole, parts = network(), shard(network())
    loss_of(whole, list(range(RANKS))).backward()
    for _ in range(2):  # the second time from gathered parts
        parts.zero_grad()
        loss_of(parts, [rank]).backward()
    expected = dict(whole.named_parameters())
    for name, parameter in parts.named_parameters():
        assert parameter.to_local().numel() <= parameter.numel() / RANKS + parameter[0].numel(), f"{name} is whole"
        torch.testing.assert_close(parameter.grad.full_tensor(), expected[name].grad, rtol=1e-4, atol=1e-6, msg=name)
    halved = shard(network(), dtype=torch.bfloat16)
    seen = []
    halved.decoder.lgl_block.transformers[0].register_forward_hook(lambda *call: seen.append(call[2].dtype))
    loss = loss_of(halved, [rank])
    loss.backward()
    assert seen == [torch.bfloat16] and loss.dtype == torch.float32
    assert halved.unembed.weight.grad.dtype == torch.float32
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    # forked, so that everything is imported once
    children = []
    for rank in range(RANKS):
        child = os.fork()
        if not child:
            status = 1
            try:
                compare(rank, folder)
                status = 0
            finally:
                if status:
                    import traceback

                    traceback.print_exc()
                sys.stderr.flush()
                os._exit(status)
        children.append(child)
    sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0 for child in children))
