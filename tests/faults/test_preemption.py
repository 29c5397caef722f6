"""A training that is told to stop saves itself, says so by its status, and goes on as if nothing had been."""

import signal

import pytest
from trainings import Trainings, differences

from workbench.cluster.job import attempts
from workbench.exit_status import REQUEUE

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def trainings(server, tmp_path_factory):
    return Trainings(tmp_path_factory.mktemp("preemption"), server)


@pytest.mark.parametrize(
    "ranks, accumulate, batch, number, told",
    [
        (1, 1, 7, signal.SIGTERM, 0),  # the last batch of an epoch
        (2, 2, 4, signal.SIGUSR1, 1),
        pytest.param(1, 3, 4, signal.SIGTERM, 0, marks=pytest.mark.slow),
        pytest.param(2, 3, 4, signal.SIGTERM, 0, marks=pytest.mark.slow),
        pytest.param(2, 1, 4, signal.SIGTERM, -1, marks=pytest.mark.slow),
        *(pytest.param(2, 1, batch, signal.SIGTERM, 1, marks=pytest.mark.slow) for batch in range(1, 10)),
    ],
)
def test_told_to_stop_and_started_again_it_is_bitwise_the_undisturbed_run(
    trainings, ranks, accumulate, batch, number, told
):
    """Whichever rank is told, all stop after the same batch; the last regular checkpoint is far away."""
    run_dir, far = f"told{ranks}{accumulate}at{batch}of{told}", "every_n_train_steps: 1000"
    words = dict(ranks=ranks, accumulate=accumulate, due=far, PERIOD="0")
    statuses, out, _ = trainings.run(
        run_dir, "--resume-or-start", kill=[batch, "start", told, number], kill_all=False, **words
    )
    assert statuses == [REQUEUE] * ranks, out
    stopped = trainings.end(run_dir)[0]["global_step"]
    assert f"{signal.Signals(number).name}: saved at step {stopped}" in out[0]
    assert not (trainings.folder / run_dir / "fit.json").exists()
    statuses, out, _ = trainings.run(run_dir, "--resume-or-start", **words)
    assert statuses == [0] * ranks and f"attempt 2, from step {stopped}" in out[0], out
    (a, rows_a), (b, rows_b) = trainings.whole(ranks, accumulate), trainings.end(run_dir)
    assert differences(a, b) == []
    assert rows_a == rows_b
    events = [(line["event"], line["step"]) for line in attempts(trainings.folder / run_dir)]
    end = b["global_step"]
    assert events == [("started", 0), ("stopped", stopped), ("started", stopped), ("finished", end)]
    statuses, out, _ = trainings.run(run_dir, "--resume-or-start", **words)
    assert statuses == [0] * ranks and "is complete" in out[0]
