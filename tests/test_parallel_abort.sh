#!/usr/bin/env bash
# A rank that fails ends the whole job at once: the job's exit code is not 0, and the error line
# names the rank and what failed. $1 = test_parallel_comm, in whose modes rank 1 fails while rank 0
# waits for it.
set -u
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_btl_vader_single_copy_mechanism=none ASAN_OPTIONS=detect_leaks=0
failures=0
ends() { # MODE PATTERN
    local output code
    output=$(timeout 40 mpirun -n 2 --oversubscribe --bind-to none "$test" "$1" 2>&1 </dev/null)
    code=$?
    if [ $code -eq 0 ] || [ $code -eq 124 ] || ! grep -qE "$2" <<<"$output"; then
        printf '%s: exit code %s, wanted "%s"\n%s\n' "$1" $code "$2" "$output"
        failures=$((failures + 1))
    fi
}
test=$1
ends --abort 'level=error rank=1 .*event=abort.*op recv.*rank 0'
ends --lost 'level=error rank=1 .*event=abort.*op recv.*rank 0'
ends --leave 'level=error rank=1 .*event=abort while=leaving reason="a disk only rank 1 has"'
exit $((failures > 0))
