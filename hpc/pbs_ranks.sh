
# One process a rank, told in the words of torchrun who it is, and by USR1 that its time is nearly over. Status 75: the
# training wants another place in the queue.
on_every_rank() {
  export MASTER_ADDR=$(head -n 1 "$PBS_NODEFILE") MASTER_PORT=29500 TORCHELASTIC_RUN_ID=$JOB WORLD_SIZE=@{ranks}
  timeout --preserve-status --signal=USR1 @{seconds} mpiexec -n @{ranks} --ppn @{ranks_per_node}@{launcher} bash -c '
    export RANK=${PMI_RANK:-${PALS_RANKID:-$OMPI_COMM_WORLD_RANK}}
    export LOCAL_RANK=${PMI_LOCAL_RANK:-${PALS_LOCAL_RANKID:-$OMPI_COMM_WORLD_LOCAL_RANK}}
    export GROUP_RANK=$((RANK / @{ranks_per_node})) LOCAL_WORLD_SIZE=@{ranks_per_node}
    exec "$@"' rank "$@" || { status=$?; [ $status != 75 ] || qrerun "$PBS_JOBID"; exit $status; }
}
