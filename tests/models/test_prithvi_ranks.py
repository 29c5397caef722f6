"""Prithvi WxC in parts on two processes gives the whole one's gradients."""

import os
import subprocess
import sys
from pathlib import Path

HELPER = Path(__file__).parents[1] / "helpers" / "prithvi_ranks.py"


def test_two_ranks_share_every_block(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", str(HELPER), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
