"""IFactFormer as its equations are usually typed: einops, einsum, torch's modules, autograd; nothing saved or folded.

The reference for correctness and speed of ``workbench.models.IFactFormer``. It has the published parameter names, so
both take the same state dict. Fields are channels last, ``[b, t, x, y, z, c]`` in and ``[b, x, y, z, c]`` out.
"""

from math import pi

import torch
from einops import rearrange, repeat
from torch import nn

BOX = (4 * pi, 2.0, 4 * pi / 3)


class PlainRotary(nn.Module):
    def __init__(self, dim, min_freq=1 / 64):
        super().__init__()
        self.min_freq = min_freq
        self.register_buffer("inv_freq", 1.0 / 10000 ** (torch.arange(0, dim, 2).float() / dim))

    def forward(self, coordinates):
        angles = torch.einsum("bi,j->bij", coordinates / self.min_freq, self.inv_freq)
        return torch.cat((angles, angles), dim=-1)


def rotate(t, angles):
    first, second = rearrange(t, "... (j d) -> ... j d", j=2).unbind(dim=-2)
    return t * angles.cos() + torch.cat((-second, first), dim=-1) * angles.sin()


class PlainKernel(nn.Module):
    def __init__(self, dim, heads, width):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(dim, heads * width, bias=False)
        self.to_k = nn.Linear(dim, heads * width, bias=False)
        self.pos_emb = PlainRotary(width)

    def forward(self, features, nodes):
        q, k = (rearrange(to(features), "b n (h d) -> b h n d", h=self.heads) for to in (self.to_q, self.to_k))
        angles = self.pos_emb(repeat(nodes, "n 1 -> b n", b=len(features)))
        angles = repeat(angles, "b n d -> b h n d", h=self.heads)
        return torch.einsum("bhid,bhjd->bhij", rotate(q, angles), rotate(k, angles))


class GatedGELU(nn.Module):
    def forward(self, x):
        value, gate = x.chunk(2, dim=-1)
        return nn.functional.gelu(value) * gate


class PlainFeedForward(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dim, 2 * dim), GatedGELU(), nn.Dropout(0.0), nn.Linear(dim, dim))

    def forward(self, x):
        return self.net(x)


