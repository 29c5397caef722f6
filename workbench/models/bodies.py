"""What stands in the middle of a network that maps fields to other fields, such as the core of Prithvi WxC.

A body is constructed as ``(channels, space, **options)`` and maps features ``[b, c, y, x]`` to features of the same
shape. The network around it supplies the first two arguments, an experiment file the others.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from workbench.errors import InputError
from workbench.models.prithvi_blocks import Stack
from workbench.models.prithvi_checks import check_stack
from workbench.models.prithvi_tokens import tiling_of
from workbench.models.unet import Conv


class PrithviCore(nn.Module):
    """The transformer blocks of Prithvi WxC over a map of features.

    A linear map makes tokens of the features, the blocks of the encoder (and decoder) attend within windows and across
    them, and a linear map makes features of the tokens. Nothing is masked, and no scaler stands between the blocks and
    what follows, so that they take part from the first step on. The blocks have the published names: `take` fills them
    from a pretrained network.

    Args:
        channels: of the features.
        space: points of the features along latitude and longitude.
        embed_dim: channels of a token.
        n_heads: heads of the attention.
        mlp_multiplier: hidden channels of a block over ``embed_dim``.
        n_blocks_encoder: pairs of blocks of the encoder; one more block follows them.
        n_blocks_decoder: pairs of blocks of the decoder, likewise; without a decoder by default, as in downscaling.
        patch_size_px: points of a token.
        mask_unit_size_px: points of a window.
        encoder_shifting: move windows in the encoder.
        decoder_shifting: move windows in the decoder.
        dropout: in attention and MLP.
        drop_path: probability of leaving out a branch of a block of the encoder for a sample.

    Raises:
        InputError: sizes that do not go together.
    """

    def __init__(
        self,
        channels: int,
        space: tuple[int, ...],
        embed_dim: int = 96,
        n_heads: int = 6,
        mlp_multiplier: int = 4,
        n_blocks_encoder: int = 2,
        n_blocks_decoder: int | None = None,
        patch_size_px: tuple[int, ...] = (1, 1),
        mask_unit_size_px: tuple[int, ...] = (8, 8),
        encoder_shifting: bool = False,
        decoder_shifting: bool = False,
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if embed_dim % n_heads:
            raise InputError(f"embed_dim must be a multiple of n_heads ({n_heads}), found {embed_dim}")
        self.tiling = tiling_of(tuple(space), patch_size_px, mask_unit_size_px)
        values = channels * self.tiling.patch[0] * self.tiling.patch[1]
        self.embed, self.unembed = nn.Linear(values, embed_dim), nn.Linear(embed_dim, values)
        block = (embed_dim, n_heads, mlp_multiplier, dropout)
        check_stack("encoder", n_blocks_encoder, (), encoder_shifting)
        self.encoder = Stack(n_blocks_encoder, (*block, drop_path), (), self.tiling if encoder_shifting else None)
        self.decoder: nn.Module = nn.Identity()
        if n_blocks_decoder is not None:
            check_stack("decoder", n_blocks_decoder, (), decoder_shifting)
            self.decoder = Stack(n_blocks_decoder, (*block, 0.0), (), self.tiling if decoder_shifting else None)

    def blocks(self) -> dict[str, Tensor]:
        """The parameters of the blocks, by their published names."""
        return {name: p for name, p in self.named_parameters() if name.startswith(("encoder.", "decoder."))}

    def take(self, state: dict[str, Tensor], where: str) -> None:
        """Fill the blocks from the state dict of a Prithvi WxC.

        Args:
            state: by published names; what does not belong to the blocks is left.
            where: whose it is, for the message.

        Raises:
            InputError: a block is missing or of another size.
        """
        with torch.no_grad():
            for name, own in self.blocks().items():
                found = state.get(name)
                if found is None or found.shape != own.shape:
                    shape = "nothing" if found is None else tuple(found.shape)
                    raise InputError(
                        f"{where} has {shape} for '{name}' of the core, expected {tuple(own.shape)}: embed_dim, "
                        "n_heads, mlp_multiplier and numbers of blocks must be those of the pretrained network"
                    )
                own.copy_(found)

    def forward(self, features: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c y x"]:
        """Return the features after all blocks; the residual sums are kept in the precision of the parameters."""
        with torch.autocast(features.device.type, enabled=False):
            tokens = self.embed(self.tiling.patches(features.to(self.embed.weight)))
        tokens = self.decoder(self.encoder(tokens))
        with torch.autocast(features.device.type, enabled=False):
            return self.tiling.fields(self.unembed(tokens.to(self.unembed.weight)))


class ResidualBlocks(nn.Module):
    """Blocks of two convolutions without normalisation, each added to what it was given.

    Source: Lim et al. (2017), EDSR, arXiv:1707.02921, section 3.1.

    Args:
        channels: of the features.
        space: points of the features.
        blocks: how many.
        periodic: whether the field is periodic, along each axis.
    """

    def __init__(
        self, channels: int, space: tuple[int, ...], blocks: int = 8, periodic: tuple[bool, ...] = (False, False)
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(Conv(channels, channels, periodic), nn.ReLU(), Conv(channels, channels, periodic))
            for _ in range(blocks)
        )

    def forward(self, features: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c y x"]:
        """Return the features after all blocks."""
        for block in self.blocks:
            features = features + block(features)
        return features
