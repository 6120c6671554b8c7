#!/usr/bin/env bash
# `strata plot` writes XML that holds every point of the runs in its place, and says what it can't
# read.
#
#   test_train_plot.sh STRATA
strata=$1
. tests/train_common.sh
mkdir "$folder/a<b&c" "$folder/second" "$folder/long" "$folder/empty"
for step in 1 2 3 4 5; do
    printf '{"kind":"train","step":%s,"loss":%s.5,"tokens_per_second":%s00}\n' $step $((6 - step)) $step
done >"$folder/a<b&c/metrics.jsonl"
printf '{"kind":"validation","step":5,"loss":1.25,"perplexity":3.5}\n{"kind":"train","st' \
    >>"$folder/a<b&c/metrics.jsonl"
printf '{"kind":"train","step":10,"loss":3,"tokens_per_second":250}\n' >"$folder/second/metrics.jsonl"
for ((step = 1; step <= 5000; step++)); do
    printf '{"kind":"train","step":%s,"loss":2.0,"tokens_per_second":7}\n' $step
done >"$folder/long/metrics.jsonl"
: >"$folder/empty/metrics.jsonl"

"$strata" plot "$folder/a<b&c/" "$folder/second" --out "$folder/two.svg" >/dev/null || fail "two runs"
"$strata" plot "$folder/a<b&c" >/dev/null || fail "one run"
[ -s "$folder/a<b&c/plot.svg" ] || fail "no plot.svg in the run"
"$strata" plot "$folder/long/metrics.jsonl" --out "$folder/long.svg" >/dev/null || fail "a long run"
"$strata" plot "$folder/none" 2>"$folder/log" && fail "a missing run was drawn"
grep -q "$folder/none: No such file" "$folder/log" || fail "missing: $(cat "$folder/log")"
"$strata" plot "$folder/empty" 2>"$folder/log" && fail "an empty run was drawn"
grep -q "no line of a training step" "$folder/log" || fail "empty: $(cat "$folder/log")"

# said COMMAND PATTERN WORDS...: exit code 2, and what is wrong with the words.
said() {
    local command=$1 pattern=$2
    shift 2
    "$strata" "$command" "$@" 2>"$folder/log"
    [ $? -eq 2 ] && grep -q "^strata $command: .*$pattern" "$folder/log" || fail "$command $*: $(cat "$folder/log")"
}
for command in plot trace; do
    said $command "no RUN is named"
    said $command "no RUN is named" --out x.svg
    said $command "--out needs a value" run --out
    said $command "--out is said twice" run --out x.svg --out y.svg
    said $command "unknown option '--ut'; the nearest is --out" run --ut x.svg
done
said trace "unexpected argument 'other'" run other
# shellcheck disable=SC2046 # words
said plot "more than" $(seq 100)

python3 - "$folder" <<'PYTHON' || fail "the pictures"
import sys
import xml.etree.ElementTree as tree

SVG = "{http://www.w3.org/2000/svg}"


def lines(path):
    root = tree.parse(path).getroot()
    found = [
        [tuple(map(float, pair.split(","))) for pair in line.get("points").split()]
        for line in root.iter(SVG + "polyline")
    ]
    return root, found


root, found = lines(sys.argv[1] + "/two.svg")
text = ["".join(node.itertext()) for node in root.iter(SVG + "text")]
assert any("a<b&c train" in t for t in text) and any("a<b&c validation" in t for t in text), text
assert any(t.endswith("second train") for t in text), text
assert {"loss", "tokens / s", "step"} <= set(text), text
# first run: loss, validation, rate; second run: loss, rate
assert [len(line) for line in found] == [5, 1, 5, 1, 1], found
loss, held, rate, other, other_rate = found


def affine(points, values):
    """Pixels are an affine map of the values."""
    slope = (points[-1] - points[0]) / (values[-1] - values[0])
    return all(abs(points[0] + slope * (v - values[0]) - p) < 0.02 for p, v in zip(points, values))


steps, losses, rates = [1, 2, 3, 4, 5], [5.5, 4.5, 3.5, 2.5, 1.5], [100, 200, 300, 400, 500]
assert affine([x for x, y in loss], steps) and affine([y for x, y in loss], losses), loss
assert affine([x for x, y in rate], steps) and affine([y for x, y in rate], rates), rate
assert affine([loss[0][0], loss[4][0], other[0][0]], [1, 5, 10])
assert affine([loss[0][1], loss[4][1], other[0][1], held[0][1]], [5.5, 1.5, 3.0, 1.25])
assert affine([rate[0][1], rate[4][1], other_rate[0][1]], [100, 500, 250])
assert loss[0][1] < loss[4][1]  # larger losses are higher up
dots = [(float(c.get("cx")), float(c.get("cy"))) for c in root.iter(SVG + "circle")]
assert dots == held, dots
_, found = lines(sys.argv[1] + "/long.svg")
assert all(500 <= len(line) <= 1000 for line in found), [len(line) for line in found]
assert len({y for line in found[:1] for _, y in line}) == 1
PYTHON
[ $failures -eq 0 ] && echo "every point is in its place"
exit $((failures > 0))
