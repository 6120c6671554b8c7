#!/usr/bin/env bash
# `strata plan` from outside: its table and its JSON agree, the file that it writes is one that
# `strata train` takes, and what it can't plan it refuses in one line.
#
#   test_train_plan.sh STRATA MAKE_TOKENS
strata=$1 make_tokens=$2
. tests/train_common.sh
"$make_tokens" "$folder/tokens.h5" 20 200 512 || exit 1
cat >"$folder/config.json" <<'JSON'
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 512,
 "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4,
 "num_key_value_heads": 2, "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
 "rope_theta": 10000.0, "tie_word_embeddings": false, "hidden_act": "silu",
 "torch_dtype": "float32"}
JSON
cat >"$folder/run.yaml" <<YAML
model: {config: $folder/config.json}
data: {train: [$folder/tokens.h5], sequence_length: 32}
train: {out: $folder/run, steps: 2, global_batch: 4, export: false}
YAML
plan() { "$strata" plan "$folder/run.yaml" "$@"; }

# refuses PATTERN WORDS...: exit 1, one line that has PATTERN.
refuses() {
    local pattern=$1
    shift
    plan "$@" >"$folder/out" 2>"$folder/log"
    [ $? -eq 1 ] || fail "plan $* did not end with 1"
    [ "$(wc -l <"$folder/log")" -eq 1 ] || fail "plan $*: not one line: $(cat "$folder/log")"
    grep -qE -- "$pattern" "$folder/log" || fail "plan $*: $(cat "$folder/log")"
}

plan --gpu cpu --gpus-per-node 2 --memory 4 --top 0 --out "$folder/best" >"$folder/table" ||
    fail "two ranks of the CPU"
plan --gpu cpu --gpus-per-node 2 --memory 4 --top 0 --json >"$folder/json" || fail "--json"
python3 - "$folder" <<'PYTHON' || fail "table, JSON and file disagree"
import json
import re
import sys

folder = sys.argv[1]
plan = json.load(open(folder + "/json"))
rows = [line.split() for line in open(folder + "/table") if re.match(r" +\d+ +\d+ +\d+ +\d+ ", line)]
assert plan["fit"] == len(plan["layouts"]) == len(rows) > 20, (plan["fit"], len(rows))
for layout, row in zip(plan["layouts"], rows):
    assert [str(layout[key]) for key in ("dp", "pp", "tp", "cp", "schedule", "zero")] == row[:6]
    assert layout["bytes"]["total"] == sum(v for k, v in layout["bytes"].items() if k != "total")
assert [each["seconds"] for each in plan["layouts"]] == sorted(each["seconds"] for each in plan["layouts"])
best, text = plan["layouts"][0], open(folder + "/best/run.yaml").read()
for key in ("dp", "pp", "tp", "cp", "zero", "micro_batch", "recompute"):
    assert re.search(rf"^ +{key}: {best[key]}$", text, re.M), (key, best[key])
PYTHON

(ranks 2 "$strata" train "$folder/best/run.yaml" --dry-run) >"$folder/dry" 2>&1 ||
    fail "the file is not taken: $(cat "$folder/dry")"
bytes=$(sed -n 's/^total *\([0-9]*\) .*/\1/p' "$folder/dry")
grep -q "\"total\": $bytes\b" "$folder/json" || fail "a dry run counts $bytes bytes, the plan not"
bash -n "$folder/best/job.sbatch" || fail "job.sbatch"
for line in '--ntasks-per-node=2$' '--nodes=1$' 'slurm/common.sh' "train '$folder/best/run.yaml'"; do
    grep -q -- "$line" "$folder/best/job.sbatch" || fail "job.sbatch has no $line"
done
grep -q gpu "$folder/best/job.sbatch" && fail "job.sbatch asks for GPUs"
plan train.mode=full parallel.tp=2 --gpu h100 --nodes 2 --out "$folder/gpus" >/dev/null ||
    fail "16 GPUs"
grep -q -- '--gpus-per-node=8$' "$folder/gpus/job.sbatch" || fail "job.sbatch asks for no GPUs"
grep -q "^  tp: 2$" "$folder/gpus/run.yaml" || fail "a fixed key was changed"

refuses "no layout of 8 ranks suits the model: 4 layers, 4 heads" train.global_batch=1 \
    parallel.pp=1 --gpu a100
refuses "no layout of 1 ranks fits: the smallest of [0-9]+ takes [0-9.]+ GiB of a node's 1.0 GiB" \
    data.sequence_length=4000000 train.global_batch=1 --gpu cpu --memory 1
refuses "b100 is not known: h100, h200, a100 or cpu" --gpu b100
refuses "unknown|no key" parallel.ttp=2 --gpu h100
refuses "$folder/nothing: No such file" --gpu cpu --calibrate "$folder/nothing"
"$strata" plan "$folder/run.yaml" 2>"$folder/log"
[ $? -eq 2 ] || fail "no --gpu"
[ "$failures" -eq 0 ]
