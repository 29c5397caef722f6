"""Prithvi WxC as its description is usually typed: axes ``[b, g, l, e]``, convolutions, gathers, torch's modules.

The reference for correctness and speed of ``workbench.models.prithvi``. It has the published parameter names, so both
take the same state dict. Like the published code it draws an order of the tokens in every pass, gathers by it, puts
mask tokens beside them (none at ratio 0) and gathers back; it encodes the place of every token anew, and attends with
torch's fused kernel. It leaves out what the published code makes and never reads: the masks of moved windows.
"""

import torch
from einops import rearrange
from torch import nn
from torch.nn import functional


class PlainAttention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.qkv_layer = nn.Linear(dim, 3 * dim, bias=False)
        self.w_layer = nn.Linear(dim, dim, bias=False)

    def forward(self, z):
        batch, sequences = z.shape[:2]
        qkv = rearrange(self.qkv_layer(z), "b s n (h c) -> (b s) h n c", h=self.heads)
        q, k, v = qkv.chunk(3, dim=-1)
        out = functional.scaled_dot_product_attention(q, k, v)
        return self.w_layer(rearrange(out, "(b s) h n c -> b s n (h c)", b=batch, s=sequences))


class PlainMLP(nn.Module):
    def __init__(self, dim, hidden):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(dim, hidden), nn.GELU(), nn.Dropout(0.0), nn.Linear(hidden, dim), nn.Dropout(0.0)
        )

    def forward(self, z):
        return self.net(z)


class PlainBlock(nn.Module):
    def __init__(self, dim, heads, multiplier):
        super().__init__()
        self.attention = nn.Sequential(nn.LayerNorm(dim), PlainAttention(dim, heads))
        self.ff = nn.Sequential(nn.LayerNorm(dim), PlainMLP(dim, multiplier * dim))

    def forward(self, z):
        z = z + self.attention(z)
        return z + self.ff(z)


