"""Structures as the source of a dataset: what it records, what it refuses, and how a build goes on."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import yaml

from workbench.data.recipe import build, read_recipe
from workbench.errors import InputError
from workbench.simulate.structures import Structures
from workbench.simulate.structures_cases import course
from workbench.simulate.structures_elements import Elements, Material
from workbench.simulate.structures_fields import in_elements, round_nodes, solid_share
from workbench.simulate.structures_linear import GeneralisedAlpha, LinearBody, march
from workbench.simulate.structures_mesh import Mesh, box, refine, require_support
from workbench.simulate.structures_motion import Drive
from workbench.simulate.structures_neohookean import NeoHookeanBatch, critical_time_step
from workbench.simulate.structures_record import HISTORIES, variables

TINY = {"elements": (4, 2), "intervals": 10, "trajectories": 4}
VARIED = {
    "cutouts": ("notch", "hole"),
    "layouts": ("layers", "inclusion"),
    "moving_supports": 1.0,
    "elements": (8, 6),
    "intervals": 10,
    "trajectories": 4,
}


def held(mesh: Mesh) -> np.ndarray:
    supported = np.zeros(mesh.points.shape, bool)
    supported[:, 0] = True
    return supported


@pytest.mark.parametrize("law", ["linear", "neo_hookean"])
@pytest.mark.parametrize("dim", [2, 3])
def test_record_is_what_the_template_says(dim, law):
    more = {"elements": (4, 2, 2), "lengths": (2.0, 1.0, 1.0)} if dim == 3 else {}
    source = Structures(**{**TINY, "law": law, "trajectories": 3, **more})
    record, template = source.simulate([0, 2]), source.template()
    assert set(record) == set(template) == set(variables(dim))
    for name, (dims, attributes) in variables(dim).items():
        assert record[name].dims == template[name].dims == dims
        assert record[name].dtype == template[name].dtype == np.float32
        assert record[name].attrs == template[name].attrs == attributes
        assert np.isfinite(record[name]).all()
    xr.testing.assert_identical(record.coords.to_dataset(), template.isel(trajectory=[0, 2]).coords.to_dataset())
    assert record.sizes["node_x"] == 5
    assert record.sizes["elem_y"] == 2
    np.testing.assert_allclose(record.elem_x, [0.25, 0.75, 1.25, 1.75])
    assert all("units" in record[name].attrs for name in record.coords)
    said = json.loads(record.attrs["simulation"])["init_args"]
    assert Structures(**said) == source


def test_motion_begins_at_rest_and_the_clamp_holds():
    record = Structures(**TINY).simulate([0, 1])
    assert np.abs(record.isel(time=0)[["displacement_x", "velocity_y", "von_mises", "load_y"]].to_array()).max() == 0
    assert np.abs(record.isel(node_x=0)[["displacement_x", "displacement_y"]].to_array()).max() == 0
    assert np.abs(record.displacement_y).max() > 0.01
    assert (record.support_x.isel(node_x=0) == 1).all()
    assert record.support_x.sum() == 2 * 3
    assert np.abs(record.load_x.isel(node_x=slice(None, -1))).max() == 0


def test_stress_and_strain_belong_together():
    record = Structures(**TINY).simulate([1])
    e, nu = (record[n].values[:, None] for n in ("youngs_modulus", "poissons_ratio"))
    lam, mu = e * nu / (1 + nu) / (1 - 2 * nu), e / 2 / (1 + nu)
    trace = record.strain_xx + record.strain_yy
    scale = float(np.abs(record.stress_xx).max())
    np.testing.assert_allclose(record.stress_xx, lam * trace + 2 * mu * record.strain_xx, atol=1e-5 * scale)
    np.testing.assert_allclose(record.stress_xy, 2 * mu * record.strain_xy, atol=1e-5 * scale)
    np.testing.assert_allclose(record.stress_zz, nu * (record.stress_xx + record.stress_yy), atol=1e-5 * scale)
    x, y, z, xy = (record[f"stress_{pair}"] for pair in ("xx", "yy", "zz", "xy"))
    expected = np.sqrt(0.5 * ((x - y) ** 2 + (y - z) ** 2 + (z - x) ** 2) + 3 * xy**2)
    np.testing.assert_allclose(record.von_mises, expected, atol=1e-5 * scale)


@pytest.mark.parametrize("law", ["linear", "neo_hookean"])
def test_a_number_gives_the_same_trajectory_in_any_company(law):
    source = Structures(**{**TINY, "law": law})
    together, alone = source.simulate([0, 3, 1]), source.simulate([3])
    for name in together:
        np.testing.assert_allclose(together[name][1], alone[name][0], rtol=1e-5, atol=1e-5 * np.abs(alone[name]).max())
    assert not np.allclose(together.displacement_y[0], together.displacement_y[1])


def test_linear_motion_keeps_to_small_strain_with_its_loads():
    free = Structures(**{**TINY, "dynamic_peak": 1e3, "strain_peak": 1e3}).simulate([0])
    capped = Structures(**{**TINY, "dynamic_peak": 0.005, "strain_peak": 1e3}).simulate([0])
    ratio = float(np.abs(free.displacement_y).max() / np.abs(capped.displacement_y).max())
    assert ratio > 1.5
    largest = np.sqrt(capped.displacement_x**2 + capped.displacement_y**2).max()
    assert float(largest) == pytest.approx(0.005 * 2, rel=1e-5)
    for name, power in {"load_y": 1, "stress_xx": 1, "kinetic_energy": 2, "external_work": 2}.items():
        np.testing.assert_allclose(
            capped[name] * ratio**power, free[name], rtol=1e-4, atol=1e-5 * float(np.abs(free[name]).max())
        )


def test_a_refined_solver_makes_the_same_record_better():
    coarse, fine, finer = (Structures(**{**TINY, "refinement": n}).simulate([0]) for n in (1, 2, 4))
    assert fine.sizes == coarse.sizes
    assert set(fine) == set(coarse)
    f1, f2, f4 = (r.natural_frequency.item() for r in (coarse, fine, finer))
    assert f1 > f2 > f4
    assert (f1 - f4) > 3 * (f2 - f4)
    # the traction is the same, so the nodal forces of the record are too, but for their size
    ratio = fine.load_y.values.sum() / coarse.load_y.values.sum()
    for name in ("load_x", "load_y"):
        largest = np.abs(fine[name].values).max()
        np.testing.assert_allclose(fine[name].values, ratio * coarse[name].values, atol=1e-5 * largest)


def test_geometries_materials_and_supports_vary():
    record = Structures(**VARIED).simulate(range(4))
    assert ((record.solid == 0).sum(("elem_y", "elem_x")) > 0).all()
    assert np.abs(record.von_mises.where(record.solid == 0, 0)).max() == 0
    assert (record.youngs_modulus.where(record.solid == 0, 0) == 0).all()
    assert (record.node_solid.min(("node_y", "node_x")) < 1).all()
    stiffest = record.youngs_modulus.max(("elem_y", "elem_x"))
    assert (record.youngs_modulus.where(record.solid == 1).min(("elem_y", "elem_x")) < 0.95 * stiffest).any()
    moved = record.support_displacement_y.isel(node_x=0)
    np.testing.assert_allclose(record.displacement_y.isel(node_x=0), moved, atol=1e-6)
    assert np.abs(moved).max() > 0
    bridge = Structures(**{**VARIED, "supported_faces": ("x0", "x1"), "loaded_face": "y1"}).simulate([0])
    assert (bridge.support_y.isel(node_x=[0, -1]) == 1).all()
    assert np.abs(bridge.load_y.isel(node_y=slice(None, -1))).max() == 0


def test_masks_reach_nodes_and_elements():
    solid = np.array([[True, False], [True, True]])
    np.testing.assert_allclose(solid_share(solid), [[1, 0.5, 0], [1, 0.75, 0.5], [1, 1, 1]])
    values = np.array([[2.0, 99.0], [4.0, 6.0]])
    np.testing.assert_allclose(round_nodes(values, solid), [[2, 2, 0], [3, 4, 6], [4, 5, 6]])
    mesh = refine(box((2, 2), (1.0, 1.0), solid), 2)
    coarse = values.repeat(2, 0).repeat(2, 1)[mesh.solid]
    np.testing.assert_allclose(in_elements(coarse, mesh, 2), np.where(solid, values, 0))


@pytest.mark.parametrize("kind", HISTORIES)
def test_histories_begin_at_zero_and_peak_at_one(kind):
    values = course(np.random.default_rng(0), kind, 51)
    assert values[0] == 0
    assert np.abs(values).max() == 1


def test_history_is_a_coordinate_to_split_by():
    source = Structures(**{**TINY, "histories": ("step", "harmonic"), "trajectories": 20})
    kinds = source.template().history
    assert set(kinds.values) == {HISTORIES.index("step"), HISTORIES.index("harmonic")}
    assert kinds.attrs["flag_meanings"].split()[3] == "step"


# ---------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"elements": (4,)}, "elements must be two or three whole numbers of at least 2; found (4,)"),
        ({"elements": 8}, "elements must be two or three whole numbers of at least 2; found 8"),
        ({"elements": (8.5, 8)}, "elements must be two or three whole numbers of at least 2; found (8.5, 8)"),
        ({"lengths": (1.0, 1.0, 1.0)}, "lengths must be 2 positive numbers"),
        ({"law": "rubber"}, "law must be linear or neo_hookean; found 'rubber'"),
        ({"law": "neo_hookean", "plane": "stress"}, "plane must be strain"),
        ({"integrator": "explicit"}, "integrator must be implicit, or for neo_hookean bodies explicit"),
        ({"law": "neo_hookean", "integrator": "newmark"}, "integrator must be implicit, or for neo_hookean bodies"),
        ({"supported_faces": ("z0",)}, "supported_faces must be some of x0, x1, y0, y1, not the loaded one"),
        ({"loaded_face": "x0"}, "supported_faces must be some of"),
        ({"poissons_ratio": (0.3, 0.5)}, "poissons_ratio must be a range"),
        ({"youngs_modulus": (2.0, 1.0)}, "youngs_modulus must be a range of positive numbers"),
        ({"youngs_modulus": ("1e5", "1e6")}, "found ('1e5', '1e6'); YAML takes 1e6 for a text: write 1.0e+6"),
        ({"static_peak": 0.3}, "static_peak must be a range of positive numbers, the least first; found 0.3"),
        ({"intervals": 2.5}, "intervals must be at least 1, and whole; found 2.5"),
        ({"trajectories": "ten"}, "trajectories must be at least 1, and whole; found 'ten'"),
        ({"supported_faces": "x0"}, "supported_faces must be some of x0, x1, y0, y1, not the loaded one; found 'x0'"),
        ({"histories": ("jump",)}, "histories must be some of ramp_hold, half_sine"),
        ({"substeps": 0}, "substeps must be at least 1"),
        ({"trajectories": 0}, "trajectories must be at least 1"),
        ({"moving_supports": 2.0}, "moving_supports must be from 0 to 1"),
    ],
)
def test_parameters_out_of_range_are_refused(options, message):
    with pytest.raises(InputError, match=re.escape(message)):
        Structures(**options)


def test_trajectories_that_are_not_there_are_refused():
    with pytest.raises(InputError, match=r"distinct trajectory numbers from 0 to 3; found \[1, 4\]"):
        Structures(**TINY).simulate([1, 4])


@pytest.mark.parametrize("dim", [2, 3])
def test_inverted_and_degenerate_elements_are_named(dim):
    mesh = box((3, 2, 2)[:dim], (3.0, 2.0, 2.0)[:dim])
    points = mesh.points.copy()
    points[(1, 1, 1)[:dim]] = (2.4, 1.6, 1.6)[:dim]
    with pytest.raises(InputError, match=r"element \(elem_y \d, elem_x \d.* is inverted: its Jacobian.*move its nodes"):
        Mesh(points, mesh.solid)
    with pytest.raises(InputError, match=r"is degenerate: its Jacobian determinant falls to 0"):
        Mesh(mesh.points * (1.0, 0.0, 1.0)[:dim], mesh.solid)
    points[(1, 1, 1)[:dim]] = np.nan
    with pytest.raises(InputError, match=r"expected finite coordinates; found \[nan, .*\] at node \(1, 1"):
        Mesh(points, mesh.solid)


def test_meshes_without_material_or_of_another_shape_are_refused():
    with pytest.raises(InputError, match="no element is solid"):
        box((2, 2), (1.0, 1.0), np.zeros((2, 2), bool))
    with pytest.raises(InputError, match=r"expected points \[\*nodes, 2 or 3\].*found \(3, 3, 2\)"):
        Mesh(box((2, 2), (1.0, 1.0)).points, np.ones((3, 2), bool))


def test_supports_that_leave_a_rigid_mode_are_refused():
    mesh = box((3, 2), (3.0, 2.0))
    supported = np.zeros(mesh.points.shape, bool)
    with pytest.raises(InputError, match=r"leave 3 rigid modes to the body \(0 prescribed"):
        require_support(mesh, supported)
    supported[0, 0] = True
    with pytest.raises(InputError, match=r"leave 1 rigid mode to the body \(2 prescribed components there\)"):
        require_support(mesh, supported)
    supported[0, -1, 1] = True
    require_support(mesh, supported)
    apart = box((3, 2), (3.0, 2.0), np.array([[True, False, True]] * 2))
    with pytest.raises(InputError, match="3 rigid modes to part 2 of 2 that do not share a side"):
        require_support(apart, held(apart))
    solid = box((3, 2, 2), (3.0, 1.0, 1.0))
    line = np.zeros(solid.points.shape, bool)
    line[:, 0, 0] = True
    with pytest.raises(InputError, match="leave 1 rigid mode to the body"):
        require_support(solid, line)


def test_bodies_that_cannot_be_solved_for_are_refused():
    """Statics and natural frequencies too would be numbers without a meaning."""
    mesh = box((3, 2), (3.0, 2.0), np.array([[True, True, False], [True, True, False]]))
    elements, material = Elements(mesh), Material.uniform(mesh, 1.0, 0.3, 1.0)
    loads = np.zeros(mesh.points.shape)
    pinned = np.zeros(mesh.points.shape, bool)
    pinned[0, 0] = True
    hinged, body = (LinearBody(elements, material, flags, "plane_strain") for flags in (pinned, held(mesh)))
    for solve in (lambda: hinged.static(loads), hinged.natural_frequencies, hinged.first_mode):
        with pytest.raises(InputError, match=r"leave 1 rigid mode to the body \(2 prescribed components there\)"):
            solve()
    with pytest.raises(InputError, match="supports: expected those of the body; the drive differs in 4 components"):
        march(hinged, Drive(1.0, 0 * loads[None], held(mesh)))
    with pytest.raises(InputError, match=r"supports: expected flags on the nodes \(3, 4, 2\); found \(2, 4, 2\)"):
        LinearBody(elements, material, pinned[:2], "plane_strain")
    loads[1, 3] = 1.0
    with pytest.raises(InputError, match=r"loads: 1 loaded nodes belong to no solid element, .* index \(1, 3\)"):
        body.static(loads)
    other = Material.uniform(box((3, 2), (3.0, 2.0)), 1.0, 0.3, 1.0)
    for make in (
        lambda: LinearBody(elements, other, held(mesh), "plane_strain"),
        lambda: NeoHookeanBatch(elements, [material, other], [0.0] * 2, ["a", "b"]),
    ):
        with pytest.raises(InputError, match="material: expected a value for each of the 4 solid elements; found 6"):
            make()


def test_supports_and_loads_on_missing_nodes_are_refused():
    mesh = box((3, 2), (3.0, 2.0), np.array([[True, True, False], [True, True, False]]))
    elements = Elements(mesh)
    body = LinearBody(elements, Material.uniform(mesh, 1.0, 0.3, 1.0), held(mesh), "plane_strain")
    loads = np.zeros((3, *mesh.points.shape))
    loads[1, 2, 3, 0] = 1.0
    with pytest.raises(InputError, match=r"loads: 1 loaded nodes belong to no solid element, .* index \(2, 3\)"):
        march(body, Drive(1.0, loads, held(mesh)))
    with pytest.raises(InputError, match=r"loads: expected forces on the nodes \(3, 4, 2\); found \(2, 4, 2\)"):
        march(body, Drive(1.0, loads[:, :2], held(mesh)))
    loose = held(mesh)
    loose[0, 3] = True
    with pytest.raises(InputError, match=r"supports: 1 supported nodes belong to no solid element.*\(0, 3\)"):
        march(body, Drive(1.0, 0 * loads, loose))
    with pytest.raises(InputError, match=r"supports: expected flags on the nodes"):
        march(body, Drive(1.0, 0 * loads, loose[:2]))
    with pytest.raises(InputError, match=r"supports: expected displacements of the shape of the loads"):
        march(body, Drive(1.0, 0 * loads, held(mesh), loads[1:]))
    loads[:] = 0
    loads[2, 0, 0] = np.nan
    with pytest.raises(InputError, match="loads: values are not finite, first at saved instant 2"):
        march(body, Drive(1.0, loads, held(mesh)))


def test_materials_and_schemes_out_of_range_are_refused():
    mesh = box((2, 2), (1.0, 1.0))
    for values, message in (
        ((0.0, 0.3, 1.0), "youngs_modulus must be positive in every element; found 0"),
        ((1.0, 0.5, 1.0), "poissons_ratio must be above -1 and below 0.5"),
        ((1.0, 0.3, -1.0), "density must be positive"),
    ):
        with pytest.raises(InputError, match=message):
            Material.uniform(mesh, *values)
    with pytest.raises(InputError, match="expected a spectral radius from 0 to 1 and a positive time step; found 1.1"):
        GeneralisedAlpha(1.0, 1.1)


def explicit(substeps: int, force: float) -> None:
    mesh = box((4, 2), (2.0, 1.0))
    batch = NeoHookeanBatch(Elements(mesh), [Material.uniform(mesh, 1e6, 0.3, 1e3)] * 2, [0.0] * 2, ["calm", "wild"])
    admissible = critical_time_step(batch.elements, batch.materials[0], batch.kinematics)
    loads = np.zeros((41, *mesh.points.shape))
    loads[1:, :, -1, 0] = -force
    quiet = Drive(6 * admissible, 1e-6 * loads, held(mesh))
    batch.march([quiet, Drive(6 * admissible, loads, held(mesh))], substeps)


def test_an_explicit_step_that_is_too_long_names_the_admissible_one():
    with pytest.raises(InputError, match=r"calm: the explicit step of .* exceeds the admissible one .* at least 10"):
        explicit(4, 1.0)


def test_an_element_that_turns_over_is_reported_with_step_and_admissible_step():
    message = r"wild: an element turns over in step \d+ \(time .* least det F -?[\d.e-]+\); the step is .*admissible"
    with pytest.raises(InputError, match=message):
        explicit(10, 1e6)


# ---------------------------------------------------------------------------------------------- recipes


@pytest.mark.parametrize("name", ["beam_2d", "beam_2d_neohookean", "block_3d"])
def test_recipes_declare_what_the_source_makes(name):
    declared = yaml.safe_load((Path(__file__).parents[2] / "datasets" / name / "recipe.yaml").read_text())
    for preset in declared["presets"]:
        source = read_recipe(f"{name}/{preset}", {"refinement": 1}).source()
        template = source.template()
        assert set(template) == set(declared["variables"])
        for variable, attributes in declared["variables"].items():
            assert template[variable].attrs == attributes


def test_a_build_that_failed_keeps_what_is_complete_and_goes_on(tmp_path, monkeypatch):
    """The group that cannot be computed is named; those before it are in the journal and are not computed again."""
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path))
    recipe = read_recipe("beam_2d/tiny", {**TINY, "elements": [4, 2]})
    computed = []
    original = Structures.simulate

    def simulate(self, trajectories, progress=None, broken=True):
        if broken and 2 in trajectories:
            raise InputError("trajectory 2: an element turns over in step 7")
        computed.append(list(trajectories))
        return original(self, trajectories, progress)

    monkeypatch.setattr(Structures, "simulate", simulate)
    with pytest.raises(InputError, match="trajectory 2: an element turns over in step 7"):
        build(recipe, group=1)
    monkeypatch.setattr(Structures, "simulate", lambda s, t, p=None: simulate(s, t, p, broken=False))
    path = build(recipe, group=1)
    assert computed == [[0], [1], [2], [3]]
    with xr.open_zarr(path) as record:
        np.testing.assert_array_equal(record.displacement_y, original(recipe.source(), range(4)).displacement_y)
