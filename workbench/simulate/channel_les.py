"""Eddy viscosity for large-eddy simulation of the channel: WALE and the dynamic Smagorinsky model.

    τ_ij − δ_ij τ_kk/3 = −2 ν_t S_ij,    Δ = (Δx Δy Δz)^(1/3)

Both take velocity gradients at cell centres and return ν_t there. Symmetric tensors are kept as their components
xx, yy, zz, xy, xz, yz.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from workbench.simulate.channel_grid import ChannelGrid
from workbench.simulate.channel_solver import Velocity

WALE_CONSTANT = 0.5
"""C_w; Nicoud & Ducros (1999) found 0.55 to 0.6 in decaying isotropic turbulence."""
PAIRS = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))

Centres = Float[Tensor, "batch ny nx nz"]
Symmetric = Float[Tensor, "batch 6 ny nx nz"]


def wale(velocity: Velocity, grid: ChannelGrid) -> Centres:
    """ν_t = (C_w Δ)² (S^d:S^d)^(3/2) / ((S:S)^(5/2) + (S^d:S^d)^(5/4)); grows with the cube of the wall distance.

    S^d is the traceless symmetric part of the square of the velocity gradient: with the vorticity ω and Ω:Ω = ∣ω∣²/2,
    S^d:S^d = (S:S − Ω:Ω)²/6 + ∣Sω∣²/2.
    Source: Nicoud & Ducros 1999, Flow Turbul. Combust. 62, 183, eqs. 10 and 13.
    """
    (ux, uy, uz), (vx, vy, vz), (wx, wy, wz) = velocity_gradient(velocity, grid)
    xy, xz, yz = (uy + vx) / 2, (uz + wx) / 2, (vz + wy) / 2
    curl = (wy - vz, uz - wx, vx - uy)
    strain = ux**2 + vy**2 + wz**2 + 2 * (xy**2 + xz**2 + yz**2)
    spin = (curl[0] ** 2 + curl[1] ** 2 + curl[2] ** 2) / 2
    rows = ((ux, xy, xz), (xy, vy, yz), (xz, yz, wz))
    stretching = sum((a * curl[0] + b * curl[1] + c * curl[2]).square_() for a, b, c in rows)
    shear = (strain - spin).square_().div_(6).add_(stretching, alpha=0.5)
    root = shear.sqrt()
    scale = strain.square() * strain.sqrt() + shear * root.sqrt()
    smallest = torch.finfo(scale.dtype).tiny  # fluid at rest has none
    return (WALE_CONSTANT * filter_width(velocity.u, grid)) ** 2 * (shear * root) / scale.clamp_min_(smallest)


def dynamic_smagorinsky(velocity: Velocity, grid: ChannelGrid) -> Centres:
    r"""ν_t = C Δ² ∣S∣, C = ⟨L:M⟩ / ⟨M:M⟩ averaged over planes parallel to the walls, not below zero.

        L_ij = \widehat{u_i u_j} − û_i û_j,    M_ij = 2 Δ² (\widehat{∣S∣ S_ij} − α² ∣Ŝ∣ Ŝ_ij)

    The hat is a test filter over two cells in x and z (trapezoidal), so that α = 4^(1/3).
    Sources: Germano, Piomelli, Moin & Cabot 1991, Phys. Fluids A 3, 1760; Lilly 1992, Phys. Fluids A 4, 633, eq. 11.
    """
    centred, strain = at_centres(velocity), strain_rate(velocity, grid)
    size = magnitude(strain)
    fields = [centred, products(centred), strain, strain * size[:, None]]
    mean, product, coarse, stress = test_filter(torch.cat(fields, 1)).split([3, 6, 6, 6], dim=1)
    leonard = product - products(mean)
    width = filter_width(velocity.u, grid) ** 2
    model = (stress - 4 ** (2 / 3) * magnitude(coarse)[:, None] * coarse) * (2 * width)
    top, bottom = (contract(part, model).mean((-2, -1), keepdim=True) for part in (leonard, model))
    constant = (top / bottom.clamp_min(torch.finfo(bottom.dtype).tiny)).clamp_min(0)
    return constant * width * size


def products(vector: Float[Tensor, "batch 3 ny nx nz"]) -> Symmetric:
    """u_i u_j."""
    return torch.stack([vector[:, i] * vector[:, j] for i, j in PAIRS], 1)


def contract(one: Symmetric, other: Symmetric) -> Centres:
    """A:B, off-diagonal components twice."""
    product = one * other
    return product[:, :3].sum(1).add_(product[:, 3:].sum(1), alpha=2)


def magnitude(strain: Symmetric) -> Centres:
    """|S| = √(2 S:S)."""
    return contract(strain, strain).mul_(2).sqrt_()


def strain_rate(velocity: Velocity, grid: ChannelGrid) -> Symmetric:
    """S_ij at cell centres."""
    (ux, uy, uz), (vx, vy, vz), (wx, wy, wz) = velocity_gradient(velocity, grid)
    return torch.stack([ux, vy, wz, (uy + vx) / 2, (uz + wx) / 2, (vz + wy) / 2], 1)


def test_filter(fields: Float[Tensor, "batch field ny nx nz"]) -> Float[Tensor, "batch field ny nx nz"]:
    """Top hat over two cells in x and in z by the trapezoidal rule, weights ¼, ½, ¼, as two products of matrices."""
    along_x, along_z = (_trapezoids(count, fields) for count in fields.shape[-2:])
    return torch.matmul(along_x, torch.matmul(fields, along_z))


def _trapezoids(count: int, like: Tensor) -> Float[Tensor, "n n"]:
    """Circulant matrix of the weights; symmetric. One cell is left as it is."""
    identity = np.eye(count)
    matrix = identity / 2 + (np.roll(identity, 1, 0) + np.roll(identity, -1, 0)) / 4
    return torch.as_tensor(matrix, dtype=like.dtype, device=like.device)


def filter_width(like: Tensor, grid: ChannelGrid) -> Float[Tensor, "ny 1 1"]:
    """Δ of every row."""
    heights = torch.as_tensor(grid.heights, dtype=like.dtype, device=like.device)
    return (grid.spacing[0] * grid.spacing[1] * heights)[:, None, None] ** (1 / 3)


def at_centres(velocity: Velocity) -> Float[Tensor, "batch 3 ny nx nz"]:
    """u, v, w at cell centres, means of the two faces."""
    u, v, w = velocity
    return torch.stack([u + u.roll(-1, -2), v[:, 1:] + v[:, :-1], w + w.roll(-1, -1)], 1).div_(2)


def velocity_gradient(velocity: Velocity, grid: ChannelGrid) -> tuple[tuple[Centres, ...], ...]:
    """∂u_i/∂x_j at cell centres, ``[i][j]``: exact differences on the diagonal, else means of the edges."""
    (dx, dz), (u, v, w) = grid.spacing, velocity
    heights, gaps = (
        torch.as_tensor(values, dtype=u.dtype, device=u.device)[:, None, None] for values in (grid.heights, grid.gaps)
    )
    centred = at_centres(velocity)

    def along(component: int, axis: int, spacing: float) -> Tensor:
        field = centred[:, component]
        return (field.roll(-1, axis) - field.roll(1, axis)).div_(2 * spacing)

    def across(component: int) -> Tensor:
        field = centred[:, component]
        mirrored = torch.cat([-field[:, :1], field, -field[:, -1:]], 1)  # zero at the walls
        at_faces = mirrored.diff(dim=1).div_(gaps)
        return (at_faces[:, 1:] + at_faces[:, :-1]).div_(2)

    return (
        ((u.roll(-1, -2) - u).div_(dx), across(0), along(0, -1, dz)),
        (along(1, -2, dx), v.diff(dim=1).div_(heights), along(1, -1, dz)),
        (along(2, -2, dx), across(2), (w.roll(-1, -1) - w).div_(dz)),
    )
