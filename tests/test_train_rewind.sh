#!/usr/bin/env bash
# Bad data in the middle of a run: it goes back to the checkpoint before, leaves those samples out and
# learns on; interrupted at any point of that, it computes the same in the end.
#
#   test_train_rewind.sh STRATA MAKE_TOKENS
strata=$1
. tests/train_common.sh

# 240 documents of one pattern, those with numbers from 128 up to END noise; four make a step.
documents() { # OUT END
    python3 - "$2" >"$folder/train.jsonl" <<'PYTHON'
import json
import random
import sys

random.seed(1)
for document in range(240):
    tokens = [(7 * i + 3) % 96 for i in range(24)]
    if 128 <= document < int(sys.argv[1]):
        tokens = [random.randrange(96) for _ in range(24)]
    print(json.dumps({"tokens": tokens}))
PYTHON
    "$strata" data tokenize "$folder/train.jsonl" --vocabulary 96 --out "$1" 2>"$folder/log" ||
        { cat "$folder/log"; exit 1; }
}
documents "$folder/train.h5" 152
documents "$folder/noise.h5" 240
cat >"$folder/run.yaml" <<YAML
model: {path: tests/fixtures/llama}
data: {train: [$folder/train.h5], sequence_length: 24, packing: off, shuffle: false}
train: {steps: 48, global_batch: 4, lr: 5e-3, schedule: constant, threads: 1, checkpoint_every: 5,
        keep: 3, rewind_after: 4, export: false}
YAML
run() { # RANKS OUT ARGUMENTS...
    local n=$1 out=$2
    shift 2
    ranks "$n" "$strata" train "$folder/run.yaml" train.out="$out" "$@"
}
rewinds() {
    grep -c '"kind":"rewind"' "$1/metrics.jsonl"
}
same() { # WHAT OUT
    losses "$2" >"$folder/got"
    cmp -s "$folder/want" "$folder/got" && return
    diff "$folder/want" "$folder/got" | head -4
    fail "$1: not the same"
}

for n in 1 2; do
    (run $n "$folder/whole$n") 2>"$folder/log" || { cat "$folder/log"; fail "$n ranks"; }
    losses "$folder/whole$n" >"$folder/want"
    [ "$(grep -c '^train' "$folder/want")" -eq 48 ] || fail "$n ranks: not one line a step"
    # bad from step 33 on; steps 33 to 36 are four; step 30 has the checkpoint before them
    grep -q 'level=warn.* event=rewind step=36 to=30 first_sample=120 samples=24' "$folder/log" ||
        fail "$n ranks: $(grep rewind "$folder/log")"
    python3 - "$folder/whole$n/metrics.jsonl" <<'PYTHON' || fail "$n ranks: the losses"
import json
import sys

lines = [json.loads(line) for line in open(sys.argv[1])]
back = [line for line in lines if line["kind"] == "rewind"]
assert back[0] == {"kind": "rewind", "step": 31, "from": 36, "sample": 120, "samples": 24}, back
loss = {line["step"]: line["loss"] for line in lines if line["kind"] == "train"}
assert sorted(loss) == list(range(1, 49))
assert loss[30] < 0.5 < 4 < loss[1] and max(loss[s] for s in range(40, 49)) < 0.5, loss
PYTHON
    # stopped while the loss was high; killed after going back, before the next checkpoint
    (run $n "$folder/high$n" train.steps=34) 2>"$folder/log" || fail "$n ranks to step 34"
    (run $n "$folder/high$n") 2>"$folder/log" || { cat "$folder/log"; fail "on from step 34"; }
    same "$n ranks stopped at step 34" "$folder/high$n"
    run $n "$folder/killed$n" 2>"$folder/log" &
    pid=$!
    until grep -q 'event=rewind' "$folder/log"; do
        kill -0 $pid 2>/dev/null || break
        sleep 0.002
    done
    if [ $n -eq 1 ]; then kill -9 $pid; else kill -9 "$(pgrep -P $pid | head -1)"; fi 2>/dev/null
    wait $pid 2>/dev/null
    (run $n "$folder/killed$n") 2>"$folder/log" || { cat "$folder/log"; fail "on after a kill"; }
    same "$n ranks killed" "$folder/killed$n"
    echo "$n ranks: $(rewinds "$folder/whole$n") + $(rewinds "$folder/high$n") + $(rewinds "$folder/killed$n") returns, the same losses"
done

# Noise to the end: three times back, then the run ends and says why.
(run 1 "$folder/noise" data.train="$folder/noise.h5") 2>"$folder/log" && fail "noise was trained on"
[ "$(grep -c 'event=rewind' "$folder/log")" -eq 3 ] || fail "noise: $(grep rewind "$folder/log")"
grep -q 'event=numeric reason="step 34: the loss is .* also after going back 3 times' "$folder/log" ||
    fail "noise: $(tail -1 "$folder/log")"
(run 1 "$folder/none" train.keep=1) 2>"$folder/log" && fail "a checkpoint too few was taken"
grep -q 'train.keep 1 with train.checkpoint_every 5 keeps no checkpoint' "$folder/log" ||
    fail "train.keep: $(cat "$folder/log")"
exit $((failures > 0))
