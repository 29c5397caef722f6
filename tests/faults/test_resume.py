"""Trainings killed by SIGKILL, at any point of a step, on one and two ranks, end bitwise where undisturbed ones end."""

import random
import signal

import pytest
from trainings import Trainings, differences

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def trainings(server, tmp_path_factory):
    return Trainings(tmp_path_factory.mktemp("resume"), server)


def draw(seed):
    """Where and how a run is killed."""
    rng = random.Random(seed)
    ranks, accumulate = 1 + seed % 2, rng.choice([1, 2, 3])
    batches = 3 * (7 if ranks == 1 else 4)
    kills = [(rng.randrange(1, batches), rng.choice(["start", "backward", "end"])) for _ in range(rng.choice([1, 2]))]
    return ranks, accumulate, kills, [rng.choice([0, 1, 2]) for _ in range(3)]


def kill_and_resume(trainings, run_dir, ranks, accumulate, kills, threads, **options):
    done = 0
    for (batch, where), reading in zip([*kills, (0, "")], threads, strict=False):
        resume = ["--resume"] if (trainings.folder / run_dir / "checkpoints" / "last.ckpt").exists() else []
        statuses, out, _ = trainings.run(
            run_dir,
            f"--data.threads={reading}",
            *resume,
            ranks=ranks,
            accumulate=accumulate,
            kill=[batch, where, -1] if batch else None,
            **options,
        )
        if not any(statuses):
            break
        done += 1
        assert -signal.SIGKILL in statuses, out
    assert statuses == [0] * ranks, out
    (a, rows_a), (b, rows_b) = trainings.whole(ranks, accumulate), trainings.end(run_dir)
    assert differences(a, b) == []
    assert rows_a == rows_b
    return done


@pytest.mark.parametrize(
    "ranks, accumulate, kills, threads",
    [
        (1, 3, [(8, "start"), (5, "end")], [0, 2, 1]),
        (2, 2, [(7, "backward")], [2, 0]),
    ],
)
def test_killed_and_resumed_is_bitwise_the_undisturbed_run(trainings, ranks, accumulate, kills, threads):
    run_dir = f"killed{ranks}{accumulate}"
    assert kill_and_resume(trainings, run_dir, ranks, accumulate, kills, threads) == len(kills)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(30))
def test_killed_anywhere_and_resumed_is_bitwise_the_undisturbed_run(trainings, seed):
    ranks, accumulate, kills, threads = draw(seed)
    survived = kill_and_resume(trainings, f"random{seed}", ranks, accumulate, kills, threads)
    print(f"{survived} kills of {ranks} ranks survived")


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_checkpoint_that_is_due_by_time_waits_for_the_end_of_an_accumulation(trainings, ranks):
    """It would lose the gradients of half an accumulation; here one is due after every batch."""
    due = 'train_time_interval: "00:00:00.000001"'
    assert kill_and_resume(trainings, f"due{ranks}", ranks, 3, [(2, "end"), (5, "start")], [1, 1, 1], due=due) == 2
