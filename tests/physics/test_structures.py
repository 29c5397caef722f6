"""Structures against exact solutions, beam theory, conservation laws, invariances and orders of convergence."""

import math

import numpy as np
import pytest
from skfem import Basis, ElementHex1, ElementQuad1, ElementVector
from skfem.models.elasticity import linear_elasticity

from workbench.simulate.structures_elements import (
    Elements,
    Material,
    effective_strain,
    linear_stress,
    small_strain,
    von_mises,
)
from workbench.simulate.structures_linear import GeneralisedAlpha, LinearBody, march
from workbench.simulate.structures_mesh import Mesh, box, rigid_modes
from workbench.simulate.structures_motion import Drive
from workbench.simulate.structures_neohookean import (
    NeoHookeanBatch,
    cauchy_stress,
    critical_time_step,
    energy_density,
    first_piola,
)

KINEMATICS = {2: "plane_strain", 3: "solid"}


def distorted(dim: int, seed: int = 0) -> Mesh:
    """Elements of a unit box whose inner nodes are moved."""
    mesh = box((4, 3, 3)[:dim], (1.0, 1.0, 1.0)[:dim])
    shift = 0.05 * np.random.default_rng(seed).uniform(-1, 1, mesh.points.shape)
    inner = np.zeros(mesh.nodes, bool)
    inner[(slice(1, -1),) * dim] = True
    return Mesh(mesh.points + shift * inner[..., None], mesh.solid)


def clamp(mesh: Mesh, far_end: bool = False) -> np.ndarray:
    supported = np.zeros(mesh.points.shape, bool)
    supported[:, 0] = True
    supported[:, -1] |= far_end
    return supported


def cantilever(elements: tuple[int, ...], lengths: tuple[float, ...], nu: float = 0.3, **options) -> LinearBody:
    mesh = box(elements, lengths)
    return LinearBody(
        Elements(mesh),
        Material.uniform(mesh, 1e6, nu, 1000.0),
        clamp(mesh),
        options.pop("kinematics", KINEMATICS[len(elements)]),
        **options,
    )


def tip_load(mesh: Mesh, force: float = 1.0) -> np.ndarray:
    """A total force along y, spread evenly over the far end."""
    load = np.zeros(mesh.points.shape)
    weights = np.ones(mesh.nodes[:1] + mesh.nodes[2:])
    for axis in range(weights.ndim):
        ends = np.moveaxis(weights, axis, 0)
        ends[[0, -1]] /= 2
    load[:, -1, ..., 1] = force * weights / weights.sum()
    return load


def resting(body: LinearBody, instants: int, interval: float) -> Drive:
    return Drive(interval, np.zeros((instants, *body.supported.shape)), body.supported)


def first_mode(body: LinearBody) -> tuple[np.ndarray, float]:
    """Shape ``[node, dim]`` and angular frequency of the lowest mode."""
    from scipy.linalg import eigh

    k, m = (matrix[body.free][:, body.free].toarray() for matrix in (body.stiffness, body.mass))
    squares, shapes = eigh(k, m, subset_by_index=(0, 0))
    mode = np.zeros(body.supported.size)
    mode[body.free] = shapes[:, 0] / np.abs(shapes[:, 0]).max()
    return mode.reshape(-1, body.elements.mesh.dim), math.sqrt(squares[0])


# ---------------------------------------------------------------------------------------------- elements


@pytest.mark.parametrize("dim", [2, 3])
def test_patch_test_on_distorted_elements(dim):
    """A linear displacement on the boundary is a linear displacement inside, with its stress."""
    mesh = distorted(dim)
    elements, material = Elements(mesh), Material.uniform(mesh, 3.0, 0.3, 1.0)
    gradient = np.random.default_rng(1).standard_normal((dim, dim))
    exact = mesh.points.reshape(-1, dim) @ gradient.T
    outside = np.ones(mesh.nodes, bool)
    outside[(slice(1, -1),) * dim] = False
    held = np.repeat(outside.ravel(), dim)
    stiffness = elements.stiffness(material.lame(KINEMATICS[dim]))
    u = np.where(held, exact.ravel(), 0)
    u[~held] = np.linalg.solve(stiffness[~held][:, ~held].toarray(), -(stiffness @ u)[~held])
    np.testing.assert_allclose(u, exact.ravel(), atol=1e-13)
    stress, strain = linear_stress(
        small_strain(elements.displacement_gradient(u.reshape(-1, dim))), material, KINEMATICS[dim]
    )
    full = np.zeros((3, 3))
    full[:dim, :dim] = (gradient + gradient.T) / 2
    lam, mu = 3 * 0.3 / (1.3 * 0.4), 3 / 2.6
    np.testing.assert_allclose(strain, np.broadcast_to(full, strain.shape), atol=1e-12)
    expected = lam * np.trace(full) * np.eye(3) + 2 * mu * full
    np.testing.assert_allclose(stress, np.broadcast_to(expected, stress.shape), atol=1e-12)


