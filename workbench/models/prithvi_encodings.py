"""What Prithvi WxC knows of the place and time of its tokens, and the weights that make tokens of points."""

from __future__ import annotations

from typing import Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from workbench.errors import InputError
from workbench.models.prithvi_tokens import AXES, Tiling

POSITIONS = 3
"""Channels of an absolute place: sine of the latitude, cosine and sine of the longitude."""


class Places(nn.Module):
    """Latitude and longitude of points and tokens, encoded once; nothing of it belongs to the weights.

    Args:
        coordinates: latitudes and longitudes in degrees, a value a row and a column, or one a point (a rotated grid).
        tiling: of the field.
        encoding: "absolute" for the points, "fourier" for the tokens.
        dim: channels of a token.

    Raises:
        InputError: the coordinates do not fit the field, or are no degrees.
    """

    channels: Tensor
    latitude: Tensor
    longitude: Tensor

    def __init__(
        self,
        coordinates: tuple[Float[Tensor, "..."], ...],
        tiling: Tiling,
        encoding: Literal["fourier", "absolute"],
        dim: int,
    ) -> None:
        super().__init__()
        self.tiling, self.encoding, self.dim = tiling, encoding, dim
        latitude, longitude = checked(coordinates, tiling)
        if encoding == "absolute":
            latitude, longitude = torch.broadcast_tensors(latitude, longitude)
            maps = torch.stack([latitude.sin(), longitude.cos(), longitude.sin()])
            self.register_buffer("channels", maps, persistent=False)
        else:
            self.register_buffer("latitude", self.table(latitude), persistent=False)
            self.register_buffer("longitude", self.table(longitude), persistent=False)

    def table(self, coordinate: Float[Tensor, "#y #x"]) -> Float[Tensor, "#gh #gw 1 #lh #lw 2 _"]:
        """Sine and cosine of 1 to ``dim / 4`` times the mean of a coordinate over each token.

        Axes along which the coordinate does not change stay at 1, so that the tables of 180 by 288 tokens of 2560
        channels take 2.4 MB, where the encoding of every token takes 531 MB.
        """
        changes = [size > 1 for size in coordinate.shape]
        parts = zip(changes, self.tiling.windows, self.tiling.tokens, self.tiling.patch, strict=True)
        (gh, lh, ph), (gw, lw, pw) = (sizes if there else (1, 1, 1) for there, *sizes in parts)
        means = coordinate.view(gh, lh, ph, gw, lw, pw).mean((2, 5)).transpose(1, 2)
        angles = means[:, :, None, :, :, None] * torch.arange(1, self.dim // 4 + 1, device=means.device)
        return torch.stack([angles.sin(), angles.cos()], -2)

    def tokens(self, batch: int) -> Float[Tensor, "n e"]:
        """The Fourier encoding of all tokens, in a new tensor; zeros where places are channels.

        Sines of latitude and longitude come first, then their cosines.
        """
        (gh, gw), (lh, lw) = self.tiling.windows, self.tiling.tokens
        tokens = gh * gw * batch * lh * lw
        if self.encoding == "absolute":
            return self.channels.new_zeros(tokens, self.dim)
        found = self.latitude.new_empty(tokens, self.dim)
        parts = found.view(gh, gw, batch, lh, lw, 2, 2, -1)
        parts[..., 0, :], parts[..., 1, :] = self.latitude, self.longitude
        return found


def checked(coordinates: tuple[Float[Tensor, "..."], ...], tiling: Tiling) -> list[Float[Tensor, "#y #x"]]:
    """Latitude and longitude in radians, as a column, a row or maps; raises InputError where they do not fit."""
    space = tuple(g * n * p for g, n, p in zip(tiling.windows, tiling.tokens, tiling.patch, strict=True))
    found = []
    for axis, (name, values) in enumerate(zip(AXES, coordinates, strict=True)):
        if tuple(values.shape) not in (space, (space[axis],)):
            raise InputError(
                f"Prithvi WxC needs a {name} for each of {space[axis]} points along its axis, or of {space} points; "
                f"found {tuple(values.shape)}"
            )
        limit = (90, 360)[axis]
        if not bool((values.abs() <= limit * (1 + 1e-6)).all()):  # NaN does not pass
            raise InputError(
                f"a {name} must be in degrees, within {limit} of 0; found {values.min():g} to {values.max():g}"
            )
        values = values.double().deg2rad()
        found.append(values if values.ndim == 2 else values.unsqueeze(1 - axis))
    return found


class Hours(nn.Linear):
    """Linear map of a number of hours to angles, a quarter of the channels."""

    def __init__(self, dim: int) -> None:
        super().__init__(1, dim // 4)

    def forward(self, hours: Float[Tensor, "b"]) -> Float[Tensor, "b d"]:
        """The angles."""
        return super().forward(hours[:, None].to(self.weight))


def encode_hours(first: Float[Tensor, "b d"], second: Float[Tensor, "b d"]) -> Float[Tensor, "b e"]:
    """Cosines of both kinds of angles, then their sines."""
    angles = torch.cat([first, second], 1)
    return torch.cat([angles.cos(), angles.sin()], 1)


class Patches(nn.Module):
    """The linear map of a patch to a token, under the names of the convolution as which it was published."""

    def __init__(self, channels: int, dim: int, patch: tuple[int, int]) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, patch, patch)

    @property
    def linear(self) -> tuple[Float[Tensor, "d e"], Float[Tensor, "e"]]:
        """Weight and bias of the map of the points of a patch, in the order of `Tiling.patches`."""
        return self.proj.weight.flatten(1).T, cast("Tensor", self.proj.bias)
