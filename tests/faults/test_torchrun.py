"""Ranks that torchrun starts, by the command that a user types, see the same samples and end where others end."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from trainings import Trainings, differences

from workbench.exit_status import LOST_RANK

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trainings(server, tmp_path_factory):
    return Trainings(tmp_path_factory.mktemp("torchrun"), server)


def torchrun(trainings, run_dir, **options):
    file = trainings.write(run_dir, accumulate=1)
    environment = {**os.environ, **options, "WORKBENCH_DATA": str(trainings.folder / "data"), "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = f"{Path(__file__).parents[2]}:{trainings.folder}"
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "workbench", "fit", "-c", str(file), "--run-dir", run_dir, "--resume-or-start"]
    return subprocess.Popen(
        command, cwd=trainings.folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def test_torchrun_stopped_by_a_signal_goes_on_to_the_bit(trainings):
    """SIGTERM to torchrun reaches the ranks, which have the time to save."""
    process = torchrun(trainings, "stopped", PAUSE="0.7")
    seen = trainings.folder / "stopped" / "seen0.jsonl"
    end = time.monotonic() + 120
    while not (seen.exists() and seen.read_text().count("\n") > 1):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    out = process.communicate(timeout=120)[0]
    assert process.returncode and "SIGTERM: saved at step" in out, out
    process = torchrun(trainings, "stopped")
    out = process.communicate(timeout=120)[0]
    assert process.returncode == 0, out
    (a, rows_a), (b, rows_b) = trainings.whole(2, 1), trainings.end("stopped")
    assert differences(a, b) == []
    assert rows_a == rows_b


def test_a_rank_of_torchrun_that_is_killed_is_named(trainings):
    process = torchrun(trainings, "killed", KILL=json.dumps([6, "backward", 1]))
    out = process.communicate(timeout=120)[0]
    assert process.returncode, out
    assert "rank 1 on node" in out and ("has ended: it was killed" in out or str(LOST_RANK) in out), out
