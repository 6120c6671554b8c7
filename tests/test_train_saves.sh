#!/usr/bin/env bash
# What a run says of checkpoints that it writes while it trains on: it waits for one where the next is
# due, and for each where there is no memory for a copy.
#
#   test_train_saves.sh STRATA MAKE_TOKENS INTERPOSE_SYNC
strata=$1 make_tokens=$2 interpose=$3
. tests/train_common.sh
"$make_tokens" "$folder/train.h5" 20 30 || exit 1
cat >"$folder/run.yaml" <<YAML
model: {path: tests/fixtures/llama}
data: {train: [$folder/train.h5], sequence_length: 24}
train: {steps: 3, global_batch: 2, checkpoint_every: 1, keep: 5, threads: 1, export: false}
YAML

# train NAME VARIABLE=VALUE: what it logs goes to NAME.log
train() {
    env LD_PRELOAD="$interpose" ASAN_OPTIONS="$ASAN_OPTIONS:verify_asan_link_order=0" "$2" \
        "$strata" train "$folder/run.yaml" train.out="$folder/$1" >"$folder/$1.log" 2>&1 ||
        { cat "$folder/$1.log"; fail "$1"; }
    [ "$(grep -c 'event=checkpoint step=' "$folder/$1.log")" -eq 3 ] || fail "$1: not three checkpoints"
    [ "$(ls "$folder/$1/checkpoints" | grep -c '^step-')" -eq 3 ] || fail "$1 left $(ls "$folder/$1/checkpoints")"
}

# says NAME COUNT PATTERN
says() {
    [ "$(grep -cE "$3" "$folder/$1.log")" -eq "$2" ] || { cat "$folder/$1.log"; fail "$1: not $2 times $3"; }
}

# A checkpoint takes five syncs, a step milliseconds.
train slow STRATA_TEST_SYNC_MS=200
says slow 1 'event=checkpoint_wait step=2 reason="one is still being written"'
says slow 1 'event=checkpoint_wait step=3 '
says slow 0 'event=checkpoint_sync'

bytes() { # NAME of a row of --dry-run
    "$strata" train "$folder/run.yaml" train.out="$folder/none" --dry-run | awk -v name="$1" '$1 == name {print $2}'
}
total=$(bytes total) snapshot=$(bytes snapshot)
[ "$snapshot" -gt 4096 ] || fail "a snapshot of $snapshot bytes"
echo "MemAvailable: $(((total - snapshot / 2) / 1024)) kB" >"$folder/meminfo"
train narrow STRATA_TEST_MEMINFO="$folder/meminfo"
says narrow 1 'level=warn .*event=checkpoint_sync snapshot_mib=[0-9.]+ reason="no memory for a copy'
says narrow 1 'event=memory .* snapshot_mib=0\.0 '
says narrow 0 'event=checkpoint_wait'
echo "MemAvailable: $((total / 1024 + 1)) kB" >"$folder/meminfo"
train enough STRATA_TEST_MEMINFO="$folder/meminfo"
says enough 0 'event=checkpoint_sync'
cmp <(losses "$folder/narrow") <(losses "$folder/enough") || fail "the losses differ"
[ $failures -eq 0 ] && echo "a run says for what it waits"
exit $((failures > 0))
