"""The model of a step against its formula, and the command on two ranks."""

import csv

import numpy as np
import pytest
from project import EXPERIMENT, waves

from workbench import cli
from workbench.scaling import Step, efficiency, line_through, modelled

STEP = Step(fixed=0.01, sample=0.002, gradients=4e9, bandwidth=25e9, latency=2e-6)


def test_a_ring_all_reduce_takes_what_it_takes():
    assert STEP.communication(1) == 0
    assert STEP.communication(2) == pytest.approx(4e9 / 25e9 + 2 * 2e-6)
    assert STEP.communication(10**6) == pytest.approx(2 * 4e9 / 25e9 + 2 * 10**6 * 2e-6, rel=1e-5)


@pytest.mark.parametrize("fixed, slope", [(0.0, 0.3), (1.0, 0.2)])
def test_the_line_through_two_batches(fixed, slope):
    assert line_through((2, fixed + 2 * slope), (8, fixed + 8 * slope)) == pytest.approx((fixed, slope))
    assert line_through((8, 1.0), (2, 2.0)) == (1.0, 0.0), "noise makes no negative times"


def test_without_communication_weak_scaling_is_perfect_and_strong_scaling_has_amdahls_limit():
    free = Step(0.01, 0.002, 0, 1, 0)
    weak, strong = (
        {row.ranks: row.efficiency for row in modelled(free, k, 64, [2, 16, 64, 128])} for k in ("weak", "strong")
    )
    assert weak == {2: 1.0, 16: 1.0, 64: 1.0, 128: 1.0}
    assert sorted(strong) == [2, 16, 64], "every rank needs a sample"
    for ranks, value in strong.items():
        assert value == pytest.approx((0.01 + 0.128) / (ranks * 0.01 + 0.128))
    assert efficiency("strong", 4, 8.0, 2.0) == 1.0 and efficiency("weak", 4, 8.0, 10.0) == 0.8


@pytest.mark.slow
def test_the_command(tmp_path, monkeypatch, capsys):
    waves().to_netcdf(tmp_path / "waves.nc")
    (tmp_path / "waves.yaml").write_text(EXPERIMENT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path / "data"))
    assert cli.main(["scale", "-c", "waves.yaml", "--run-dir", "run", "--up-to", "64", "--latency", "1000"]) == 0
    out = capsys.readouterr().out
    assert "87.0%  published, Frontier, 1 trillion parameters" in out and "over 25 GB/s and 1e+03 us" in out
    with open(tmp_path / "run" / "scaling" / "scaling.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    measured = [(row["kind"], row["ranks"], row["batch"]) for row in rows if row["source"] == "measured"]
    assert measured == [("weak", "1", "8"), ("strong", "1", "8"), ("weak", "2", "8"), ("strong", "2", "4")]
    model = {
        int(row["ranks"]): float(row["seconds"]) for row in rows if (row["source"], row["kind"]) == ("model", "weak")
    }
    np.testing.assert_allclose((model[64] - model[2]) / 1e-3, 2 * 63 - 2, rtol=1e-3)
    assert (tmp_path / "run" / "scaling" / "scaling.png").stat().st_size > 10_000


def test_fewer_samples_than_ranks(tmp_path, monkeypatch, capsys):
    waves().to_netcdf(tmp_path / "waves.nc")
    (tmp_path / "waves.yaml").write_text(EXPERIMENT)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["scale", "-c", "waves.yaml", "--ranks", "9"]) == 2
    assert (
        "--ranks 9 with data.batch_size 8: expected at least 2 ranks and a sample for each" in capsys.readouterr().err
    )
