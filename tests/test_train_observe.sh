#!/usr/bin/env bash
# What a run tells monitors, read by parsers of their own: metrics.jsonl, metrics.prom and
# TensorBoard's event files say the same, also after the run was interrupted and went on.
#
#   test_train_observe.sh STRATA MAKE_TOKENS
strata=$1 make_tokens=$2
. tests/train_common.sh
"$make_tokens" "$folder/train.h5" 20 30 || exit 1
"$make_tokens" "$folder/validation.h5" 4 20 || exit 1
cat >"$folder/run.yaml" <<YAML
model: {path: tests/fixtures/llama}
data: {train: [$folder/train.h5], validation: [$folder/validation.h5], sequence_length: 24}
train: {out: "$folder/a \"run\"", global_batch: 4, schedule: constant, lr: 1e-3, threads: 1,
        checkpoint_every: 4, validate_every: 3, log_every: 2, export: false}
YAML
for steps in 6 10; do # the second one goes on
    (ranks 2 "$strata" train "$folder/run.yaml" train.steps=$steps) 2>"$folder/log" ||
        { cat "$folder/log"; fail "the run to step $steps"; }
done
python3 tests/monitors.py "$folder/a \"run\"" 2 10 || fail "what monitors read"
(ranks 1 "$strata" train "$folder/run.yaml" train.out="$folder/quiet" train.steps=2 \
    train.tensorboard=false) 2>"$folder/log" || fail "without TensorBoard"
[ -e "$folder/quiet/tensorboard" ] && fail "train.tensorboard=false wrote event files"
exit $((failures > 0))
