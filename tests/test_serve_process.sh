#!/usr/bin/env bash
# `strata serve` as a process: says its port, refuses a port in use, finishes what runs on SIGTERM.
# Arguments: the strata binary and the program that writes a tiny model.
set -u
strata=$1
work=$(mktemp -d)
trap 'kill $server 2>/dev/null; rm -rf "$work"' EXIT
fail() {
    echo "FAILED: $1"
    cat "$work"/*.log "$work"/*.err 2>/dev/null
    exit 1
}

"$2" "$work/model" || fail "the tiny model could not be written"
"$strata" serve "$work/model" --port 0 --threads 1 --alias tiny --context 4096 \
    --max-batch 4 --grace 100 >"$work/out.log" 2>"$work/server.err" &
server=$!
for _ in $(seq 300); do
    url=$(sed -n 's/^listening on //p' "$work/out.log")
    [ -n "$url" ] && break
    sleep 0.1
done
grep -q "event=vocabulary .* tokens=259 vocabulary=272" "$work/server.err" ||
    fail "a padded vocabulary is not told"
curl -sf "$url/health" >/dev/null || fail "'listening' was said before requests were served"
port=${url##*:}

"$strata" serve "$work/model" --port "$port" >"$work/second.log" 2>"$work/second.err"
[ $? = 1 ] || fail "a port in use must exit with 1"
grep -q "port is in use" "$work/second.err" || fail "a port in use is not said"
[ "$(wc -l <"$work/second.err")" = 1 ] || fail "a port in use takes more than one line"

"$strata" serve "$work/model" --port "$port" --dry-run >"$work/plan.log" 2>"$work/plan.err" ||
    fail "a dry run must not open the port"
grep -q '^total ' "$work/plan.log" || fail "a dry run must say the total"

"$strata" serve "$work/none" --port 0 >"$work/third.log" 2>"$work/third.err"
[ $? = 1 ] || fail "a missing model must exit with 1"
[ -s "$work/third.log" ] && fail "a server that never serves must not say that it listens"
"$strata" serve "$work/model" --port 0 --adapter "a=$work/none" >"$work/adapter.log" 2>"$work/adapter.err"
[ $? = 1 ] && [ "$(wc -l <"$work/adapter.err")" = 1 ] && grep -q "$work/none" "$work/adapter.err" ||
    fail "a missing adapter must be said before the model is loaded"
"$strata" serve "$work/model" --port 0 --adapter "a=$work/x" --adapter "a=$work/y" 2>"$work/adapter.err"
[ $? = 2 ] && grep -q "two adapters are called 'a'" "$work/adapter.err" ||
    fail "two adapters of one name must exit with 2"
"$strata" serve "$work/model" --contxt 5 >"$work/fourth.log" 2>"$work/fourth.err"
[ $? = 2 ] || fail "an unknown option must exit with 2"
grep -q "context" "$work/fourth.err" || fail "an unknown option must name the nearest one"

answer=$(printf 'Hello\n/exit\n' | "$strata" chat --url "$url" --max-tokens 5 --temperature 0) ||
    fail "strata chat --url"
local=$(printf 'Hello\n/exit\n' |
    "$strata" chat "$work/model" --threads 1 --context 4096 --max-tokens 5 --temperature 0) || fail "strata chat"
[ "$answer" = "$local" ] || fail "chat differs between a server and its own"

curl -s "$url/v1/completions" -o "$work/last.json" \
    -d '{"prompt": "x", "max_tokens": 3000, "ignore_eos": true}' &
client=$!
for _ in $(seq 300); do
    curl -s "$url/metrics" | grep -q '^strata_requests_running 1' && break
    sleep 0.01
done
kill -TERM "$server"
wait "$server" || fail "SIGTERM must end the server with 0"
wait "$client"
grep -q '"completion_tokens":3000' "$work/last.json" || fail "the running request was not finished"
grep -q "event=finished" "$work/server.err" || fail "no line for a finished request"
