"""What finite elements need at their Gauss points: shape functions, gradients, weights; and the linear matrices.

Isoparametric bilinear quadrilaterals and trilinear hexahedra with full integration; the shape functions come from
scikit-fem. Element stiffness is linear in the Lamé constants, so the matrices of a new material are one weighted sum.
Source: Hughes 1987, The Finite Element Method, ch. 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import scipy.sparse as sp

from workbench.errors import InputError
from workbench.simulate.structures_mesh import Mesh

Kinematics = Literal["plane_strain", "plane_stress", "solid"]


@dataclass(frozen=True)
class Material:
    """Isotropic elasticity, a value an element.

    Attributes:
        youngs_modulus: E ``[element]`` in Pa.
        poissons_ratio: ν ``[element]``.
        density: ρ ``[element]`` in kg/m³.

    Raises:
        InputError: a value is out of range.
    """

    youngs_modulus: np.ndarray
    poissons_ratio: np.ndarray
    density: np.ndarray

    def __post_init__(self) -> None:
        rules = {
            "youngs_modulus": ((self.youngs_modulus > 0) & np.isfinite(self.youngs_modulus), "positive"),
            "poissons_ratio": ((self.poissons_ratio > -1) & (self.poissons_ratio < 0.5), "above -1 and below 0.5"),
            "density": ((self.density > 0) & np.isfinite(self.density), "positive"),
        }
        for name, (good, expected) in rules.items():
            if not good.all():
                worst = getattr(self, name)[~good][0]
                raise InputError(f"material: {name} must be {expected} in every element; found {worst:g}")

    @classmethod
    def uniform(cls, mesh: Mesh, youngs_modulus: float, poissons_ratio: float, density: float) -> Material:
        """The same everywhere."""
        count = int(mesh.solid.sum())
        return cls(*(np.full(count, float(v)) for v in (youngs_modulus, poissons_ratio, density)))

    def lame(self, kinematics: Kinematics) -> tuple[np.ndarray, np.ndarray]:
        """λ and μ in Pa; for plane stress the λ that condenses σ_zz = 0."""
        e, nu = self.youngs_modulus, self.poissons_ratio
        mu = e / (2 * (1 + nu))
        return (e * nu / (1 - nu**2) if kinematics == "plane_stress" else e * nu / ((1 + nu) * (1 - 2 * nu))), mu


@dataclass(frozen=True)
class Elements:
    """The solid elements of a mesh, integrated.

    Attributes:
        mesh: that they make up.
    """

    mesh: Mesh

    @cached_property
    def _gauss(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        basis = self.mesh.basis()
        fields = [basis.basis[a][0] for a in range(basis.Nbfun)]
        values = np.stack([np.asarray(f)[0] for f in fields], -1)
        gradients = np.stack([np.asarray(f.grad) for f in fields], -1)  # [d, e, q, a]
        return values, gradients.transpose(1, 2, 3, 0), basis.dx

    @property
    def values(self) -> np.ndarray:
        """N ``[gauss, corner]``."""
        return self._gauss[0]

    @property
    def gradients(self) -> np.ndarray:
        """∂N/∂X ``[element, gauss, corner, component]`` in 1/m."""
        return self._gauss[1]

    @property
    def weights(self) -> np.ndarray:
        """Volume of each Gauss point ``[element, gauss]``, in m³ (2D: m², for a thickness of 1 m)."""
        return self._gauss[2]

    @cached_property
    def centre_gradients(self) -> np.ndarray:
        """∂N/∂X at the element centres, ``[element, corner, component]``."""
        dim = self.mesh.dim
        basis = self.mesh.basis((np.full((dim, 1), 0.5), np.ones(1)))
        return np.stack([np.asarray(basis.basis[a][0].grad)[..., 0] for a in range(basis.Nbfun)], -1).transpose(1, 2, 0)

    @cached_property
    def _stiffness_parts(self) -> tuple[np.ndarray, np.ndarray]:
        """Element stiffness for λ = 1 and for μ = 1, ``[element, corner·dim, corner·dim]``."""
        g, w = self.gradients, self.weights
        count, _, corners, dim = g.shape
        volume = np.einsum("eq,eqai,eqbj->eaibj", w, g, g, optimize=True)
        shear = volume.transpose(0, 1, 4, 3, 2) + np.einsum(
            "eq,eqak,eqbk,ij->eaibj", w, g, g, np.eye(dim), optimize=True
        )
        size = (count, corners * dim, corners * dim)
        return volume.reshape(size), shear.reshape(size)

    @cached_property
    def dofs(self) -> np.ndarray:
        """``int[element, corner·dim]``: degrees of freedom of each element."""
        dim = self.mesh.dim
        return (self.mesh.connectivity[..., None] * dim + np.arange(dim)).reshape(len(self.mesh.connectivity), -1)

    def element_stiffness(self, lame: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """``[element, corner·dim, corner·dim]`` in N/m, for λ and μ ``[element]``."""
        volume, shear = self._stiffness_parts
        return lame[0][:, None, None] * volume + lame[1][:, None, None] * shear

    def assemble(self, parts: np.ndarray) -> sp.csr_array:
        """Sum element matrices ``[element, corner·dim, corner·dim]`` into a sparse one over all degrees of freedom."""
        n = self.dofs.shape[1]
        rows, columns = self.dofs.repeat(n, 1).ravel(), np.tile(self.dofs, (1, n)).ravel()
        size = self.mesh.count * self.mesh.dim
        return sp.coo_array((parts.ravel(), (rows, columns)), shape=(size, size)).tocsr()

    def stiffness(self, lame: tuple[np.ndarray, np.ndarray]) -> sp.csr_array:
        """K in N/m."""
        return self.assemble(self.element_stiffness(lame))

    def mass(self, density: np.ndarray) -> sp.csr_array:
        """Consistent mass matrix M in kg."""
        n = self.values
        scalar = np.einsum("e,eq,qa,qb->eab", density, self.weights, n, n, optimize=True)
        dim, (count, corners, _) = self.mesh.dim, scalar.shape
        full = np.einsum("eab,ij->eaibj", scalar, np.eye(dim))
        return self.assemble(full.reshape(count, corners * dim, corners * dim))

    def lumped_mass(self, density: np.ndarray) -> np.ndarray:
        """Row sums of M, ``[node, ...]`` in kg, for a density ``[element, ...]``; 0 where no element is."""
        share = np.einsum("eq,qa->ea", self.weights, self.values)
        mass = np.zeros((self.mesh.count, *density.shape[1:]))
        np.add.at(
            mass, self.mesh.connectivity, share.reshape(*share.shape, *[1] * (density.ndim - 1)) * density[:, None]
        )
        return mass

    @cached_property
    def gradient_operator(self) -> sp.csr_array:
        """From nodal values to gradients at the Gauss points: ``[(component, element, gauss), node]``.

        As one sparse matrix it advances a whole batch with one product, and its transpose collects nodal forces.
        """
        count, gauss, corners, dim = self.gradients.shape
        data = self.gradients.transpose(3, 0, 1, 2)
        columns = np.broadcast_to(self.mesh.connectivity[None, :, None], data.shape)
        rows = np.broadcast_to(np.arange(dim * count * gauss).reshape(dim, count, gauss, 1), data.shape)
        size = (dim * count * gauss, self.mesh.count)
        return sp.coo_array((data.ravel(), (rows.ravel(), columns.ravel())), shape=size).tocsr()

    def displacement_gradient(self, displacement: np.ndarray) -> np.ndarray:
        """H = ∂u/∂X at the element centres: ``[..., node, dim]`` to ``[..., element, dim, dim]``."""
        return np.einsum("eaj,...eai->...eij", self.centre_gradients, displacement[..., self.mesh.connectivity, :])


def require_fitting(elements: Elements, material: Material) -> None:
    """Refuse the material of another mesh.

    Raises:
        InputError: it has not one value a solid element.
    """
    count, found = len(elements.mesh.connectivity), material.density.size
    if found != count:
        raise InputError(f"material: expected a value for each of the {count} solid elements; found {found}")


def small_strain(gradient: np.ndarray) -> np.ndarray:
    """ε = (H + Hᵀ)/2, ``[..., dim, dim]``."""
    return (gradient + gradient.swapaxes(-1, -2)) / 2


def linear_stress(strain: np.ndarray, material: Material, kinematics: Kinematics) -> tuple[np.ndarray, np.ndarray]:
    """Hooke's law with what happens across the plane: σ and ε as ``[..., element, 3, 3]``.

    Args:
        strain: in the mesh's dimension, ``[..., element, dim, dim]``.
        material: of each element.
        kinematics: plane strain has ε_zz = 0; plane stress has σ_zz = 0 and ε_zz = −ν/(1−ν) (ε_xx + ε_yy).
    """
    full = in_space(strain)
    nu = material.poissons_ratio
    if kinematics == "plane_stress":
        full[..., 2, 2] = -nu / (1 - nu) * (strain[..., 0, 0] + strain[..., 1, 1])
    lame, mu = material.lame("solid")
    trace = np.trace(full, axis1=-2, axis2=-1)
    return (lame * trace)[..., None, None] * np.eye(3) + 2 * mu[:, None, None] * full, full


def in_space(tensor: np.ndarray, last: float = 0.0) -> np.ndarray:
    """``[..., dim, dim]`` as ``[..., 3, 3]``, with `last` on the diagonal that a plane problem lacks."""
    dim = tensor.shape[-1]
    full = np.zeros((*tensor.shape[:-2], 3, 3))
    full[..., :dim, :dim] = tensor
    if dim == 2:
        full[..., 2, 2] = last
    return full


def von_mises(stress: np.ndarray) -> np.ndarray:
    """√(3/2 s:s) of ``[..., 3, 3]``, s the deviator."""
    return np.sqrt(1.5 * _deviator_square(stress))


def effective_strain(strain: np.ndarray) -> np.ndarray:
    """√(2/3 e:e) of ``[..., 3, 3]``, e the deviator."""
    return np.sqrt(2 / 3 * _deviator_square(strain))


def _deviator_square(tensor: np.ndarray) -> np.ndarray:
    mean = np.trace(tensor, axis1=-2, axis2=-1) / 3
    deviator = tensor - mean[..., None, None] * np.eye(3)
    return (deviator**2).sum((-1, -2))
