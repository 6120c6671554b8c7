#!/usr/bin/env bash
# Runs that are killed, first inside a checkpoint (at each of its syncs in turn), then twice at
# random moments, and started again by the same command compute what the uninterrupted run computed, to the
# last digit of every loss and gradient norm; so do runs that SIGTERM stops, and one whose system
# calls are interrupted.
#
#   test_train_resume.sh STRATA MAKE_TOKENS INTERPOSE_SYNC
#
# STRATA_SOAK=1 makes a dozen trials of each kind instead of one; STRATA_SEED picks other moments.
strata=$1 make_tokens=$2 interpose=$3
. tests/train_common.sh
trials=$((${STRATA_SOAK:-0} ? 12 : 1))
RANDOM=${STRATA_SEED:-1}
steps=24
syncs=5 # of a checkpoint before it has its name: data, index, its hash, that one's folder, the folder
trials_made=0

"$make_tokens" "$folder/train.h5" 40 30 || exit 1
"$make_tokens" "$folder/validation.h5" 6 20 || exit 1
cat >"$folder/run.yaml" <<YAML
model: {path: tests/fixtures/llama}
data: {train: [$folder/train.h5], validation: [$folder/validation.h5], sequence_length: 24}
train: {steps: $steps, global_batch: 5, micro_batch: 2, lr: 1e-3, warmup: 5, checkpoint_every: 3,
        validate_every: 7, keep: 2, threads: 1, export: false}
YAML

run() { # RANKS OUT ARGUMENTS...
    local n=$1 out=$2
    shift 2
    ranks "$n" "$strata" train "$folder/run.yaml" train.out="$out" "$@"
}

# The process to kill: itself, or a rank of mpirun's.
victim() { # PID RANKS
    if [ "$2" -eq 1 ]; then
        echo "$1"
    else
        pgrep -P "$1" | shuf -n 1 --random-source=<(yes $RANDOM)
    fi
}

steps_done() { # OUT
    grep -c '"kind":"train"' "$1/metrics.jsonl"
}

# Waits until a process of the run in PID has stopped itself and prints it: it is there, and its run
# can't go on, whatever the clock does meanwhile. Fails where none stops.
stopped_process() { # PID
    local process
    while kill -0 "$1" 2>/dev/null; do
        for process in $1 $(pgrep -P "$1"); do
            grep -q '^State:\s*T' "/proc/$process/status" 2>/dev/null && echo "$process" && return
        done
        sleep 0.01
    done
    return 1
}

kill_when_stopped() { # PID RANKS
    stopped_process "$1" >/dev/null && kill -9 "$(victim "$1" "$2")"
}

# Sends the signal NAME to the run in PID once a process of it has stopped itself, and lets that one
# go on when the signal has come to it; mpirun takes a while to forward one.
signal_when_stopped() { # PID NAME
    local process pending bit=$((1 << ($(kill -l "$2") - 1)))
    process=$(stopped_process "$1") || return 1
    kill -"$2" "$1"
    until pending=$(sed -n 's/^ShdPnd:\s*/0x/p' "/proc/$process/status") && ((pending & bit)); do
        kill -0 "$1" 2>/dev/null || return 1
        sleep 0.01
    done
    kill -CONT "$process"
}

# Only in a subshell: what it starts runs with tests/interpose_sync.c, which VARIABLE=VALUE tells
# what to do.
interposed() {
    export "$1" LD_PRELOAD="$interpose" ASAN_OPTIONS="$ASAN_OPTIONS:verify_asan_link_order=0"
}

