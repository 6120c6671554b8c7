#!/usr/bin/env bash
# Every benchmark on this machine, each beside its peer or a ceiling measured in the same run, and at
# the end a table of the speed goals with what was measured. Nothing else should run meanwhile.
#
#   tests/bench.sh [--quick] BUILD_FOLDER
#
# PyTorch's side runs where `make peers` has set up .venv; more tokenizers and a longer text where
# STRATA_TEST_DATA names the folder of real data. What each part prints is kept in
# BUILD_FOLDER/bench/PART.log, the table in BUILD_FOLDER/bench/report.json. A missed goal is no
# failure; a part that ends badly is. --quick tries the scripts on tiny shapes: its figures say nothing.
set -uo pipefail
cd "$(dirname "$0")/.."
quick=
[ "${1:-}" = --quick ] && { quick=--quick; shift; }
build=${1:-build}
out=$build/bench
unset OMP_NUM_THREADS
threads=$(nproc)
python=.venv/bin/python
torch=
[ -f .venv/requirements.txt ] && torch=yes

# part NAME COMMAND...: runs it, shows and keeps what it prints, notes how it ended.
part() {
    local name=$1 begin=$SECONDS status=0
    shift
    printf '\n== %s: %s (minute %d)\n' "$name" "$*" $((SECONDS / 60))
    "$@" 2>&1 | tee "$out/$name.log" || status=${PIPESTATUS[0]}
    printf '%s\t%d\t%d\n' "$name" "$status" $((SECONDS - begin)) >> "$out/parts.tsv"
    [ "$status" = 0 ] || echo "$name ended with status $status; the rest goes on"
}

# left_out NAME REASON: the table says so.
left_out() {
    printf '%s\tleft out\t%s\n' "$1" "$2" >> "$out/parts.tsv"
}

# compare KIND VARIANTS OPTIONS...: a training step of ours before and after PyTorch's, so that a
# machine that slows down hits both alike.
compare() {
    local kind=$1 variants=$2
    shift 2
    part "train_${kind}_1" "$build"/bench_train --threads "$threads" "${shape[@]}" "$@"
    if [ -n "$torch" ]; then
        part "torch_$kind" $python tests/peers/bench_torch_train.py --threads "$threads" \
            --variants "$variants" "${shape[@]}"
    else
        left_out "torch_$kind" "no .venv (make peers makes it)"
    fi
    part "train_${kind}_2" "$build"/bench_train --threads "$threads" "${shape[@]}" "$@"
}

# The load of tests/bench_serve.py on a server that lives as long as this.
serve() {
    local log=$out/server.log url=
    "$build"/strata serve "$model" --port 0 --threads "$threads" --max-batch 32 --context 256 \
        > "$log" 2>&1 &
    server=$!
    trap 'kill $server 2> /dev/null; wait $server' EXIT
    until [ -n "$url" ] && curl -sf "$url/health" > /dev/null; do
        kill -0 $server 2> /dev/null || { cat "$log"; return 1; }
        sleep 0.5
        url=$(sed -n 's/^listening on //p' "$log")
    done
    python3 tests/bench_serve.py --url "$url" --concurrency 32 --prompt 16 --output 64 \
        --repeat "$repeat"
}

# tokenizer NAME TOKENIZER TEXT
tokenizer() {
    part "tokenizer_$1" "$build"/bench_tokenizer "$2" "$3" "$tokenizer_seconds"
}

if [ -n "$quick" ]; then
    matmul=(0.01 768 768) decode=("$threads" 16 2) repeat=1 tokenizer_seconds=0.2
    model_shape=(--layers 2 --hidden 64 --heads 4 --kv-heads 4 --ffn 128 --vocab 512 --batch 2
        --context 32)
    shape=("${model_shape[@]}" --steps 2)
else
    matmul=(0.3) decode=("$threads" 128 22) repeat=3 tokenizer_seconds=3
    model_shape=(--layers 12 --hidden 768 --heads 12 --kv-heads 12 --ffn 3072 --vocab 32000 --batch 4
        --context 256)
    shape=("${model_shape[@]}" --steps 5)