@pytest.mark.parametrize("dim", [2, 3])
def test_stiffness_is_that_of_scikit_fem(dim):
    mesh = distorted(dim)
    ours = Elements(mesh).stiffness((np.full(mesh.solid.size, 0.7), np.full(mesh.solid.size, 0.4)))
    basis = mesh.basis()
    vector = Basis(basis.mesh, ElementVector(ElementQuad1() if dim == 2 else ElementHex1()), intorder=3)
    theirs = linear_elasticity(0.7, 0.4).assemble(vector)
    order = vector.nodal_dofs.T.ravel()
    np.testing.assert_allclose(ours.toarray(), theirs[order][:, order].toarray(), atol=1e-13)


@pytest.mark.parametrize("dim", [2, 3])
def test_mass_and_rigid_motion(dim):
    mesh = distorted(dim)
    elements, material = Elements(mesh), Material.uniform(mesh, 1.0, 0.3, 7.0)
    mass = elements.mass(material.density)
    assert mass.sum() == pytest.approx(7.0 * dim, rel=1e-13)
    assert elements.lumped_mass(material.density).sum() == pytest.approx(7.0, rel=1e-13)
    modes = rigid_modes(mesh.points.reshape(-1, dim)).reshape(mesh.count * dim, -1)
    assert modes.shape[1] == {2: 3, 3: 6}[dim]
    assert np.abs(elements.stiffness(material.lame(KINEMATICS[dim])) @ modes).max() < 1e-13


def test_plane_stress_leaves_no_stress_across_the_plane():
    mesh = distorted(2)
    elements, material = Elements(mesh), Material.uniform(mesh, 2.0, 0.3, 1.0)
    stretch = mesh.points.reshape(-1, 2) @ np.diag([0.01, -0.3 * 0.01])
    stress, strain = linear_stress(small_strain(elements.displacement_gradient(stretch)), material, "plane_stress")
    np.testing.assert_allclose(stress[:, 0, 0], 2.0 * 0.01, rtol=1e-11)
    np.testing.assert_allclose(strain[:, 2, 2], -0.3 * 0.01, rtol=1e-11)
    assert np.abs(np.delete(stress.reshape(-1, 9), 0, 1)).max() < 1e-14
    np.testing.assert_allclose(von_mises(stress), 0.02, rtol=1e-11)
    np.testing.assert_allclose(effective_strain(strain), 0.01 * 1.3 * 2 / 3, rtol=1e-11)


# ---------------------------------------------------------------------------------------------- beam theory


def timoshenko(length: float, height: float, nu: float, dim: int) -> float:
    """Tip deflection of a cantilever of unit width and E = 1e6 under a unit shear force."""
    modulus = 1e6 / (1 - nu**2) if dim == 2 else 1e6
    width = 1.0 if dim == 2 else height
    inertia, area, shear = width * height**3 / 12, width * height, 1e6 / (2 * (1 + nu))
    correction = 5 / 6 if dim == 2 else 10 * (1 + nu) / (12 + 11 * nu)
    return length**3 / (3 * modulus * inertia) + length / (correction * shear * area)


