"""A damaged chunk met in training: it is named, or trained around in a way that can be repeated to the bit."""

import json
import signal

import pytest
from trainings import Trainings, differences

from workbench.data.store import open_record
from workbench.data.writer import write_record

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def trainings(server, tmp_path_factory):
    """A store whose statistics were computed before three of its chunks were damaged."""
    folder = tmp_path_factory.mktemp("damage")
    found = Trainings(folder, server)
    store = write_record(open_record(str(folder / "waves.nc")).load(), folder / "waves.zarr")
    statuses, out, _ = found.run("before", RECORD, "--trainer.max_epochs=1")
    assert statuses == [0], out
    for chunk in ("0/0", "1/7", "2/15"):
        file = store / "height" / "c" / chunk / "0" / "0"
        content = bytearray(file.read_bytes())
        content[40] ^= 1
        file.write_bytes(content)
    return found


RECORD = "--data.record=waves.zarr"


def test_training_stops_and_names_variable_chunk_and_path(trainings):
    statuses, out, _ = trainings.run("stop", RECORD)
    assert statuses == [2]
    assert "variable 'height', chunk (0, 0, 0, 0)" in out[0] and "waves.zarr" in out[0]


@pytest.mark.parametrize("ranks", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_training_goes_on_around_damage_and_resumes_exactly(trainings, ranks):
    """Of 42 samples per epoch, 1 + 3 + 1 touch a damaged chunk; the count survives the kill, too."""
    words, options = (RECORD, "--data.damaged=skip"), {"ranks": ranks, "accumulate": 1}
    statuses, out, _ = trainings.run(f"skip{ranks}", *words, **options)
    assert statuses == [0] * ranks, out
    summary = json.loads((trainings.folder / f"skip{ranks}" / "fit.json").read_text())
    assert summary["replaced_samples"] == 15
    assert "15 samples touched damaged chunks and were replaced" in out[0]
    assert "variable 'height', chunk (0, 0, 0, 0) is damaged" in "".join(out)
    statuses, out, _ = trainings.run(f"skipped{ranks}", *words, kill=[6, "end", -1], **options)
    assert -signal.SIGKILL in statuses, out
    statuses, out, _ = trainings.run(f"skipped{ranks}", *words, "--resume", **options)
    assert statuses == [0] * ranks, out
    (a, rows_a), (b, rows_b) = trainings.end(f"skip{ranks}"), trainings.end(f"skipped{ranks}")
    assert differences(a, b) == [] and rows_a == rows_b
