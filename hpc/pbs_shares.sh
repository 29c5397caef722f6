
# One share of the work for each GPU of the node.
share_by_share() {
  export FIRST=$(((${TASK:-1} - 1) * @{ranks} + 1))
  mpiexec -n @{ranks} --ppn @{ranks} bash -c '
    export CUDA_VISIBLE_DEVICES=${PMI_RANK:-${PALS_RANKID:-$OMPI_COMM_WORLD_RANK}}
    exec "$@" --share "$((FIRST + CUDA_VISIBLE_DEVICES))/@{shares}"' share "$@"
}
