#!/usr/bin/env bash
# Each seeded fault of test_parallel_hang ($1) is named by one verdict line, within two watchdog
# periods, with a table of all ranks' calls, and the job ends with an exit code that is not 0. A few
# of them; STRATA_SOAK=1 runs all.
set -u
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_btl_vader_single_copy_mechanism=none ASAN_OPTIONS=detect_leaks=0
export OMP_NUM_THREADS=1
test=$1 soak=${STRATA_SOAK:-0}
seconds=2
folder=$(mktemp -d "${TMPDIR:-/tmp}/strata-hang-XXXXXX")
trap 'rm -rf "$folder"' EXIT
failures=0
faults=0

fail() { # NAME WHAT
    printf 'FAILED: %s: %s\n' "$1" "$2"
    cat "$folder/log"
    failures=$((failures + 1))
}

# Every line of the job with the time at which it came; the job's exit code.
job() {
    timeout -k 5 60 mpirun -n 4 --oversubscribe --bind-to none "$test" "$1" $seconds "$folder" \
        2>&1 </dev/null | while IFS= read -r line; do
        printf '%s %s\n' "$EPOCHREALTIME" "$line"
    done >"$folder/log"
    return "${PIPESTATUS[0]}"
}

# fault WHEN NAME PATTERN: WHEN is `always` or `soak`.
fault() {
    [ "$1" = always ] || [ "$soak" != 0 ] || return
    local name=$2 pattern=$3 start=$SECONDS code verdict took
    rm -f "$folder"/hang-*.txt
    job "$name"
    code=$?
    faults=$((faults + 1))
    if [ $code -eq 0 ] || [ $((SECONDS - start)) -ge 60 ]; then
        fail "$name" "exit code $code after $((SECONDS - start)) s"
        return
    fi
    verdict=$(sed -n 's/.*event=hang verdict="\(.*\)" table=.*/\1/p' "$folder/log")
    if [ "$(grep -c 'event=hang' "$folder/log")" -ne 1 ] || ! grep -qE "^$pattern" <<<"$verdict"; then
        fail "$name" "wanted one line \"$pattern\""
        return
    fi
    grep -qF "$verdict" "$folder"/hang-*.txt && grep -q '^rank 3 @' "$folder"/hang-*.txt ||
        fail "$name" "no table"
    took=$(awk '$2 == "fault" {at = $4} /event=hang/ {printf "%.2f", $1 - at}' "$folder/log")
    awk -v took="$took" -v limit="$seconds" 'BEGIN {exit !(took <= 2 * limit)}' ||
        fail "$name" "named after $took s, more than two periods of $seconds s"
    printf '%-15s %5s s  %s\n' "$name" "$took" "$verdict"
}

job none || fail none "exit code $?"
! grep -q 'level=' "$folder/log" || fail none "said something"

h='@ [^ ;]+'
fault always killed "rank 2 $h is gone"
fault soak killed-first "rank 0 $h is gone"
fault soak exited "rank 3 $h is gone"
fault soak stopped "rank 1 $h does not answer: stopped"
fault always stopped-first "rank 0 $h does not answer: stopped"
fault soak asleep "rank 3 $h never entered world all_reduce #[0-9]+ \\(layer 2 forward, microbatch 1\\); ranks 0, 1, 2 wait; rank 3 has been outside any call for [0-9.]+ s, since tp all_reduce_ordered #7 .*"
fault soak asleep-first "rank 0 $h never entered world all_reduce #[0-9]+ \\(layer 2 forward, microbatch 1\\); ranks 1, 2, 3 wait"
fault always asleep-tp "rank 3 $h never entered tp all_reduce_ordered #7 \\(layer 2 forward, microbatch 1\\); rank 2 waits; behind them 2 more"
fault soak asleep-start "rank 2 $h never entered world start_all_reduce #[0-9]+ \\(layer 12 backward, microbatch 3\\); ranks 0, 1, 3 wait"
fault soak asleep-wait "rank 1 $h started and never waited for world start_all_reduce #[0-9]+ \\(layer 12 backward, microbatch 3\\); "
fault soak asleep-send "rank 0 $h never entered world send #4 to rank 1 \\(layer 3 forward, microbatch 1\\); rank 1 waits"
fault always count "rank 3 $h called world all_reduce #[0-9]+ with 10000 f32 \\(layer 2 forward, microbatch 1\\) where ranks 0, 1, 2 called it with 20000 f32"
fault always count-early "rank 3 $h called world all_reduce #[0-9]+ with 10000 f32 \\(layer 2 forward, microbatch 1\\) where ranks 0, 1, 2 called it with 20000 f32"
fault soak count-gather "rank 1 $h called dp all_gather #4 with 1500 f32 \\(head backward\\) where rank 3 called it with 3000 f32"
fault soak count-send "rank 2 $h called world send #4 with 50 f32 to rank 3 .* where rank 3 called recv with 100 f32 from rank 2"
fault soak type "rank 2 $h called world all_reduce #[0-9]+ with 20000 f64 .* where ranks 0, 1, 3 called it with 20000 f32"
fault soak type-tp "rank 1 $h called tp all_reduce_ordered #7 with 64 f64 .* where rank 0 called it with 64 f32"
fault soak missed "rank 2 $h never entered world all_reduce #[0-9]+ .*; ranks 0, 1, 3 wait; rank 2 waits in world recv #4 from rank 1"
fault soak missed-start "rank 1 $h never entered world start_all_reduce #[0-9]+ .*; ranks 0, 2, 3 wait; rank 1 waits in dp all_gather #4"
fault always missed-send "rank 2 $h never entered world send #4 to rank 3"
fault soak missed-barrier "rank 3 $h never entered world barrier #[0-9]+; ranks 0, 1, 2 wait; rank 3 waits in tp all_reduce_ordered #9"
fault soak order "rank 0 $h never entered tp broadcast #8 from rank 0"
fault always order-comms "rank 1 $h never entered tp all_reduce_ordered #7 .*; rank 0 waits; .*; rank 1 waits in world all_reduce"
fault soak extra-tp "rank 1 $h never entered world all_reduce #[0-9]+ .*; ranks 0, 2, 3 wait; rank 1 waits in tp all_reduce_ordered #8"
fault soak extra-world "rank 0 $h waits alone in world barrier #[0-9]+; ranks 1, 2, 3 never entered it"
fault soak left "rank 2 $h left the job without "
echo "$faults faults, $failures failures"
exit $((failures > 0))
