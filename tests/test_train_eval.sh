#!/usr/bin/env bash
# `strata eval` on ranks that share the model: logits, loss and perplexity are those of one rank.
#
#   test_train_eval.sh STRATA MAKE_TOKENS
strata=$1 make_tokens=$2
. tests/train_common.sh
for i in 1 2 3 4 5; do
    jq -nc "{tokens: [range(0; $((i * 7))) | (. * . * 5 + $i) % 96]}"
done >"$folder/lines.jsonl"
"$make_tokens" "$folder/train.h5" 20 30 || exit 1
cat >"$folder/run.yaml" <<YAML
model: {path: tests/fixtures/llama}
data: {train: [$folder/train.h5], sequence_length: 24}
train: {out: $folder/run, mode: lora, steps: 4, global_batch: 4, lr: 1e-2, threads: 1}
YAML
"$strata" train "$folder/run.yaml" 2>"$folder/log" || { cat "$folder/log"; fail "an adapter"; }

# evaluate NAME RANKS WORDS...: what it prints goes to NAME.line.
evaluate() {
    local name=$1 n=$2
    shift 2
    (ranks "$n" "$strata" eval "$@" --threads 1) >"$folder/$name.line" 2>"$folder/log" ||
        { cat "$folder/log"; fail "$name on $n ranks"; }
    [ "$(wc -l <"$folder/$name.line")" -eq 1 ] || fail "$name prints $(cat "$folder/$name.line")"
}
# tests/fixtures/llama has four heads and two of keys: four ranks hold each of those twice. The bundled
# model has three, and a vocabulary that three can not divide.
for n in 1 2 4; do
    evaluate "base-$n" $n tests/fixtures/llama --tokens "$folder/lines.jsonl" --logits "$folder/base-$n.safetensors"
    evaluate "tuned-$n" $n tests/fixtures/llama --adapter "$folder/run/adapter" --tokens "$folder/lines.jsonl" \
        --logits "$folder/tuned-$n.safetensors"
    evaluate "file-$n" $n tests/fixtures/llama --tokens "$folder/train.h5"
done
evaluate text-1 1 models/base --text README.md --context 128 --dtype fp32
evaluate text-3 3 models/base --text README.md --context 128 --dtype fp32
python3 - "$folder" <<'PYTHON' || fail "the figures"
import array
import json
import math
import re
import struct
import sys

folder = sys.argv[1]


def tensors(path):
    data = open(path, "rb").read()
    (length,) = struct.unpack_from("<Q", data)
    found = {}
    for name, about in json.loads(data[8 : 8 + length]).items():
        if name != "__metadata__":
            begin, end = (8 + length + at for at in about["data_offsets"])
            found[name] = (about["shape"], array.array("f", data[begin:end]))
    return found


def line(name):
    text = open(f"{folder}/{name}.line").read()
    return [re.search(rf"\b{key}=(\S+)", text).group(1) for key in ("sequences", "tokens", "predicted", "loss")]


def same_line(name, other):
    *counts, loss = line(name)
    *others, again = line(other)
    assert counts == others and abs(float(loss) / float(again) - 1) < 1e-6, (line(name), line(other))


def norm(values):
    return math.sqrt(sum(v * v for v in values))


worst, losses = 0.0, set()
for what in ("base", "tuned"):
    one = tensors(f"{folder}/{what}-1.safetensors")
    assert sorted(one) == [f"logits.{i}" for i in range(5)] + ["loss"]
    losses.add(one["loss"][1][0])
    for ranks in (2, 4):
        several = tensors(f"{folder}/{what}-{ranks}.safetensors")
        assert sorted(several) == sorted(one)
        for name, (shape, want) in one.items():
            found, got = several[name]
            assert shape == found and len(want) == len(got) == math.prod(shape)
            worst = max(worst, norm(a - b for a, b in zip(want, got)) / norm(want))
        same_line(f"{what}-{ranks}", f"{what}-1")
assert len(losses) == 2 and worst < 2e-6, (losses, worst)
for ranks in (2, 4):
    same_line(f"file-{ranks}", "file-1")
same_line("text-3", "text-1")
print(f"largest difference of logits from one rank's: {worst:.1e} of a tensor's norm")
PYTHON

# refuses RANKS CODE PATTERN WORDS...: said once, in one line.
refuses() {
    local n=$1 code=$2 pattern=$3 got
    shift 3
    (limit=60 ranks "$n" "$strata" eval "$@" --threads 1) >"$folder/out" 2>"$folder/log"
    got=$?
    [ "$got" -eq "$code" ] && [ "$(grep -cE "$pattern" "$folder/log")" -eq 1 ] && [ ! -s "$folder/out" ] ||
        fail "$* on $n ranks exits with $got: $(cat "$folder/log")"
}
refuses 2 2 "^strata eval: .*--gradients: 2 ranks share the model" tests/fixtures/llama \
    --tokens "$folder/lines.jsonl" --gradients "$folder/g.safetensors"
refuses 3 2 "^strata eval: .*3" tests/fixtures/llama --tokens "$folder/lines.jsonl"
refuses 2 1 "^strata eval: .*none.jsonl: No such file" tests/fixtures/llama --tokens "$folder/none.jsonl"
refuses 2 1 "event=abort while=evaluation reason=.*$folder/none/l" tests/fixtures/llama --tokens "$folder/lines.jsonl" \
    --logits "$folder/none/l.safetensors"
[ $failures -eq 0 ] && echo "ranks that share a model evaluate as one does"
exit $((failures > 0))