kinds=(
    "1 train.seed=1"
    "2 train.seed=2"
    "2 parallel.zero=2"
    "1 train.mode=lora lora.rank=4 lora.dropout=0.1 model.dtype=bf16"
    "2 train.mode=lora lora.rank=4 lora.dropout=0.1"
    "1 model.dtype=bf16 train.recompute=full"
)
for kind in "${kinds[@]}"; do
    read -r n arguments <<<"$kind"
    whole=$folder/whole
    rm -rf "$whole"
    # shellcheck disable=SC2086 # a list of words
    (run "$n" "$whole" $arguments) 2>"$folder/log" || { cat "$folder/log"; fail "$kind"; continue; }
    losses "$whole" >"$folder/want"
    [ "$(grep -c '^train' "$folder/want")" -eq $steps ] || fail "$kind: not $steps lines"

    for ((trial = 0; trial < trials; trial++)); do
        out=$folder/killed
        rm -rf "$out"
        kills=0 attempts=0
        at_sync=$((trials_made++ % syncs + 1))
        while :; do
            attempts=$((attempts + 1))
            [ $attempts -gt 4 ] && { cat "$folder/log"; fail "$kind: no end at the fourth start"; break; }
            if [ $attempts -eq 1 ]; then # the first one dies inside a checkpoint
                # shellcheck disable=SC2086
                (interposed STRATA_TEST_KILL_AT_SYNC=$at_sync; run "$n" "$out" $arguments) \
                    2>"$folder/log" && fail "$kind: alive after sync $at_sync of a checkpoint"
                compgen -G "$out/checkpoints/.tmp-start-*/step-*" >/dev/null ||
                    fail "$kind: no checkpoint is torn at sync $at_sync"
                kills=1
                continue
            fi
            if [ $kills -eq 3 ]; then
                # shellcheck disable=SC2086
                (run "$n" "$out" $arguments) 2>"$folder/log" && break
                continue
            fi
            # The others die somewhere in one of the 6 steps from where they start.
            # shellcheck disable=SC2086
            (interposed STRATA_TEST_STOP_AT=$((RANDOM % 6 + 1)),$((RANDOM % 12 + 1))
             run "$n" "$out" $arguments) 2>"$folder/log" &
            pid=$!
            kill_when_stopped $pid "$n" || { cat "$folder/log"; fail "over before its kill: $kind"; }
            wait $pid 2>/dev/null && fail "alive after kill -9: $kind"
            [ "$(steps_done "$out")" -lt $steps ] || fail "killed after its end: $kind"
            kills=$((kills + 1))
        done
        [ $kills -eq 3 ] && [ $attempts -eq 4 ] || fail "$kills kills in $attempts starts: $kind"
        losses "$out" >"$folder/got"
        cmp -s "$whole/checkpoints/best.txt" "$out/checkpoints/best.txt" || fail "best: $kind"
        if cmp -s "$folder/want" "$folder/got"; then
            echo "equal  killed $kills times (once at sync $at_sync of a checkpoint), $attempts starts: $n ranks $arguments"
        else
            diff "$folder/want" "$folder/got" | head -5
            fail "killed $kills times: $kind"
        fi
    done

    # Killed after a checkpoint and before its mark as the best: the mark is made up for.
    cp -r "$whole" "$folder/unmarked"
    mv "$folder/unmarked/checkpoints/best.txt" "$folder/best"
    # shellcheck disable=SC2086
    (run "$n" "$folder/unmarked" $arguments) 2>"$folder/log" || fail "unmarked: $kind"
    [ -s "$folder/unmarked/checkpoints/best.txt" ] || fail "no mark was made: $kind"
    rm -rf "$folder/unmarked"

    # SIGTERM: a checkpoint, exit code 75, and on from there. mpirun forwards SIGUSR1.
    out=$folder/stopped
    rm -rf "$out"
    # shellcheck disable=SC2086
    (interposed STRATA_TEST_STOP_AT=$((RANDOM % 6 + 3)),$((RANDOM % 12 + 1))
     run "$n" "$out" $arguments) 2>"$folder/log" &
    pid=$!
    signal=TERM
    [ "$n" -gt 1 ] && signal=USR1
    signal_when_stopped $pid $signal || { cat "$folder/log"; fail "over before its $signal: $kind"; }
    wait $pid
    code=$?
    done_steps=$(steps_done "$out")
    if [ $code -ne 75 ] || [ "$done_steps" -ge $steps ]; then
        cat "$folder/log"
        fail "stopped: exit code $code, not 75, after $done_steps steps: $kind"
    fi
    # shellcheck disable=SC2086
    (run "$n" "$out" $arguments) 2>"$folder/log" || { cat "$folder/log"; fail "resumed: $kind"; }
    losses "$out" >"$folder/got"
    if cmp -s "$folder/want" "$folder/got"; then
        echo "equal  stopped at step $done_steps, exit code $code: $n ranks $arguments"
    else
        diff "$folder/want" "$folder/got" | head -5
        fail "stopped at step $done_steps: $kind"
    fi
done

# The name of the new folder of checkpoints is made to last.
read -r n arguments <<<"${kinds[0]}"
# shellcheck disable=SC2086
(interposed STRATA_TEST_SYNC_LOG="$folder/syncs"; run "$n" "$folder/named" $arguments train.steps=6) \
    2>"$folder/log" || { cat "$folder/log"; fail "named"; }
grep -q synced "$folder/syncs" || fail "checkpoints/ was not synced into its folder"

# So are those of new folders above it.
for name in above named; do
    rm -rf "$folder/above" "$folder/syncs"
    # shellcheck disable=SC2086
    (export STRATA_TEST_SYNC_NAME=$name
     interposed STRATA_TEST_SYNC_LOG="$folder/syncs"; run "$n" "$folder/above/named/" $arguments train.steps=6) \
        2>"$folder/log" || { cat "$folder/log"; fail "above/named"; }
    grep -q synced "$folder/syncs" || fail "$name/ was not synced into its folder"
done

# Calls that a signal interrupts are made again: nobody notices.
read -r n arguments <<<"${kinds[0]}"
# shellcheck disable=SC2086
(run "$n" "$folder/calm" $arguments) 2>"$folder/log" || { cat "$folder/log"; fail "calm"; }
# shellcheck disable=SC2086
(interposed STRATA_TEST_INTERRUPT=1; run "$n" "$folder/interrupted" $arguments) 2>"$folder/log" ||
    { cat "$folder/log"; fail "interrupted"; }
[ "$(ls "$folder/calm/checkpoints")" = "$(ls "$folder/interrupted/checkpoints")" ] ||
    fail "interrupted: $(ls "$folder/interrupted/checkpoints")"
losses "$folder/calm" >"$folder/want"
losses "$folder/interrupted" >"$folder/got"
cmp "$folder/want" "$folder/got" || fail "interrupted calls changed the run"
exit $((failures > 0))
