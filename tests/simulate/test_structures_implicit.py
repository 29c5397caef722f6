"""Neo-Hookean records made implicitly: what they say, how they are computed again, and builds that do not converge."""

import json
import os

import numpy as np
import pytest
import xarray as xr
from project import run

from workbench import cli
from workbench.errors import InputError
from workbench.simulate import structures_newton
from workbench.simulate.structures import Structures
from workbench.simulate.structures_replay import Replay, read_conditions

TINY = {"elements": (4, 2), "intervals": 10, "trajectories": 3, "law": "neo_hookean"}


def off(found, truth, name):
    return float(np.linalg.norm(found[name] - truth[name]) / np.linalg.norm(truth[name]))


@pytest.mark.parametrize("dim", [2, 3])
def test_both_integrators_make_the_same_record(dim):
    more = (
        {"elements": (4, 2, 2), "lengths": (2.0, 1.0, 1.0)} if dim == 3 else {"refinement": 2, "moving_supports": 1.0}
    )
    options = {**TINY, **more}
    explicit, implicit = (Structures(**options, integrator=kind) for kind in (None, "implicit"))
    assert (explicit.scheme, implicit.scheme, implicit.steps_between) == ("explicit", "implicit", 4)
    truth, found = explicit.simulate([0, 2]), implicit.simulate([0, 2])
    for name in ("displacement_x", "displacement_y", "von_mises", "strain_energy", "external_work"):
        assert 1e-5 < off(found, truth, name) < 0.1, name
    closer = Structures(**options, integrator="implicit", substeps=16).simulate([0, 2])
    assert off(closer, truth, "displacement_y") < 0.2 * off(found, truth, "displacement_y")
    assert "explicit central differences, lumped mass" in truth.attrs["numerics"]
    assert found.attrs["integrator"] == "implicit generalised-alpha (spectral radius 0.9), lumped mass"
    assert "lumped mass, 4 steps of" in found.attrs["numerics"]
    assert json.loads(found.attrs["simulation"])["init_args"]["integrator"] == "implicit"


def rest(cases):
    return [(np.zeros_like(case.loads[0]),) * 2 for case in cases]


def test_a_record_is_computed_again_by_either_integrator_in_any_number_of_steps():
    record = Structures(**TINY, substeps=200).simulate([0, 1, 2])
    cases = read_conditions(record, [0, 1, 2])

    def error(**options):
        found = Replay.of(record, **options).march(cases, rest(cases))
        pairs = [np.stack([fields[name] for fields in found]) for name in ("displacement_x", "displacement_y")]
        truth = [record[name].values for name in ("displacement_x", "displacement_y")]
        return float(np.linalg.norm(np.subtract(pairs, truth)) / np.linalg.norm(truth))

    assert error() < 1e-6
    assert error(integrator="explicit", substeps=50) < 1e-3
    errors = [error(integrator="implicit", substeps=n) for n in (1, 2, 4)]
    assert errors[0] > 2 * errors[1] > 4 * errors[2] > 1e-4
    assert error(integrator="implicit") == errors[2]  # not the record's 200 steps
    assert error(coarser=2, integrator="implicit", substeps=8) == pytest.approx(error(coarser=2), rel=0.1)
    made = Structures(**TINY, integrator="implicit").simulate([0, 1, 2])
    again = Replay.of(made).march(read_conditions(made, [0]), rest(cases)[:1])
    np.testing.assert_allclose(again[0]["displacement_y"], made.displacement_y[0], atol=1e-6)
    explicit = Replay.of(made, integrator="explicit")
    assert explicit.source.steps_between == Structures(**TINY).steps_between
    linear = Structures(**{**TINY, "law": "linear"}).simulate([0])
    moved = Replay.of(linear, substeps=8).march(read_conditions(linear, [0]), rest(cases)[:1])[0]
    assert 0 < off(moved, linear.isel(trajectory=0), "displacement_y") < 0.05


def test_replays_that_cannot_be_are_refused():
    record = Structures(**{**TINY, "law": "linear"}).simulate([0])
    with pytest.raises(InputError, match="integrator must be implicit, or for neo_hookean bodies explicit"):
        Replay.of(record, integrator="explicit")
    for name in ("substeps", "coarser"):
        with pytest.raises(InputError, match=f"computed again: {name} must be at least 1; found 0"):
            Replay.of(record, **{name: 0})


# ---------------------------------------------------------------------------------------------- builds

LARGE = ["integrator=implicit", "substeps=1", "strain_peak=1.0", "seed=2"]
"""Loads under which one step between saved instants may be too long."""


def build(*arguments, workers=1):
    words = [word for argument in (*LARGE, *arguments) for word in ("--set", argument)]
    return ["dataset", "build", "beam_2d_neohookean/tiny", "--workers", str(workers), *words]


def test_a_build_that_does_not_converge_names_where_and_keeps_what_is_complete(tmp_path):
    """Trajectory 2 fails; 0, 1 and 3, which the other worker is at, are kept."""
    words = build("static_peak=[0.2, 0.4]", "trajectories=8", workers=2)
    done = run(tmp_path, *words, ok=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    (line,) = (line for line in done.stderr.splitlines() if "workbench dataset:" in line)
    for words in (
        "trajectory 2: Newton's method does not converge in step 5 (time 0.4228 s): after ",
        " corrections the residual is 0.",
        " of the forces, expected at most 1e-08",
        "take more steps between saved instants than 1 (substeps), or smaller loads. ",
        "3 of 8 trajectories are complete and kept in ",
        ".tiny.zarr.partial: the same build goes on with the others",
    ):
        assert words in line
    journal = (tmp_path / "data/beam_2d_neohookean/.tiny.zarr.journal").read_text().splitlines()
    assert sorted(journal[1:]) == ["0", "1", "3"]


def test_a_later_build_goes_on_after_what_is_complete(tmp_path, monkeypatch, capsys):
    """Trajectory 2 needs more corrections than it is first allowed; those before it are computed once."""
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path))
    computed = []
    original = Structures.simulate
    monkeypatch.setattr(Structures, "simulate", lambda s, numbers: computed.append(numbers) or original(s, numbers))
    words = build("static_peak=[0.1, 0.2]", "trajectories=4")
    with monkeypatch.context() as patch:
        patch.setattr(structures_newton, "ITERATIONS", 4)
        for _ in range(2):
            assert cli.main(words) == 2
            message = capsys.readouterr().err
            assert "trajectory 2: Newton's method" in message and "after 4 corrections" in message
            assert "2 of 4 trajectories are complete and kept" in message
    assert not os.path.exists(tmp_path / "beam_2d_neohookean" / "tiny.zarr")
    assert cli.main(words) == 0
    assert computed == [[0], [1], [2], [2], [2], [3]]
    with xr.open_zarr(tmp_path / "beam_2d_neohookean" / "tiny.zarr") as record:
        source = Structures(**json.loads(record.attrs["simulation"])["init_args"])
        np.testing.assert_array_equal(record.displacement_y, original(source, range(4)).displacement_y)
