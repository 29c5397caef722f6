"""What the scheduler says of this job: nodes and ranks, its number, and how it is put back into the queue."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from pathlib import Path
from typing import Any


def layout() -> dict[str, Any]:
    """Trainer arguments for the ranks that the scheduler or torchrun has started; none outside of both."""
    environment = os.environ
    if under_torchrun():
        devices = int(environment["LOCAL_WORLD_SIZE"])
        nodes = int(environment["WORLD_SIZE"]) // devices
    elif under_slurm() and "SLURM_NTASKS_PER_NODE" in environment:
        devices, nodes = int(environment["SLURM_NTASKS_PER_NODE"]), int(environment["SLURM_NNODES"])
    else:
        return {}
    return {"devices": devices, "num_nodes": nodes, "strategy": "ddp" if devices * nodes > 1 else "auto"}


def under_torchrun() -> bool:
    """Whether torchrun has started this process, in a job of a scheduler or outside."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def under_slurm() -> bool:
    """Whether SLURM has started this process as a task; an interactive shell of SLURM does not count."""
    return "SLURM_NTASKS" in os.environ and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive")


def node() -> str:
    """Name of this node, as the scheduler calls it."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def job_number() -> str | None:
    """Number of this job of SLURM or PBS, with that of its task in an array."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    if array:
        return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ.get("SLURM_JOB_ID") or os.environ.get("PBS_JOBID")


def requeue() -> str:
    """Put this job of SLURM back into the queue; returns what went wrong, empty where nothing did."""
    done = subprocess.run(["scontrol", "requeue", str(job_number())], capture_output=True, text=True, check=False)
    return (done.stderr or done.stdout).strip() if done.returncode else ""


def note(run_dir: Path, event: str, **fields: Any) -> None:
    """Append a line to ``attempts.jsonl``, the story of a run over all its jobs."""
    line = {"event": event, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **fields}
    with open(run_dir / "attempts.jsonl", "a") as file:
        file.write(json.dumps(line) + "\n")


def attempts(run_dir: Path) -> list[dict[str, Any]]:
    """What was noted of a run."""
    file = run_dir / "attempts.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
