"""Throughput adds up, and a slow rank is named soon after it has become slow."""

import csv
import re

import pytest
import torch
from trainings import Trainings

from workbench.cluster.job import node
from workbench.cluster.stragglers import WINDOW, behind
from workbench.cluster.throughput import covered

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def trainings(server, tmp_path_factory):
    return Trainings(tmp_path_factory.mktemp("health"), server)


def test_a_rank_that_becomes_slow_is_named_with_its_node(trainings):
    """On clocks that nothing else moves."""
    late = 12
    statuses, out, _ = trainings.run(
        "slow", "--trainer.max_epochs=12", "--trainer.check_val_every_n_epoch=12", ranks=2, accumulate=1,
        due="every_n_train_steps: 1000", LAG=f"[1, {late}, 0.16]",
    )  # fmt: skip
    assert statuses == [0, 0], out
    found = re.search(rf"rank 1 on node {node()} holds up the others: it takes ([\d.]+).* \(step (\d+)\)", out[0])
    assert found, out
    assert late < int(found[2]) <= late + 3 * WINDOW
    with open(trainings.folder / "slow" / "throughput.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    last = rows[-1]
    assert last["ranks"] == "2" and float(last["step_seconds"]) == pytest.approx(0.16)
    per_step = float(last["samples_per_second"]) * float(last["step_seconds"])
    assert 10 < per_step < 18, "14 or so samples on both ranks together"
    assert 0 < float(last["communication"]) < 1 and float(last["waiting"]) == 0


def test_who_is_behind():
    own, seconds = torch.tensor([1.0, 1.1, 1.0, 1.5]), torch.tensor([2.0, 2.0, 2.0, 2.0])
    assert behind(own, seconds) == {3: 1.0}
    assert behind(torch.tensor([1.0, 1.39]), torch.tensor([2.0, 2.0])) == {}
    assert behind(torch.tensor([1.41, 1.0]), torch.tensor([2.0, 2.0])) == {0: 1.0}


def test_overlapping_intervals_count_once():
    assert covered([(0, 2), (1, 3), (5, 6), (5.2, 5.4)]) == 4
    assert covered([]) == 0
