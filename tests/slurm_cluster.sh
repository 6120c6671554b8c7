# shellcheck shell=bash
# A Slurm of two nodes, n1 and n2, on this machine, for tests; sourced. Its daemons, ports, key and
# files are its own: nothing outside of the folder is touched, and cluster_stop leaves nothing.
#
#   cluster_missing           says which part of it this machine lacks; nothing where all is there
#   cluster_start FOLDER      starts it with everything below FOLDER, which exists
#   cluster_stop              ends daemons and the job steps that they left alive
#   cluster_kill_node NAME    its slurmd dies at once (SIGKILL), as on a node that is lost; the ranks
#                             of its jobs stay alive
#   cluster_start_node NAME   and comes back
#   cluster_gone PID          whether a process has ended
#   cluster_logs              the ends of the daemons' logs
#
# A node counts as lost after 10 s without an answer, and a requeued job may start again 5 s later.
PATH=$PATH:/usr/sbin:/sbin

cluster_missing() {
    local program
    for program in munged slurmctld slurmd sbatch srun scontrol mpirun; do
        command -v "$program" >/dev/null || { echo "$program is not installed"; return; }
    done
    [ "$(id -u)" -eq 0 ] || echo "root starts Slurm's daemons"
}

cluster_ports() { # COUNT: that many ports which nobody listens on
    python3 - "$1" <<'PYTHON'
import socket, sys
sockets = [socket.create_server(("", 0)) for _ in range(int(sys.argv[1]))]
print(*(s.getsockname()[1] for s in sockets))
PYTHON
}

cluster_configure() {
    local ports host
    read -ra ports <<<"$(cluster_ports 3)"
    host=$(hostname -s)
    cat >"$cluster/slurm.conf" <<CONF
ClusterName=strata
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=${ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$cluster/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation=$cluster/state
SlurmdSpoolDir=$cluster/%n/spool
SlurmctldPidFile=$cluster/slurmctld.pid
SlurmdPidFile=$cluster/%n/slurmd.pid
SlurmctldLogFile=$cluster/slurmctld.log
SlurmdLogFile=$cluster/%n/slurmd.log
TmpFS=$cluster/%n/tmp
MpiDefault=pmix
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=2,batch_sched_delay=1
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout=10
KillWait=10
MessageTimeout=5
NodeName=n[1-2] NodeHostname=$host NodeAddr=127.0.0.1 Port=${ports[1]},${ports[2]} CPUs=4 RealMemory=1000
PartitionName=all Nodes=n[1-2] Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
CONF
}

# Waits SECONDS for a COMMAND to hold.
cluster_await() {
    local until=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $until ] || return 1
        sleep 0.1
    done
}

cluster_idle() {
    [ "$(sinfo -h -N -o '%N %t' | sort -u)" = "$(printf 'n1 idle\nn2 idle')" ]
}

cluster_start() {
    cluster=$1/cluster
    # Folders that others can look into, or munge does not trust them.
    chmod 755 "$1" && mkdir -p "$cluster"/{n1,n2}/{spool,tmp} "$cluster/state" || return 1
    cluster_configure
    export SLURM_CONF=$cluster/slurm.conf
    head -c 128 /dev/urandom >"$cluster/munge.key" && chmod 600 "$cluster/munge.key" || return 1
    munged --force --socket="$cluster/munge.socket" --key-file="$cluster/munge.key" \
        --pid-file="$cluster/munge.pid" --log-file="$cluster/munge.log" \
        --seed-file="$cluster/munge.seed" 2>>"$cluster/munge.log" || return 1
    slurmctld && slurmd -N n1 && slurmd -N n2 || return 1
    cluster_await 30 cluster_idle
}

cluster_node_is_up() {
    sinfo -h -n "$1" -o %T | grep -qx 'idle\|mixed\|allocated'
}

cluster_start_node() {
    slurmd -N "$1" && cluster_await 30 cluster_node_is_up "$1"
}

cluster_gone() {
    ! kill -0 "$1" 2>/dev/null
}

cluster_kill_node() {
    kill -KILL "$(cat "$cluster/$1/slurmd.pid")"
}

cluster_stop() {
    local environments
    [ -n "${cluster:-}" ] || return 0
    # Daemons, job steps and what jobs left running: all were started with this SLURM_CONF.
    environments=$(grep -lz "^SLURM_CONF=$cluster/slurm.conf" /proc/[0-9]*/environ 2>/dev/null)
    # shellcheck disable=SC2046 # a list of numbers
    [ -z "$environments" ] || kill -KILL $(grep -o '[0-9]*' <<<"$environments") 2>/dev/null
    cluster=
}

cluster_logs() {
    tail -n "${1:-20}" "$cluster"/slurmctld.log "$cluster"/n?/slurmd.log "$cluster"/munge.log
}
