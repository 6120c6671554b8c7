#!/usr/bin/env bash
# A rank that fails ends the whole job at once: the job's exit code is not 0, and the error line
# names the rank and the op. $1 = test_parallel_comm, whose --abort lets rank 1 fail while rank 0
# waits for it.
set -u
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_btl_vader_single_copy_mechanism=none ASAN_OPTIONS=detect_leaks=0
output=$(timeout 40 mpirun -n 2 --oversubscribe --bind-to none "$1" --abort 2>&1)
code=$?
if [ $code -eq 0 ] || [ $code -eq 124 ]; then
    printf 'exit code %s\n%s\n' $code "$output"
    exit 1
fi
if ! grep -q "level=error rank=1 .*event=abort.*op recv.*rank 0" <<<"$output"; then
    printf 'no line names rank, op and peer:\n%s\n' "$output"
    exit 1
fi
