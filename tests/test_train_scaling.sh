#!/usr/bin/env bash
# `strata bench scaling`: tables, report.json and the picture of runs whose figures are known; runs
# that it makes itself on one and two ranks; what it refuses, in one sentence each.
#
#   test_train_scaling.sh STRATA MAKE_TOKENS
strata=$1 make_tokens=$2
. tests/train_common.sh

# run NAME RANKS BATCH "RATES" [KEYS]: the folder of a run whose steps had these tokens/s.
run() {
    local name=$folder/$1 step=0 rate
    mkdir -p "$name"
    printf 'model: {path: some/model}\ndata: {train: [t.h5], sequence_length: 64}\n%s\n' \
        "train: {out: $name, global_batch: $3, trace_step: 3}${5:+
parallel: {$5\}}" >"$name/config.yaml"
    for rate in $4; do
        step=$((step + 1))
        printf '{"kind":"train","step":%d,"loss":1,"tokens_per_second":%s,"gflops":%s,"mfu":%s,"ranks":%d,"threads":1}\n' \
            $step "$rate" "$(jq -n "$rate * 0.05")" "$(jq -n "$rate * 0.05 / (10 * $2)")" "$2"
    done >"$name/metrics.jsonl"
}
# Of four steps the first is warm-up, of eight the first two.
run one 1 4 "1 100 90 100"
run tp2 2 4 "1 2 180 170 190 180 180 500" "tp: 2"
run dp2 2 4 "5 160 160 160" "zero: 1"
run tp4 4 4 "5 300 300 300" "tp: 4"
run wide4 4 16 "5 360 360 360" "zero: 0"
run pp2 2 8 "5 150 150 150" "pp: 2, schedule: zb-h1"
printf '{"kind":"validation","step":4,"loss":1}\n{"kind":"train","st' >>"$folder/one/metrics.jsonl"
python3 tests/pipeline_trace.py 2 4 "$folder/pp2/trace-step-3.json" || fail "a trace"
runs=("$folder"/{tp4,one,dp2,pp2,wide4,tp2})
"$strata" bench scaling "${runs[@]}" --out "$folder/report" >"$folder/table" || fail "the report"
cat "$folder/table"
python3 - "$folder" <<'PYTHON' || fail "the figures"
import json
import sys
import xml.etree.ElementTree as tree

folder = sys.argv[1]
report = json.load(open(folder + "/report/report.json"))
runs = {run["run"].split("/")[-1]: run for run in report["runs"]}
rates = {"one": 100, "tp2": 180, "dp2": 160, "tp4": 300, "wide4": 360, "pp2": 150}
assert {name: run["tokens_per_second"] for name, run in runs.items()} == rates, runs
for run in runs.values():
    assert abs(run["mfu"] - run["tokens_per_second"] * 0.005 / run["ranks"]) < 1e-6, run
assert runs["tp2"]["steps"] == 6 and runs["one"]["steps"] == 3
assert {n: r["layout"] for n, r in runs.items()} == {
    "one": "-", "tp2": "tp2", "tp4": "tp4", "wide4": "dp4", "dp2": "dp2 zero1", "pp2": "pp2 zb-h1"}
# (p - 1) / (m + p - 1) of 1F1B
assert [n for n in runs if "trace" in runs[n]] == ["pp2"]
assert abs(runs["pp2"]["trace"]["bubble"] - 1 / 5) < 1e-4, runs["pp2"]

strong, weak = report["series"]
assert strong["kind"] == "strong" and strong["global_batch"] == 4
assert weak["kind"] == "weak" and weak["batch_per_rank"] == 4


def rows(series):
    return [(r["run"].split("/")[-1], r["ranks"], r["speedup"], r["efficiency"]) for r in series["rows"]]


assert rows(strong) == [("one", 1, 1, 1), ("dp2", 2, 1.6, 0.8), ("tp2", 2, 1.8, 0.9),
                        ("tp4", 4, 3, 0.75)], rows(strong)
assert rows(weak) == [("one", 1, 1, 1), ("pp2", 2, 1.5, 0.75), ("wide4", 4, 3.6, 0.9)], rows(weak)

