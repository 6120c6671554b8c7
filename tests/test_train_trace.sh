#!/usr/bin/env bash
# A traced step of ranks whose clocks differ: every phase and collective is there, on one clock, and
# `strata trace` draws it; of a pipeline's trace it tells the bubble that theory gives.
#
#   test_train_trace.sh STRATA MAKE_TOKENS INTERPOSE_CLOCK
strata=$1 make_tokens=$2 interpose=$3
. tests/train_common.sh
"$make_tokens" "$folder/train.h5" 20 30 || exit 1
cat >"$folder/run.yaml" <<YAML
model: {path: tests/fixtures/llama}
data: {train: [$folder/train.h5], validation: [$folder/train.h5], sequence_length: 24}
train: {out: $folder/run, steps: 5, global_batch: 6, micro_batch: 1, schedule: constant, lr: 1e-3,
        threads: 1, checkpoint_every: 3, validate_every: 3, trace_step: 3, export: false}
parallel: {zero: 0}
YAML
(export ASAN_OPTIONS="$ASAN_OPTIONS:verify_asan_link_order=0"
    ranks 3 env LD_PRELOAD="$interpose" "$strata" train "$folder/run.yaml") 2>"$folder/log" ||
    { cat "$folder/log"; fail "the traced run"; }
[ "$(ls "$folder/run" | grep -c '^trace-step')" -eq 1 ] || fail "not one trace: $(ls "$folder/run")"
"$strata" trace "$folder/run" >"$folder/shares" || fail "drawing the run"
(ranks 2 "$strata" train "$folder/run.yaml" parallel.cp=2 train.out="$folder/ring") 2>"$folder/log" ||
    { cat "$folder/log"; fail "the traced run with keys on two ranks"; }
"$strata" trace "$folder/ring" >/dev/null || fail "drawing the ring"
python3 tests/pipeline_trace.py 8 32 "$folder/pipeline.json" || fail "the pipeline's trace"
"$strata" trace "$folder/pipeline.json" --out "$folder/pipeline.svg" >"$folder/pipeline" ||
    fail "drawing the pipeline"
python3 - "$folder" <<'PYTHON' || fail "the traces"
import json
import re
import sys
import xml.etree.ElementTree as tree

folder = sys.argv[1]
SVG = "{http://www.w3.org/2000/svg}"


def spans(path):
    """By rank: complete events in the order in which they begin, longer ones first."""
    found = {}
    for event in json.load(open(path))["traceEvents"]:
        if event["ph"] == "X":
            found.setdefault(event["pid"], []).append(event)
    for events in found.values():
        events.sort(key=lambda e: (e["ts"], -e["dur"]))
    return found


def end(event):
    return event["ts"] + event["dur"]


def boxes(path):
    """(kind, left, top, width) of every box of the picture."""
    found = []
    for node in tree.parse(path).getroot().iter(SVG + "path"):
        for x, y, w in re.findall(r"M([-\d.]+) ([-\d.]+)h([-\d.]+)v", node.get("d")):
            found.append((node.get("class"), float(x), float(y), float(w)))
    return found


ranks = spans(folder + "/run/trace-step-3.json")
assert sorted(ranks) == [0, 1, 2]
for rank, events in ranks.items():
    after = min(e["ts"] for e in events if e["cat"] in ("validation", "checkpoint"))
    assert {"validation", "checkpoint"} <= {e["cat"] for e in events}
    events[:] = [e for e in events if e["ts"] < after]
    kinds = [e["cat"] for e in events]
    assert kinds.count("forward") == kinds.count("backward") == kinds.count("loss") == 2, kinds
    assert {"data", "optimizer", "collective"} <= set(kinds), kinds
    numbers = [e["args"]["microbatch"] for e in events if e["cat"] == "forward"]
    assert numbers == [0, 1], numbers
    assert all(e["args"]["end_layer"] == 2 for e in events if e["cat"] == "backward")
    outer = None
    for event in events:  # inside each other or one after the other
        if outer and event["ts"] < end(outer) - 0.002:
            assert end(event) <= end(outer) + 0.002 and event["cat"] == "collective", event
        else:
            outer = event
