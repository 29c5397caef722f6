"""Neo-Hookean solids advanced implicitly: tangent, Newton's method, order, energy, equilibrium, the explicit solver."""

import math
import re
from functools import partial

import numpy as np
import pytest

from workbench.errors import InputError
from workbench.simulate import structures_newton
from workbench.simulate.structures_elements import Elements, Material
from workbench.simulate.structures_linear import LinearBody
from workbench.simulate.structures_mesh import Mesh, box
from workbench.simulate.structures_motion import Drive
from workbench.simulate.structures_neohookean import NeoHookeanBatch, critical_time_step
from workbench.simulate.structures_newton import Bands, Tangent, march


def distorted(dim: int) -> Mesh:
    """Elements of a unit box whose inner nodes are moved."""
    mesh = box((3, 4, 2)[:dim], (1.0, 1.0, 1.0)[:dim])
    shift = 0.04 * np.random.default_rng(0).uniform(-1, 1, mesh.points.shape)
    inner = np.zeros(mesh.nodes, bool)
    inner[(slice(1, -1),) * dim] = True
    return Mesh(mesh.points + shift * inner[..., None], mesh.solid)


def solid(mesh: Mesh, damping: float = 0.0) -> NeoHookeanBatch:
    """A body of two materials."""
    count = int(mesh.solid.sum())
    modulus = np.where(np.arange(count) % 2, 1e6, 5e5)
    material = Material(modulus, np.full(count, 0.3), np.full(count, 1e3))
    return NeoHookeanBatch(Elements(mesh), [material], [damping], ["the body"])


def clamp(mesh: Mesh) -> np.ndarray:
    supported = np.zeros(mesh.points.shape, bool)
    supported[:, 0] = True
    return supported


def beam(dim: int = 2, damping: float = 0.0) -> tuple[NeoHookeanBatch, np.ndarray, float]:
    """A clamped body, a load on its far end that bends it by a fifth of its length, and its first period."""
    mesh = box((4, 2, 2)[:dim], (2.0, 1.0, 1.0)[:dim])
    body = solid(mesh, damping)
    small = LinearBody(body.elements, body.materials[0], clamp(mesh), body.kinematics)
    load = np.zeros(mesh.points.shape)
    load[:, -1, ..., 1] = 1.0
    load *= 0.2 * 2 / np.abs(small.static(load)).max()
    return body, load, 1 / float(small.natural_frequencies()[0])


def drive_of(body: NeoHookeanBatch, load: np.ndarray, course: np.ndarray, interval: float, shake: float = 0.0) -> Drive:
    """A load, and supports that move along, by `course` at the saved instants."""
    supported, along = clamp(body.elements.mesh), course.reshape(-1, *[1] * load.ndim)
    return Drive(interval, along * load, supported, np.where(supported, shake * along, 0) if shake else None)


def off(found: np.ndarray, truth: np.ndarray) -> float:
    return float(np.linalg.norm(found - truth) / np.linalg.norm(truth))


@pytest.mark.parametrize("dim", [2, 3])
def test_tangent_is_the_derivative_of_the_internal_force(dim):
    """On distorted elements of two materials at large strain, for components that are free; by central differences."""
    mesh, rng = distorted(dim), np.random.default_rng(1)
    body = solid(mesh)
    free = rng.uniform(size=(mesh.count, dim)) < 0.8
    u = 0.03 * rng.standard_normal((mesh.count, dim, 1))
    bands = Bands(body.elements, free)
    lower = sum(np.diag(band[: len(band) - k], -k) for k, band in enumerate(Tangent(body, bands).at(u).T))
    found = lower + np.tril(lower, -1).T
    assert sorted(bands.dofs) == list(np.flatnonzero(free))
    step, exact = 1e-5, np.empty_like(found)
    for column, dof in enumerate(bands.dofs):
        change = np.zeros(u.size)
        change[dof] = step
        ahead, behind = (body.internal_force(u + sign * change.reshape(u.shape))[0].ravel() for sign in (1, -1))
        exact[:, column] = (ahead - behind)[bands.dofs] / (2 * step)
    assert off(found, exact) < 1e-8


def test_newtons_method_converges_quadratically(monkeypatch):
    """Residuals of one long step, read from the message that ends it after so many corrections."""
    body, load, period = beam()
    monkeypatch.setattr(structures_newton, "TOLERANCE", 0.0)
    monkeypatch.setattr(structures_newton, "ROUNDING", 0.0)
    residuals = []
    for corrections in range(5):
        monkeypatch.setattr(structures_newton, "ITERATIONS", corrections)
        with pytest.raises(InputError) as caught:
            march(body, [drive_of(body, load, np.array([0.0, 1.0]), period / 4)], 1)
        expected = (
            rf"the body: Newton's method does not converge in step 1 \(time {period / 4:.4g} s\): after {corrections} "
            r"corrections the residual is (\S+) of the forces, expected at most 0; take more steps .* than 1 \(substeps"
        )
        residuals.append(float(re.match(expected, str(caught.value))[1]))
    assert residuals[1] > 0.1  # a step that is long enough to need several
    for before, after in zip(residuals[1:3], residuals[2:4], strict=True):
        assert after < 0.1 * before**2
    assert residuals[4] < 1e-13


@pytest.mark.parametrize("radius", [1.0, 0.8])
@pytest.mark.parametrize("shake", [0.0, 0.1])
def test_second_order_in_time(radius, shake):
    body, load, period = beam(damping=0.3)
    course = np.linspace(0, 1, 5) ** 2
    drive = drive_of(body, load, course, 0.75 * period / 4, shake)
    last = [march(body, [drive], n, radius)[0].displacement[-1] for n in (8, 16, 64)]
    errors = [np.linalg.norm(u - last[-1]) for u in last[:-1]]
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    np.testing.assert_allclose(orders, 2, atol=0.15)


