#!/usr/bin/env bash
# A quantized GGUF served end to end: the greedy text of models/base in Q8_0 is that of the
# safetensors which hold the same, dequantized weights, also where its blocks stay as they are, in less
# memory. Argument: the strata binary.
set -u
strata=$1
cd "$(dirname "$0")/.." || exit 1
work=$(mktemp -d)
server=
trap '[ -n "$server" ] && kill "$server" 2>/dev/null; rm -rf "$work"' EXIT
fail() {
    echo "FAILED: $1"
    cat "$work"/*.log "$work"/*.err 2>/dev/null
    exit 1
}

# Serves $1, and leaves the texts of two greedy completions in $work/$2; $3 and what follows are options.
complete() {
    "$strata" serve "$1" --port 0 --threads 1 --context 256 "${@:3}" >"$work/$2.log" 2>"$work/$2.err" &
    server=$!
    url=
    for _ in $(seq 600); do
        url=$(sed -n 's/^listening on //p' "$work/$2.log")
        [ -n "$url" ] && break
        kill -0 "$server" 2>/dev/null || fail "$2: the server ended"
        sleep 0.1
    done
    [ -n "$url" ] || fail "$2: never listens"
    for prompt in "Once upon a time" "The 12 caf\\u00e9s,\\n"; do
        curl -sf "$url/v1/completions" -d '{"prompt": "'"$prompt"'", "max_tokens": 40,
            "temperature": 0, "ignore_eos": true}' >"$work/reply.json" || fail "$2: no completion"
        python3 -c 'import json, sys; reply = json.load(sys.stdin)
assert reply["usage"]["completion_tokens"] == 40, reply
print(json.dumps(reply["choices"][0]["text"]))' <"$work/reply.json" >>"$work/$2" ||
            fail "$2: $(cat "$work/reply.json")"
    done
    kill -TERM "$server"
    wait "$server" || fail "$2: SIGTERM must end the server with 0"
    server=
}

"$strata" convert models/base "$work/base.gguf" --dtype q8_0 >"$work/first.log" ||
    fail "models/base could not be converted to GGUF"
"$strata" inspect "$work/base.gguf" | grep -q 'Q8_0' || fail "the GGUF holds no Q8_0"
"$strata" convert "$work/base.gguf" "$work/back" --dtype f32 >"$work/second.log" ||
    fail "the GGUF could not be converted back"
complete "$work/base.gguf" gguf
complete "$work/base.gguf" stored --weights stored
complete "$work/back" safetensors
[ "$(wc -l <"$work/gguf")" = 2 ] || fail "two texts were wanted"
cmp "$work/gguf" "$work/safetensors" || {
    cat "$work/gguf" "$work/safetensors"
    fail "the texts differ"
}
cmp "$work/stored" "$work/gguf" || fail "blocks that stay as stored make another text"
weights() {
    "$strata" serve "$work/base.gguf" --dry-run --context 256 --weights "$1" 2>&1 | awk '$1 == "weights" { print $2 }'
}
stored=$(weights stored) plain=$(weights auto) nf4=$(weights nf4)
[ "$((stored * 100))" -lt "$((plain * 28))" ] || fail "stored: $stored bytes of $plain"
[ "$nf4" -lt "$plain" ] || fail "nf4: $nf4 bytes of $plain"
