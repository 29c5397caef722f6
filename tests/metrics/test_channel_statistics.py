from threading import Lock

import dask.array as da
import numpy as np
import pytest
from channel_record import channel
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.data.weights import trapezoid
from workbench.errors import InputError
from workbench.metrics.channel import Names
from workbench.metrics.channel_statistics import (
    channel_distances,
    channel_statistics,
    densities,
    joint_density,
    on_nodes,
)
from workbench.metrics.channel_sums import accumulate, sample_scale
from workbench.metrics.long_run import batch_numbers

RECORD = channel(2, 12)
SCALE = sample_scale(RECORD)
NUMBERS = batch_numbers(2, 12, wanted=6)
WHOLE = accumulate(RECORD, NUMBERS, SCALE)


def statistics(record, scale=None, names=None):
    runs = record.sizes.get("trajectory", 1)
    scale = sample_scale(record) if scale is None else scale
    found = accumulate(record, batch_numbers(runs, record.sizes["time"]), scale, names)
    return channel_statistics(found.sums.sum("batch"), scale, 1e-3)


def assert_same(found, expected):
    for name, array in expected.sums.data_vars.items():
        largest = float(abs(array).max())
        np.testing.assert_allclose(found.sums[name], array, rtol=1e-12, atol=1e-12 * largest, err_msg=name)
    for name, array in expected.history.data_vars.items():
        np.testing.assert_allclose(found.history[name], array, rtol=1e-12, err_msg=name)


# ----------------------------------------------------------------------------------------------------------- sums


@settings(max_examples=15, deadline=None)
@given(cut=st.integers(1, 11), chunk=st.integers(1, 5), by_run=st.booleans(), turned=st.booleans())
def test_sums_of_parts_add_up_to_the_sums_of_the_whole(cut, chunk, by_run, turned):
    lazy = RECORD.chunk(time=chunk, x=3, trajectory=1)
    if by_run:
        pairs = [({"trajectory": slice(i, i + 1)}, NUMBERS[i : i + 1]) for i in (0, 1)]
    else:
        pairs = [({"time": part}, NUMBERS[:, part]) for part in (slice(0, cut), slice(cut, None))]
    parts = [accumulate(lazy.isel(where), numbers, SCALE) for where, numbers in pairs]
    assert_same(parts[1] + parts[0] if turned else parts[0] + parts[1], WHOLE)


def test_every_chunk_is_read_once():
    reads, lock = [], Lock()

    def read(block, block_info=None):
        with lock:
            reads.append(block_info[0]["chunk-location"])
        return block

    record = RECORD.chunk(time=5, trajectory=1, y=4)
    counted = record.map(lambda a: a.copy(data=da.map_blocks(read, a.data, dtype=a.dtype)))
    reads.clear()
    assert_same(accumulate(counted, NUMBERS, SCALE), WHOLE)
    assert len(reads) == sum(record[n].data.npartitions for n in "uvw")


def test_chunks_of_a_further_coordinate_need_not_fit_those_of_the_fields():
    record = RECORD.assign_coords(valid_time=("time", da.arange(12, chunks=12))).chunk(trajectory=1)
    fields = {name: record[name].chunk(time=5) for name in "uvw"}
    assert_same(accumulate(record.assign(fields), NUMBERS, SCALE), WHOLE)


def test_discarded_states_are_in_the_history_alone():
    numbers = batch_numbers(2, 12, first=4, wanted=4)
    found = accumulate(RECORD, numbers, SCALE)
    later = accumulate(RECORD.isel(time=slice(4, None)), numbers[:, 4:], SCALE)
    np.testing.assert_allclose(found.sums["product"], later.sums["product"], rtol=1e-12)
    assert found.history.sizes["time"] == 12 and float(found.sums["count"].sum()) == 16


def test_a_diverged_state_makes_its_batch_missing_and_no_other():
    record = RECORD.copy(deep=True)
    record["u"][0, 3, 0, 4, 0] = np.nan
    record["v"][1, 9, 0, 4, 0] = np.inf
    found = accumulate(record, NUMBERS, SCALE)
    bad = {int(NUMBERS[0, 3]), int(NUMBERS[1, 9])}
    for name in ("velocity", "product", "power_x", "histogram", "joint"):
        finite = np.isfinite(found.sums[name]).all([d for d in found.sums[name].dims if d != "batch"])
        assert set(np.flatnonzero(~finite.values)) == bad, name


