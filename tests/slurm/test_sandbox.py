"""The throw-away SLURM does what the other tests here need of it."""

import os
import subprocess

import pytest
import slurm_sandbox


def test_two_nodes_run_a_job_step(slurm):
    words = ["srun", "--nodes=2", "--ntasks-per-node=1", "--label", "printenv", "SLURMD_NODENAME"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert sorted(done.stdout.splitlines()) == ["0: node1", "1: node2"], done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="packages are installed by root only")
@pytest.mark.parametrize(
    "apt, reason", [("echo E: no network >&2; exit 100", "update failed: .*no network"), ("sleep 9", "within 1 s")]
)
def test_where_packages_cannot_be_installed_the_tests_say_so_soon_and_once(tmp_path, monkeypatch, apt, reason):
    program = tmp_path / "apt-get"
    program.write_text(f"#!/bin/sh\necho called >> {tmp_path}/calls\n{apt}\n")
    program.chmod(0o755)
    for name, value in (("PROGRAMS", ("no_such_program",)), ("PATIENCE", 1), ("FOLDER", tmp_path / "slurm")):
        monkeypatch.setattr(slurm_sandbox, name, value)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("WORKBENCH_SLURM", "install")
    for _ in range(2):
        with pytest.raises(slurm_sandbox.Unavailable, match=reason), slurm_sandbox.used():
            pass
    assert (tmp_path / "calls").read_text() == "called\n"
