#!/usr/bin/env bash
# A training step of the 160 M shape on one rank and on two, a thread each: `strata bench scaling`.
#
#   tests/bench_scaling.sh [--quick] BUILD_FOLDER FOLDER [key=value ...]
#
# FOLDER is made afresh; parallel.tp={ranks} among the words makes it tensor parallel, none data
# parallel. --quick takes a tiny shape.
set -euo pipefail
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
hidden=768 layers=12 heads=12 ffn=3072 vocab=32000 context=256
if [ "$1" = --quick ]; then
    hidden=64 layers=2 heads=4 ffn=128 vocab=512 context=32
    shift
fi
build=$1 folder=$2
shift 2
rm -rf "$folder"
mkdir -p "$folder"
cat > "$folder/config.json" <<JSON
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": $hidden,
 "num_hidden_layers": $layers, "num_attention_heads": $heads, "num_key_value_heads": $heads,
 "head_dim": $((hidden / heads)), "intermediate_size": $ffn, "vocab_size": $vocab,
 "max_position_embeddings": 2048, "rms_norm_eps": 1e-05, "rope_theta": 10000.0,
 "hidden_act": "silu", "tie_word_embeddings": false, "bos_token_id": 1, "eos_token_id": 2}
JSON
"$build"/make_tokens "$folder/train.h5" 64 $((context + 1)) $vocab
cat > "$folder/run.yaml" <<YAML
model: {config: $folder/config.json}
data: {train: [$folder/train.h5], sequence_length: $context, packing: split}
train: {out: $folder/run, global_batch: 4, lr: 1e-4, threads: 1}
YAML
"$build"/strata bench scaling "$folder/run.yaml" --ranks 1,2 --steps 6 --out "$folder" "$@"