@pytest.mark.parametrize("dim", [2, 3])
def test_the_explicit_solver_comes_to_the_same_motion(dim):
    """The difference falls with the square of the steps, which are halved together."""
    body, load, period = beam(dim, damping=0.3)
    drive = drive_of(body, load, np.linspace(0, 1, 5), period / 8, 0.05)
    least = math.ceil(drive.interval / critical_time_step(body.elements, body.materials[0], body.kinematics))
    apart = []
    for times in (1, 2):
        explicit, implicit = (advance([drive], 2 * times * least)[0] for advance in (body.march, partial(march, body)))
        apart.append([off(getattr(implicit, n), getattr(explicit, n)) for n in ("displacement", "velocity", "work")])
    assert max(apart[1]) < 2e-3 and apart[1][0] < 2e-4
    np.testing.assert_allclose(np.divide(*apart), 4, atol=0.5)


@pytest.mark.parametrize("shake", [0.0, 0.05])
def test_energy_is_the_work_of_loads_and_supports(shake):
    """Without damping and at spectral radius 1, but for an error of second order; less than 1 takes energy away."""
    body, load, period = beam()
    drive = drive_of(body, load, np.sin(np.linspace(0, 5, 41)) ** 2, period / 10, shake)
    defects = []
    for radius, steps in ((1.0, 1), (1.0, 2), (0.5, 2)):
        motion = march(body, [drive], steps, radius)[0]
        defects.append((motion.kinetic + motion.strain - motion.work) / motion.work.max())
    assert np.abs(motion.displacement).max() > 0.4
    assert np.abs(defects[0]).max() < 5e-4
    assert np.abs(defects[0]).max() / np.abs(defects[1]).max() == pytest.approx(4, abs=0.5)
    assert defects[2][-1] < 2 * defects[1][-1] < 0


@pytest.mark.parametrize("dim", [2, 3])
def test_a_load_that_is_held_leads_to_equilibrium(dim):
    """Internal forces carry the load at large deflection, and its work is stored, for a load that rises slowly."""
    body, load, period = beam(dim, damping=20.0)
    course = np.minimum(np.linspace(0, 2, 21), 1)
    motion = march(body, [drive_of(body, load, course, 10 * period)], 1, 0.0)[0]
    force, _ = body.internal_force(motion.displacement[-1][..., None])
    free = ~clamp(body.elements.mesh).reshape(-1, dim)
    assert np.abs((force[..., 0] - load.reshape(-1, dim))[free]).max() < 1e-7 * np.abs(load).max()
    assert np.abs(motion.displacement[-1]).max() > 0.35
    assert motion.strain[-1] == pytest.approx(motion.work[-1], rel=0.02)


@pytest.mark.parametrize("dim", [2, 3])
def test_patch_test_at_large_strain(dim):
    """A linear displacement of the boundary becomes a linear displacement inside distorted elements."""
    mesh = distorted(dim)
    body = NeoHookeanBatch(Elements(mesh), [Material.uniform(mesh, 1e6, 0.3, 1e3)], [50.0], ["the body"])
    exact = mesh.points @ (0.4 * np.random.default_rng(2).uniform(-1, 1, (dim, dim))).T
    supported = np.ones(mesh.points.shape, bool)
    supported[(slice(1, -1),) * dim] = False
    course = np.minimum(np.linspace(0, 2, 21), 1).reshape(-1, *[1] * (dim + 1))
    motion = march(body, [Drive(1.0, 0 * course * exact, supported, course * exact)], 1, 0.0)[0]
    np.testing.assert_allclose(motion.displacement[-1], exact.reshape(-1, dim), atol=1e-8)


def test_a_trajectory_moves_as_it_does_alone():
    body, load, period = beam()
    mesh = body.elements.mesh
    softer = Material.uniform(mesh, 4e5, 0.35, 1e3)
    both = NeoHookeanBatch(body.elements, [*body.materials, softer], [0.0, 0.3], ["a", "b"])
    drives = [drive_of(body, sign * load, np.linspace(0, 1, 5), period / 8, 0.05) for sign in (1, -1)]
    start = 1e-3 * np.random.default_rng(3).standard_normal((2, mesh.count, 2, 2))
    for k, motion in enumerate(march(both, drives, 2, 0.9, (start[0], start[1]))):
        one = slice(k, k + 1)
        (alone,) = march(both.member(k), drives[one], 2, 0.9, (start[0][..., one], start[1][..., one]))
        np.testing.assert_array_equal(motion.displacement, alone.displacement)
    assert np.abs(motion.displacement).max() > 0.1


def test_a_body_that_is_turned_over_is_refused_with_the_step():
    body, load, period = beam()
    drive = drive_of(body, load, np.array([0.0, 1.0]), period / 4)
    flat = np.zeros((*load.reshape(-1, 2).shape, 1))
    flat[:, 0] = -0.9 * body.elements.mesh.points[..., 0].reshape(-1, 1)
    flat[body.elements.mesh.count // 2, 0] -= 1.0
    with pytest.raises(InputError, match=r"in step 0 .*an element is turned over at the start \(least det F -"):
        march(body, [drive], 1, 0.9, (flat, 0 * flat))
    with pytest.raises(InputError, match=r"in step 1 .* and (an element turns over|the tangent is not positive)"):
        march(body, [drive_of(body, 100 * load, np.array([0.0, 1.0]), period)], 1)