def test_static_cantilever_approaches_timoshenko_from_below():
    found = []
    for nx, ny in ((20, 2), (40, 4), (80, 8)):
        body = cantilever((nx, ny), (10.0, 1.0))
        tip = body.static(tip_load(body.elements.mesh)).reshape(*body.supported.shape)[:, -1, 1].mean()
        found.append(tip / timoshenko(10.0, 1.0, 0.3, 2))
    np.testing.assert_allclose(found, [0.868, 0.960, 0.987], atol=0.002)
    body = cantilever((20, 2, 2), (10.0, 1.0, 1.0))
    tip = body.static(tip_load(body.elements.mesh)).reshape(*body.supported.shape)[:, -1, :, 1].mean()
    assert tip / timoshenko(10.0, 1.0, 0.3, 3) == pytest.approx(0.869, abs=0.002)


def test_first_bending_frequency_approaches_beam_theory():
    """Euler and Bernoulli's frequency, less 0.6 % for shear and rotary inertia of a beam ten times as long as high."""
    theory = 1.8751040687**2 / (2 * math.pi * 100) * math.sqrt(1e6 / (1 - 0.09) / 12 / 1000)
    found = [cantilever((10 * n, n), (10.0, 1.0)).natural_frequencies()[0] / theory for n in (2, 4, 8)]
    np.testing.assert_allclose(found, [1.066, 1.013, 0.999], atol=0.001)


def test_axial_frequency_has_the_known_error_of_consistent_mass():
    for n in (8, 16):
        mesh = box((n, 1), (1.0, 0.05))
        supported = clamp(mesh)
        supported[..., 1] = True  # no bending
        body = LinearBody(Elements(mesh), Material.uniform(mesh, 1e6, 0.0, 1000.0), supported, "plane_strain")
        ratio = body.natural_frequencies()[0] / (math.sqrt(1e6 / 1000) / 4)
        assert ratio - 1 == pytest.approx((math.pi / 2 / n) ** 2 / 24, rel=0.01)


# ---------------------------------------------------------------------------------------------- order in space


def manufactured_error(n: int) -> float:
    """L2 error at the Gauss points for u = (sin πx sin πy, sin 2πx sin πy) on the unit square, λ = μ = 1."""
    mesh = box((n, n), (1.0, 1.0))
    elements = Elements(mesh)
    places = np.einsum("qa,eai->eqi", elements.values, mesh.points.reshape(-1, 2)[mesh.connectivity])
    x, y = np.pi * places[..., 0], np.pi * places[..., 1]
    exact = np.stack([np.sin(x) * np.sin(y), np.sin(2 * x) * np.sin(y)], -1)
    force = np.stack(
        [
            4 * np.sin(x) * np.sin(y) - 4 * np.cos(2 * x) * np.cos(y),
            7 * np.sin(2 * x) * np.sin(y) - 2 * np.cos(x) * np.cos(y),
        ],
        -1,
    )
    load = np.zeros((mesh.count, 2))
    body_force = np.pi**2 * np.einsum("eq,qa,eqi->eai", elements.weights, elements.values, force)
    np.add.at(load, mesh.connectivity, body_force)
    supported = np.zeros(mesh.points.shape, bool)
    supported[[0, -1]] = supported[:, [0, -1]] = True
    lame_one = Material.uniform(mesh, 2.5, 0.25, 1.0)  # λ = μ = 1
    body = LinearBody(elements, lame_one, supported, "plane_strain")
    u = body.static(load.reshape(mesh.points.shape))
    at_gauss = np.einsum("qa,eai->eqi", elements.values, u[mesh.connectivity])
    return math.sqrt(np.einsum("eq,eqi->", elements.weights, (at_gauss - exact) ** 2))


def test_second_order_in_space():
    errors = [manufactured_error(n) for n in (8, 16, 32)]
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    np.testing.assert_allclose(orders, 2, atol=0.03)


# ---------------------------------------------------------------------------------------------- linear dynamics


def test_free_vibration_follows_the_discrete_law_of_the_trapezoidal_rule():
    """From an eigenmode, u_n = u_0 cos(nθ) with θ = 2 arctan(ωΔt/2)."""
    body = cantilever((6, 3), (2.0, 1.0))
    mode, omega = first_mode(body)
    interval = 0.3 / omega
    motion = march(body, resting(body, 41, interval), 1, 1.0, (mode, np.zeros_like(mode)))
    theta = 2 * math.atan(omega * interval / 2)
    expected = np.cos(theta * np.arange(41))[:, None, None] * mode
    np.testing.assert_allclose(motion.displacement, expected, atol=1e-10)


