#!/usr/bin/env bash
# Two hosts (network namespaces with names and addresses of their own), two ranks on each, and the
# link between them cut: on both sides one verdict says which host can't be reached, and no rank
# stays behind. $1 = test_parallel_hang
set -u
test=$1
seconds=2
a=strata-a-$$ b=strata-b-$$
folder=$(mktemp -d "${TMPDIR:-/tmp}/strata-link-XXXXXX")
clean() {
    ip netns del "$a" 2>/dev/null
    ip netns del "$b" 2>/dev/null
    rm -rf "$folder"
}
trap clean EXIT

if ! { ip netns add "$a" && ip netns add "$b" && ip netns exec "$a" unshare --uts true; } 2>/dev/null; then
    echo "skipped: no right to make network namespaces"
    exit 0
fi
set -e
ip link add strata-a netns "$a" type veth peer name strata-b netns "$b"
ip -n "$a" addr add 10.77.0.1/24 dev strata-a
ip -n "$b" addr add 10.77.0.2/24 dev strata-b
ip -n "$a" link set strata-a up
ip -n "$b" link set strata-b up
ip -n "$a" link set lo up
ip -n "$b" link set lo up

# What mpirun calls instead of ssh: HOST COMMAND...
cat >"$folder/agent" <<EOF
#!/usr/bin/env bash
shift
exec ip netns exec $b unshare --uts bash -c "hostname n2; \$*"
EOF
# Each rank's lines are kept on its side: what mpirun would have to forward is cut off as well.
cat >"$folder/rank" <<EOF
#!/usr/bin/env bash
echo \$\$ >"$folder/pid-\$OMPI_COMM_WORLD_RANK"
exec "$test" walk $seconds "$folder" 2>"$folder/rank-\$OMPI_COMM_WORLD_RANK"
EOF
chmod +x "$folder/agent" "$folder/rank"
printf '10.77.0.1 slots=2\n10.77.0.2 slots=2\n' >"$folder/hosts"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_NUM_THREADS=1
export OMPI_MCA_btl_vader_single_copy_mechanism=none ASAN_OPTIONS=detect_leaks=0
set +e

timeout -k 5 60 ip netns exec "$a" unshare --uts bash -c "hostname n1; exec mpirun -n 4 \
    --hostfile '$folder/hosts' --bind-to none --mca plm_rsh_agent '$folder/agent' \
    --mca btl tcp,self --mca btl_tcp_if_include 10.77.0.0/24 \
    --mca oob_tcp_if_include 10.77.0.0/24 '$folder/rank'" >"$folder/log" 2>&1 </dev/null &
job=$!
for _ in $(seq 200); do
    grep -q '^walking' "$folder/rank-3" 2>/dev/null && break
    kill -0 $job 2>/dev/null || break
    sleep 0.1
done
cut=$EPOCHREALTIME
ip -n "$a" link set strata-a down

failures=0
fail() {
    printf 'FAILED: %s\n' "$1"
    tail -n 5 "$folder"/log "$folder"/rank-*
    failures=1
}

# verdict RANK PATTERN: the line of the side that RANK judges, within two periods.
verdict() {
    local until now
    until=$(awk -v cut="$cut" -v limit="$seconds" 'BEGIN {printf "%.2f", cut + 2 * limit}')
    while now=$EPOCHREALTIME && ! grep -q 'event=hang' "$folder/rank-$1" &&
        awk -v now="$now" -v until="$until" 'BEGIN {exit !(now < until)}'; do
        sleep 0.05
    done
    if ! grep -qE "event=hang verdict=\"$2" "$folder/rank-$1"; then
        fail "rank $1 did not say \"$2\" within two periods of $seconds s"
        return
    fi
    printf '%s s  %s\n' "$(awk -v now="$now" -v cut="$cut" 'BEGIN {printf "%.2f", now - cut}')" \
        "$(sed -n 's/.*verdict="\(.*\)" table.*/\1/p' "$folder/rank-$1")"
}

down='stopped, or the host or the link to it is down'
verdict 0 "ranks 2, 3 @ n2 can't be reached: $down; ranks? [01]"
verdict 2 "ranks 0, 1 @ n1 can't be reached: $down; ranks? [23]"
[ "$(cat "$folder"/rank-* | grep -c 'event=hang')" = 2 ] || fail "not one line a side"
alive() {
    for pid in $(cat "$folder"/pid-*); do
        kill -0 "$pid" 2>/dev/null && return
    done
    return 1
}
for _ in $(seq 100); do
    alive || break
    sleep 0.1
done
alive && fail "a rank stayed behind"
ip -n "$a" link set strata-a up # mpirun waits for word from the other host
wait $job
code=$?
echo "mpirun: exit code $code"
[ $code -ne 0 ] && [ $code -ne 124 ] || fail "mpirun ended with $code"
exit $failures
