"""What a training prints where nobody watches a terminal."""

import contextlib
import io
import re

from project import EXPERIMENT, call, waves

from workbench import cli


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_log_gets_a_line_an_epoch_and_a_terminal_a_bar(tmp_path, monkeypatch):
    waves(trajectories=6).to_netcdf(tmp_path / "waves.nc")
    (tmp_path / "e.yaml").write_text(EXPERIMENT.replace("enable_progress_bar: false, ", ""))
    words = ["fit", "-c", "e.yaml", "--trainer.log_every_n_steps=1"]
    lines = call(tmp_path, *words, "--trainer.max_epochs=2").stdout.splitlines()
    found = [line for line in lines if "loss" in line and not line.startswith("trained")]
    number = r"[\d.e+-]+"
    for epoch, line in enumerate(found, 1):
        shown = rf"epoch {epoch} of 2: loss {number}, samples/s {number}, waiting {number}, validation_loss {number}"
        assert re.fullmatch(shown, line), line
    assert len(found) == 2
    monkeypatch.chdir(tmp_path)
    with contextlib.redirect_stdout(Terminal()) as terminal:
        assert cli.main([*words, "--trainer.max_epochs=1", "--overwrite"]) == 0
    assert "epoch 1 of" not in terminal.getvalue() and "━" in terminal.getvalue()