def test_history_is_the_weighted_mean_over_the_volume():
    weights = trapezoid(RECORD["y"])
    energy = sum(0.5 * (RECORD[n].astype(float) ** 2).mean(["x", "z"]).weighted(weights).mean("y") for n in "uvw")
    np.testing.assert_allclose(WHOLE.history["energy"], energy, rtol=1e-6)
    v = RECORD["v"].astype(float)
    expected = np.sqrt(((v - v.mean(["x", "z"])) ** 2).mean(["x", "z"]).weighted(weights).mean("y"))
    np.testing.assert_allclose(WHOLE.history["rms_v"], expected, rtol=1e-6)
    assert float(WHOLE.history["wall_slip"].max()) == 0.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: WHOLE + WHOLE, "a state is in both parts"),
        (lambda: WHOLE + accumulate(RECORD, NUMBERS, SCALE * 1.5), "counted in different bins"),
        (lambda: WHOLE + accumulate(*refined()), "coordinate 'y' differs"),
        (lambda: accumulate(RECORD, NUMBERS[:1], SCALE), r"batches are \(1, 12\), the record has 2 runs of 12 states"),
        (
            lambda: accumulate(RECORD, NUMBERS, SCALE.isel(y=slice(0, 5))),
            "the scale of the bins has 5 wall-normal nodes",
        ),
    ],
)
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call()


def refined():
    record = channel(2, 12, (8, 11, 6))
    return record, NUMBERS, sample_scale(record)


# ----------------------------------------------------------------------------------------------------- statistics


def test_poiseuille_flow_has_its_profile_and_no_fluctuations():
    found = statistics(channel(1, 3, (8, 33, 6), amplitude=0.0))
    y = found["y"]
    np.testing.assert_allclose(found["mean_velocity"], y * (2 - y), atol=1e-7)
    np.testing.assert_allclose(found["rms"], 0.0, atol=1e-6)
    np.testing.assert_allclose(found["shear_stress"], 0.0, atol=1e-12)
    assert float(found["friction_velocity"]) == pytest.approx(np.sqrt(2e-3), rel=1e-4)
    assert float(found["bulk_velocity"]) == pytest.approx(2 / 3, rel=3e-3)  # of the trapezoidal rule on 33 nodes
    assert float(found["kinetic_energy"]) == pytest.approx(0.5 * 8 / 15, rel=3e-3)


def test_statistics_are_those_of_plain_averages():
    found = statistics(RECORD)
    fields = {n: RECORD[n].astype(float) for n in "uvw"}
    over = ["trajectory", "time", "x", "z"]
    mean = {n: f.mean(over) for n, f in fields.items()}
    mirrored = {n: {"u": 1, "v": -1, "w": 1}[n] * m[::-1].assign_coords(y=m["y"]) for n, m in mean.items()}
    mean = {n: 0.5 * (m + mirrored[n]) for n, m in mean.items()}
    dash = {n: fields[n] - mean[n] for n in "uvw"}
    half = slice(0, 5)
    np.testing.assert_allclose(found["mean_velocity"], mean["u"][half], atol=1e-12)
    square = (dash["v"] ** 2).mean(over)
    both = 0.5 * (square + square[::-1].values)
    np.testing.assert_allclose(found["rms"].sel(component="v"), np.sqrt(both)[half], atol=1e-12)
    stress = (dash["u"] * dash["v"]).mean(over)
    np.testing.assert_allclose(found["shear_stress"], -0.5 * (stress - stress[::-1].values)[half], atol=1e-12)
    assert (found["shear_stress"][1:-1] > 0).all()


def test_spectra_add_up_to_the_mean_square_of_the_fluctuations():
    for points in ((8, 9, 6), (7, 9, 5)):
        found = statistics(channel(2, 12, points))
        for axis in ("x", "z"):
            width = float(found[f"wavenumber_{axis}"][1])
            total = found[f"spectrum_{axis}"].sum(f"wavenumber_{axis}") * width
            np.testing.assert_allclose(total, found["rms"] ** 2, atol=1e-15)
            np.testing.assert_allclose(
                found[f"correlation_{axis}"].isel(y=slice(1, None), **{f"separation_{axis}": 0}), 1
            )


def test_a_wave_has_one_line_in_its_spectrum_and_a_cosine_for_correlation():
    record = channel(1, 2, (16, 9, 8), amplitude=0.0)
    wave = 0.3 * np.sin(4 * record["x"]) * (record["y"] > 0) * (record["y"] < 2)
    record["w"] = (record["w"] + wave).assign_attrs(record["w"].attrs).transpose(*record["u"].dims)
    found = statistics(record).sel(component="w").isel(y=2)
    line = found["spectrum_x"] * float(found["wavenumber_x"][1])
    np.testing.assert_allclose(line, np.where(np.isclose(found["wavenumber_x"], 4.0), 0.045, 0.0), atol=1e-8)
    np.testing.assert_allclose(found["correlation_x"], np.cos(4 * found["separation_x"]), atol=1e-6)
    np.testing.assert_allclose(found["correlation_z"], 1.0, atol=1e-6)


def test_both_walls_count_alike():
    upside_down = RECORD.isel(y=slice(None, None, -1)).assign_coords(y=RECORD["y"])
    upside_down["v"] = (-upside_down["v"]).assign_attrs(RECORD["v"].attrs)
    expected, found = statistics(RECORD, SCALE), statistics(upside_down, SCALE)
    for name in ("mean_velocity", "rms", "shear_stress", "spectrum_x", "q_rms"):
        np.testing.assert_allclose(found[name], expected[name], atol=1e-12, err_msg=name)
    # a value on the very edge of a bin may fall to either side when it is mirrored
    np.testing.assert_allclose(found["cdf"], expected["cdf"], atol=2e-3)