text = open(folder + "/table").read().split("\n")
first = text.index("strong scaling: global batch 4, sequences of 64")
second = text.index("weak scaling: batch 4 a rank, sequences of 64")
lines = [line.split() for line in text[first + 2 : first + 6]]
assert lines[2][:7] == ["2", "1", "tp2", "180.0", "1.80", "90.0%", "45.0%"], lines
columns = {len(line) - len(line.split()[-1]) for line in text[first + 1 : first + 6]}
assert len(columns) == 1, text  # the last column is aligned
pipeline = [line for line in text[second:] if "pp2" in line][0].split()
assert pipeline[:4] == ["2", "1", "pp2", "zb-h1"] and pipeline[-2] == "20.0%", pipeline

SVG = "{http://www.w3.org/2000/svg}"
root = tree.parse(folder + "/report/scaling.svg").getroot()
words = ["".join(node.itertext()) for node in root.iter(SVG + "text")]
for word in ("ideal", "ranks", "global batch 4: tp", "global batch 4: dp zero1", "batch 4 a rank: dp",
             "batch 4 a rank: pp zb-h1", "speedup, strong", "speedup, weak"):
    assert word in words, (word, words)
found = [[tuple(map(float, p.split(","))) for p in line.get("points").split()]
         for line in root.iter(SVG + "polyline")]
# strong: ideal, dp, tp; weak: ideal, pp, dp
assert [len(line) for line in found] == [2, 2, 3, 2, 2, 2], found


def at(panel, ranks, speedup):
    (x1, y1), (x4, y4) = found[panel]
    return x1 + (ranks - 1) * (x4 - x1) / 3, y1 + (speedup - 1) * (y4 - y1) / 3


def near(points, panel, values):
    return all(abs(a - b) < 0.02 for point, value in zip(points, values) for a, b in zip(point, at(panel, *value)))


assert near(found[1], 0, [(1, 1), (2, 1.6)]) and near(found[2], 0, [(1, 1), (2, 1.8), (4, 3)]), found
assert near(found[4], 3, [(1, 1), (2, 1.5)]) and near(found[5], 3, [(1, 1), (4, 3.6)]), found
assert found[0][0][1] > found[0][1][1]  # faster is higher up
PYTHON

# refuses CODE PATTERN WORDS...: one sentence that holds PATTERN.
refuses() {
    local code=$1 pattern=$2 got
    shift 2
    "$strata" bench scaling "$@" --out "$folder/refused" >"$folder/log" 2>&1
    got=$?
    [ $got -eq "$code" ] && grep -qE "^strata bench scaling: .*$pattern" "$folder/log" ||
        fail "$* exits with $got: $(cat "$folder/log")"
    [ ! -e "$folder/refused/report.json" ] || fail "$*: a report"
}
mkdir "$folder/bare" && cp "$folder/one/config.yaml" "$folder/bare"
run silent 1 4 ""
run other 2 4 "1 2 3 4" && sed -i 's,some/model,other/model,' "$folder/other/config.yaml"
run deeper 2 4 "1 2 3 4" && sed -i -E 's/"gflops":[^,]*/"gflops":77/' "$folder/deeper/metrics.jsonl"
run odd 2 5 "1 2 3 4"
run wrong 3 4 "1 2 3 4" "tp: 2"
refuses 1 "none: No such file" "$folder/one" "$folder/none"
refuses 1 "bare/metrics.jsonl: No such file" "$folder/one" "$folder/bare"
refuses 1 "silent/metrics.jsonl: no step" "$folder/one" "$folder/silent"
refuses 1 "config.yaml: No such file" "$folder/one" "$folder/report"
refuses 1 "table is not the folder of a run" "$folder/one" "$folder/table"
refuses 1 "trained different models: model.path is some/model in one and other/model" "$folder/one" "$folder/other"
refuses 1 "trained different models: a token takes" "$folder/one" "$folder/deeper"
refuses 1 "all runs have 2 ranks" "$folder/dp2" "$folder/tp2"
refuses 1 "no two runs of different numbers of ranks" "$folder/one" "$folder/odd"
refuses 1 "wrong: its steps have 3 ranks, .* a multiple of 2" "$folder/one" "$folder/wrong"
refuses 2 "no RUN"
refuses 2 "ranks is missing" x.yaml --weak
refuses 2 "two numbers" x.yaml --ranks 2
refuses 2 "2 twice" x.yaml --ranks 2,1,2
refuses 2 "is not a list" x.yaml --ranks 1,b
refuses 2 "steps: '1'" x.yaml --ranks 1,2 --steps 1
refuses 2 "steps: 'few'" x.yaml --ranks 1,2 --steps few
refuses 2 "unknown option '--rank'; the nearest is --ranks" x.yaml --rank 1,2
refuses 1 "x.yaml: No such file" x.yaml --ranks 1,2

