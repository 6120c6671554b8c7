#!/usr/bin/env bash
# Compiles a .cu file and keeps what tests/gpu_gate.py looks at: its cubins, and what ptxas said.
#   nvcc_logged.sh KEPT NVCC ARGUMENTS...     KEPT/NAME.log, KEPT/NAME.*.cubin
kept=$1
shift
stem=
for argument in "$@"; do
    case $argument in *.cu) stem=$(basename "$argument" .cu) ;; esac
done
mkdir -p "$kept"
if [ -z "$stem" ]; then # a link, or a question
    exec "$@"
fi
rm -f "$kept/$stem".*
TIMEFORMAT='compiled in %U + %S CPU seconds'
{ time "$@" --keep --keep-dir "$kept"; } >"$kept/$stem.log.part" 2>&1
code=$?
# What was generated on the way is large, and nobody reads it.
find "$kept" -name "$stem.*" ! -name '*.cubin' ! -name '*.log.part' -delete
grep -vE '^ptxas info +: (Compiling|Function properties|Used |Compile time|0 bytes gmem)|^compiled in |^ +0 bytes stack frame, 0 bytes spill' \
    "$kept/$stem.log.part" >&2
mv "$kept/$stem.log.part" "$kept/$stem.log"
exit $code