def test_names_and_order_of_dimensions_are_the_callers():
    other = RECORD.rename(x="streamwise", y="wall", z="span", u="vx", v="vy", w="vz", time="lead_time")
    other = other.transpose("wall", "lead_time", "span", "trajectory", "streamwise")
    names = Names(("streamwise", "wall", "span"), ("vx", "vy", "vz"), "lead_time")
    found = accumulate(other, NUMBERS, SCALE, names)
    np.testing.assert_allclose(found.sums["power_x"], WHOLE.sums["power_x"], rtol=1e-12)


GAUSSIAN = channel(4, 60, (8, 9, 6), memory=0.0)


def test_the_density_of_gaussian_fluctuations():
    found = statistics(GAUSSIAN)
    pdf = densities(found).isel(y=3)
    for component in "uvw":
        sigma = float(found["rms"].sel(component=component)[3])
        value, density = (pdf[n].sel(quantity=component) for n in ("pdf_value", "pdf"))
        exact = np.exp(-0.5 * (value / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))
        near = abs(value) < 2.5 * sigma
        # 23 000 values in bins of a quarter of sigma: 2 300 in the fullest, 2 %
        np.testing.assert_allclose(density[near], exact[near], rtol=0.25, atol=0.03 * float(exact.max()))
        width = float(value[1] - value[0])
        assert float(density.sum() * width) == pytest.approx(1.0, abs=1e-12)
        assert float((density * value).sum() * width) == pytest.approx(0.0, abs=0.02 * sigma)


def test_the_joint_density_holds_the_reynolds_stress():
    scale = sample_scale(GAUSSIAN)
    sums = accumulate(GAUSSIAN, batch_numbers(4, 60), scale).sums.sum("batch")
    found = joint_density(sums, scale).isel(y=3)
    area = float(found["joint_u"][1] - found["joint_u"][0]) * float(found["joint_v"][1] - found["joint_v"][0])
    stress = -(found["joint_pdf"] * found["joint_u"] * found["joint_v"]).sum() * area
    expected = channel_statistics(sums, scale, 1e-3)["shear_stress"][3]
    assert float(stress) == pytest.approx(float(expected), rel=0.03)


# ------------------------------------------------------------------------------------------------------ distances


def test_a_record_has_no_distance_from_itself():
    found = statistics(RECORD)
    distance = channel_distances(found, found, [2, 3]).to_array()
    np.testing.assert_allclose(distance, 0.0, atol=1e-14)


def test_distances_of_fluctuations_that_are_larger_by_a_fifth():
    larger = channel(4, 60, (8, 9, 6), memory=0.0, amplitude=0.12)
    scale = sample_scale(GAUSSIAN)
    truth, found = statistics(GAUSSIAN, scale), statistics(larger, scale)
    distance = channel_distances(found, truth, [2, 3]).map(float)
    assert distance["rms_w"] == pytest.approx(0.2, rel=1e-3)
    assert distance["shear_stress"] == pytest.approx(0.44, rel=1e-3)
    assert distance["spectrum_x"] == pytest.approx(10 * np.log10(1.44), rel=1e-3)
    # of two centred Gaussians W_1 = |s_1 - s_2| sqrt(2 / pi)
    assert distance["pdf_w"] == pytest.approx(0.2 * np.sqrt(2 / np.pi), rel=0.02)
    assert distance["correlation_x"] == pytest.approx(0.0, abs=1e-6)
    assert distance["mean_velocity"] < 0.002


def test_a_shifted_mean_is_in_the_mean_and_not_in_the_densities():
    faster = channel(4, 60, (8, 9, 6), memory=0.0, flow=1.1)
    scale = sample_scale(GAUSSIAN)
    distance = channel_distances(statistics(faster, scale), statistics(GAUSSIAN, scale), [2, 3]).map(float)
    assert distance["mean_velocity"] == pytest.approx(0.1, rel=0.01)
    assert distance["pdf_u"] < 0.01


def test_other_nodes_are_interpolated_and_unshared_waves_left_out():
    truth = statistics(channel(2, 12, (8, 17, 6), amplitude=0.0))
    coarse = statistics(channel(2, 12, (4, 9, 6), amplitude=0.0))
    found = on_nodes(coarse, truth)
    np.testing.assert_array_equal(found["y"], truth["y"])
    np.testing.assert_allclose(found["mean_velocity"], truth["mean_velocity"], atol=0.04)
    assert found["spectrum_x"].isel(wavenumber_x=slice(3, None)).isnull().all()
    noisy = [statistics(channel(2, 12, points)) for points in ((4, 9, 6), (8, 9, 6))]
    distance = channel_distances(on_nodes(noisy[0], noisy[1]), noisy[1], [2, 3])
    assert np.isfinite(distance.to_array()).all()


def test_what_has_diverged_has_no_distance():
    truth = statistics(RECORD)
    distance = channel_distances(truth * np.nan, truth, [2, 3])
    assert distance.to_array().isnull().all()
