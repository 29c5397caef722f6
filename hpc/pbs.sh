#!/bin/bash
#PBS -N @{name}
#PBS -o @{log}
#PBS -j oe
#PBS -r y
@{directives}
JOB=${PBS_JOBID%%[.\[]*} TASK=${PBS_ARRAY_INDEX:-}
