"""A recorded trajectory computed again from what its record says."""

import numpy as np
import pytest

from workbench.errors import InputError
from workbench.simulate.structures import Structures
from workbench.simulate.structures_replay import Replay, energies, read_conditions, source_of, vector

SOURCES = {
    "linear": {},
    "varied": {
        "elements": (8, 6),
        "refinement": 2,
        "cutouts": ("notch", "hole"),
        "layouts": ("layers", "inclusion"),
        "moving_supports": 1.0,
    },
    "neo-Hookean": {"law": "neo_hookean", "refinement": 2, "moving_supports": 1.0},
    "3D": {"elements": (4, 2, 2), "lengths": (2.0, 1.0, 1.0), "refinement": 2},
}


def make(kind: str, **more):
    """A source and its record of two trajectories."""
    source = Structures(**{"elements": (4, 2), "intervals": 10, "trajectories": 2, **SOURCES[kind], **more})
    return source, source.simulate([0, 1])


def states(record, instant=0):
    u, v = (vector(record.isel(time=[instant]), name, ("trajectory", "time")) for name in ("displacement", "velocity"))
    return [(u[k, 0], v[k, 0]) for k in range(len(u))]


def off(found, record, name, first=0):
    """Relative L2 difference from the record."""
    truth = record[name].values[:, first:]
    return np.linalg.norm(np.stack([fields[name] for fields in found]) - truth) / np.linalg.norm(truth)


@pytest.mark.parametrize("kind", SOURCES)
def test_on_its_own_mesh_a_record_comes_out_again(kind):
    source, record = make(kind)
    replay = Replay.of(record)
    assert source_of(record) == source
    found = replay.march(read_conditions(record, [0, 1]), states(record))
    for name in ("displacement_x", "displacement_y", "velocity_y", "stress_xy", "von_mises", "strain_energy"):
        assert off(found, record, name) < 3e-7, name


@pytest.mark.parametrize("kind", SOURCES)
def test_from_the_middle_it_goes_on_as_the_record_did(kind):
    _, record = make(kind)
    cases = [case.between(4, 10) for case in read_conditions(record, [0, 1])]
    found = Replay.of(record).march(cases, states(record, 4))
    # the record holds every node of its solver's mesh only where that is not finer; and no acceleration
    assert off(found, record, "displacement_y", 4) < (1e-4 if kind == "linear" else 0.02)


def test_on_half_the_elements_the_error_is_that_of_a_coarser_mesh():
    errors = {}
    for refinement in (1, 2, 4):
        _, record = make("linear", refinement=refinement, elements=(8, 4))
        found = Replay.of(record, coarser=2).march(read_conditions(record, [0, 1]), states(record))
        errors[refinement] = off(found, record, "displacement_y")
    assert errors[1] > 2 * errors[2] > 4 * errors[4] > 0


def test_half_the_elements_of_an_odd_or_mixed_mesh_are_refused():
    _, record = make("linear", elements=(5, 2))
    with pytest.raises(InputError, match=r"has \[5, 2\] elements .* cannot be divided by 2"):
        Replay.of(record, coarser=2)
    _, record = make("varied", refinement=1)
    with pytest.raises(InputError, match="part material, part void, or of two materials"):
        Replay.of(record, coarser=2).march(read_conditions(record, [0, 1]), states(record))


def test_forces_on_the_solvers_mesh_are_the_inverse_of_those_recorded():
    _, record = make("3D")
    case = read_conditions(record, [0])[0]
    replay = Replay.of(record)
    fine = replay.specimen.spread_load(case.loads)
    assert fine.shape[1:] == replay.specimen.full.mesh.points.shape
    back = np.einsum("ai,bj,ck,tabcd->tijkd", *replay.specimen.to_solver, fine)
    np.testing.assert_allclose(back, case.loads, atol=1e-12 * np.abs(case.loads).max())
    np.testing.assert_allclose(fine.sum((1, 2, 3)), case.loads.sum((1, 2, 3)), rtol=1e-9)


def test_slow_loads_give_the_static_response():
    """Loads that take a hundred periods: what is left of the motion is of the order of (period/duration)²."""
    source, record = make(
        "linear", periods=200.0, intervals=20, histories=("ramp_hold",), substeps=100, damping_ratio=0.5
    )
    cases = read_conditions(record, [0, 1])
    found = [Replay.of(record).quasi_static(case) for case in cases]
    for name in ("displacement_y", "von_mises"):
        assert off(found, record, name) < 5e-3, name
    exact = Replay.of(record).body(cases[0]).static(cases[0].loads[-1])
    np.testing.assert_allclose(found[0]["displacement_y"][-1].ravel(), exact[:, 1], rtol=1e-10, atol=1e-15)


def test_statics_follow_moving_supports():
    _, record = make("linear", moving_supports=1.0)
    case = read_conditions(record, [0])[0]
    body = Replay.of(record).body(case)
    moved = np.zeros_like(case.loads)
    moved[..., 0], moved[..., 1] = 0.01, -0.02
    np.testing.assert_allclose(body.static(0 * case.loads, moved), np.tile([0.01, -0.02], (11, 15, 1)), atol=1e-12)


@pytest.mark.parametrize("kind", ["linear", "neo-Hookean"])
def test_energies_of_recorded_fields_are_those_of_the_solver(kind):
    source, record = make(kind, refinement=1)
    case = read_conditions(record, [1])[0]
    u, v = (vector(record, name, ("trajectory", "time"))[1] for name in ("displacement", "velocity"))
    for name, found in zip(("kinetic_energy", "strain_energy"), energies(source, case, u, v), strict=True):
        np.testing.assert_allclose(found, record[name][1], atol=1e-5 * float(record[name][1].max()))


@pytest.mark.parametrize("kind", ["linear", "neo-Hookean"])
def test_loads_and_supports_that_the_body_cannot_bear_are_refused(kind):
    _, record = make(kind, refinement=1, moving_supports=0.0)
    cases = {name: record.copy(deep=True) for name in ("free", "unsupported", "nan")}
    cases["free"]["solid"][:, :, -1] = 0
    cases["unsupported"]["solid"][:, :, 0] = 0
    cases["nan"]["load_y"][0, 3] = np.nan
    messages = {
        "free": r"loads: 3 loaded nodes belong to no solid element, the first at grid index \(0, 4\)",
        "unsupported": "supports: they leave 3 rigid modes to the body",
        "nan": "loads: values are not finite, first at saved instant 3",
    }
    for name, changed in cases.items():
        replay, (case,) = Replay.of(changed), read_conditions(changed, [0])
        for solve in (
            lambda r=replay, c=case: r.march([c], states(record)[:1]),
            lambda r=replay, c=case: r.quasi_static(c),
        ):
            with pytest.raises(InputError, match=messages[name]):
                solve()


def test_a_record_of_other_making_is_refused():
    _, record = make("linear")
    with pytest.raises(InputError, match="cannot be computed again: expected the attribute 'simulation'.*found none"):
        source_of(record.assign_attrs(simulation="{}"))
    with pytest.raises(InputError, match=r"has elements \(2, 4\) along its axes, the record \(2, 2\).*data.crop"):
        source_of(record.isel(elem_x=slice(2), node_x=slice(3)))
    for name, action in (("load_y", read_conditions), ("node_damping", read_conditions)):
        with pytest.raises(InputError, match=f"no variable '{name}'"):
            action(record.drop_vars(name), [0])
    with pytest.raises(InputError, match="no variable 'velocity_x'"):
        vector(record.drop_vars("velocity_x"), "velocity")