@pytest.mark.parametrize("supports", ["still", "moving"])
@pytest.mark.parametrize("dim", [2, 3])
def test_energy_balance_without_damping(dim, supports):
    """With spectral radius 1 the work of loads and supports is the energy, for loads to round-off."""
    body = cantilever((6, 3, 2)[:dim], (2.0, 1.0, 1.0)[:dim])
    period = 1 / body.natural_frequencies()[0]
    course = np.sin(np.linspace(0, 5, 61)) ** 2
    loads = course.reshape(-1, *[1] * (dim + 1)) * tip_load(body.elements.mesh, 100.0)
    prescribed = None
    if supports == "moving":
        prescribed = np.where(body.supported, course.reshape(-1, *[1] * (dim + 1)) * 0.01, 0)
    motion = march(body, Drive(period / 30, loads, body.supported, prescribed), 2, 1.0)
    defect = motion.kinetic + motion.strain - motion.work
    tolerance = 1e-11 if supports == "still" else 1e-4
    assert motion.work.max() > 1
    assert np.abs(defect).max() < tolerance * motion.work.max()


def test_dissipation_only_lowers_the_energy():
    body = cantilever((6, 3), (2.0, 1.0))
    mode, omega = first_mode(body)
    damped = cantilever((6, 3), (2.0, 1.0), mass_damping=0.1 * omega, stiffness_damping=0.01 / omega)
    noise = np.random.default_rng(0).standard_normal(mode.shape) * (mode != 0)
    for which, radius in ((body, 0.5), (damped, 1.0)):
        motion = march(which, resting(which, 60, 0.2 / omega), 1, radius, (mode, omega * noise))
        energy = motion.kinetic + motion.strain
        assert energy[-1] < 0.9 * energy[0]
        if radius == 1:
            assert (np.diff(energy) < 0).all()


def test_rayleigh_damping_gives_the_decay_of_a_mode():
    """ζ = α/(2ω) + βω/2."""
    mode, omega = first_mode(cantilever((6, 3), (2.0, 1.0)))
    body = cantilever((6, 3), (2.0, 1.0), mass_damping=0.04 * omega, stiffness_damping=0.02 / omega)
    turns, each = 4, 200
    ratio = 0.03
    period = 2 * math.pi / (omega * math.sqrt(1 - ratio**2))
    velocity = -ratio * omega * mode
    motion = march(body, resting(body, turns + 1, period), each, 1.0, (mode, velocity))
    tip = motion.displacement[:, -1, 1] / mode[-1, 1]
    np.testing.assert_allclose(tip, np.exp(-ratio * omega * period * np.arange(turns + 1)), rtol=2e-3)


@pytest.mark.parametrize("radius", [1.0, 0.8])
@pytest.mark.parametrize("moving", [False, True])
def test_second_order_in_time(radius, moving):
    body = cantilever((4, 2), (2.0, 1.0), mass_damping=0.3, stiffness_damping=1e-3)
    period = 1 / body.natural_frequencies()[0]
    times = np.linspace(0, 1, 5)
    course = times.reshape(-1, 1, 1, 1)
    loads = course * tip_load(body.elements.mesh, 100.0)
    prescribed = np.where(body.supported, 0.01 * course**2 * (2 - course), 0) if moving else None
    drive = Drive(0.75 * period / 4, loads, body.supported, prescribed)
    last = [march(body, drive, n, radius).displacement[-1] for n in (16, 32, 64, 512)]
    errors = [np.linalg.norm(u - last[-1]) for u in last[:-1]]
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert (orders > 1.9).all()
    assert (orders < 2.35).all()


def test_scheme_has_the_published_coefficients():
    scheme = GeneralisedAlpha(1.0, 0.5)
    assert (scheme.mass_weight, scheme.force_weight) == pytest.approx((0.0, 1 / 3))
    assert (scheme.gamma, scheme.beta) == pytest.approx((0.5 + 1 / 3, (4 / 3) ** 2 / 4))


# ---------------------------------------------------------------------------------------------- neo-Hookean


def random_gradient(dim: int, seed: int) -> np.ndarray:
    return np.eye(dim) + 0.3 * np.random.default_rng(seed).uniform(-1, 1, (dim, dim))