# The same collectives on all ranks; none is over before all have come: on one clock, though the
# ranks' clocks are 1000 s apart. Ranks may wait for a core, so a round trip may take milliseconds.
calls = [[e for e in ranks[r] if e["cat"] == "collective"] for r in sorted(ranks)]
names = [[(e["name"], e["args"]["elements"]) for e in c] for c in calls]
assert names[0] == names[1] == names[2] and len(names[0]) >= 4, names
assert any(name == "replicas all_reduce" and n > 1000 for name, n in names[0]), names[0]
for together in zip(*calls):
    if together[0]["name"] == "world all_reduce":
        assert max(e["ts"] for e in together) < min(map(end, together)) + 20e3, together
flights = [e for e in json.load(open(folder + "/run/trace-step-3.json"))["traceEvents"] if e["ph"] in "be"]
assert {e["ph"] for e in flights} == {"b", "e"} and len(flights) % 2 == 0

# The step's boxes are its events, without what came after it.
drawn = boxes(folder + "/run/trace-step-3.svg")
assert not {"validation", "checkpoint"} & {b[0] for b in drawn}
want = sum(map(len, ranks.values()))
assert len(drawn) == want, (len(drawn), want)
for line in open(folder + "/shares").read().splitlines()[:4]:
    pairs = dict(pair.split("=") for pair in line.split())
    assert abs(sum(float(pairs[k]) for k in ("utilisation", "collective", "bubble")) - 1) < 2e-4

# Keys and values go round the ring, in each of 2 layers of 6 microbatches: forward, and in backward again
# and with their gradients; what is sent comes.
ring, passages = spans(folder + "/ring/trace-step-3.json"), {}
for rank, events in ring.items():
    for event in events:
        if event["name"].startswith("cp "):
            passages.setdefault((rank, event["name"]), []).append(event)
counts = {len(events) for events in passages.values()}
assert len(passages) == 8 and len(counts) == 1 and counts.pop() % (2 * 6 * 4) == 0, {
    key: len(events) for key, events in passages.items()}
for rank in ring:
    for received, sent in zip(passages[rank, "cp recv"], passages[1 - rank, "cp start_send"]):
        assert received["args"] == sent["args"] and end(received) > sent["ts"] - 2e3, (received, sent)
kinds = [box[0] for box in boxes(folder + "/ring/trace-step-3.svg")]
assert kinds.count("exchange") == sum(map(len, passages.values())), kinds.count("exchange")

# (p - 1) / (m + p - 1) of 1F1B
lines = open(folder + "/pipeline").read().splitlines()
assert len(lines) == 10, lines
for line in lines[:9]:
    pairs = dict(pair.split("=") for pair in line.split())
    assert abs(float(pairs["bubble"]) - 7 / 39) < 1e-4, line
    assert abs(float(pairs["utilisation"]) - 32 / 39) < 1e-4, line
drawn, events = boxes(folder + "/pipeline.svg"), spans(folder + "/pipeline.json")
scale = None
for kind in ("forward", "backward"):
    ours = sorted((y, x, w) for k, x, y, w in drawn if k == kind)
    theirs = [(e["ts"], e["dur"]) for r in sorted(events) for e in events[r] if e["cat"] == kind]
    assert len(ours) == len(theirs) == 8 * 32
    for (y, x, w), (ts, dur) in zip(ours, theirs):
        scale = scale or w / dur
        assert abs(w - dur * scale) < 0.03 and abs(x - 170 - ts * scale) < 0.6, (x, w, ts, dur)
text = ["".join(n.itertext()) for n in tree.parse(folder + "/pipeline.svg").getroot().iter(SVG + "text")]
assert text.count("31") == 16 and "ms" in text and "forward" in text, text
PYTHON
"$strata" trace "$folder" 2>"$folder/log" && fail "a folder without a trace was drawn"
grep -q "holds no trace" "$folder/log" || fail "no trace: $(cat "$folder/log")"
for bad in '{}' '{"traceEvents":[]}' '{"traceEvents":[{"ph":"X","cat":"forward","pid":-1,"ts":0,"dur":1}]}' \
    '{"traceEvents":[{"ph":"X","cat":"checkpoint","pid":0,"ts":0,"dur":1}]}' \
    '{"traceEvents":[{"ph":"X","cat":"forward","pid":0,"ts":0,"dur":-1}]}' '[{"ph":"X","cat":'; do
    echo "$bad" >"$folder/bad.json"
    "$strata" trace "$folder/bad.json" >"$folder/log" 2>&1
    [ $? -eq 1 ] && grep -q "bad.json" "$folder/log" || fail "$bad: $(cat "$folder/log")"
done
[ $failures -eq 0 ] && echo "every span is in its place"
exit $((failures > 0))
