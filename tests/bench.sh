#!/usr/bin/env bash
# Every benchmark on this machine, each beside its peer or a ceiling measured in the same run.
#   tests/bench.sh BUILD_FOLDER
# PyTorch's side runs where `make peers` has set up .venv. Nothing else should run meanwhile.
set -euo pipefail
cd "$(dirname "$0")/.."
build=${1:-build}
say() { printf '\n== %s\n' "$*"; }
say "machine"
lscpu | sed -n 's/^Model name: */cpu: /p; s/^CPU(s): */cpus: /p'
uptime
say "matrix products against the FMA peak (and OpenBLAS, oneDNN)"
"$build"/bench_matmul
say "other ops against copy bandwidth"
"$build"/bench_ops
say "training step, 160 M shape: fp32, bf16, LoRA"
"$build"/bench_train
"$build"/bench_train --bf16
"$build"/bench_train --lora
if [ -x .venv/bin/python ]; then
    say "the same by PyTorch"
    .venv/bin/python tests/peers/bench_torch_train.py
else
    echo "PyTorch's side is left out: no .venv (make peers makes it)"
fi
say "decoding, 1 B shape, bf16 weights: one sequence, 32 sequences"
"$build"/bench_decode 1
"$build"/bench_decode 32
say "32 concurrent requests of 16 in / 64 out through the server, the same shape"
model=$build/bench_model
[ -f "$model/model.safetensors" ] || "$build"/write_random_model "$model" models/base
"$build"/strata serve "$model" --port 0 --max-batch 32 --context 256 > "$build/bench_serve.log" 2>&1 &
server=$!
trap 'kill $server 2>/dev/null || true' EXIT
url=
while [ -z "$url" ] || ! curl -sf "$url/health" > /dev/null; do
    kill -0 $server || { cat "$build/bench_serve.log"; exit 1; }
    sleep 0.5
    url=$(sed -n 's/^listening on //p' "$build/bench_serve.log")
done
python3 tests/bench_serve.py --url "$url" --concurrency 32 --prompt 16 --output 64 --repeat 3
