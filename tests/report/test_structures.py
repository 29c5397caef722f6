"""A structure in the report: what is drawn is what the data say; void and hidden faces are not drawn."""

import json
import re
from itertools import product

import numpy as np
import pytest
import xarray as xr
import yaml

from workbench.data.writer import write_record
from workbench.experiment import load
from workbench.report import structures_drawing as drawing
from workbench.report import structures_figures as figures
from workbench.report.case import pick_case
from workbench.report.gallery import Gallery
from workbench.report.page import write_report
from workbench.report.run import open_run
from workbench.report.sections import spectra_section
from workbench.report.structures_body import depth, edges_in_front, make_body, to_screen, visible
from workbench.report.structures_pictures import other_histories, sheets, still_leads, structure_sections
from workbench.report.structures_scene import arrows, box, build_scene, dims_of, exaggeration, without_void

AXES = "xyz"


def grid_of(shape: tuple[int, ...]) -> np.ndarray:
    """Coordinates ``[*nodes, component]`` of unit elements, `shape` along (y, x, z)."""
    lines = np.meshgrid(*(np.arange(n + 1.0) for n in shape), indexing="ij")
    return np.stack([lines[k] for k in (1, 0, 2)[: len(shape)]], -1)


def body_of(solid: np.ndarray, held: np.ndarray | None = None):
    reference = grid_of(solid.shape)
    return make_body(reference, solid, np.zeros(reference.shape, bool) if held is None else held)


def structure(elements=(2, 4), times=6, stress=True, amplitude=0.05) -> tuple[xr.Dataset, xr.Dataset]:
    """A record of two clamped bodies that bend, with a hole in the second, and a forecast that is 20 % too large."""
    dim, rng = len(elements), np.random.default_rng(0)
    node, elem = ([f"{kind}_{axis}" for axis in "yxz"[:dim]] for kind in ("node", "elem"))
    places = grid_of(elements)
    nodes = places.shape[:-1]
    time = 0.1 * np.arange(times)
    data = {}
    swing = amplitude * np.sin(4 * time)[:, None]
    for k, axis in enumerate(AXES[:dim]):
        mode = (k + 1) * (places[..., 0] / elements[1]) ** 2 * (1 + 0.05 * places[..., 1])
        moved = np.stack([s * (swing * mode.reshape(-1)).reshape(times, *nodes) for s in (1, 2)])
        data[f"displacement_{axis}"] = (["trajectory", "time", *node], moved, {"units": "m"})
        push = np.zeros((2, times, *nodes))
        push[:, :, :, -1] = (k == 1) * np.sin(3 * time).reshape(1, -1, *[1] * (dim - 1)) * 400
        data[f"load_{axis}"] = (["trajectory", "time", *node], push, {"units": "N"})
        data[f"support_{axis}"] = (
            ["trajectory", *node],
            np.stack([places[..., 0] == 0] * 2).astype("f4"),
            {"units": "1"},
        )
    solid = np.ones((2, *elements))
    solid[(1, 0, 1)] = 0
    data["solid"] = (["trajectory", *elem], solid, {"units": "1"})
    if stress:
        field = rng.uniform(1e3, 9e3, (2, times, *elements)) * solid[:, None]
        data["von_mises"] = (["trajectory", "time", *elem], field, {"units": "Pa", "long_name": "von Mises stress"})
    coords = {"trajectory": [3, 8], "time": ("time", time, {"units": "s"})}
    for axis, count in zip("yxz", elements, strict=False):
        coords[f"node_{axis}"] = (f"node_{axis}", np.arange(count + 1.0), {"units": "m"})
        coords[f"elem_{axis}"] = (f"elem_{axis}", np.arange(count) + 0.5, {"units": "m"})
    record = xr.Dataset(data, coords)
    names = [n for n in record if str(n).startswith(("displacement", "von"))]
    forecast = 1.2 * record[names].isel(time=slice(1, None)).rename(time="lead_time")
    for name in names:
        forecast[name].attrs = record[name].attrs
    forecast = forecast.expand_dims({"init_time": [0.0]}, 1)
    forecast = forecast.assign_coords(valid_time=(("init_time", "lead_time"), time[None, 1:]))
    for name in ("init_time", "lead_time", "valid_time"):
        forecast[name].attrs["units"] = "s"
    return record, forecast


def scene_of(start=1, change=lambda record, forecast: None, **options):
    record, forecast = structure(**options)
    change(record, forecast)
    return build_scene(pick_case(forecast, record, start), record), record


# ------------------------------------------------------------------------------------------------------------ geometry


