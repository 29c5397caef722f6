"""The Fourier layer that FNO and IFNO share: a convolution known by a few of its Fourier coefficients.

Only the retained modes of the transform are ever computed. Along each axis the discrete Fourier transform is
a product with a short real matrix, so a layer is a chain of matrix products without a full-size spectrum,
without complex arithmetic on the grid and without zeros to fill; the result is that of an FFT, a truncation
and an inverse FFT. On two CPU cores one training step of the layer takes a fifth to a half of the time of
the FFT formulation (``benchmarks/fno.py``).
"""

from collections.abc import Sequence
from functools import lru_cache
from math import pi, prod
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from workbench.errors import InputError

GridEnds = Literal["half-open", "closed"]

# The order in which published checkpoints number the corners of the spectrum, for fields with 1 to 4 axes.
# Bit a of an entry says that the corner holds the negative wavenumbers of axis a (the last axis has none).
# One to three axes: Li et al. (2021); four axes: the space-time FNO of Gzh-sustech/PITO.
PUBLISHED_CORNERS = {1: (0,), 2: (0, 1), 3: (0, 1, 2, 3), 4: (0, 1, 2, 3, 5, 4, 6, 7)}


def per_axis(value: Any, space: Sequence[int], name: str) -> tuple[Any, ...]:
    """Return one entry an axis of ``space``: a tuple as it is, a single value repeated.

    Raises:
        InputError: A tuple whose length is not the number of axes.
    """
    if not isinstance(value, Sequence):
        return (value,) * len(space)
    if len(value) != len(space):
        raise InputError(
            f"{name} needs one entry for each of the {len(space)} space axes {tuple(space)}, found "
            f"{len(value)}: {tuple(value)}. Give {len(space)} entries, or one value for all axes."
        )
    return tuple(value)


def grid_channels(x: Float[Tensor, "b c *space"], ends: GridEnds | None) -> Float[Tensor, "b e *space"]:
    """Append one channel an axis with the node coordinates i/n (half-open) or i/(n-1) (closed), in [0, 1]."""
    if ends is None:
        return x
    space = x.shape[2:]
    channels = [x]
    for axis, size in enumerate(space):
        cells = size if ends == "half-open" else max(size - 1, 1)
        # half precision cannot count to the size of a grid
        nodes = torch.arange(size, dtype=torch.promote_types(x.dtype, torch.float32), device=x.device) / cells
        nodes = nodes.to(x.dtype).view(-1, *[1] * (len(space) - 1 - axis))
        channels.append(nodes.expand(len(x), 1, *space))
    return torch.cat(channels, dim=1)


def pointwise(layer: nn.Module, x: Float[Tensor, "b c n"]) -> Float[Tensor, "b d n"]:
    """Apply a linear layer, or a convolution of width 1, to the channels at every node.

    One batched matrix product that adds the bias too; a Fourier layer took 0.8 to 0.9 of the time that it took with
    the module's own forward.
    """
    weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
    return torch.baddbmm(bias[:, None], weight.flatten(1).expand(len(x), -1, -1), x)


