"""Ensembles on the life of cells, killed by SIGKILL inside an epoch, end bitwise where undisturbed ones end."""

import json
import signal

import battery
import pytest
import torch
from trainings import HELPERS, differences

pytestmark = pytest.mark.long

CALLBACKS = """
trainer:
  check_val_every_n_epoch: 1
  callbacks:
    - {class_path: helpers.Kill}
    - class_path: ModelCheckpoint
      init_args: {every_n_train_steps: 2, filename: last, dirpath: DIR/checkpoints, enable_version_counter: false}
"""


def test_killed_and_resumed_is_bitwise_the_undisturbed_run(server, tmp_path):
    battery.cells().to_netcdf(tmp_path / "cells.nc")
    (tmp_path / "helpers.py").write_text(HELPERS)
    ends = {}
    for run_dir, kill in (("whole", None), ("killed", [8, "backward", -1])):
        (tmp_path / "cells.yaml").write_text(battery.EXPERIMENT)
        (tmp_path / f"{run_dir}.yaml").write_text(CALLBACKS.replace("DIR", run_dir))
        words = ("fit", "-c", "cells.yaml", "-c", f"{run_dir}.yaml", "--run-dir", run_dir, "--trainer.max_epochs=4")
        environment = {"KILL": json.dumps(kill)} if kill else {}
        statuses, out, _ = server.run(tmp_path, *words, ranks=1, **environment)
        if kill:
            assert statuses == [-signal.SIGKILL], out
            statuses, out, _ = server.run(tmp_path, *words, "--resume", ranks=1)
        assert statuses == [0], out
        ends[run_dir] = torch.load(tmp_path / run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    cards = [json.loads(end.pop("workbench")) for end in ends.values()]
    assert cards[0]["task"] == cards[1]["task"] and cards[0]["training"] == cards[1]["training"]
    assert differences(ends["whole"], ends["killed"]) == []
    assert torch.isfinite(ends["killed"]["state_dict"]["network.residuals"]).all()
