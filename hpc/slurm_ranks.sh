
# One process a rank. Status 75: the training has asked for another place in the queue by itself.
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}
on_every_rank() { srun --kill-on-bad-exit=1@{launcher} "$@"; }
