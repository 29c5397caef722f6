
# One share of the work for each GPU of the node.
share_by_share() {
  export FIRST=$(((${TASK:-1} - 1) * @{ranks} + 1))
  srun --gpus-per-task=1 bash -c 'exec "$@" --share "$((FIRST + SLURM_PROCID))/@{shares}"' share "$@"
}
