"""Solvers run from fields of a record: exact where nothing is lost, worse the coarser they are."""

import math
from itertools import islice

import numpy as np
import pytest
import torch

from workbench.errors import InputError
from workbench.simulate.channel_candidates import ChannelCoarsening
from workbench.simulate.coarsening import Coarsenable, Driven
from workbench.simulate.kolmogorov import KolmogorovFlow
from workbench.simulate.structures import Structures

FLOW = KolmogorovFlow(
    resolution=32, solver_resolution=48, time_step=0.03125, save_interval=0.25, steps=5, spin_up=2.0, trajectories=2
)
CHANNEL = ChannelCoarsening(
    (8, 17, 8), (16, 32, 16), (math.pi, math.pi / 2), 1 / 500, widths=(math.pi / 8, math.pi / 16)
)


@pytest.fixture(scope="module")
def record():
    return FLOW.simulate([0, 1])


def kolmogorov_error(record, resolution, steps, names=("vorticity",)):
    coarse = FLOW.coarsening()
    chosen = next(
        c
        for c in coarse.candidates(0.25)
        if (c.settings["resolution"], c.settings["steps_per_lead"]) == (resolution, steps)
    )
    forecast = coarse.forecaster(chosen, names, 0.25, "cpu")
    start = torch.from_numpy(record.vorticity.values[:, :1])
    found = torch.stack(list(islice(forecast(start), 4)), 1).numpy()
    truth = np.stack([record[n].values[:, 1:] for n in names], 2)
    return float(np.linalg.norm(found - truth) / np.linalg.norm(truth))


def test_the_record_s_own_settings_repeat_the_record(record):
    """The record carries 15 of the solver's 15 modes a direction: only rounding to float32 separates the two."""
    assert kolmogorov_error(record, 48, 8) < 3e-6
    assert kolmogorov_error(record, 48, 8, ("u", "vorticity", "v")) < 3e-6


def test_fewer_points_are_worse(record):
    found = [kolmogorov_error(record, n, 8) for n in (24, 36, 48)]
    assert found[0] > 2 * found[1] > 1e4 * found[2]


def test_candidates_of_kolmogorov_flow_are_distinct_and_in_order():
    found = FLOW.coarsening().candidates(0.5)
    assert isinstance(FLOW, Coarsenable)
    assert len({c.label for c in found}) == len(found)
    assert [c.work for c in found] == sorted(c.work for c in found)
    assert {c.settings["resolution"] for c in found} == {18, 24, 36, 48}
    assert max(c.settings["steps_per_lead"] for c in found if c.settings["resolution"] == 48) == 16


def test_what_kolmogorov_flow_cannot_make_is_refused():
    coarse = FLOW.coarsening()
    with pytest.raises(InputError, match="on the CPU; found pressure"):
        coarse.forecaster(coarse.candidates(0.25)[0], ["pressure"], 0.25, "cpu")
    with pytest.raises(InputError, match="found device cuda"):
        coarse.forecaster(coarse.candidates(0.25)[0], ["vorticity"], 0.25, "cuda")


# ------------------------------------------------------------------------------------------------------- channel


def smooth(nodes: tuple[int, int, int], widths: tuple[float, float]) -> torch.Tensor:
    """A low mode in x and z as a record holds it, filtered exactly: ``[1, 3, x, y, z]``."""
    from workbench.simulate.channel_grid import wall_normal_nodes

    lengths = CHANNEL.lengths
    x, z = (np.arange(n) / n * 2 * np.pi for n in nodes[::2])
    y = wall_normal_nodes(nodes[1])
    damping = np.prod([np.sinc(w / length) for w, length in zip(widths, lengths, strict=True)])
    wave = damping * np.cos(x)[:, None, None] * np.sin(z)
    profile = y * (2 - y)
    field = np.stack(
        [profile[:, None] * (1 + 0.1 * wave), 0.05 * profile[:, None] ** 2 * wave, profile[:, None] * wave]
    )
    return torch.from_numpy(field.astype("f4"))[None]


