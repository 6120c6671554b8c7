# shellcheck shell=bash
# What the sbatch files of this folder share; they source it, and it runs on the job's first node.
# docs/cluster.md tells what an operator has to know.
#
#   STRATA_ROOT        the folder that paths start from; the one that sbatch was called in
#   STRATA             the program; build/strata
#   STRATA_PREFLIGHT   words for `strata preflight`, or off; none
#   STRATA_SCALING     where slurm/scaling.sbatch writes; scaling-JOB
#   STRATA_RETRIES     how often a job that failed, not only one that was stopped, starts again; 0
set -u
cd "${STRATA_ROOT:-$SLURM_SUBMIT_DIR}" || exit 1
strata=${STRATA:-build/strata}
restart=${SLURM_RESTART_COUNT:-0}
# A job that starts again with fewer nodes keeps the number of tasks that it was submitted with.
nodes=${SLURM_JOB_NUM_NODES:-1}
tasks=$((nodes * ${SLURM_NTASKS_PER_NODE:-1}))
EXIT_STOPPED=75 # a checkpoint is written, the same command goes on from it

say() { printf '%s job=%s restart=%s %s\n' "$(date +%FT%T)" "$SLURM_JOB_ID" "$restart" "$*"; }

# step [SRUN'S OPTIONS] -- WORDS: one strata over the nodes and tasks of the job. When one rank has
# ended the others have a minute to do so. srun does not take --cpus-per-task from the job by itself.
step() {
    local options=(--mpi=pmix --wait=60 --nodes="$nodes" --ntasks="$tasks")
    while [ "$1" != -- ]; do
        options+=("$1")
        shift
    done
    shift
    [ -z "${SLURM_CPUS_PER_TASK:-}" ] || options+=(--cpus-per-task="$SLURM_CPUS_PER_TASK")
    srun "${options[@]}" "$strata" "$@"
}

# Half a minute that finds the node which would slow or break the job. Exit code 69 names one.
preflight() {
    local words
    [ "${STRATA_PREFLIGHT:-}" != off ] || return 0
    read -ra words <<<"${STRATA_PREFLIGHT:-}"
    step -- preflight ${words[@]+"${words[@]}"} && return
    local code=$?
    say "event=preflight_failed code=$code"
    exit $code
}

# finish CODE: how the job ends once its work has ended with CODE.
finish() {
    say "event=end code=$1"
    [ "$1" -ne 0 ] || exit 0
    if [ "$1" -eq $EXIT_STOPPED ] || [ "$restart" -lt "${STRATA_RETRIES:-0}" ]; then
        say "event=requeue"
        scontrol requeue "$SLURM_JOB_ID"
    fi
    exit "$1"
}

# run [SRUN'S OPTIONS] -- WORDS: the preflight, then strata, then the end of the job.
run() {
    say "event=start nodes=$SLURM_JOB_NODELIST tasks=$tasks"
    preflight
    step "$@"
    finish $?
}
