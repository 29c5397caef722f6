#!/bin/bash
# No scheduler: one job after the other, on this machine; a training starts its ranks by itself.
JOB=$$ TASK=
exec >> "@{log}" 2>&1
