"""The throw-away SLURM does what the other tests here need of it."""

import subprocess


def test_two_nodes_run_a_job_step(slurm):
    words = ["srun", "--nodes=2", "--ntasks-per-node=1", "--label", "printenv", "SLURMD_NODENAME"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert sorted(done.stdout.splitlines()) == ["0: node1", "1: node2"], done.stderr
