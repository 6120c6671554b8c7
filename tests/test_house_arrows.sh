#!/usr/bin/env bash
# Proves the direction of every include arrow, and that only parallel/ includes MPI or NCCL.
set -u
bad=0
forbid() { # folder, pattern, what it means
    local found
    found=$(grep -rnE "$2" --include='*.c' --include='*.h' --include='*.cu' --include='*.cuh' "$1")
    if [ -n "$found" ]; then
        printf '%s:\n%s\n' "$3" "$found"
        bad=1
    fi
}
forbid kernels '#include "(core|data|parallel|train|serve)/' 'kernels names something above it'
forbid core '#include "(data|parallel|train|serve)/' 'core names something above it'
forbid data '#include "(parallel|train|serve)/' 'data names something above it'
forbid parallel '#include "(train|serve)/' 'parallel names something above it'
forbid train '#include "serve/' 'train names serve'
forbid serve '#include "train/' 'serve names train'
for folder in kernels core data train serve main.c; do
    forbid "$folder" '#include <(mpi|nccl)\.h>' 'MPI or NCCL outside parallel/'
done
for folder in kernels core data parallel train serve; do
    forbid "$folder" '#include "[^/"]+"' 'an include that is not written from the root'
done
exit $bad
