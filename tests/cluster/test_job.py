"""What is read from the variables of SLURM, torchrun and PBS."""

import pytest

from workbench.cluster import job

SLURM = {"SLURM_NTASKS": "8", "SLURM_NTASKS_PER_NODE": "4", "SLURM_NNODES": "2", "SLURM_JOB_ID": "12"}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "3", "WORLD_SIZE": "6"}
VARIABLES = {*SLURM, *TORCHRUN, "SLURM_JOB_NAME", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "PBS_JOBID"}


@pytest.fixture(autouse=True)
def bare(monkeypatch):
    for name in (*VARIABLES, "SLURMD_NODENAME"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    "variables, expected",
    [
        ({}, {}),
        (SLURM, {"devices": 4, "num_nodes": 2, "strategy": "ddp"}),
        (
            SLURM | {"SLURM_NTASKS_PER_NODE": "1", "SLURM_NNODES": "1"},
            {"devices": 1, "num_nodes": 1, "strategy": "auto"},
        ),
        (SLURM | {"SLURM_JOB_NAME": "interactive"}, {}),
        (SLURM | TORCHRUN, {"devices": 3, "num_nodes": 2, "strategy": "ddp"}),
    ],
)
def test_ranks_are_those_that_were_started(monkeypatch, variables, expected):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert job.layout() == expected


@pytest.mark.parametrize(
    "variables, number",
    [
        ({}, None),
        ({"SLURM_JOB_ID": "12"}, "12"),
        ({"SLURM_JOB_ID": "15", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3"}, "12_3"),
        ({"PBS_JOBID": "7.server"}, "7.server"),
    ],
)
def test_number_of_a_job(monkeypatch, variables, number):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert job.job_number() == number


def test_attempts_are_kept(tmp_path):
    assert job.attempts(tmp_path) == []
    job.note(tmp_path, "started", attempt=1)
    job.note(tmp_path, "lost", reason="rank 1")
    assert [(line["event"], line.get("attempt")) for line in job.attempts(tmp_path)] == [("started", 1), ("lost", None)]
