#!/usr/bin/env bash
# What training on two ranks is worth, a thread each, with random weights on random tokens.
#
#   tests/bench_ranks.sh [--quick] scaling|long|pipeline BUILD_FOLDER FOLDER [key=value ...]
#
# scaling: the 160 M shape on one rank and on two by `strata bench scaling`; parallel.tp={ranks} among
# the words makes them tensor parallel, none data parallel. long: the same with four of its layers and
# one sequence of 2048 a step. pipeline: bench_pipeline, on a smaller model. FOLDER is made afresh; --quick takes a tiny shape.
set -euo pipefail
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
quick=
[ "$1" = --quick ] && { quick=yes; shift; }
what=$1 build=$2 folder=$3
shift 3
batch=4
[ "$what" = long ] && batch=1
case $quick$what in
    scaling) hidden=768 layers=12 heads=12 vocab=32000 context=256 ;;
    long) hidden=768 layers=4 heads=12 vocab=32000 context=2048 ;;
    pipeline) hidden=512 layers=8 heads=8 vocab=4096 context=256 ;;
    *) hidden=64 layers=4 heads=4 vocab=512 context=32 ;;
esac
rm -rf "$folder"
mkdir -p "$folder"
cat > "$folder/config.json" <<JSON
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": $hidden,
 "num_hidden_layers": $layers, "num_attention_heads": $heads, "num_key_value_heads": $heads,
 "head_dim": $((hidden / heads)), "intermediate_size": $((4 * hidden)), "vocab_size": $vocab,
 "max_position_embeddings": 2048, "rms_norm_eps": 1e-05, "rope_theta": 10000.0,
 "hidden_act": "silu", "tie_word_embeddings": false, "bos_token_id": 1, "eos_token_id": 2}
JSON
"$build"/make_tokens "$folder/train.h5" 64 $((context + 1)) $vocab
cat > "$folder/run.yaml" <<YAML
model: {config: $folder/config.json}
data: {train: [$folder/train.h5], sequence_length: $context, packing: split}
train: {out: $folder/run, global_batch: $batch, lr: 1e-4, threads: 1}
YAML
if [ "$what" != pipeline ]; then
    "$build"/strata bench scaling "$folder/run.yaml" --ranks 1,2 --steps 6 --out "$folder" "$@"
else
    mpirun -n 2 "$build"/bench_pipeline "$folder/run.yaml" 4 "$@"
fi
