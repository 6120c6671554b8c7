#!/usr/bin/env bash
# A rank of `strata train` that is stopped, or killed, is named by one verdict line; the table of all
# ranks' calls lies in the run's folder, and the job ends with an exit code that is not 0.
#
#   test_train_hang.sh STRATA MAKE_TOKENS INTERPOSE_SYNC
strata=$1 make_tokens=$2 interpose=$3
. tests/train_common.sh
"$make_tokens" "$folder/train.h5" 20 30 || exit 1
cat >"$folder/run.yaml" <<YAML
model: {path: tests/fixtures/llama}
data: {train: [$folder/train.h5], sequence_length: 24}
train: {steps: 1000000, global_batch: 4, micro_batch: 1, schedule: constant, lr: 1e-5, threads: 1,
        log_every: 20, export: false}
parallel: {watchdog: 1}
YAML

rank_of() { # PID
    tr '\0' '\n' <"/proc/$1/environ" | sed -n 's/^OMPI_COMM_WORLD_RANK=//p'
}

# hang SIGNAL RANK PATTERN
hang() {
    local out=$folder/out-$1 job pid code table
    (limit=60 && ranks 2 "$strata" train "$folder/run.yaml" "train.out=$out") >"$folder/log" 2>&1 &
    job=$!
    for _ in $(seq 300); do
        grep -q 'step=40 ' "$folder/log" && break
        sleep 0.1
    done
    for pid in $(pgrep -f "^$strata train $folder/run.yaml"); do
        [ "$(rank_of "$pid")" = "$2" ] && kill "-$1" "$pid"
    done
    wait $job
    code=$?
    table=$(echo "$out"/hang-*.txt)
    if [ $code -eq 0 ] || [ $code -eq 124 ] || [ "$(grep -c 'event=hang' "$folder/log")" -ne 1 ] ||
        ! grep -qE "event=hang verdict=\"$3" "$folder/log" || ! grep -q 'world all_reduce' "$table"; then
        fail "SIG$1 of rank $2: exit code $code, wanted \"$3\""
        grep -E 'level=(error|warn)|step=40 ' "$folder/log" | head -5
        ls "$out"
        return
    fi
    sed -n "s/.*event=hang verdict=\"\(.*\)\" table.*/SIG$1: \1/p" "$folder/log"
}

hang STOP 1 'rank 1 @ [^ ;]+ does not answer: stopped; rank 0 waits in [a-z]+ [a-z_]+ #'
hang KILL 0 'rank 0 @ [^ ;]+ is gone: the process ended'

# verdict NAME CODE PATTERN: what the job in NAME.log, which ended with CODE, says of who held it up.
verdict() {
    [ "$2" -ne 0 ] && [ "$2" -ne 124 ] && [ "$(grep -c 'event=hang' "$folder/$1.log")" -eq 1 ] &&
        grep -qE "event=hang verdict=\"$3" "$folder/$1.log" || {
        fail "$1: exit code $2, wanted \"$3\""
        grep -vE 'event=step' "$folder/$1.log" | head -20
    }
    sed -n "s/.*event=hang verdict=\"\([^\"]*\)\".*/$1: \1/p" "$folder/$1.log"
}

# Rank 0 stops itself in the first layer of a step, where keys and values go round the ring: the
# other rank waits for those of the next layer.
(export STRATA_TEST_STOP_AT=3,30 LD_PRELOAD="$interpose"
    export ASAN_OPTIONS="$ASAN_OPTIONS:verify_asan_link_order=0"
    limit=60 ranks 2 "$strata" train "$folder/run.yaml" train.out="$folder/ring" parallel.cp=2 \
        train.log_every=1) >"$folder/ring.log" 2>&1
verdict ring $? 'rank 0 @ [^ ;]+ does not answer: stopped; rank 1 waits in cp recv #[0-9]+ from rank 0 \(layer [01] (forward|backward)'

# `strata eval` on ranks that share the model, of more texts than it comes to.
texts=()
for _ in $(seq 2000); do texts+=(README.md); done
(limit=60 && ranks 3 "$strata" eval models/base --threads 1 --watchdog 1 --text "${texts[@]}") >"$folder/lines" \
    2>"$folder/eval.log" &
job=$!
for _ in $(seq 300); do
    [ -s "$folder/lines" ] && break
    sleep 0.1
done
for pid in $(pgrep -f "^$strata eval "); do
    [ "$(rank_of "$pid")" = 1 ] && kill -STOP "$pid"
done
wait $job
verdict eval $? 'rank 1 @ [^ ;]+ does not answer: stopped; ranks? 0'
exit $((failures > 0))
