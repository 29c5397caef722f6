"""Jobs of a scheduler, as tests ask for them."""

import subprocess
import time
from contextlib import suppress
from pathlib import Path


def command(*words, **options):
    """What a program prints."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=True, **options)
    return done.stdout.strip()


def until(condition, otherwise, seconds=240):
    """Wait for something; `otherwise` tells what there is instead."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, otherwise()
        time.sleep(0.2)


def rank_of(job, rank):
    """The process of a rank of a SLURM job on this machine."""
    wanted = {f"SLURM_JOB_ID={job}".encode(), f"SLURM_PROCID={rank}".encode()}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if wanted <= set((process / "environ").read_bytes().split(b"\0")):
                return int(process.name)
    raise AssertionError(f"no rank {rank} of job {job}")