def rotation(dim: int, seed: int) -> np.ndarray:
    q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((dim, dim)))
    q[:, 0] *= np.sign(np.linalg.det(q))
    return q


LAME = (np.array(1.3), np.array(0.8))


@pytest.mark.parametrize("dim", [2, 3])
def test_stress_is_the_derivative_of_the_energy(dim):
    f, step = random_gradient(dim, 3), 1e-6
    stress, j = first_piola(f, LAME)
    assert j == pytest.approx(np.linalg.det(f), rel=1e-14)
    for place in np.ndindex(dim, dim):
        ahead, behind = f.copy(), f.copy()
        ahead[place] += step
        behind[place] -= step
        slope = (energy_density(ahead, LAME) - energy_density(behind, LAME)) / (2 * step)
        assert stress[place] == pytest.approx(slope, abs=1e-9)


@pytest.mark.parametrize("dim", [2, 3])
def test_frame_indifference(dim):
    """Ψ(QF) = Ψ(F) and P(QF) = Q P(F)."""
    f, q = random_gradient(dim, 4), rotation(dim, 5)
    assert energy_density(q @ f, LAME) == pytest.approx(float(energy_density(f, LAME)), rel=1e-13)
    np.testing.assert_allclose(first_piola(q @ f, LAME)[0], q @ first_piola(f, LAME)[0], atol=1e-14)


def test_simple_shear_and_small_strain_have_their_exact_stress():
    mesh = box((1, 1), (1.0, 1.0))
    material = Material.uniform(mesh, 2.5, 0.25, 1.0)  # λ = μ = 1
    shear = np.array([[[0.0, 0.4], [0.0, 0.0]]])
    stress, strain = cauchy_stress(shear, material)
    np.testing.assert_allclose(stress[0], [[0.16, 0.4, 0], [0.4, 0, 0], [0, 0, 0]], atol=1e-15)
    np.testing.assert_allclose(strain[0], [[0, 0.2, 0], [0.2, 0.08, 0], [0, 0, 0]], atol=1e-15)
    tiny = 1e-6 * np.random.default_rng(0).standard_normal((1, 2, 2))
    linear, _ = linear_stress(small_strain(tiny), material, "plane_strain")
    np.testing.assert_allclose(cauchy_stress(tiny, material)[0], linear, atol=1e-11)


@pytest.mark.parametrize("dim", [2, 3])
def test_rigid_motion_causes_no_force(dim):
    mesh = distorted(dim)
    batch = NeoHookeanBatch(Elements(mesh), [Material.uniform(mesh, 1.0, 0.3, 1.0)], [0.0], ["a"])
    moved = mesh.points.reshape(-1, dim) @ rotation(dim, 6).T + 0.7 - mesh.points.reshape(-1, dim)
    force, least = batch.internal_force(moved[..., None])
    assert np.abs(force).max() < 1e-13
    assert least == pytest.approx(1, abs=1e-13)
    assert batch.strain_energy(moved[..., None]) == pytest.approx(0, abs=1e-13)


@pytest.mark.parametrize("dim", [2, 3])
def test_internal_forces_are_in_balance_and_turn_with_the_body(dim):
    mesh = distorted(dim)
    batch = NeoHookeanBatch(Elements(mesh), [Material.uniform(mesh, 1.0, 0.3, 1.0)], [0.0], ["a"])
    start = mesh.points.reshape(-1, dim)
    u = 0.03 * np.random.default_rng(7).standard_normal(start.shape)
    q = rotation(dim, 8)
    force, _ = batch.internal_force(u[..., None])
    turned, _ = batch.internal_force(((start + u) @ q.T - start)[..., None])
    np.testing.assert_allclose(turned[..., 0], force[..., 0] @ q.T, atol=1e-14)
    assert np.abs(force.sum(0)).max() < 1e-14
    moments = np.einsum("ni,nj->ij", start + u, force[..., 0])
    np.testing.assert_allclose(moments, moments.T, atol=1e-14)