def autocast_type(x: Tensor) -> torch.dtype | None:
    """Return the type that autocast asks for on the device of ``x``, or None without autocast."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None


class SpectralConv(nn.Module):
    r"""Convolution whose kernel is given by its lowest Fourier modes.

    .. math:: \hat y_{o}(k) = \sum_i W_{io}(k)\,\hat x_i(k), \qquad |k_a| \text{ below the retained modes}

    and zero for every other wavenumber. The last axis keeps k = 0 ... m-1 (the field is real); every other
    axis keeps k = 0 ... m-1 and k = -m ... -1, in this order. An axis with padding is transformed as if the
    field went on with zeros over that fraction of its length, which keeps its two ends apart.

    The weight is real, of shape (*modes, in, out, 2), the last axis holding real and imaginary part: data
    parallel training, moving averages and safetensors need nothing special, and each mode is one matrix.
    ``load_state_dict`` also takes the complex corners ``weights1``, ``weights2``, ... of published models.
    Sums are done in float32 or better, also under autocast.

    Li et al. (2021), Fourier neural operator for parametric partial differential equations, eq. 4-5.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        space: Points along each axis, to check ``modes`` against; other grids may follow.
        modes: Retained modes along each axis.
        padding: Zeros after the end of each axis as a fraction of its length; 0 for a periodic axis.

    Raises:
        InputError: An axis has too few points for its modes.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        space: tuple[int, ...],
        modes: tuple[int, ...],
        padding: tuple[float, ...],
    ) -> None:
        super().__init__()
        self.modes = modes
        self.padding = padding
        check_modes(space, padded_sizes(space, padding), modes)
        # (wavenumbers of every axis but the last, both signs) x (of the last axis)
        self.kept = (*(2 * m for m in modes[:-1]), modes[-1])
        self.weight = nn.Parameter(torch.empty(*self.kept, in_channels, out_channels, 2))
        # a tenth of unit gain: on Kolmogorov flow (64 x 64, 500 steps) unit gain ended at 1.5 times the error
        nn.init.normal_(self.weight, std=0.1 * (2 * in_channels) ** -0.5)
        self.register_load_state_dict_pre_hook(gather_published_corners)

    def forward(self, x: Float[Tensor, "b c *space"]) -> Float[Tensor, "b d *space"]:
        """Transform, multiply each retained mode by its matrix, transform back; any grid that holds them."""
        space = tuple(x.shape[2:])
        padded = padded_sizes(space, self.padding)
        check_modes(space, padded, self.modes)
        dtype = torch.promote_types(self.weight.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            bases = [
                fourier_basis(n, full, m, axis == len(space) - 1, dtype, x.device)
                for axis, (n, full, m) in enumerate(zip(space, padded, self.modes, strict=True))
            ]
            spectrum = analyse(x.to(dtype), [analysis for analysis, _ in bases])
            spectrum = multiply(spectrum, self.weight.to(dtype))
            return synthesise(spectrum, space, [synthesis for _, synthesis in bases]).to(x.dtype)


def padded_sizes(space: Sequence[int], padding: Sequence[float]) -> tuple[int, ...]:
    """Return the length of each axis with its zeros."""
    return tuple(n + round(fraction * n) for n, fraction in zip(space, padding, strict=True))


def check_modes(space: Sequence[int], padded: Sequence[int], modes: Sequence[int]) -> None:
    """Raise InputError where an axis cannot hold its modes without counting a wavenumber twice."""
    for axis, (points, full, asked) in enumerate(zip(space, padded, modes, strict=True)):
        largest = full // 2 + 1 if axis == len(space) - 1 else full // 2
        if not 1 <= asked <= largest:
            raise InputError(
                f"space axis {axis} of {tuple(space)} has {points} points and holds 1 to {largest} Fourier "
                f"modes, but modes[{axis}] is {asked}. Set modes[{axis}] to at most {largest}, or use a "
                f"finer grid."
            )


@lru_cache(maxsize=256)
def fourier_basis(
    size: int, padded: int, modes: int, last: bool, dtype: torch.dtype, device: torch.device
) -> tuple[Float[Tensor, "rows columns"], Float[Tensor, "columns rows"]]:
    """Return the real matrices of the truncated discrete Fourier transform along one axis and of its inverse.

    The last axis is transformed first: the analysis (size, 2 modes) acts from the right on real values and
    gives all real parts, then all imaginary parts. Any other axis has the analysis (2 * 2 modes, 2 size),
    which acts from the left on (node, part) and gives (part, wavenumber). So each product finds its two
    summation indices side by side in memory and no transform copies anything.
    """
    # a cached tensor outlives the call that made it, so it must not be an inference tensor
    with torch.inference_mode(False):
        wavenumber = torch.arange(modes) if last else torch.cat([torch.arange(modes), torch.arange(-modes, 0)])
        # the product is reduced before it becomes an angle: exact for any size
        angle = torch.outer(torch.arange(size), wavenumber).remainder(padded).double() * (2 * pi / padded)
        cos, sin = angle.cos(), angle.sin()
        if last:
            # a real field has the modes -k too, which the inverse adds by counting k twice
            twice = torch.where((wavenumber == 0) | (2 * wavenumber == padded), 1.0, 2.0).double() / padded
            analysis = torch.cat([cos, -sin], dim=1)
            synthesis = torch.cat([cos * twice, -sin * twice], dim=1).T
        else:
            # (part out, wavenumber, node, part in) and (node, part out, part in, wavenumber)
            rows = [torch.stack([cos.T, sin.T], dim=-1), torch.stack([-sin.T, cos.T], dim=-1)]
            analysis = torch.stack(rows).reshape(4 * modes, 2 * size)
            columns = [torch.stack([cos, -sin], dim=1), torch.stack([sin, cos], dim=1)]
            synthesis = torch.stack(columns, dim=1).reshape(2 * size, 4 * modes) / padded
        return analysis.to(device, dtype).contiguous(), synthesis.to(device, dtype).contiguous()


def analyse(x: Float[Tensor, "b c *space"], bases: list[Tensor]) -> Float[Tensor, "b c 2 kept"]:
    """Return the retained Fourier modes of a real field, real and imaginary parts apart."""
    batch, channels, *space = x.shape
    spectrum = x.reshape(-1, space[-1]) @ bases[-1]
    for axis in reversed(range(len(space) - 1)):
        basis = bases[axis]
        left = batch * channels * prod(space[:axis])
        spectrum = torch.bmm(basis.expand(left, -1, -1), spectrum.view(left, basis.shape[1], -1))
    return spectrum.view(batch, channels, 2, -1)


def synthesise(
    spectrum: Float[Tensor, "b c 2 kept"], space: tuple[int, ...], bases: list[Tensor]
) -> Float[Tensor, "b c ..."]:
    """Return the real field on ``space`` that has the given retained modes and no others."""
    batch, channels = spectrum.shape[:2]
    field = spectrum
    for axis in range(len(space) - 1):
        basis = bases[axis]
        left = batch * channels * prod(space[:axis])
        field = torch.bmm(basis.expand(left, -1, -1), field.view(left, basis.shape[1], -1))
    field = field.view(-1, bases[-1].shape[0]) @ bases[-1]
    return field.view(batch, channels, *space)


def multiply(
    spectrum: Float[Tensor, "b i 2 kept"], weight: Float[Tensor, "*modes i o 2"]
) -> Float[Tensor, "b o 2 kept"]:
    """Multiply each mode, a complex vector over the channels, by its complex matrix.

    One real product a mode gives both parts of the vector times both parts of the matrix; a complex batched
    product copies every matrix first and took 1.1 to 1.7 times as long for the whole layer.
    """
    batch, inputs, _, kept = spectrum.shape
    outputs = weight.shape[-2]
    vectors = spectrum.permute(3, 2, 0, 1).reshape(kept, 2 * batch, inputs)
    products = torch.bmm(vectors, weight.reshape(kept, inputs, 2 * outputs))
    real, imaginary = torch.view_as_complex(products.view(kept, 2, batch, outputs, 2)).unbind(dim=1)
    product = torch.view_as_real(torch.add(real, imaginary, alpha=1j))
    return product.permute(1, 2, 3, 0).contiguous()


def gather_published_corners(module: "SpectralConv", state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Replace the corners of a published spectral layer in ``state`` by the one weight of SpectralConv.

    A corner is complex of shape (in, out, *modes), or real with a last axis of two.
    """
    if f"{prefix}weights1" not in state:
        return
    modes, weight = module.modes, torch.empty_like(module.weight)
    for number, negative in enumerate(PUBLISHED_CORNERS[len(modes)], start=1):
        corner = state.pop(f"{prefix}weights{number}")
        corner = torch.view_as_real(corner) if corner.is_complex() else corner
        half = tuple(slice(m, 2 * m) if negative >> a & 1 else slice(0, m) for a, m in enumerate(modes[:-1]))
        weight[half] = corner.movedim((0, 1), (-3, -2)).to(weight)
    state[f"{prefix}weight"] = weight