def test_a_cube_shows_three_of_its_six_faces():
    body = body_of(np.ones((1, 1, 1), bool))
    corners = body.reference[body.faces]
    area = np.cross(corners[:, 2] - corners[:, 0], corners[:, 3] - corners[:, 1]) / 2
    outward = corners.mean(1) - 0.5
    np.testing.assert_allclose(
        area, 2 * outward
    )  # of unit length, and away from the middle: anticlockwise from outside
    seen = visible(corners)
    assert {tuple(normal) for normal in area[seen]} == {(1, 0, 0), (0, 1, 0), (0, 0, 1)}
    assert len(body.outline) == 12 and len(edges_in_front(body, body.reference)) == 9


def test_the_screen_is_a_view_without_perspective_from_the_right_and_above():
    right, up, near = np.c_[to_screen(np.eye(3)), depth(np.eye(3))].T
    np.testing.assert_allclose(np.c_[right, up, near].T @ np.c_[right, up, near], np.eye(3), atol=1e-15)
    np.testing.assert_allclose(np.cross(right, up), near)
    assert near.min() > 0 and right[0] > 0 and up[0] < 0 < up[1] and up[2] < 0


def test_a_block_is_closed_and_near_faces_are_painted_last():
    solid = np.ones((3, 4, 2), bool)
    solid[0, 1:3] = False
    body = body_of(solid)
    edges = np.sort(np.stack([body.faces, np.roll(body.faces, -1, 1)], -1).reshape(-1, 2), 1)
    assert set(np.unique(edges, axis=0, return_counts=True)[1]) <= {2, 4}
    corners = body.reference[body.faces]
    seen = visible(corners)
    assert (np.diff(depth(corners[seen].mean(1))) >= 0).all()
    area = np.cross(corners[:, 2] - corners[:, 0], corners[:, 3] - corners[:, 1]) / 2
    assert (corners.mean(1) * area).sum() / 3 == pytest.approx(solid.sum())  # Gauss: the volume
    assert not set(body.elements) & set(np.flatnonzero(~solid))


def test_faces_that_turn_away_or_are_not_finite_are_not_seen():
    body = body_of(np.ones((1, 1, 1), bool))
    mirrored = visible((body.reference * [1, 1, -1])[body.faces])
    assert len(mirrored) == 3 and not set(mirrored) <= set(visible(body.reference[body.faces]))
    broken = body.reference.copy()
    broken[-1] = np.nan  # the corner at which the three visible faces meet
    assert len(visible(broken[body.faces])) == 0


def test_a_plane_body_with_a_hole_has_two_outlines():
    solid = np.ones((3, 3), bool)
    solid[1, 1] = False
    body = body_of(solid)
    assert len(body.faces) == 8 and len(body.outline) == 12 + 4
    np.testing.assert_array_equal(np.bincount(body.outline.ravel())[body.nodes], 2)
    corners = body.reference[body.faces]
    one, other = corners[:, 2] - corners[:, 0], corners[:, 3] - corners[:, 1]
    np.testing.assert_allclose(one[:, 0] * other[:, 1] - one[:, 1] * other[:, 0], 2)


def test_supports_lie_outside_their_face():
    held = np.zeros((3, 4, 2), bool)
    held[:, 0] = True
    body = body_of(np.ones((2, 3), bool), held)
    np.testing.assert_allclose(body.outward.reshape(3, 4, 2)[:, 0], [[-1, 0]] * 3)
    np.testing.assert_allclose(body.outward.reshape(3, 4, 2)[2, 3], [np.sqrt(0.5)] * 2)
    np.testing.assert_allclose(body.outward.reshape(3, 4, 2)[1, 1:3], 0)


# --------------------------------------------------------------------------------------------------------------- scene


@pytest.mark.parametrize(
    ("largest", "factor"), [(0.05, 2.0), (0.1, 1.0), (0.4, 1.0), (0.02, 5.0), (3e-4, 500.0), (0.0, 1.0), (0.074, 2.0)]
)
def test_exaggeration_is_round_and_makes_motion_visible(largest, factor):
    assert exaggeration(largest, 1.0) == factor
    assert exaggeration(2 * largest, 2.0) == factor