class PlainStack(nn.Module):
    def __init__(self, pairs, dim, heads, multiplier, shifted, windows, tokens):
        super().__init__()
        self.lgl_block = nn.Module()
        self.lgl_block.transformers = nn.ModuleList(PlainBlock(dim, heads, multiplier) for _ in range(2 * pairs + 1))
        self.shifted, self.windows, self.tokens = shifted, windows, tokens

    def forward(self, z):
        local, *others = self.lgl_block.transformers
        z, sign = local(z), 1
        for across, local in zip(others[::2], others[1::2], strict=True):
            z = across(z.transpose(1, 2)).transpose(1, 2)
            if self.shifted:
                z, sign = self.roll(z, sign), -sign
            z = local(z)
        return z

    def roll(self, z, sign):
        (gh, gw), (lh, lw) = self.windows, self.tokens
        z = rearrange(z, "b (gh gw) (lh lw) e -> b (gh lh) (gw lw) e", gh=gh, lh=lh, gw=gw)
        z = torch.roll(z, (sign * (lh // 2), sign * (lw // 2)), (1, 2))
        return rearrange(z, "b (gh lh) (gw lw) e -> b (gh gw) (lh lw) e", gh=gh, lh=lh, gw=gw, lw=lw)


class PlainPatches(nn.Module):
    def __init__(self, channels, dim, patch):
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, kernel_size=patch, stride=patch)

    def forward(self, x):
        return self.proj(x)


class PlainPrithvi(nn.Module):
    def __init__(
        self, in_channels, in_channels_static, n_lats_px, n_lons_px, patch_size_px, mask_unit_size_px, embed_dim,
        n_blocks_encoder, n_blocks_decoder, n_heads, mlp_multiplier=4, input_size_time=2, residual="climate",
        positional_encoding="fourier", masking_mode="global", mask_ratio_inputs=0.0, encoder_shifting=False,
        decoder_shifting=False, **_,
    ):  # fmt: skip
        super().__init__()
        self.residual, self.encoding, self.masking = residual, positional_encoding, masking_mode
        self.ratio, self.patch, self.dim = mask_ratio_inputs, patch_size_px[0], embed_dim
        self.windows = (n_lats_px // mask_unit_size_px[0], n_lons_px // mask_unit_size_px[1])
        self.tokens = tuple(u // p for u, p in zip(mask_unit_size_px, patch_size_px, strict=True))
        surface = in_channels_static - (4 if positional_encoding == "fourier" else 7)
        self.mask_token = nn.Parameter(torch.randn(1, 1, 1, embed_dim))
        self.register_buffer("input_scalers_mu", torch.zeros(1, 1, in_channels, 1, 1))
        self.register_buffer("input_scalers_sigma", torch.ones(1, 1, in_channels, 1, 1))
        self.register_buffer("static_input_scalers_mu", torch.zeros(1, 7 + surface, 1, 1))
        self.register_buffer("static_input_scalers_sigma", torch.ones(1, 7 + surface, 1, 1))
        self.register_buffer("output_scalers", torch.ones(1, in_channels, 1, 1))
        self.patch_embedding = PlainPatches(input_size_time * in_channels, embed_dim, patch_size_px)
        static = in_channels_static + (in_channels if residual == "climate" else 0)
        self.patch_embedding_static = PlainPatches(static, embed_dim, patch_size_px)
        self.input_time_embedding = nn.Linear(1, embed_dim // 4)
        self.lead_time_embedding = nn.Linear(1, embed_dim // 4)
        stack = (embed_dim, n_heads, mlp_multiplier)
        self.encoder = PlainStack(n_blocks_encoder, *stack, encoder_shifting, self.windows, self.tokens)
        self.decoder = PlainStack(n_blocks_decoder, *stack, decoder_shifting, self.windows, self.tokens)
        self.unembed = nn.Linear(embed_dim, in_channels * self.patch**2)

    def to_patching(self, x):
        (gh, gw), (lh, lw) = self.windows, self.tokens
        return rearrange(x, "b e (gh lh) (gw lw) -> b (gh gw) (lh lw) e", gh=gh, lh=lh, gw=gw, lw=lw)

    def from_patching(self, x):
        (gh, gw), (lh, lw) = self.windows, self.tokens
        return rearrange(x, "b (gh gw) (lh lw) e -> b e (gh lh) (gw lw)", gh=gh, lh=lh, gw=gw, lw=lw)

    def fourier(self, places):
        places = functional.avg_pool2d(places, self.patch)
        wavenumbers = torch.arange(1, self.dim // 4 + 1).to(places).view(1, -1, 1, 1)
        lat, lon = places[:, :1] * wavenumbers, places[:, 1:2] * wavenumbers
        return torch.cat([lat.sin(), lon.sin(), lat.cos(), lon.cos()], 1)

    def time_encoding(self, input_time, lead_time):
        a, b = self.input_time_embedding(input_time[:, None]), self.lead_time_embedding(lead_time[:, None])
        return torch.cat([a.cos(), b.cos(), a.sin(), b.sin()], 1)[:, None, None]

    def draw(self, batch):
        windows, tokens = self.windows[0] * self.windows[1], self.tokens[0] * self.tokens[1]
        shape = (batch, windows) if self.masking == "global" else (batch, windows, tokens)
        order = torch.rand(shape, device=self.mask_token.device).argsort(-1)
        count = int(self.ratio * shape[-1])
        return order[..., :count], order[..., count:]

    def gather(self, z, index):
        axis = index.ndim - 1
        while index.ndim < z.ndim:
            index = index[..., None]
        sizes = [1 if n <= axis else size for n, size in enumerate(z.shape)]
        return torch.gather(z, axis, index.repeat(sizes))

    def forward(self, batch, indices=None):
        """The forecast for the published batch: x, static (two maps of radians first if fourier), climate, times."""
        x, static = batch["x"], batch["static"]
        scaled = (x - self.input_scalers_mu) / self.input_scalers_sigma
        places = static[:, :2]
        if self.encoding == "fourier":
            mu, sigma = self.static_input_scalers_mu[:, 3:], self.static_input_scalers_sigma[:, 3:]
            static = (static[:, 2:] - mu) / sigma
        else:
            static = (static - self.static_input_scalers_mu) / self.static_input_scalers_sigma
        if self.residual == "climate":
            climate = (batch["climate"] - self.input_scalers_mu[:, 0]) / self.input_scalers_sigma[:, 0]
            static = torch.cat([static, climate], 1)
        s = self.patch_embedding_static(static)
        if self.encoding == "fourier":
            s = s + self.fourier(places)
        s = self.to_patching(s)
        z = self.to_patching(self.patch_embedding(scaled.flatten(1, 2)))
        z = z + s + self.time_encoding(batch["input_time"], batch["lead_time"])
        masked, kept = self.draw(len(x)) if indices is None else indices
        encoded = self.encoder(self.gather(z, kept))
        hidden = self.mask_token + self.gather(s, masked)
        axis = kept.ndim - 1
        z = torch.cat([hidden, encoded], axis)
        z = self.decoder(self.gather(z, torch.cat([masked, kept], axis).argsort(-1)))
        out = functional.pixel_shuffle(self.from_patching(self.unembed(z)), self.patch)
        if self.residual == "climate":
            return self.output_scalers * out + batch["climate"]
        if self.residual == "temporal":
            later = (batch["lead_time"] > 0)[:, None, None, None]
            return self.output_scalers * out + torch.where(later, x[:, -1], x[:, 0])
        return self.output_scalers * out + self.input_scalers_mu[:, 0]
