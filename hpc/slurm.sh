#!/bin/bash
#SBATCH --job-name=@{name}
#SBATCH --output=@{log}
#SBATCH --open-mode=append
#SBATCH --requeue
@{directives}
JOB=${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID} TASK=${SLURM_ARRAY_TASK_ID:-}
