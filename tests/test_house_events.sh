#!/usr/bin/env bash
# What the log of a job may say is in the documents, and what they name is in the log.
set -u
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
bad=0
events() { grep -rohE 'event=[a-z_]+' "$@" | sort -u; }
events --include='*.c' train parallel >"$folder/said"
events docs README.md >"$folder/told"
# "event=%s" of a run that fails takes the name of its status.
sed -n 's/.*\[STATUS_[A-Z]*\] = "\([a-z]*\)".*/event=\1/p' kernels/base/status.c >"$folder/status"
events --include='*.c' --include='*.sh' --include='*.sbatch' slurm core data serve train parallel | sort -u - "$folder/status" >"$folder/all"
for list in said told status; do
    [ -s "$folder/$list" ] || { echo "$list: nothing was found"; bad=1; }
done
comm -23 "$folder/said" "$folder/told" | sed 's/$/: no document tells what it means/' >"$folder/wrong"
comm -13 "$folder/all" "$folder/told" | sed 's/$/: in the documents, and nowhere else/' >>"$folder/wrong"
cat "$folder/wrong"
[ ! -s "$folder/wrong" ] || bad=1
exit $bad
