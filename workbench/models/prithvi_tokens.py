"""How Prithvi WxC cuts a field into windows of tokens.

Inside the network the windows come first, ``[g, b, l, e]``: window, sample, token of the window, channel. Sequences of
the tokens of a window and sequences of windows are then both views of one tensor, for any number of samples, and no
block has to copy it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from workbench.errors import InputError

AXES = ("latitude", "longitude")


@dataclass(frozen=True)
class Tiling:
    """A field as windows (mask units) of tokens of points; all sizes are latitude by longitude.

    Attributes:
        windows: windows of the field.
        tokens: tokens of a window.
        patch: points of a token.
    """

    windows: tuple[int, int]
    tokens: tuple[int, int]
    patch: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int]:
        """Number of windows, and of tokens in each."""
        return prod(self.windows), prod(self.tokens)

    def patches(self, fields: Float[Tensor, "b c y x"]) -> Float[Tensor, "g b l d"]:
        """The points of each token, in the order of a convolution's weights: channel, row, column."""
        sizes = self._sizes("g", "l", "p")
        # tokens side by side in memory: a sixth of the time that points side by side take, and as good in a product
        return rearrange(fields, "b c (gh lh ph) (gw lw pw) -> (c ph pw) (gh gw) b (lh lw)", **sizes).movedim(0, -1)

    def fields(self, patches: Float[Tensor, "g b l d"]) -> Float[Tensor, "b c y x"]:
        """The inverse of `patches`."""
        sizes = self._sizes("g", "l", "p")
        return rearrange(patches, "(gh gw) b (lh lw) (c ph pw) -> b c (gh lh ph) (gw lw pw)", **sizes)

    def rolled(self, tokens: Float[Tensor, "g b l e"], sign: int) -> Float[Tensor, "g b l e"]:
        """The tokens moved by half a window, rounded down, along both axes, each taken as periodic."""
        sizes = self._sizes("g", "l")
        image = rearrange(tokens, "(gh gw) b (lh lw) e -> b (gh lh) (gw lw) e", **sizes)
        image = image.roll([sign * (n // 2) for n in self.tokens], (1, 2))
        return rearrange(image, "b (gh lh) (gw lw) e -> (gh gw) b (lh lw) e", **sizes)

    def _sizes(self, *letters: str) -> dict[str, int]:
        """Sizes under the names that the patterns above give them."""
        known = {"g": self.windows, "l": self.tokens, "p": self.patch}
        return {name + axis: size for name in letters for axis, size in zip("hw", known[name], strict=True)}


def tiling_of(space: tuple[int, ...], patch: tuple[int, ...], unit: tuple[int, ...]) -> Tiling:
    """Cut a field of ``space`` points into windows of ``unit`` points of tokens of ``patch`` points.

    Raises:
        InputError: the sizes do not divide; the message has the nearest ones that do.
    """
    if {len(space), len(patch), len(unit)} != {2}:
        raise InputError(
            "Prithvi WxC takes fields on (latitude, longitude) and two points of patch_size_px and mask_unit_size_px; "
            f"found {tuple(space)}, {tuple(patch)} and {tuple(unit)}"
        )
    for axis, points, p, u in zip(AXES, space, patch, unit, strict=True):
        if p < 1 or u < 1 or u % p:
            raise InputError(
                f"mask_unit_size_px must be a multiple of patch_size_px, found {u} and {p} along {axis}: take "
                f"{max(1, round(u / max(1, p))) * max(1, p)}"
            )
        if points < 1 or points % u:
            crop, pad = points // u * u, (points // u + 1) * u
            nearest = f"crop to {crop} or pad to {pad}" if crop else f"pad to {pad}"
            fitting = [n for n in range(p, points + 1, p) if points % n == 0]
            other = f", or set mask_unit_size_px to {min(fitting, key=lambda n: abs(n - u))}" if fitting else ""
            raise InputError(
                f"{points} points of {axis} are no whole number of mask units of {u}: {nearest} points{other}"
            )
    (gh, gw), (lh, lw) = ([n // m for n, m in zip(*pair, strict=True)] for pair in ((space, unit), (unit, patch)))
    return Tiling((gh, gw), (lh, lw), (patch[0], patch[1]))