class PlainPreNorm(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fn = PlainFeedForward(dim)

    def forward(self, x):
        return self.fn(self.norm(x))


class PlainPooling(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.to_in = nn.Linear(dim, dim, bias=False)
        self.out_ffn = PlainPreNorm(dim)

    def forward(self, x):
        x = self.to_in(x)
        while x.ndim > 3:
            x = x.mean(dim=2)
        return self.out_ffn(x)


class AxisFirst(nn.Module):
    def __init__(self, axis):
        super().__init__()
        self.axis = axis

    def forward(self, x):
        return x.movedim(self.axis, 1)


class InstanceNorm(nn.Module):
    def forward(self, x):
        return nn.functional.instance_norm(x)


class ToChannelsLast(nn.Module):
    def forward(self, x):
        return rearrange(x, "b c x y z -> b x y z c")


class PlainBlock(nn.Module):
    def __init__(self, dim, heads, dim_head, chained, norm, extra_head):
        super().__init__()
        self.heads, self.chained, self.norm = heads, chained, norm
        self.in_norm = nn.LayerNorm(dim)
        self.to_v = nn.Linear(dim, heads * dim_head, bias=False)
        self.to_in = nn.Linear(dim, dim, bias=False)
        self.to_x = nn.Sequential(PlainPooling(dim))
        self.to_y = nn.Sequential(AxisFirst(2), PlainPooling(dim))
        self.to_z = nn.Sequential(AxisFirst(3), PlainPooling(dim))
        self.low_rank_kernel_x = PlainKernel(dim, heads, 3 * dim_head)
        self.low_rank_kernel_y = PlainKernel(dim, heads, 3 * dim_head)
        self.low_rank_kernel_z = PlainKernel(dim, heads, 3 * dim_head)
        hidden = heads * dim_head * (1 if chained else 3)
        linear = [nn.Linear(hidden, dim, bias=False), nn.GELU(), nn.Linear(dim, dim, bias=False)]
        # of a channels-last field the norm takes each x-plane for a channel
        lead = [InstanceNorm()] if norm == "plane" else [InstanceNorm(), ToChannelsLast()]
        self.to_out = nn.Sequential(*lead, *linear)
        if extra_head:
            self.to_out_1 = nn.Sequential(nn.Linear(dim, dim, bias=False), nn.GELU(), nn.Linear(dim, dim, bias=False))

    def forward(self, u, nodes):
        u = self.in_norm(u)
        v = rearrange(self.to_v(u), "b x y z (h c) -> b h x y z c", h=self.heads)
        u = self.to_in(u)
        kx = self.low_rank_kernel_x(self.to_x(u), nodes[0])
        ky = self.low_rank_kernel_y(self.to_y(u), nodes[1])
        kz = self.low_rank_kernel_z(self.to_z(u), nodes[2])
        if self.chained:
            v = torch.einsum("bhij,bhjmsc->bhimsc", kx, v)
            v = torch.einsum("bhlm,bhimsc->bhilsc", ky, v)
            v = torch.einsum("bhrs,bhilsc->bhilrc", kz, v)
        else:
            along_x = torch.einsum("bhij,bhjmsc->bhimsc", kx, v)
            along_y = torch.einsum("bhlm,bhimsc->bhilsc", ky, v)
            along_z = torch.einsum("bhrs,bhilsc->bhilrc", kz, v)
            v = torch.cat((along_x, along_y, along_z), dim=-1)
        last = "b x y z (h c)" if self.norm == "plane" else "b (h c) x y z"
        u = self.to_out(rearrange(v, f"b h x y z c -> {last}"))
        return self.to_out_1(u) if hasattr(self, "to_out_1") else u


class PlainPosition(nn.Module):
    def __init__(self, dim, axes=3):
        super().__init__()
        self._B = nn.Parameter(8 * torch.randn(axes, dim // 2), requires_grad=False)

    def forward(self, nodes):
        grid = torch.stack(torch.meshgrid(*(n[:, 0] for n in nodes), indexing="ij"), dim=-1)
        phase = 2 * pi * grid @ self._B
        return torch.cat((phase.sin(), phase.cos()), dim=-1)


class PlainEncoder(nn.Module):
    def __init__(self, dim, depth, iterations, **block):
        super().__init__()
        self.iterations = iterations
        self.layers = nn.ModuleList(
            nn.ModuleList([nn.Sequential(PlainPosition(dim), nn.Linear(dim, dim)), PlainBlock(dim, **block)])
            for _ in range(depth)
        )

    def forward(self, u, nodes):
        for position, block in self.layers:
            u = u + position(nodes)
            for _ in range(self.iterations):
                u = u + block(u, nodes) / self.iterations
        return u


class PlainIFactFormer(nn.Module):
    def __init__(
        self, in_dim=3, out_dim=3, history=1, dim=96, heads=5, dim_head=96, depth=1, iterations=10,
        chained=False, norm="channel", extra_head=False, box=BOX,
    ):  # fmt: skip
        super().__init__()
        self.box = box
        self.to_in = nn.Sequential(
            nn.Conv2d(in_dim, dim // 2, 1, groups=in_dim),
            nn.GELU(),
            nn.Conv2d(dim // 2, dim, (history, 1), bias=False),
        )
        self.encoder = PlainEncoder(
            dim, depth, iterations, heads=heads, dim_head=dim_head, chained=chained, norm=norm, extra_head=extra_head
        )
        self.simple_to_out = nn.Sequential(
            nn.Identity(), nn.Conv1d(dim, dim // 2, 1, bias=False), nn.GELU(), nn.Conv1d(dim // 2, out_dim, 1)
        )

    def forward(self, x):
        space = x.shape[2:5]
        # in single precision whatever the precision of the network, as published
        nodes = [torch.linspace(0, a, n)[:, None].to(x) for a, n in zip(self.box, space, strict=True)]
        u = self.to_in(rearrange(x, "b t x y z c -> b c t (x y z)"))
        u = rearrange(u, "b c 1 (x y z) -> b x y z c", x=space[0], y=space[1])
        u = self.encoder(u, nodes)
        y = self.simple_to_out(rearrange(u, "b x y z c -> b c (x y z)"))
        return rearrange(y, "b c (x y z) -> b x y z c", x=space[0], y=space[1])