def grid_of(points):
    from workbench.simulate.channel_grid import ChannelGrid

    return ChannelGrid(points, CHANNEL.lengths)


@pytest.mark.parametrize("points", [(16, 32, 16), (8, 16, 8)])
def test_to_the_cells_and_back_is_the_identity_for_smooth_fields(points):
    nodes = smooth(CHANNEL.nodes, CHANNEL.widths)
    velocity = CHANNEL._way_in(grid_of(points), "cpu")(nodes)
    back = CHANNEL._way_out(grid_of(points), "cpu")(velocity)
    assert float((back - nodes).norm() / nodes.norm()) < 2e-3


def test_the_filter_is_taken_off_on_the_way_in():
    velocity = CHANNEL._way_in(grid_of((16, 32, 16)), "cpu")(smooth(CHANNEL.nodes, CHANNEL.widths))
    bare = ChannelCoarsening(CHANNEL.nodes, CHANNEL.cells, CHANNEL.lengths, CHANNEL.viscosity)
    expected = bare._way_in(grid_of((16, 32, 16)), "cpu")(smooth(CHANNEL.nodes, (0.0, 0.0)))
    for found, known in zip(velocity, expected, strict=True):
        torch.testing.assert_close(found, known, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("closure", ["DNS", "WALE", "dynamic Smagorinsky"])
def test_laminar_flow_stays(closure):
    nodes = smooth(CHANNEL.nodes, CHANNEL.widths)
    nodes = nodes.mean((2, 4), keepdim=True).expand_as(nodes).contiguous()
    nodes[:, 1:] = 0
    label = f"8 x 16 x 8 {closure}"
    chosen = next(c for c in CHANNEL.candidates(0.5) if c.label == label)
    found = list(islice(CHANNEL.forecaster(chosen, ("w", "u"), 0.5, "cpu")(nodes), 2))[-1]
    assert found.shape == (1, 2, 8, 17, 8)
    assert float((found[:, 1] - nodes[:, 0]).norm() / nodes.norm()) < 0.02
    assert float(found[:, 0].abs().max()) < 1e-5


def test_a_turbulent_channel_cannot_be_forecast_for_pressure():
    with pytest.raises(InputError, match="forecasts u, v and w; found p"):
        CHANNEL.forecaster(CHANNEL.candidates(1.0)[0], ["p"], 1.0, "cpu")


def test_candidates_of_the_channel_reach_from_half_the_record_to_its_solver():
    found = CHANNEL.candidates(1.0)
    assert len({c.label for c in found}) == len(found)
    grids = {tuple(c.settings[f"points_{axis}"] for axis in "xyz") for c in found}
    assert {(8, 16, 4), (8, 16, 8), (16, 32, 16)} <= grids
    own = {c.settings["closure"] for c in found if c.settings["points_x"] == 16 and c.settings["points_y"] == 32}
    assert own == {"DNS"}


# ---------------------------------------------------------------------------------------------------- structures

BODIES = {
    "linear": {"refinement": 2, "elements": (4, 4)},
    "varied": {"refinement": 2, "elements": (4, 6), "cutouts": ("notch",), "moving_supports": 1.0},
    "neo-Hookean": {"law": "neo_hookean", "refinement": 2, "elements": (4, 2)},
    "implicit": {"law": "neo_hookean", "integrator": "implicit", "refinement": 2, "elements": (4, 2), "substeps": 2},
    "3D": {"refinement": 2, "elements": (4, 2, 2), "lengths": (2.0, 1.0, 1.0)},
}


def structure(kind: str):
    """A solver that knows the cases of a record of three trajectories, and the record."""
    source = Structures(intervals=10, trajectories=3, **BODIES[kind])
    record = source.simulate(range(3))
    return source.coarsening().driven_by(record, 10), record


def structure_errors(coarse, record, names, numbers=(0, 1, 2), coarsest=4):
    """Candidates, each with its relative L2."""
    interval = float(np.diff(record.time).mean())
    truth = np.stack([record[n].values[list(numbers), 1:] for n in names], 2)
    found = []
    for candidate in (c for c in coarse.candidates(interval) if c.settings["coarser"] <= coarsest):
        forecast = coarse.forecaster(candidate, names, interval, "cpu")
        states = torch.stack(list(forecast(torch.tensor(numbers))), 1).numpy()
        assert states.shape == truth.shape
        found.append((candidate, float(np.linalg.norm(states - truth) / np.linalg.norm(truth))))
    return found


@pytest.mark.parametrize("kind", BODIES)
@pytest.mark.parametrize("names", [("displacement_x", "displacement_y"), ("von_mises",)])
def test_the_settings_of_a_record_of_structures_repeat_it(kind, names):
    coarse, record = structure(kind)
    found = structure_errors(coarse, record, names, (2, 0), coarsest=2)
    assert [error < 3e-7 for _, error in found] == [candidate.made_the_record for candidate, _ in found]
    assert sum(candidate.made_the_record for candidate, _ in found) == 1


def test_structures_on_fewer_elements_are_worse_and_shorter_steps_are_better():
    coarse, record = structure("linear")
    found = {c.label: error for c, error in structure_errors(coarse, record, ("displacement_y",))}
    assert found["2 x 2, 4 steps"] > 2 * found["4 x 4, 4 steps"] > 4 * found["8 x 8, 4 steps"]
    assert found["8 x 8, 1 step"] > 2.5 * found["8 x 8, 2 steps"]


def test_candidates_of_structures_are_distinct_and_in_order():
    coarse = Structures(elements=(8, 6), refinement=2).coarsening()
    found = coarse.candidates(1.0)
    assert isinstance(coarse, Driven) and isinstance(coarse.source, Coarsenable)
    assert len({c.label for c in found}) == len(found) and [c.work for c in found] == sorted(c.work for c in found)
    assert {c.label.partition(",")[0] for c in found} == {"16 x 12", "8 x 6", "4 x 3"}
    assert {c.settings["steps_per_instant"] for c in found} == {1, 2, 4} and not any(c.batched for c in found)
    neo_hookean = Structures(elements=(8, 6), law="neo_hookean").coarsening().candidates(1.0)
    schemes = ("stable step", "implicit, 1 step", "implicit, 2 steps")
    assert {c.label for c in neo_hookean} == {f"{mesh}, {scheme}" for mesh in ("4 x 3", "8 x 6") for scheme in schemes}
    assert {c.label for c in neo_hookean if c.batched} == {"4 x 3, stable step", "8 x 6, stable step"}


def test_structures_follow_the_loads_of_every_instant_between_two_leads():
    source = Structures(elements=(4, 2), intervals=10, trajectories=1)
    record = source.simulate([0])
    coarse, interval = source.coarsening().driven_by(record, 5), 2 * float(np.diff(record.time).mean())
    own = next(c for c in coarse.candidates(interval) if c.made_the_record)
    states = list(coarse.forecaster(own, ["velocity_y"], interval, "cpu")(torch.tensor([0])))
    np.testing.assert_allclose(torch.cat(states)[:, 0], record.velocity_y[0, 2::2], atol=1e-6)


def test_what_structures_cannot_make_is_refused():
    source = Structures(elements=(4, 4), intervals=10, trajectories=1, cutouts=("notch",))
    coarse = source.coarsening().driven_by(source.simulate([0]), 10)
    candidates, interval, start = coarse.candidates(1.0), coarse.cases[0].interval, torch.tensor([0])
    own = next(c for c in candidates if c.made_the_record)
    with pytest.raises(InputError, match="on the CPU; found device cuda"):
        coarse.forecaster(own, ["von_mises"], interval, "cuda")
    for name in ("load_x", "kinetic_energy"):
        with pytest.raises(InputError, match=f"displacement, velocity, stress and strain; found {name}"):
            next(coarse.forecaster(own, [name], interval, "cpu")(start))
    with pytest.raises(InputError, match="part material, part void, or of two materials: take a finer one"):
        next(coarse.forecaster(candidates[0], ["von_mises"], interval, "cpu")(start))
