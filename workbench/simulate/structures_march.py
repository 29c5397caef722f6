"""Advance trajectories of one mesh through their saved instants, by the scheme that fits their law or was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from workbench.simulate import structures_linear, structures_newton
from workbench.simulate.structures_linear import LinearBody
from workbench.simulate.structures_motion import Drive, Motion
from workbench.simulate.structures_neohookean import NeoHookeanBatch

Law = Literal["linear", "neo_hookean"]
Integrator = Literal["explicit", "implicit"]


def advance(
    law: Law,
    integrator: Integrator,
    bodies: Sequence[LinearBody],
    drives: Sequence[Drive],
    labels: Sequence[str],
    substeps: int,
    spectral_radius: float,
    initial: Sequence[tuple[np.ndarray, np.ndarray]] | None = None,
) -> list[Motion]:
    """The motion of each trajectory.

    Args:
        law: of the material.
        integrator: generalised-α with consistent mass (linear) or lumped mass (neo-Hookean), or central differences
            with lumped mass (neo-Hookean only), which advance all trajectories together.
        bodies: one a trajectory, on the same mesh.
        drives: loads and supports, one a trajectory.
        labels: what messages call the trajectories.
        substeps: steps between two saved instants.
        spectral_radius: of generalised-α.
        initial: displacement and velocity ``[node, dim]`` of each; at rest by default.

    Raises:
        InputError: a drive does not fit the mesh, an explicit step is too long, an element turns over, or Newton's
            method does not converge.
    """
    if law == "linear":
        return [
            structures_linear.march(body, drive, substeps, spectral_radius, None if initial is None else initial[k])
            for k, (body, drive) in enumerate(zip(bodies, drives, strict=True))
        ]
    materials, damping = [body.material for body in bodies], [body.mass_damping for body in bodies]
    batch = NeoHookeanBatch(bodies[0].elements, materials, damping, labels)
    together = None
    if initial is not None:
        u, v = (np.stack(part, -1) for part in zip(*initial, strict=True))
        together = u, v
    if integrator == "explicit":
        return batch.march(drives, substeps, together)
    return structures_newton.march(batch, drives, substeps, spectral_radius, together)