# Runs of its own.
"$make_tokens" "$folder/train.h5" 20 30 || exit 1
cat >"$folder/run.yaml" <<YAML
model: {path: tests/fixtures/llama}
data: {train: [$folder/train.h5], validation: [$folder/train.h5], sequence_length: 24}
train: {out: $folder/never, global_batch: 4, schedule: constant, lr: 1e-3, threads: 1}
YAML
launch="mpirun -n {ranks} --oversubscribe --bind-to none"
scale() {
    "$strata" bench scaling "$folder/run.yaml" --ranks 2,1 --weak --steps 4 --launch "$launch" \
        --out "$folder/made" "$@" >"$folder/table" 2>"$folder/log"
}
scale parallel.tp={ranks} || { cat "$folder/log"; fail "runs on one and two ranks"; }
cat "$folder/table"
[ "$(grep -cE '^ +[12] +1 +(-|tp2) .*/made/(strong|weak)-[12]$' "$folder/table")" -eq 4 ] || fail "not four rows"
jq -e '.series | map(.kind) == ["strong", "weak"]' "$folder/made/report.json" >/dev/null &&
    jq -e '.runs | length == 3 and all(.trace.compute > 0 and .tokens_per_second > 0)' \
        "$folder/made/report.json" >/dev/null || { cat "$folder/made/report.json"; fail "report.json"; }
[ "$(jq -r 'select(.kind == "train") | .step' "$folder/made/weak-2/metrics.jsonl" | xargs)" = "1 2 3 4" ] ||
    fail "weak-2 has not four steps"
grep -qE 'global_batch: 8$' "$folder/made/weak-2/config.yaml" || fail "the weak batch"
[ -z "$(ls -d "$folder"/made/*/checkpoints/step-* "$folder"/made/*/model "$folder/never" 2>/dev/null)" ] ||
    fail "a measurement leaves checkpoints or a model behind"
# What is there is kept; what differs is made again.
cp "$folder/made/strong-2/metrics.jsonl" "$folder/before"
sed -i '$d' "$folder/made/weak-2/metrics.jsonl"
scale parallel.tp={ranks} || fail "again"
grep -o 'event=.*run=.*' "$folder/log" | sed 's, run=.*/, ,' >"$folder/said"
cmp -s "$folder/before" "$folder/made/strong-2/metrics.jsonl" &&
    [ "$(tr '\n' ' ' <"$folder/said")" = "event=kept ranks=1 strong-1 event=kept ranks=2 strong-2 event=run ranks=2 weak-2 " ] ||
    fail "again: $(cat "$folder/said")"
scale || fail "other settings"
grep -q ' dp2 ' "$folder/table" || fail "a run with other settings was kept: $(cat "$folder/table")"
scale parallel.tp=3 && fail "three ranks of tp were found in one"
grep -qE 'strong-1 on 1 ranks ended with code 1; .*train.log says: .*level=error' "$folder/log" ||
    fail "a run that fails: $(cat "$folder/log")"
launch="$folder/nothing {ranks}" scale parallel.tp={ranks} && fail "a launcher that is not there"
grep -q "nothing can't be started: No such file" "$folder/log" || fail "launcher: $(cat "$folder/log")"
cat >"$folder/stopped" <<'BASH'
#!/bin/sh
exit 75
BASH
chmod +x "$folder/stopped"
launch="$folder/stopped {ranks}" scale parallel.tp={ranks}
[ $? -eq 75 ] || fail "stopped runs do not end it with 75: $(cat "$folder/log")"
[ $failures -eq 0 ] && echo "every figure is what its runs say"
exit $((failures > 0))
