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

# picture JSON SVG: of each of the best layouts a bar of what the JSON says, kind by kind.
picture() {
    python3 - "$@" <<'PYTHON'
import json
import sys
import xml.etree.ElementTree as xml

plan, svg = json.load(open(sys.argv[1])), "{http://www.w3.org/2000/svg}"
root = xml.parse(sys.argv[2]).getroot()
bars = {}
for box in root.iter(svg + "rect"):
    title = box.find(svg + "title")
    if title is not None:
        name, gib, _ = title.text.split()
        left, width = float(box.get("x")), float(box.get("width"))
        bars.setdefault(float(box.get("y")), []).append((name, float(gib), left, width))
layouts = plan["layouts"][:12]
assert len(bars) == len(layouts) > 0, (len(bars), len(layouts))
texts = [each.text or "" for each in root.iter(svg + "text")]
scales = []
for (_, bar), layout in zip(sorted(bars.items()), layouts):
    want = {name: bytes for name, bytes in layout["bytes"].items() if bytes and name != "total"}
    want["reserve"] = plan["reserve"]
    assert [name for name, *_ in bar] == list(want), (bar, want)
    at = bar[0][2]
    for name, gib, left, width in bar:
        assert abs(gib - want[name] / 2**30) < 1e-3 and abs(left - at) < 0.03, (name, gib, want)
        at += width
    scales.append((at - bar[0][2]) / (sum(want.values()) / 2**30))
    name = f"dp {layout['dp']}"
    name += "".join(f" {key} {layout[key]}" for key in ("tp", "cp", "pp") if layout[key] > 1)
    name += f" {layout['schedule']}" if layout["pp"] > 1 else ""
    name += f" zero {layout['zero']} micro {layout['micro_batch']}"
    assert any(text.startswith(name) for text in texts), (name, texts)
    assert {"weights", "gradients", "optimizer", "activations", "reserve"} <= set(texts)
assert max(scales) / min(scales) < 1.001, scales
PYTHON
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
    number, unit = row[16:18]
    seconds = float(number) * {"us": 1e-6, "ms": 1e-3, "s": 1.0}[unit]
    assert 1.0 <= float(number) < 1000.0 and abs(seconds / layout["seconds"] - 1) < 1e-3, row
    assert layout["bytes"]["total"] == sum(v for k, v in layout["bytes"].items() if k != "total")
assert [each["seconds"] for each in plan["layouts"]] == sorted(each["seconds"] for each in plan["layouts"])
best, text = plan["layouts"][0], open(folder + "/best/run.yaml").read()
for key in ("dp", "pp", "tp", "cp", "zero", "micro_batch", "recompute", "optimizer", "offload"):
    assert re.search(rf"^ +{key}: {best[key]}$", text, re.M), (key, best[key])
PYTHON
picture "$folder/json" "$folder/best/plan.svg" || fail "the picture"

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

# 70 M parameters: 16 bytes each are more than a gibibyte, 10 are not.
sed 's/"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4/"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 8/' \
    "$folder/config.json" >"$folder/larger.json"
larger=(model.config="$folder/larger.json" --gpu cpu --memory 1)
plan "${larger[@]}" --out "$folder/small" >"$folder/table" || fail "a smaller state"
grep -q "^none fits with train.optimizer adamw and train.offload none: " "$folder/table" &&
    grep -qE "^ .* 8bit " "$folder/table" && ! grep -qE "^ .* adamw " "$folder/table" &&
    grep -q "^  optimizer: adamw8bit$" "$folder/small/run.yaml" || fail "$(cat "$folder/table")"
refuses "no layout of 1 ranks fits: .* optimizer adamw, offload none" train.optimizer=adamw "${larger[@]}"

refuses "no layout of 8 ranks suits the model: 4 layers, 4 heads" train.global_batch=1 \
    parallel.pp=1 --gpu a100
refuses "no layout of 1 ranks fits: the smallest of [0-9]+ takes [0-9.]+ GiB of a node's 1.0 GiB, [0-9.]+ GiB too much .*optimizer adamw8bit, offload none; of a rank weights [0-9.]+, gradients" \
    data.sequence_length=4000000 train.global_batch=1 --gpu cpu --memory 1
refuses "b100 is not known: h100, h200, a100 or cpu" --gpu b100
refuses "unknown|no key" parallel.ttp=2 --gpu h100
refuses "$folder/nothing: No such file" --gpu cpu --calibrate "$folder/nothing"
"$strata" plan "$folder/run.yaml" 2>"$folder/log"
[ $? -eq 2 ] || fail "no --gpu"
[ "$failures" -eq 0 ]