@pytest.mark.parametrize("elements", [(2, 4), (2, 3, 2)])
def test_polygons_are_the_nodes_at_their_exaggerated_places(elements):
    scene, record = scene_of(elements=elements, amplitude=0.01)
    dim, lead = len(elements), 3
    moved = [record[f"displacement_{a}"].isel(trajectory=1, time=lead + 1).values.ravel() for a in AXES[:dim]]
    places = grid_of(elements).reshape(-1, dim) + scene.factor * np.stack(moved, -1)
    assert scene.factor > 1
    seen, corners = drawing.polygons(scene, scene.truth.displacement[lead])
    np.testing.assert_allclose(corners, to_screen(places[scene.body.faces[seen]]), rtol=1e-12)
    if dim == 2:
        solid = record.solid.isel(trajectory=1).values
        for k, (j, i) in enumerate(zip(*np.nonzero(solid), strict=True)):
            wanted = [j * 5 + i, j * 5 + i + 1, (j + 1) * 5 + i + 1, (j + 1) * 5 + i]
            np.testing.assert_allclose(corners[k], places[wanted])


@pytest.mark.parametrize("elements", [(2, 4), (2, 3, 2)])
def test_colours_are_the_stress_of_the_elements_in_kilopascals(elements):
    scene, record = scene_of(elements=elements)
    true = record.von_mises.isel(trajectory=1, time=slice(1, None)).values.reshape(5, -1) / 1e3
    np.testing.assert_allclose(scene.truth.values, true[:, scene.body.elements])
    np.testing.assert_allclose(scene.prediction.values, 1.2 * scene.truth.values)
    np.testing.assert_allclose(scene.truth.peak, true.max(1))
    assert scene.quantity == "von Mises stress (kPa)"
    assert (scene.shared.low, scene.shared.high) == (0.0, scene.truth.values.max())
    assert scene.errors.low == -scene.errors.high
    figure = figures.deformed(scene, [4])
    truth, prediction, error = (axes.collections[1] for axes in figure.axes[:3])
    seen, _ = drawing.polygons(scene, scene.prediction.displacement[4])
    np.testing.assert_allclose(prediction.get_array(), scene.prediction.values[4][seen])
    assert truth.get_clim() == prediction.get_clim() == (0.0, scene.shared.high)
    seen, _ = drawing.polygons(scene, scene.truth.displacement[4])
    np.testing.assert_allclose(error.get_array(), 0.2 * scene.truth.values[4][seen])
    assert error.get_clim() == (scene.errors.low, scene.errors.high)


def test_void_is_not_drawn():
    whole, _ = scene_of(start=0)
    holed, record = scene_of(start=1)
    assert len(whole.body.faces) == 8 and len(holed.body.faces) == 7
    void = np.flatnonzero(record.solid.isel(trajectory=1).values.ravel() == 0)
    assert not np.isin(void, holed.body.elements).any()


def test_void_is_missing_in_every_other_picture():
    record, forecast = structure()
    record["node_solid"] = (("trajectory", "node_y", "node_x"), np.ones((2, 3, 5)))
    record["node_solid"][1, 0, 1] = 0
    case = without_void(pick_case(forecast, record, 1), record)
    for side in (case.truth, case.prediction):
        assert np.isnan(side.von_mises[:, 0, 1]).all() and np.isnan(side.von_mises).sum() == 5
        assert np.isnan(side.displacement_x[:, 0, 1]).all() and np.isnan(side.displacement_x).sum() == 5
    xr.testing.assert_identical(
        without_void(pick_case(forecast, record, 0), record).truth.load(), pick_case(forecast, record, 0).truth
    )


def test_supports_loads_and_probe_are_marked():
    scene, _ = scene_of()
    figure = figures.deformed(scene, [3])
    axes = figure.axes[0]
    triangles = [c.get_paths() for c in axes.collections[2:6]]
    tips = np.array([path.vertices[0] for paths in triangles for path in paths])
    np.testing.assert_allclose(np.unique(tips, axis=0), [[0, 0], [0, 1], [0, 2]])
    assert all((p.vertices[:, 0] <= 0).all() for paths in triangles for p in paths)
    (quiver,) = (c for c in axes.collections if hasattr(c, "U"))
    np.testing.assert_allclose(quiver.U, 0, atol=1e-15)
    np.testing.assert_allclose(quiver.V, 0.22 * 4 * np.sin(1.2) / np.sin(0.3 * np.arange(1, 6)).max())
    assert (
        scene.largest_force == "399\u202fN" and scene.probe == 14 and scene.probe_place == "x = 4\u202fm, y = 2\u202fm"
    )
    words = " ".join(t.get_text() for t in figure.legends[0].get_texts())
    assert words == "undeformed support nodal load (longest 399\u202fN) probe outline of the prediction"
    assert figure.get_suptitle() == "von Mises stress on the deformed body, displacements drawn × 2"


