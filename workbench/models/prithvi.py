"""Prithvi WxC: a masked transformer of the atmosphere (Schmude et al., 2024, arXiv:2409.13598).

How data reach it: a task hands over what the data path reads of a record's roles, in physical units.

- ``x`` is ``data.state`` with ``data.history: 2``; the network returns the same channels at the target time.
- ``static`` holds ``data.forcing`` at the latest input, the calendar first, and then ``data.static``.
- ``climate`` is ``data.climatology`` of the same channels at the target time.
- ``input_time`` is the time between the two inputs and ``lead_time`` that from the latest input to the target, in hours
  and one a sample: multiples of the record's step, which a task may draw anew for each sample.

Once, after building, the task gives the grid to ``place`` and the statistics of its packing to ``standardise``, unless
published weights bring their own. In a rollout it passes ``mask_ratio=0`` from the second step on.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from workbench.errors import InputError
from workbench.models.prithvi_blocks import Stack
from workbench.models.prithvi_checks import check_field, check_sizes, check_stack
from workbench.models.prithvi_encodings import POSITIONS, Hours, Patches, Places, encode_hours
from workbench.models.prithvi_masking import Masking, Order, draw_order
from workbench.models.prithvi_published import drop_shift_masks
from workbench.models.prithvi_tokens import tiling_of


class PrithviWxC(nn.Module):
    r"""Masked auto-encoder and forecaster: embed tokens, mask some, encode the rest, decode all.

    .. math:: y = \sigma_C\, U\, D\big(E(W x + S s + \tau),\, m + S s\big) + b

    with the dynamic and static embeddings W and S of patches, the encodings of place (in S s) and time
    :math:`\tau`, the mask token m, and a base b by ``residual``. Encoder and decoder attend within windows and across
    them in turn. Parameters and their options have the names of the authors' code (NASA-IMPACT/Prithvi-WxC), so that a
    published state dict loads as it is; the defaults are those of the published model with 2.37 billion parameters.
    Gradients are exact; second derivatives are not available.

    Without masking, tokens keep their order, and neither mask tokens nor gathered copies are made. Under autocast the
    blocks run in lower precision, embedding, residual sums and output in that of the parameters.

    Args:
        in_channels: channels C of a state.
        static_channels: channels of ``static``: cosine and sine of the day of the year, cosine and sine of the hour of
            the day, and those of the surface.
        space: points along latitude and longitude.
        history: states of the input; 2 as published.
        embed_dim: channels of a token, a multiple of 4 and of ``n_heads``. Good values: 64 to 2560.
        n_heads: heads of the attention. Good values: 16; 64 to 160 channels each on GPUs.
        mlp_multiplier: hidden channels of a block over ``embed_dim``.
        n_blocks_encoder: pairs of blocks of the encoder; one more block follows them. Good values: 2 to 12.
        n_blocks_decoder: pairs of blocks of the decoder, likewise. Good values: 2.
        patch_size_px: points of a token.
        mask_unit_size_px: points of a window.
        residual: "climate" adds to the climatology at the target time, "temporal" to the latest input (the first one
            where the lead time is not positive), "none" to the mean.
        positional_encoding: "fourier" adds sines and cosines to tokens; "absolute" gives the sine of the latitude and
            cosine and sine of the longitude as static channels, which the network makes itself.
        masking_mode: "local" masks tokens of every window, "global" whole windows; "both" starts with local, and
            ``swap_masking`` changes over.
        mask_ratio_inputs: fraction that is masked, in evaluation too; may be changed at any time.
        random_order: shuffle tokens even where none is masked, as the published code does. With a moving encoder or
            local masking the output then depends on the draw.
        encoder_shifting: move windows in the encoder, which then takes no masking.
        decoder_shifting: move windows in the decoder.
        dropout: in attention and MLP.
        drop_path: probability of leaving out a branch of a block of the encoder for a sample.
        parameter_dropout: probability of leaving out an input channel.
        checkpoint_encoder: blocks of the encoder, from 0, that are computed again on the way back.
        checkpoint_decoder: blocks of the decoder, likewise.

    Raises:
        InputError: sizes that do not go together, or tensors that do not fit.
    """

    input_scalers_mu: Tensor
    input_scalers_sigma: Tensor
    static_input_scalers_mu: Tensor
    static_input_scalers_sigma: Tensor
    output_scalers: Tensor

    def __init__(
        self,
        in_channels: int,
        static_channels: int,
        space: tuple[int, ...],
        history: int = 2,
        embed_dim: int = 2560,
        n_heads: int = 16,
        mlp_multiplier: int = 4,
        n_blocks_encoder: int = 12,
        n_blocks_decoder: int = 2,
        patch_size_px: tuple[int, ...] = (2, 2),
        mask_unit_size_px: tuple[int, ...] = (30, 32),
        residual: Literal["climate", "temporal", "none"] = "climate",
        positional_encoding: Literal["fourier", "absolute"] = "fourier",
        masking_mode: Literal["local", "global", "both"] = "both",
        mask_ratio_inputs: float = 0.0,
        random_order: bool = False,
        encoder_shifting: bool = False,
        decoder_shifting: bool = True,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        parameter_dropout: float = 0.0,
        checkpoint_encoder: tuple[int, ...] = (),
        checkpoint_decoder: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        check_sizes(history, static_channels, embed_dim, n_heads)
        check_stack("encoder", n_blocks_encoder, checkpoint_encoder, encoder_shifting)
        check_stack("decoder", n_blocks_decoder, checkpoint_decoder, decoder_shifting)
        self.in_channels, self.static_channels, self.space = in_channels, static_channels, tuple(space)
        self.history, self.embed_dim, self.residual = history, embed_dim, residual
        self.tiling = tiling_of(self.space, patch_size_px, mask_unit_size_px)
        self.positional_encoding, self.masking_mode = positional_encoding, masking_mode
        self.masking: Masking = "global" if masking_mode == "global" else "local"
        self.mask_ratio_inputs, self.random_order = mask_ratio_inputs, random_order
        self.encoder_shifting, self.parameter_dropout = encoder_shifting, parameter_dropout
        self.places: Places | None = None

        self.mask_token = nn.Parameter(torch.randn(1, 1, 1, embed_dim))
        for name, shape in (
            ("input_scalers", (1, 1, in_channels, 1, 1)),
            ("static_input_scalers", (1, POSITIONS + static_channels, 1, 1)),
        ):
            self.register_buffer(f"{name}_mu", torch.zeros(shape))
            self.register_buffer(f"{name}_sigma", torch.ones(shape))
        self.register_buffer("output_scalers", torch.ones(1, in_channels, 1, 1))
        known = static_channels + (POSITIONS if positional_encoding == "absolute" else 0)
        known += in_channels if residual == "climate" else 0
        patch = self.tiling.patch
        self.patch_embedding = Patches(history * in_channels, embed_dim, patch)
        self.patch_embedding_static = Patches(known, embed_dim, patch)
        self.input_time_embedding, self.lead_time_embedding = Hours(embed_dim), Hours(embed_dim)
        block = (embed_dim, n_heads, mlp_multiplier, dropout)
        moved = [self.tiling if shifting else None for shifting in (encoder_shifting, decoder_shifting)]
        self.encoder = Stack(n_blocks_encoder, (*block, drop_path), checkpoint_encoder, moved[0])
        self.decoder = Stack(n_blocks_decoder, (*block, 0.0), checkpoint_decoder, moved[1])
        self.unembed = nn.Linear(embed_dim, in_channels * patch[0] * patch[1])
        self.register_load_state_dict_pre_hook(drop_shift_masks)

    # ------------------------------------------------------------------------------------------ once

    def place(self, coordinates: tuple[Float[Tensor, "..."], ...]) -> None:
        """Take the grid.

        Args:
            coordinates: latitudes and longitudes in degrees, a value a row and a column or one a point.
        """
        self.places = Places(coordinates, self.tiling, self.positional_encoding, self.embed_dim).to(self.unembed.weight)

    @property
    def grid(self) -> Places:
        """The places of points and tokens."""
        if self.places is None:
            raise InputError("Prithvi WxC needs the latitudes and longitudes of its grid: call place(coordinates)")
        return self.places

    def standardise(
        self,
        mean: Float[Tensor, "c"],
        std: Float[Tensor, "c"],
        static_mean: Float[Tensor, "k"],
        static_std: Float[Tensor, "k"],
        output_std: Float[Tensor, "c"],
    ) -> None:
        """Take the statistics of the record.

        Args:
            mean: of the channels of the state.
            std: of the channels of the state.
            static_mean: of the channels of ``static``; 0 for those of the calendar, as published.
            static_std: of the channels of ``static``; 1 for those of the calendar.
            output_std: standard deviation of what is added to the base: of the anomaly from the climatology
                (residual "climate"), of the change ("temporal"), or of the state ("none").
        """
        new = {
            "input_scalers_mu": mean,
            "input_scalers_sigma": std,
            "static_input_scalers_mu": static_mean,
            "static_input_scalers_sigma": static_std,
            "output_scalers": output_std,
        }
        buffers = {name: self.get_buffer(name).view(-1)[POSITIONS if "static" in name else 0 :] for name in new}
        for name, buffer in buffers.items():
            check_field(name, new[name], tuple(buffer.shape))
        for name, buffer in buffers.items():
            buffer.copy_(new[name])

    def swap_masking(self) -> None:
        """Change over between local and global masking, with ``masking_mode: both``; otherwise nothing."""
        if self.masking_mode == "both":
            self.masking = "local" if self.masking == "global" else "global"

    # ------------------------------------------------------------------------------------------ every step

    def forward(
        self,
        x: Float[Tensor, "b t c y x"],
        static: Float[Tensor, "b k y x"],
        input_time: Float[Tensor, "_"],
        lead_time: Float[Tensor, "_"],
        climate: Float[Tensor, "b c y x"] | None = None,
        *,
        mask_ratio: float | None = None,
        order: Order | None = None,
    ) -> Float[Tensor, "b c y x"]:
        """Return the state at the target time, in the units of ``x``.

        Args:
            x: states, the oldest first, in the units of the scalers.
            static: calendar of the latest input, then surface, in the units of the scalers.
            input_time: hours between the inputs, positive.
            lead_time: hours from the latest input to the target; 0 or negative for reconstruction.
            climate: climatology at the target time, for residual "climate".
            mask_ratio: takes the place of ``mask_ratio_inputs`` in this call.
            order: what is masked, and the order of the rest, instead of a draw.
        """
        check_field("x", x, (len(x), self.history, self.in_channels, *self.space))
        check_field("static", static, (len(x), self.static_channels, *self.space))
        if self.residual == "climate":
            check_field("climate", climate, (len(x), self.in_channels, *self.space))
        check_field("input_time", input_time, (len(x),))
        check_field("lead_time", lead_time, (len(x),))
        order = self.chosen(order, mask_ratio, x)
        with torch.autocast(x.device.type, enabled=False):
            tokens, slots = self.embed(x, static, input_time, lead_time, climate, order)
        tokens = self.encoder(tokens)
        if order is not None and slots is not None:
            tokens = order.put(tokens, slots.to(tokens))
        tokens = self.decoder(tokens)
        with torch.autocast(x.device.type, enabled=False):
            found = self.tiling.fields(self.unembed(tokens.to(self.unembed.weight)))
            return torch.addcmul(self.base(x, lead_time, climate), found, self.output_scalers)

    def chosen(self, order: Order | None, mask_ratio: float | None, x: Tensor) -> Order | None:
        """The order of this call; None where all tokens stay as they are."""
        ratio = self.mask_ratio_inputs if mask_ratio is None else mask_ratio
        if order is None and (ratio != 0 or self.random_order):
            order = draw_order(self.masking, len(x), self.tiling.shape, ratio, x.device)
        if order is None:
            return None
        order.check(len(x), self.tiling.shape)
        if self.encoder_shifting and order.masked.numel():
            raise InputError("encoder_shifting moves whole fields of tokens and takes no masking: set the ratio to 0")
        return order

    def embed(
        self,
        x: Float[Tensor, "b t c y x"],
        static: Float[Tensor, "b k y x"],
        input_time: Float[Tensor, "b"],
        lead_time: Float[Tensor, "b"],
        climate: Float[Tensor, "b c y x"] | None,
        order: Order | None,
    ) -> tuple[Float[Tensor, "h b m e"], Float[Tensor, "g b l e"] | None]:
        """Return the tokens that the encoder sees and, with an order, what the decoder sees of the masked ones."""
        fields = functional.dropout2d(self.scaled(x).flatten(1, 2), self.parameter_dropout, self.training)
        dynamic, known = self.tiling.patches(fields), self.tiling.patches(self.known(static, climate))
        (weight, bias), (known_weight, known_bias) = self.patch_embedding.linear, self.patch_embedding_static.linear
        time = encode_hours(self.input_time_embedding(input_time), self.lead_time_embedding(lead_time))[:, None]
        # the mask token always takes part, so that ranks that wait for every gradient do not wait for its
        time = time + 0 * self.mask_token[0]
        # products are added to what is there: one tensor of all tokens instead of three
        tokens = self.grid.tokens(len(x)).addmm_(known.flatten(0, 2), known_weight)
        shape = (*known.shape[:3], self.embed_dim)
        if order is None:
            tokens = tokens.addmm_(dynamic.flatten(0, 2), weight).view(shape)
            return tokens + (time + bias + known_bias), None
        slots = tokens.view(shape) + known_bias
        tokens = order.take(slots) + (order.take(dynamic) @ weight + (bias + time))
        return tokens, slots + self.mask_token if order.masked.numel() else slots

    def scaled(self, x: Float[Tensor, "b t c y x"]) -> Float[Tensor, "b t c y x"]:
        """Standardised states, in the precision of the parameters."""
        # not folded into the weights: where a channel hardly varies, mean over deviation exceeds 1e7
        return (x.to(self.input_scalers_mu) - self.input_scalers_mu) / self.input_scalers_sigma

    def known(
        self, static: Float[Tensor, "b k y x"], climate: Float[Tensor, "b c y x"] | None
    ) -> Float[Tensor, "b j y x"]:
        """What is embedded besides the states: place (if absolute), calendar, surface, climatology."""
        mean, std = self.static_input_scalers_mu, self.static_input_scalers_sigma
        parts = [(static.to(mean) - mean[:, POSITIONS:]) / std[:, POSITIONS:]]
        if self.positional_encoding == "absolute":
            channels = (self.grid.channels - mean[:, :POSITIONS]) / std[:, :POSITIONS]
            parts.insert(0, channels.expand(len(static), -1, -1, -1))
        if climate is not None and self.residual == "climate":
            parts.append(self.scaled(climate[:, None])[:, 0])
        return torch.cat(parts, 1)

    def base(
        self, x: Float[Tensor, "b t c y x"], lead_time: Float[Tensor, "b"], climate: Float[Tensor, "b c y x"] | None
    ) -> Float[Tensor, "_ c #y #x"]:
        """What the network adds to."""
        if self.residual == "none":
            return self.input_scalers_mu[0]
        if self.residual == "temporal" or climate is None:
            climate = torch.where((lead_time > 0).view(-1, 1, 1, 1), x[:, -1], x[:, 0])
        return climate.to(self.output_scalers)
