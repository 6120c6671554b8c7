#!/usr/bin/env bash
# Proves the direction of every include arrow, and that only parallel/ includes MPI or NCCL.
set -u
bad=0
sources=(--include='*.c' --include='*.h' --include='*.cu' --include='*.cc')
expect_files() { # folder, at least how many of its files the patterns below see
    local seen
    seen=$(grep -rlE '' "${sources[@]}" "$1" | wc -l)
    if [ "$seen" -lt "$2" ]; then
        printf '%s: %d files seen, not %d or more\n' "$1" "$seen" "$2"
        bad=1
    fi
}
forbid() { # folder, pattern, what it means
    local found code
    found=$(grep -rnE "$2" "${sources[@]}" "$1")
    code=$?
    if [ $code -gt 1 ]; then
        printf '%s: grep ended with %d, so nothing is known\n' "$1" $code
        bad=1
    elif [ $code -eq 0 ]; then
        printf '%s:\n%s\n' "$3" "$found"
        bad=1
    fi
}
for folder in kernels core data parallel train serve; do
    expect_files "$folder" 40
done
expect_files main.c 1
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
