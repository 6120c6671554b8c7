#!/usr/bin/env bash
# `strata preflight` over two nodes (two names on this machine), and over a node that never answers.
#   test_train_preflight.sh STRATA
strata=$1
. tests/train_common.sh
node() { # NAME COMMAND...
    local name=$1
    shift
    echo 1 env SLURMD_NODENAME="$name" "$@"
}

# Speeds of a busy machine are anybody's guess: none of them makes a node broken here.
# shellcheck disable=SC2046 # lists of words
timeout 60 mpirun --oversubscribe --bind-to none -n $(node n1 "$strata" preflight --seconds 1 --broken 0) \
    : -n $(node n2 "$strata" preflight --seconds 1 --broken 0) >"$folder/out" 2>"$folder/log" </dev/null ||
    { cat "$folder/log"; fail "two nodes: exit code $?"; }
number='[0-9]+\.[0-9]+'
for n in n1 n2; do
    grep -cE "^node=$n ranks=1 gemm_gflops=$number memory_gbs=$number available_gib=$number network_gbs=$number latency_us=$number clock_ms=[-+]$number verdict=(fine|slow)" \
        "$folder/out" | grep -qx 1 || fail "no line of $n"
done
grep -qE '^nodes=2 slow=[012] broken=0 seconds=' "$folder/out" || fail "no summary"
cat "$folder/out"

# What no machine has makes every node broken, one by one.
"$strata" preflight --seconds 1 --memory 1000000 >"$folder/out" 2>"$folder/log"
code=$?
[ $code -eq 69 ] && grep -qE '^node=.* ranks=1 .* verdict=broken reason="[0-9.]+ GiB of memory available, not 1000000.0"$' \
    "$folder/out" && grep -q '^nodes=1 slow=0 broken=1' "$folder/out" ||
    { cat "$folder/out" "$folder/log"; fail "too little memory: exit code $code"; }

# shellcheck disable=SC2046
timeout 60 mpirun --oversubscribe --bind-to none -n $(node n1 "$strata" preflight --limit 2) \
    : -n 1 sh -c 'kill -STOP $$' >"$folder/out" 2>"$folder/log" </dev/null
code=$?
[ $code -eq 69 ] && grep -q 'level=error .*event=preflight_timeout node=n1 reason="still at the start of MPI after 2 s' "$folder/log" ||
    { cat "$folder/log"; fail "a node that does not answer: exit code $code"; }
exit $((failures > 0))
