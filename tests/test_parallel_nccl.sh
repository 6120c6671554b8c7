#!/usr/bin/env bash
# Calls over NCCL that never end are ended by the watchdog, which names them as it does MPI's.
# $1: test_parallel_nccl.
set -u
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_NUM_THREADS=1
export OMPI_MCA_btl_vader_single_copy_mechanism=none ASAN_OPTIONS=detect_leaks=0
folder=$(mktemp -d "${TMPDIR:-/tmp}/strata-nccl-XXXXXX")
trap 'rm -rf "$folder"' EXIT
failures=0

# hang HOW PATTERN
hang() {
    timeout -k 5 60 mpirun -n 3 --oversubscribe --bind-to none "$test" "$1" "$folder" \
        >"$folder/log" 2>&1 </dev/null
    local code=$?
    local verdict
    verdict=$(sed -n 's/.*event=hang verdict="\(.*\)" table=.*/\1/p' "$folder/log")
    if [ $code -eq 0 ] || [ $code -eq 124 ] || ! grep -qE "^$2" <<<"$verdict"; then
        printf 'FAILED: %s: exit code %s, wanted "%s"\n' "$1" $code "$2"
        cat "$folder/log"
        failures=$((failures + 1))
    else
        printf '%s: %s\n' "$1" "$verdict"
    fi
}

test=$1
h='@ [^ ;]+'
hang ring "rank [0-2] $h never entered fast recv #1 from rank [0-2]"
hang absent "rank 1 $h never entered fast all_gather #[0-9]+; ranks 0, 2 wait; rank 1 waits in world barrier"
exit $((failures > 0))
