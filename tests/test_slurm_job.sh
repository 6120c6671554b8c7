#!/usr/bin/env bash
# A job's life under a real Slurm of two nodes (tests/slurm_cluster.sh): fine-tuning of the bundled
# model by slurm/lora.sbatch over both, stopped by signals, requeued and resumed by itself; a
# cancelled job; nodes that are lost, on which a former start of the job goes on computing; the
# adapter's evaluation by slurm/eval.sbatch; every other sbatch file as far as Slurm's own test goes.
#
#   test_slurm_job.sh STRATA
#
# STRATA_SLURM=1 makes a machine without Slurm a failure.
strata=$1
. tests/train_common.sh
. tests/slurm_cluster.sh
if command -v shellcheck >/dev/null; then
    shellcheck slurm/common.sh slurm/*.sbatch tests/slurm_cluster.sh || fail "shellcheck"
else
    echo "skipped: shellcheck is not installed (make deps-slurm)"
fi
missing=$(cluster_missing)
if [ -n "$missing" ]; then
    [ "${STRATA_SLURM:-0}" != 1 ] || { echo "FAILED: $missing"; exit 1; }
    echo "$missing" >&2
    echo "skipped: no Slurm on this machine (make deps-slurm)"
    exit $((failures > 0))
fi
trap 'cluster_stop; rm -rf "$folder"' EXIT
cluster_start "$folder" || { cluster_logs; echo "FAILED: Slurm does not start"; exit 1; }
# The words of ranks that Slurm lost are not in the job's log: they are in $folder/ranks as well.
cat >"$folder/strata" <<BASH
#!/usr/bin/env bash
exec "$strata" "\$@" 2> >(trap '' USR1 TERM CONT; exec tee -a "$folder/ranks" >&2)
BASH
chmod +x "$folder/strata"
export STRATA=$folder/strata STRATA_PREFLIGHT=off
steps=24

die() { # what can't go on
    fail "$*"
    tail -n 30 "$log"
    squeue -o '%i %t %r %N %S'
    cluster_logs
    exit 1
}

python3 configs/demo/instructions.py train >"$folder/train.jsonl" &&
    "$strata" data tokenize --tokenizer models/base --template auto --out "$folder/train.h5" \
        "$folder/train.jsonl" 2>"$folder/log" || { cat "$folder/log"; exit 1; }

words=(configs/demo/lora.yaml "data.train=[$folder/train.h5]" "data.validation=[]"
    train.validate_every=0 "train.steps=$steps" train.log_every=1 train.threads=1 train.warmup=5
    train.schedule=constant)

# submit NAME SBATCH'S OPTIONS -- WORDS: a LoRA job with its log in $log and its run in $run.
submit() {
    local options=(--job-name="$1" --output="$folder/$1.log")
    run=$folder/$1 log=$folder/$1.log
    shift
    while [ "$1" != -- ]; do
        options+=("$1")
        shift
    done
    shift
    : >"$log"
    job=$(sbatch --parsable "${options[@]}" slurm/lora.sbatch "${words[@]}" "train.out=$run" \
        "$@") || die "sbatch"
}
lines() { grep -c '"train"' "$run/metrics.jsonl" 2>/dev/null; }
at_step() { [ "$(lines)" -ge "$1" ]; } # STEP
says() { grep -qE "$1" "$log"; }
ended() { [ -z "$(squeue -h -j "$job" 2>/dev/null)" ]; }
pending() { [ "$(squeue -h -j "$job" -o %t)" = PD ]; }
await() { # SECONDS COMMAND...
    cluster_await "$@" || die "job $job, after $1 s not yet: ${*:2}"
}
elapsed() { printf '%3d s  %s\n' "$SECONDS" "$*"; }

# 1. Nobody disturbs it: preflight, all steps, the end.
STRATA_PREFLIGHT="--seconds 1 --broken 0" submit whole --
await 60 ended
says 'event=end code=0' || die "the whole job"
for node in n1 n2; do
    says "^node=$node ranks=1 .* verdict=" || fail "no preflight of $node: $(cat "$log")"
done
says 'nodes=2 slow=[0-2] broken=0' || fail "no summary of the preflight"
says 'event=start family=llama .* ranks=2' || fail "not two ranks"
losses "$run" >"$folder/want"
[ "$(wc -l <"$folder/want")" -eq $steps ] || fail "the whole job: not $steps losses"
elapsed "trained on two nodes: loss $(sed -n '1s/[^ ]* [^ ]* \([^ ]*\).*/\1/p;$s/[^ ]* [^ ]* \([^ ]*\).*/\1/p' "$folder/want" | xargs)"
whole=$run

# 2. Signals: all ranks end the same step, the job is requeued and goes on by itself.
submit signalled -- train.checkpoint_every=1000
await 60 at_step 5
scancel --signal=USR1 "$job"
await 30 says 'restart=0 event=end code=75'
stopped=$(grep -oP 'stopped at step \K[0-9]+' "$log")
await 60 at_step $((stopped + 5))
says "event=resume step=$stopped " || fail "no resume from step $stopped"
scancel --signal=TERM "$job"
await 30 says 'restart=1 event=end code=75'
await 60 ended
says 'restart=2 event=end code=0' || die "the signalled job"
losses "$run" >"$folder/got"
cmp "$folder/want" "$folder/got" || fail "stopped and requeued, it computes something else"
elapsed "stopped by SIGUSR1 at step $stopped, then by SIGTERM: the same losses to the last digit"

