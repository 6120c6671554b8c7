# What the tests of `strata train` share; sourced. $strata, $make_tokens: the programs.
set -u
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_btl_vader_single_copy_mechanism=none
export OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1
export ASAN_OPTIONS=${ASAN_OPTIONS:-fast_unwind_on_malloc=0}
export LSAN_OPTIONS=suppressions=$PWD/tests/lsan.supp:print_suppressions=0
folder=$(mktemp -d "${TMPDIR:-/tmp}/strata-train-XXXXXX")
trap 'rm -rf "$folder"' EXIT
failures=0

fail() {
    printf 'FAILED: %s\n' "$*"
    failures=$((failures + 1))
}

# ranks N COMMAND...: N = 1 runs it plainly. Where $limit is set, that many seconds at most; the
# clock is outside of mpirun, which would wait for what a clock inside leaves behind.
ranks() {
    local n=$1 job=()
    shift
    [ -n "${limit:-}" ] && job=(timeout -k 5 "$limit")
    [ "$n" -gt 1 ] && job+=(mpirun -n "$n" --oversubscribe --bind-to none)
    exec "${job[@]}" "$@" </dev/null # mpirun would hand it on to rank 0
}

# losses RUN: step, loss and gradient norm of every line, as text.
losses() {
    sed -E 's/.*"kind":"([a-z]+)","step":([0-9]+),"loss":([^,}]+),"(grad_norm|perplexity)":([^,}]+).*/\1 \2 \3 \5/' \
        "$1/metrics.jsonl"
}