def explicit(elements: tuple[int, ...], steps: int, amplitude: float, substeps: int | None = None):
    """A beam under a step load, in a batch of two that differ in stiffness."""
    dim = len(elements)
    body = cantilever(elements, (2.0, 1.0, 1.0)[:dim])
    mesh = body.elements.mesh
    interval = 0.05 / body.natural_frequencies()[0]
    load = tip_load(mesh)
    load *= amplitude / np.abs(body.static(load)).max()
    course = np.minimum(np.arange(steps + 1) / 4, 1).reshape(-1, *[1] * (dim + 1))
    drive = Drive(interval, course * load, body.supported)
    least = math.ceil(interval / (0.6 * critical_time_step(body.elements, body.material, body.kinematics)))
    softer = Material.uniform(mesh, 7e5, 0.3, 1000.0)
    batch = NeoHookeanBatch(body.elements, [body.material, softer], [0.0, 0.0], ["stiff", "soft"])
    return body, drive, batch, batch.march([drive, drive], substeps or least)


@pytest.mark.parametrize("dim", [2, 3])
def test_small_motion_is_that_of_the_implicit_linear_solver(dim):
    """The masses differ (lumped, consistent), a known 2 % on this mesh."""
    body, drive, _, (motion, _) = explicit((8, 4, 2)[:dim], 20, 1e-5)
    linear = march(body, drive, 8, 1.0)
    apart = np.linalg.norm(motion.displacement - linear.displacement) / np.linalg.norm(linear.displacement)
    assert apart < 0.05


@pytest.mark.parametrize("dim", [2, 3])
def test_energy_drift_of_large_motion_is_bounded(dim):
    """The leapfrog's energy swings by a little and does not drift: the work done stays the energy."""
    _, _, _, motions = explicit((6, 3, 2)[:dim], 60 if dim == 2 else 20, 0.15)
    for motion in motions:
        defect = np.abs(motion.kinetic + motion.strain - motion.work) / motion.work.max()
        assert np.abs(motion.displacement).max() > 0.2
        assert defect.max() < 2e-3
        assert defect[len(defect) // 2 :].max() < 3 * defect[: len(defect) // 2].max() + 1e-6


def test_explicit_scheme_is_of_second_order_in_time():
    _, drive, batch, _ = explicit((4, 2), 8, 0.15)
    last = [batch.march([drive, drive], n)[0].displacement[-1] for n in (16, 32, 64, 512)]
    errors = [np.linalg.norm(u - last[-1]) for u in last[:-1]]
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    np.testing.assert_allclose(orders, 2, atol=0.1)


def test_a_batch_moves_as_its_members_do_alone():
    _, drive, batch, (_, together) = explicit((4, 2), 8, 0.15)
    substeps = 16
    together = batch.march([drive, drive], substeps)
    for member, motion in enumerate(together):
        alone = NeoHookeanBatch(batch.elements, [batch.materials[member]], [0.0], ["alone"])
        np.testing.assert_allclose(alone.march([drive], substeps)[0].displacement, motion.displacement, atol=1e-13)


def test_moving_supports_do_work_on_a_large_motion():
    body, drive, batch, _ = explicit((4, 2), 20, 0.01)
    course = np.sin(np.linspace(0, 3, 21)).reshape(-1, 1, 1, 1) ** 2
    shaken = Drive(drive.interval, 0 * drive.loads, body.supported, np.where(body.supported, 0.1 * course, 0))
    motion, still = batch.march([shaken, drive], 40)
    np.testing.assert_allclose(
        motion.displacement.reshape(21, *body.supported.shape)[:, :, 0],
        0.1 * course[..., 0, :] + np.zeros((21, 3, 2)),
        atol=1e-12,
    )
    assert np.abs(motion.kinetic + motion.strain - motion.work).max() < 0.01 * motion.work.max()
    assert np.abs(still.kinetic + still.strain - still.work).max() < 0.01 * still.work.max()


def test_the_admissible_step_is_a_lower_bound_of_the_stability_limit():
    body = cantilever((4, 2), (2.0, 1.0))
    mass = body.elements.lumped_mass(body.material.density).repeat(2)
    matrix = body.stiffness.toarray() / np.sqrt(mass[:, None] * mass)
    limit = 2 / math.sqrt(np.linalg.eigvalsh(matrix[body.free][:, body.free])[-1])
    bound = critical_time_step(body.elements, body.material, "plane_strain")
    assert 0.7 * limit < bound <= limit