# 3. Cancelled by its user: a checkpoint, and no requeue.
submit cancelled -- train.checkpoint_every=1000
await 60 at_step 3
scancel "$job"
await 30 ended
says 'stopped at step [0-9]+ of .*checkpoint written' || fail "cancelled: no checkpoint: $(cat "$log")"
! says 'event=requeue' || fail "a cancelled job was requeued"
compgen -G "$run/checkpoints/step-*/index.h5" >/dev/null || fail "cancelled: $(ls -A "$run/checkpoints")"
elapsed "cancelled: $(ls "$run/checkpoints"), not requeued"

# 4. A node is lost, then the other one. First rank 1 lives on alone; then the only rank, which goes
# on training while the job starts again elsewhere.
await 30 cluster_idle
submit lost --nodes=2 -- train.checkpoint_every=5 train.steps=1000000
await 60 at_step 8
says 'event=start family=llama .* ranks=2' || die "not on two nodes"
nice "$strata" train "${words[@]}" "train.out=$folder/long" train.steps=1000000 2>/dev/null &
undisturbed=$! # one process, for comparison, while Slurm finds out that a node is lost
cluster_kill_node n2
await 60 pending
scontrol update "JobId=$job" NumNodes=1 NumTasks=1 || die "fewer nodes"
await 60 says 'restart=1 event=start nodes=n1 tasks=1'
await 60 says 'event=start family=llama .* ranks=1'
resumed=$(grep -oP 'event=resume step=\K[0-9]+' "$log")
await 60 at_step $((resumed + 10))
says 'event=resume_changed key=ranks was=2 now=1' || fail "no word of fewer ranks"
elapsed "n2 lost: resumed at step $resumed on n1 alone"
former=$(pgrep -f "^$strata train .*train.out=$run( |\$)" | head -n 1)
cluster_start_node n2
cluster_kill_node n1
await 60 says 'restart=2 event=start nodes=n2 tasks=1'
await 30 says 'event=takeover job='
kill -0 "$former" || fail "the former start is gone before the new one takes over: nothing to fence"
await 60 cluster_gone "$former"
grep -q 'level=error event=.*a later start of this run .* has taken over: this one writes nothing any more' \
    "$folder/ranks" || fail "no word of the fence: $(tail "$folder/ranks")"
again=$(grep -oP 'event=resume step=\K[0-9]+' "$log" | tail -n 1)
await 60 at_step $((again + 12))
scancel --signal=KILL "$job" # as it is: only its own checkpoints may be there
scancel "$job"
await 30 ended
elapsed "n1 lost: resumed at step $again on n2, the rank that was left on n1 was fenced off"
run=$folder/long await 90 at_step $((again + 10))
kill -KILL $undisturbed && wait $undisturbed 2>/dev/null
losses "$run" >"$folder/got"
losses "$folder/long" >"$folder/want"
python3 - "$folder/want" "$folder/got" "$resumed" "$again" <<'PYTHON' || fail "after lost nodes it computes something else"
import statistics, sys
want, got = ([line.split() for line in open(path)] for path in sys.argv[1:3])
steps = [int(row[1]) for row in got]
assert steps == list(range(1, len(steps) + 1)), steps
want, got = ([float(row[2]) for row in rows] for rows in (want, got))
for resumed in map(int, sys.argv[3:]):
    # Sums in another order let losses drift apart, slowly; other samples change them at once, as the
    # next step's samples do.
    after = range(resumed, resumed + 10)
    apart = statistics.median(abs(want[i] - got[i]) for i in after)
    step = statistics.median(abs(want[i] - want[i - 1]) for i in after)
    print("       10 losses after step %d: %.1e from an undisturbed process's, %.1e from step to step" % (resumed, apart, step))
    assert apart < 0.1 * step, "other samples"
PYTHON

# 5. The other files.
cluster_start_node n1
log=$folder/eval.log
sbatch -W --output="$log" slurm/eval.sbatch models/base --adapter "$whole/adapter" --text README.md >/dev/null ||
    die "the evaluation"
says 'perplexity' || fail "no perplexity: $(cat "$log")"
for file in slurm/*.sbatch; do
    bash -n "$file" && sbatch --test-only --nodes=1 "$file" x 2>"$folder/log" || { cat "$folder/log"; fail "$file"; }
done
elapsed "evaluated: $(grep -oE 'perplexity[=: ]*[0-9.]+' "$log" | head -n 1)"
log=$folder/scaling.log
STRATA_SCALING=$folder/scaling sbatch -W --nodes=2 --output="$log" slurm/scaling.sbatch \
    configs/demo/lora.yaml "data.train=[$folder/train.h5]" train.threads=1 --steps 4 >/dev/null ||
    die "scaling"
[ "$(grep -cE "^ +[12] +1 .*$folder/scaling/(strong|weak)-[12]\$" "$log")" -eq 4 ] &&
    [ "$(jq -c '[.runs[].ranks]' "$folder/scaling/report.json")" = "[1,2,2]" ] ||
    { cat "$log"; fail "scaling"; }
sed -n '/^strong/,/^$/p' "$log"
elapsed "scaling over one and two nodes"
exit $((failures > 0))