def test_arrows_end_at_a_node_that_is_pushed_and_start_at_one_that_is_pulled():
    body = body_of(np.ones((1, 1), bool))
    force = np.zeros((4, 2))
    force[1], force[3], force[0] = [1.0, 0.0], [0.5, 0.0], [1e-3, 0.0]  # on the right; node 0 is loaded too weakly
    np.testing.assert_allclose(arrows(body, body.reference, force), [[[1, 0], [1, 1]], [[2, 0], [1.5, 1]]])
    np.testing.assert_allclose(arrows(body, body.reference, -force), [[[2, 0], [1.5, 1]], [[1, 0], [1, 1]]])


def test_a_prediction_that_runs_away_leaves_the_picture():
    def far_off(record, forecast):
        forecast["displacement_y"] *= 1e12

    scene, _ = scene_of(change=far_off)
    left, right, bottom, top = box(scene, np.arange(5))
    assert right - left < 10 and top - bottom < 10
    drawing.frame(scene, 1, 4, box(scene, np.arange(5)), 64)


# ---------------------------------------------------------------------------------------------------- odd records, page


def test_without_stress_the_colours_are_the_displacement():
    scene, record = scene_of(stress=False, start=0)
    assert scene.quantity == "displacement (mm)" and scene.truth.peak is None
    x, y = (record[f"displacement_{a}"].isel(trajectory=0, time=2).values for a in "xy")
    length = 1e3 * np.hypot(x, y)
    means = (length[1:, 1:] + length[1:, :-1] + length[:-1, 1:] + length[:-1, :-1]) / 4
    np.testing.assert_allclose(scene.truth.values[1], means.ravel())
    with pytest.raises(ValueError, match="no peak"):
        figures.peak(scene, {})


def test_without_geometry_supports_and_loads_it_is_a_full_grid():
    def bare(record, forecast):
        for name in [n for n in record if str(n).startswith(("load", "support", "solid"))]:
            del record[name]

    scene, _ = scene_of(change=bare)
    assert len(scene.body.faces) == 8 and not scene.body.held.any() and scene.forces is None
    labels = [t.get_text() for t in figures.deformed(scene, [0]).legends[0].get_texts()]
    assert labels == ["undeformed", "probe", "outline of the prediction"]


def test_recorded_positions_come_before_the_coordinates_of_the_grid():
    def bent(record, forecast):
        x, y = np.moveaxis(grid_of((2, 4)), -1, 0)
        for name, values in (("position_x", x + 0.1 * y), ("position_y", y)):
            record[name] = (("trajectory", "node_y", "node_x"), np.stack([values] * 2))

    scene, _ = scene_of(change=bent)
    np.testing.assert_allclose(scene.body.reference[5:10, 0], np.arange(5) + 0.1)


def test_one_time_step_at_rest_is_a_picture():
    scene, _ = scene_of(times=2, amplitude=0.0)
    assert scene.lead.size == 1 and scene.factor == 1.0 and still_leads(scene, None) == [0]
    assert "true to scale" in figures.heading(scene)
    assert len(sheets(scene, np.array([0]))) == 3
    assert figures.histories(scene, {}).axes[0].lines[0].get_marker() == "o"


def test_only_records_with_a_whole_displacement_on_nodes_are_structures():
    _, forecast = structure()
    assert dims_of(forecast) == ("node_y", "node_x")
    assert dims_of(forecast.drop_vars("displacement_y")) == ()
    assert dims_of(forecast.rename(node_x="x")) == ()


def test_frames_are_transparent_around_the_body():
    scene, _ = scene_of()
    picture = drawing.frame(scene, 0, 3, box(scene, np.arange(5)), 256)
    assert picture.shape[1:] == (256, 4) and picture.shape[0] % 16 == 0
    assert picture[0, 0, 3] == 0 and 0.2 < (picture[..., 3] == 255).mean() < 0.9


def test_histories_are_those_of_the_data():
    scene, record = scene_of()
    for k, axes in enumerate(figures.histories(scene, {}).axes):
        true = record[f"displacement_{AXES[k]}"].isel(trajectory=1, time=slice(1, None), node_y=2, node_x=4)
        np.testing.assert_allclose(axes.lines[0].get_ydata(), 1e3 * true)
        np.testing.assert_allclose(axes.lines[1].get_ydata(), 1.2e3 * true)
    true, mine = figures.peak(scene, {}).axes[0].lines
    np.testing.assert_allclose(
        true.get_ydata(), record.von_mises.isel(trajectory=1, time=slice(1, None)).max(("elem_y", "elem_x")) / 1e3
    )
    np.testing.assert_allclose(mine.get_ydata(), 1.2 * true.get_ydata())


