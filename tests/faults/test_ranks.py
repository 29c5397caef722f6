"""Several ranks: an epoch that goes on with other ranks is whole, and no rank waits for one that has died."""

import os
import signal
import subprocess
import sys

import pytest
from trainings import Trainings

from workbench.cluster.job import attempts, node
from workbench.exit_status import LOST_RANK

pytestmark = pytest.mark.long

SAMPLES = list(range(56))


@pytest.fixture(scope="module")
def trainings(server, tmp_path_factory):
    return Trainings(tmp_path_factory.mktemp("ranks"), server)


def learning_rates(rows):
    return [float(row["lr-AdamW"]) for row in rows if row["lr-AdamW"]]


@pytest.mark.parametrize(
    "before, after, batch_size, kill",
    [
        (1, 2, 8, 6),
        (2, 1, 5, 4),
        pytest.param(2, 1, 8, 4, marks=pytest.mark.slow),
        pytest.param(2, 2, 5, 4, marks=pytest.mark.slow),
        pytest.param(1, 2, 8, 9, marks=pytest.mark.slow),
        pytest.param(2, 3, 4, 4, marks=pytest.mark.slow),
        pytest.param(3, 1, 3, 3, marks=pytest.mark.slow),
        pytest.param(1, 1, 16, 6, marks=pytest.mark.slow),
    ],
)
def test_an_epoch_goes_on_with_other_ranks(trainings, before, after, batch_size, kill):
    """No sample twice, none lost, in this epoch and the next; the log says so; the learning rate does not jump."""
    run_dir = f"{before}to{after}of{batch_size}at{kill}"
    statuses, out, _ = trainings.run(run_dir, ranks=before, accumulate=1, kill=[kill, "start", -1])
    assert -signal.SIGKILL in statuses, out
    first = [line for rank in trainings.seen(run_dir, before) for line in rank]
    checkpoint = trainings.end(run_dir)[0]
    saved = checkpoint["global_step"]
    noise = {state["generators"]["torch"].numpy().tobytes() for state in checkpoint["ranks"]}
    assert len(noise) == before, "every rank draws numbers of its own"
    statuses, out, _ = trainings.run(run_dir, "--resume", f"--data.batch_size={batch_size}", ranks=after, accumulate=1)
    assert statuses == [0] * after, out
    second = [line for rank in trainings.seen(run_dir, after) for line in rank]
    kept = [line for line in first if line[0] <= saved]
    for epoch in range(3):
        assert sorted(i for _, e, index in kept + second if e == epoch for i in index) == SAMPLES, epoch
    assert f"goes on with {after} ranks of batch size {batch_size} where it had {before} of 8" in "".join(out)
    rates = learning_rates(trainings.end(run_dir)[1])
    assert rates[-1] < 0.06 * max(rates), "the schedule ends with the training"
    assert max(abs(a - b) for a, b in zip(rates[1:], rates[2:], strict=False)) < 0.5 * max(rates)


@pytest.mark.parametrize("rank", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_no_rank_waits_for_one_that_was_killed(trainings, rank):
    statuses, out, _ = trainings.run(f"lost{rank}", ranks=2, accumulate=1, kill=[5, "backward", rank], kill_all=False)
    assert statuses[rank] == -signal.SIGKILL and statuses[1 - rank] == LOST_RANK, out
    assert f"rank {rank} on node {node()} has ended: it was killed" in out[1 - rank]
    assert attempts(trainings.folder / f"lost{rank}")[-1]["event"] == "lost"
    statuses, out, _ = trainings.run(f"lost{rank}", "--resume", ranks=2, accumulate=1)
    assert statuses == [0, 0], out


@pytest.mark.slow
def test_an_error_of_one_rank_ends_all(trainings):
    """Its own error is printed, and the other rank says which one it has lost."""
    statuses, out, _ = trainings.run("error", ranks=2, accumulate=1, kill_all=False, FAIL="1")
    assert sorted(statuses) != [0, 0] and None not in statuses, out
    assert "a failure of rank 1" in out[1] and "has ended with ValueError: a failure of rank 1" in out[0]


@pytest.mark.slow
def test_the_command_with_two_devices_ends_when_one_is_killed(trainings):
    """As users start it: the first process starts the second one itself."""
    trainings.run("never", "--print_config")  # writes the file
    environment = {**os.environ, "PYTHONPATH": str(trainings.folder), "KILL": '[5, "end", 1]', "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "workbench", "fit", "-c", str(trainings.folder / "files/never/waves.yaml")]
    command += ["--run-dir", "never", "--trainer.devices=2", "--trainer.strategy=ddp"]
    done = subprocess.run(
        command, cwd=trainings.folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode != 0
    assert "rank 1 on node" in done.stderr or "terminated with code -9" in done.stderr
