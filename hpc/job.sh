
# @{what}; written by workbench submit
set -euo pipefail
cd @{folder}
@{setup}

# Every attempt leaves its beginning and its end behind, so that `workbench jobs` needs no accounting.
note() { echo "$1 $(date -u +%Y-%m-%dT%H:%M:%SZ) $JOB $(hostname)" >> @{record}${TASK:+.$TASK}; }
trap 'note $?' EXIT
trap 'exit 143' TERM
note began

@{commands}