fi
mkdir -p "$out"
rm -f "$out"/*.log "$out"/parts.tsv "$out"/report.json
started=$(date -u +%Y-%m-%dT%H:%M:%SZ)

lscpu | sed -n 's/^Model name: */cpu: /p'
echo "threads: $threads; $(uptime | sed 's/.*load/load/')"
if [ -n "$quick" ]; then
    echo "tiny shapes, a minute, a few with PyTorch: the figures say nothing"
elif [ -n "$torch" ]; then
    echo "about 35 minutes on 2 cores; leave the machine alone until the table comes"
else
    echo "about 25 minutes on 2 cores, without PyTorch's side: no .venv (make peers makes it)"
fi

part peak_first "$build"/bench_peak "$threads"
part matmul "$build"/bench_matmul auto f32 "${matmul[@]}"
part ops "$build"/bench_ops "$threads"
compare fp32 eager,eager_fused,compiled
compare lora lora,lora_compiled --lora
compare bf16 bf16,bf16_fused,bf16_compiled --bf16
rm -rf "$out/saves"
part saves python3 tests/bench_saves.py "$build" "$out/saves" "${model_shape[@]}" --repeat "$repeat"
part decode_1 "$build"/bench_decode 1 "${decode[@]}"
part decode_32 "$build"/bench_decode 32 "${decode[@]}"

part scaling_tp2 tests/bench_ranks.sh $quick scaling "$build" "$out/scaling_tp2" parallel.tp={ranks}
part scaling_dp2 tests/bench_ranks.sh $quick scaling "$build" "$out/scaling_dp2"
part scaling_zero0 tests/bench_ranks.sh $quick scaling "$build" "$out/scaling_zero0" parallel.zero=0
part scaling_cp2 tests/bench_ranks.sh $quick long "$build" "$out/scaling_cp2" parallel.cp={ranks}
part pipeline tests/bench_ranks.sh $quick pipeline "$build" "$out/pipeline"

if [ -n "$quick" ]; then
    model=models/base
else
    model=$build/bench_model
    [ -f "$model/model.safetensors" ] || part write_model "$build"/write_random_model "$model" models/base
fi
part peak_before_server "$build"/bench_peak "$threads"
part serve serve
part peak_after_server "$build"/bench_peak "$threads"

data=${STRATA_TEST_DATA:-}
text=$data/text_tinyshakespeare/input.txt
if [ -z "$data" ]; then
    text=$out/text
    cat README.md docs/*.md > "$text"
fi
if [ -n "$quick" ]; then
    left_out plan "--quick"
else
    rm -rf "$out/plan"
    part plan python3 tests/bench_plan.py "$build"
fi

tokenizer base models/base "$text"
if [ -n "$data" ]; then
    tokenizer gpt2 "$data"/tok_hf_json/gpt2/tokenizer.json "$text"
    tokenizer cl100k "$data"/tok_tiktoken/cl100k_base.tiktoken "$text"
    tokenizer llama2 "$data"/tok_ggml_vocab/ggml-vocab-llama-spm.gguf "$text"
    tokenizer mistral "$data"/tok_mistral_spm/tokenizer.model.v1 "$text"
    tokenizer unigram "$data"/tok_spm_unigram/test_model.model "$text"
    zcat "$data"/text_books_public_domain/wagahaiwa_nekodearu.txt.gz > "$out/japanese"
    tokenizer cl100k_japanese "$data"/tok_tiktoken/cl100k_base.tiktoken "$out/japanese"
    tokenizer unigram_japanese "$data"/tok_spm_unigram/test_ja_model.model "$out/japanese"
else
    left_out tokenizers "STRATA_TEST_DATA is not set"
fi

printf '\n'
python3 tests/bench_report.py "$out" --model "$model" --started "$started" --threads "$threads" \
    --seconds "$SECONDS" $quick
