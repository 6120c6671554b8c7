#!/usr/bin/env bash
# LoRA fine-tuning of the bundled model on two ranks, its evaluation, and a question to base and
# adapter by HTTP. `make demo` builds build/strata first and then runs this.
set -euo pipefail
cd "$(dirname "$0")/../.."
strata=build/strata
work=build/demo
question="What noise does a snake make?"
say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
rm -rf "$work" && mkdir -p "$work"

say "1. A small instruction set, tokenized to HDF5 with the chat template of the model"
for part in train held_out; do
    python3 configs/demo/instructions.py $part > "$work/$part.jsonl"
    "$strata" data tokenize --tokenizer models/base --template auto --out "$work/$part.h5" "$work/$part.jsonl"
done

say "2. LoRA fine-tuning on 2 ranks"
mpirun -n 2 --oversubscribe --bind-to none "$strata" train configs/demo/lora.yaml train.threads=1
"$strata" plot "$work/run" --out "$work/loss.svg"
grep -q '<polyline' "$work/loss.svg" || { echo "there is no curve in $work/loss.svg"; exit 1; }

say "3. Held-out loss before and after (other wordings than those trained on)"
"$strata" train configs/demo/lora.yaml train.out="$work/before" train.steps=1 train.lr=0 \
    train.export=false 2> "$work/before.log" || { cat "$work/before.log"; exit 1; }
held_out() { # run's folder: loss of its last validation
    jq -es 'map(select(.kind == "validation")) | last | .loss' "$1/metrics.jsonl"
}
before=$(held_out "$work/before")
after=$(held_out "$work/run")
awk -v b="$before" -v a="$after" 'BEGIN {
    printf "base:    loss %.4f, perplexity %.2f\nadapter: loss %.4f, perplexity %.2f\n", b, exp(b), a, exp(a)
    if (!(a < b)) { print "the held-out loss did not fall"; exit 1 } }'

say "4. Base and adapter behind one server"
"$strata" serve models/base --adapter facts="$work/run/adapter" --alias base --port 0 > "$work/serve.log" 2>&1 &
server=$!
trap 'kill $server 2>/dev/null || true' EXIT
for _ in $(seq 100); do
    port=$(sed -n 's|^listening on http://.*:\([0-9]*\)$|\1|p' "$work/serve.log")
    [ -n "$port" ] && curl -sf "http://127.0.0.1:$port/health" > /dev/null && break
    kill -0 $server 2> /dev/null || { cat "$work/serve.log"; exit 1; }
    sleep 0.1
done
ask() { # model
    curl -sf "http://127.0.0.1:$port/v1/chat/completions" -H 'Content-Type: application/json' -d "$(
        jq -n --arg model "$1" --arg question "$question" '{model: $model, temperature: 0, max_tokens: 40,
            messages: [{role: "user", content: $question}]}')" | jq -r '.choices[0].message.content'
}
echo "question: $question"
base_answer=$(ask base)
adapter_answer=$(ask facts)
echo "base:     $base_answer"
echo "adapter:  $adapter_answer"
[ -n "$adapter_answer" ] || { echo "the adapter did not answer"; exit 1; }
[ "$adapter_answer" != "$base_answer" ] || { echo "the adapter answers what the base does"; exit 1; }
start=$(date +%s.%N)
tokens=$(curl -sf "http://127.0.0.1:$port/v1/completions" -H 'Content-Type: application/json' \
    -d '{"model": "base", "prompt": "Once upon a time", "max_tokens": 200, "temperature": 0.7, "seed": 1, "ignore_eos": true}' |
    tee "$work/story.json" | jq .usage.completion_tokens)
awk -v n="$tokens" -v s="$start" -v e="$(date +%s.%N)" 'BEGIN {printf "speed:    %d tokens at %.0f tokens/s\n", n, n / (e - s)}'
echo "story:    Once upon a time$(jq -r '.choices[0].text' "$work/story.json" | tr '\n' ' ' | cut -c1-300)"

say "The loss plot: $work/loss.svg    The adapter: $work/run/adapter    Seconds in all: $SECONDS"