def scores_of(record) -> xr.Dataset:
    """What is read of ``structures.nc``: the truth, a model and a static forecast of half the truth."""
    probe = record.isel(time=slice(1, None), node_y=2, node_x=4)
    stress = record.von_mises.isel(time=slice(1, None)).max(("elem_y", "elem_x"))
    series = {"probe_displacement_x": probe.displacement_x, "probe_displacement_y": probe.displacement_y}
    series["largest_stress"] = stress
    dims, factors = ("source", "trajectory", "init_time", "lead_time"), np.array([1.0, 1.2, 0.5]).reshape(3, 1, 1, 1)
    data = {name: (dims, factors * values.values[:, None]) for name, values in series.items()}
    coords = {"source": ["truth", "model", "quasi_static"], "quantity": ["displacement"]}
    return xr.Dataset({**data, "score": ("quantity", [0.0])}, coords)


def test_baselines_of_the_evaluation_stand_beside_the_prediction(tmp_path):
    """For the trajectory that is shown, unless what was evaluated is another forecast, or an older file."""
    record, forecast = structure()
    run = open_run(run_of(tmp_path, record, forecast, {"evaluate": {"long_run": {"domain": "structures"}}}))
    assert other_histories(run, scene_of(start=0)[0]) == {}
    path = run.experiment.long_run
    scores_of(record).to_netcdf(path)
    others = other_histories(run, scene_of(start=0)[0])
    assert list(others) == ["quasi_static"]
    scene, _ = scene_of(start=0)
    for figure in (figures.histories(scene, others), figures.peak(scene, others)):
        for axes in figure.axes:
            true, mine, static = axes.lines
            assert static.get_label() == "quasi static"
            np.testing.assert_allclose(static.get_ydata(), 0.5 * true.get_ydata())
            np.testing.assert_allclose(mine.get_ydata(), 1.2 * true.get_ydata())
    assert other_histories(run, scene_of(start=1)[0]) == {}  # the run shows the first start, the scene the second
    for changed in (scores_of(record)[["score"]], scores_of(record).isel(lead_time=slice(3))):
        path.unlink()
        changed.to_netcdf(path)
        assert other_histories(run, scene) == {}


def run_of(folder, record, forecast, more=None):
    """The experiment of a run that holds a record and a forecast of it."""
    path = write_record(record, folder / "record.zarr", chunks={"time": record.sizes["time"]})
    (folder / "run").mkdir()
    forecast.to_zarr(folder / "run" / "rollout.zarr", zarr_format=3, consolidated=False)
    content = {
        "data": {"record": str(path), "state": [str(n) for n in forecast if str(n).startswith("displacement")]},
        "model": {"class_path": "ForecastTask", "init_args": {"network": {"class_path": "FNO"}}},
        "rollout": {"steps": 5},
        "report": {"frames": 2},
        **(more or {}),
    }
    file = folder / "bending.yaml"
    file.write_text(yaml.safe_dump(content))
    return load([str(file)], (), str(folder / "run"))


def test_sections_are_in_the_page_of_a_structure(tmp_path):
    page = write_report(run_of(tmp_path, *structure()))
    text = page.read_text(encoding="utf-8")
    assert re.findall(r'<section id="([^"]+)">', text)[:3] == ["deformed", "histories", "forecast"]
    assert "Von Mises stress on the deformed body, displacements drawn × 2, trajectory 3, start 0\u202fs." in text
    assert text.count("<canvas") == 6
    files = {p.name for p in (page.parent / "figures").iterdir()}
    assert {f"{s}.{k}" for s, k in product(("deformed", "probe", "peak_stress"), ("png", "svg"))} <= files


def test_a_forecast_that_stopped_is_shown_up_to_there(tmp_path):
    record, forecast = structure((2, 3, 2))
    for name in forecast:
        forecast[name][:, :, 3:] = np.nan
    stop = {"member": 0, "trajectory": 0, "init_time": 0.0, "step": 4, "variable": "displacement_x", "index": [0]}
    forecast.attrs["workbench_stopped"] = json.dumps([stop])
    (tmp_path / "figures").mkdir()
    run = open_run(run_of(tmp_path, record, forecast))
    sections = structure_sections(run, Gallery(tmp_path / "figures"))
    assert "stopped at step 4" in sections[0].body and "step 5 of 5 — stopped" in sections[0].body
    scene = build_scene(pick_case(run.forecast, run.record, 0), run.record)
    assert max(still_leads(scene, 4)) == 2
    assert figures.deformed(scene, [4], "stopped at step 4").axes[1].texts[0].get_text() == "stopped at step 4"


def test_no_periodic_dimension_is_asked_for(tmp_path):
    record, forecast = structure()
    run = open_run(run_of(tmp_path, record, forecast))
    assert "none of the dimensions of a body is periodic" in spectra_section(run, Gallery(tmp_path)).body
