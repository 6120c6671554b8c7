#!/usr/bin/env bash
# The same command on the same ranks computes the same bits, whatever the threads and whoever comes
# first: every loss, every gradient norm, every weight.
#
#   test_train_deterministic.sh STRATA MAKE_TOKENS
strata=$1 make_tokens=$2
. tests/train_common.sh
"$make_tokens" "$folder/train.h5" 30 60 || exit 1
# 5 M parameters: sums over ranks of 16 MiB, which MPI libraries cut and pipeline.
python3 - "$folder/config.json" <<'PYTHON'
import json
import sys

config = json.load(open("tests/fixtures/llama/config.json"))
config |= {"hidden_size": 512, "intermediate_size": 1536, "num_attention_heads": 8}
config |= {"num_key_value_heads": 4, "head_dim": 64, "num_hidden_layers": 2}
json.dump(config, open(sys.argv[1], "w"))
PYTHON
cat >"$folder/run.yaml" <<YAML
data: {train: [$folder/train.h5], sequence_length: 48}
train: {steps: 6, global_batch: 7, micro_batch: 2, lr: 1e-3}
YAML

kinds=(
    "2 model.config=$folder/config.json train.steps=3"
    "3 model.path=tests/fixtures/llama data.packing=split train.recompute=full"
    "2 model.path=tests/fixtures/llama model.dtype=bf16 train.mode=lora lora.rank=4 lora.dropout=0.1"
    "2 model.path=tests/fixtures/llama parallel.tp=2"
)
for kind in "${kinds[@]}"; do
    read -r n arguments <<<"$kind"
    for threads in 1 2; do
        out=$folder/$threads
        rm -rf "$out"
        # shellcheck disable=SC2086 # a list of words
        (ranks "$n" "$strata" train "$folder/run.yaml" train.out="$out" train.threads=$threads \
            $arguments) 2>"$folder/log" || { cat "$folder/log"; fail "$kind"; continue 2; }
        losses "$out" >"$out.losses"
        (cd "$out" && cat -- */*.safetensors | sha256sum) >"$out.sum"
    done
    cmp -s "$folder/1.losses" "$folder/2.losses" || fail "losses: $kind"
    cmp -s "$folder/1.sum" "$folder/2.sum" || fail "weights: $kind"
    [ "$(grep -c '^train' "$folder/1.losses")" -ge 3 ] || fail "no losses: $kind"
    echo "equal  $(wc -l <"$folder/1.losses") lines and $(cut -c1-12 "$folder/1.sum"): $n ranks ${arguments##*/}"
done
exit $((failures > 0))
