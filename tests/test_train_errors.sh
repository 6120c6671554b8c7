#!/usr/bin/env bash
# What the world can do wrong to `strata train`: one error line that says it, a non-zero exit code,
# and every rank ends.
#
#   test_train_errors.sh STRATA MAKE_TOKENS
strata=$1 make_tokens=$2
. tests/train_common.sh
limit=90

"$make_tokens" "$folder/train.h5" 20 30 || exit 1
"$make_tokens" "$folder/masked.h5" 20 30 96 0 masked || exit 1
"$make_tokens" "$folder/other.h5" 20 30 96 0x1234 || exit 1
"$make_tokens" "$folder/large.h5" 20 30 500 || exit 1
"$make_tokens" "$folder/more files.h5" 5 30 || exit 1
cat >"$folder/run.yaml" <<YAML
model: {path: tests/fixtures/llama}
data: {train: [$folder/train.h5], sequence_length: 24}
train: {out: $folder/out, steps: 40, global_batch: 4, schedule: constant, lr: 1e-3, threads: 1,
        export: false}
YAML

# refused NAME RANKS PATTERN ARGUMENTS...: exit code 1 in time, one error line like PATTERN.
refused() {
    local name=$1 n=$2 pattern=$3
    shift 3
    (ranks "$n" "$strata" train "$folder/run.yaml" "$@") >"$folder/log" 2>&1
    local code=$?
    local lines
    lines=$(grep -c 'level=error' "$folder/log")
    if [ $code -ne 1 ] || [ "$lines" -ne 1 ] ||
        ! grep 'level=error' "$folder/log" | grep -qE "$pattern"; then
        fail "$name on $n ranks: exit code $code, $lines error lines, wanted \"$pattern\""
        grep -E 'level=(error|warn)' "$folder/log" | head -5
        return
    fi
    printf '%-28s %s ranks: %s\n' "$name" "$n" "$(grep -oP 'reason="\K.*(?=")' "$folder/log")"
}

for n in 1 2; do
    refused "NaN loss" $n 'step [0-9]+: loss .*first tensor that is not finite is (weight|queries|keys|values|attention output|residual|gate|up projection|output|embeddings|input|logits|gradient)' \
        train.lr=10 train.weight_decay=10 train.clip=0 train.steps=200 "train.out=$folder/nan$n"
    refused "all-masked batch" $n 'step 1: no token of its 4 sequences has a loss weight' \
        "data.train=$folder/masked.h5"
    refused "all-masked validation" $n 'data.validation: no token of its' \
        "data.validation=$folder/masked.h5" train.steps=1 "train.out=$folder/masked$n"
    refused "missing token file" $n "$folder/none.h5" "data.train=$folder/none.h5"
    refused "not a token file" $n 'run.yaml' "data.train=$folder/run.yaml"
done
refused "NaN loss under ZeRO" 2 'step [0-9]+: loss .*first tensor that is not finite is (weight|queries|keys|values|attention output|residual|gate|up projection|output|embeddings|input|logits|gradient)' \
    train.lr=10 train.weight_decay=10 train.clip=0 train.steps=200 "train.out=$folder/nan_zero" \
    parallel.zero=3
refused "wrong vocabulary" 1 'token ids up to 500.*vocabulary ends at 96' "data.train=$folder/large.h5"
refused "two tokenizers" 1 'different tokenizers' "data.train=$folder/train.h5,$folder/other.h5"
refused "unknown key" 1 'unknown key .*train.leraning_rate.*nearest known one is .*train\.' \
    train.leraning_rate=1
refused "unknown key, nearest" 2 'unknown key .*train.stepz.*nearest known one is .*train.steps' \
    train.stepz=1
refused "sequence of one" 1 'data.sequence_length = .*must be from 2' data.sequence_length=1
refused "sequence above context" 1 'sequence_length 512 is above the model.s context of 128' \
    data.sequence_length=512
refused "no model" 2 'tests/fixtures/none' model.path=tests/fixtures/none
refused "LoRA of nothing" 1 "lora.targets: 'qqq' is not one of" train.mode=lora lora.targets=qqq
mkdir -p "$folder/taken"
exec 9>"$folder/taken/lock" && flock 9 # as a run does that trains there
refused "a run's folder in use" 2 'another process is training in' "train.out=$folder/taken"
exec 9>&-
touch "$folder/file"
refused "train.out below a file" 2 "train.out: $folder/file" "train.out=$folder/file/run"
refused "train.out is a file" 1 "train.out: $folder/file: a file is in the way" "train.out=$folder/file"
refused "train.out empty" 2 'train.out is empty' train.out=
refused "too many tokens at once" 2 'train.micro_batch makes .* at data.sequence_length 5000 is more than 2147483647 tokens' \
    train.global_batch=10000000 train.micro_batch=1000000 data.sequence_length=5000
cat >"$folder/huge.json" <<JSON
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 96, "hidden_size": 65536,
 "intermediate_size": 262144, "num_hidden_layers": 200, "num_attention_heads": 512,
 "num_key_value_heads": 512, "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
 "rope_theta": 10000.0, "tie_word_embeddings": false, "hidden_act": "silu", "torch_dtype": "float32"}
JSON
for n in 1 2; do # 16 bytes for each of 1.4e13 parameters: no machine has them
    refused "larger than the machine" $n "needs [0-9]{9,}\\.[0-9] MiB on this host .ranks: $n, this one [0-9]{9,}\\.[0-9] MiB., where [0-9]+\\.[0-9] MiB are available" \
        model.path= "model.config=$folder/huge.json"
done
# Root may write anywhere: then it is nobody who may not.
mkdir -m 555 "$folder/closed"
as_nobody=(setpriv --reuid=65534 --regid=65534 --clear-groups)
if [ "$(id -u)" -ne 0 ]; then
    refused "train.out not writable" 1 "train.out: $folder/closed" "train.out=$folder/closed/run"
elif chmod 755 "$folder" && "${as_nobody[@]}" "$strata" train --help >/dev/null 2>&1; then
    printf '#!/bin/sh\nexec %s "%s" "$@"\n' "${as_nobody[*]}" "$strata" >"$folder/strata"
    chmod 755 "$folder/strata"
    strata=$folder/strata refused "train.out not writable" 1 "train.out: $folder/closed" \
        "train.out=$folder/closed/run"
else
    echo "skipped: root has no other user to run the program as"
fi

# A tokenizer in or beside the model tells a wrong token file by its hash.
if [ -n "${STRATA_TEST_DATA:-}" ]; then
    "$make_tokens" "$folder/foreign.h5" 20 30 400 0x1234
    refused "wrong tokenizer" 2 'foreign.h5 was made with another tokenizer .*0000000000001234' \
        "model.path=$STRATA_TEST_DATA/gguf_stories260k_quantised/stories260K-F32.gguf" \
        "data.train=$folder/foreign.h5"
else
    echo "skipped: STRATA_TEST_DATA is not set"
fi

# A dry run counts bytes from configurations and looks at the token files, and leaves nothing behind.
if ! "$strata" train "$folder/run.yaml" --dry-run "train.out=$folder/dry" >"$folder/plan" ||
    ! awk '$1 == "total" { total = $2 } NR > 1 && $1 != "total" { sum += $2 }
           END { exit !(total > 1e5 && total == sum) }' "$folder/plan" || [ -e "$folder/dry" ]; then
    cat "$folder/plan"
    fail "dry run"
fi
"$strata" train "train.out=$folder/dry" --dry-run train.steps=3 "$folder/run.yaml" >"$folder/plan2" &&
    "$strata" train --dry-run "$folder/run.yaml" "train.out=$folder/dry" >"$folder/plan3" &&
    grep -v '^run:' "$folder/plan" | cmp - <(grep -v '^run:' "$folder/plan2") && cmp "$folder/plan" "$folder/plan3" ||
    fail "dry run, options in any order"
grep -q '^data.train: checked files=1 sequences=[0-9]* tokens=[0-9]*$' "$folder/plan" &&
    grep -q '^run: steps=40 sequences=160 ' "$folder/plan" && ! grep -q '^data.validation' "$folder/plan" ||
    fail "dry run, data: $(cat "$folder/plan")"
sequences=$(grep -oP '^data.train:.* sequences=\K\d+' "$folder/plan")
"$strata" train "$folder/run.yaml" --dry-run "data.validation=$folder/more files.h5" train.steps=0 train.epochs=3 >"$folder/plan"
grep -q "^run: steps=$(((3 * sequences + 3) / 4)) " "$folder/plan" &&
    grep -q '^data.validation: checked files=1 sequences=[1-9]' "$folder/plan" ||
    fail "dry run, epochs and validation: $(cat "$folder/plan")"
for n in 1 2; do # what the run would refuse
    refused "dry, missing token file" $n "$folder/none.h5" --dry-run "data.train=$folder/none.h5"
done
refused "dry, missing validation" 1 "$folder/none.h5" --dry-run "data.validation=$folder/none.h5"
refused "dry, not a token file" 1 'run.yaml: not a token file' --dry-run "data.train=$folder/run.yaml"
refused "dry, wrong vocabulary" 1 'token ids up to 500.*ends at 96' --dry-run "data.train=$folder/large.h5"
refused "dry, two tokenizers" 1 'different tokenizers' --dry-run "data.train=$folder/train.h5,$folder/other.h5"
refused "dry, tokenizer not there" 1 "$folder/none" --dry-run "model.tokenizer=$folder/none"
refused "dry, wrong tokenizer" 1 'other.h5 was made with another tokenizer .*data tokenize --tokenizer models/base' --dry-run \
    model.path=models/base "data.train=$folder/other.h5"
refused "dry, unknown instructions" 2 "unknown instruction set 'avx9'" --dry-run train.instructions=avx9
refused "dry, adapter of other shapes" 1 "doesn't have the shape" --dry-run model.path=models/base \
    train.mode=lora lora.init_from=tests/fixtures/lora_llama_all
"$strata" train "$folder/run.yaml" --dryrun >"$folder/log" 2>&1
[ $? -eq 2 ] && grep -q "^strata train: unknown option '--dryrun'$" "$folder/log" ||
    fail "an unknown option: $(cat "$folder/log")"
"$strata" train "$folder/run.yaml" train.steps=1 --help | grep -q '^usage: strata train' || fail "--help at the end"

# A second signal doesn't wait for the step that the first one lets finish.
"$strata" train "$folder/run.yaml" train.steps=1 train.global_batch=100000 train.micro_batch=100 \
    "train.out=$folder/hurry" 2>"$folder/log" &
pid=$!
until grep -q event=start "$folder/log"; do
    kill -0 $pid 2>/dev/null || break
    sleep 0.05
done
kill -TERM $pid
sleep 0.3
tries=0
until grep -q event=stopping "$folder/log" || [ $((tries++)) -ge 200 ]; do sleep 0.05; done
[ "$(grep -c 'level=info event=stopping step=1 text="finishing the step, then checkpoint' "$folder/log")" -eq 1 ] ||
    fail "the first signal was not answered: $(cat "$folder/log")"
kill -0 $pid 2>/dev/null || fail "one signal ended the run: $(cat "$folder/log")"
kill -INT $pid
wait $pid
code=$?
[ $code -eq 130 ] && [ -z "$(ls "$folder/hurry/checkpoints")" ] ||
    fail "a second signal: exit code $code: $(cat "$folder/log")"

# A run that goes on must be the run it was.
ranks_quietly() {
    (ranks "$@") >"$folder/log" 2>&1 || { cat "$folder/log"; fail "$*"; }
}
out=$folder/run
ranks_quietly 1 "$strata" train "$folder/run.yaml" train.steps=4 "train.out=$out"
refused "global_batch changed" 2 'train.global_batch was 4 .* is 6 now' train.global_batch=6 "train.out=$out"
refused "seed changed" 1 'data.seed was 1 .* is 2 now' data.seed=2 "train.out=$out"
refused "packing changed" 1 'data.packing was' data.packing=off "train.out=$out"
refused "mode changed" 2 'train.mode was full .* is lora now' train.mode=lora "train.out=$out"
refused "another model" 1 "model.path: the model's family was llama .* is qwen3 now" model.path=tests/fixtures/qwen3 "train.out=$out"
refused "fewer steps than done" 2 "train.steps asks for 3 steps, and the run in $out has done 4: set train.steps above 4" \
    train.steps=3 "train.out=$out"
refused "fewer epochs than done" 1 "train.epochs asks for [123] steps, and the run in $out has done 4" \
    train.epochs=0.01 train.steps=0 "train.out=$out"
ranks_quietly 1 "$strata" train "$folder/run.yaml" train.mode=lora lora.rank=4 train.steps=2 "train.out=$folder/lora"
refused "rank changed" 1 'lora.rank was 4 .* is 8 now' train.mode=lora lora.rank=8 "train.out=$folder/lora"
refused "targets changed" 1 'lora.targets was \[q_proj.* is \[q_proj, v_proj\] now' \
    train.mode=lora lora.rank=4 lora.targets=q_proj,v_proj "train.out=$folder/lora"

# A run that is complete says so and ends well.
ranks_quietly 2 "$strata" train "$folder/run.yaml" train.steps=4 "train.out=$out"
grep -q 'level=info event=finished step=4 steps=4 hint=".*raise train.steps' "$folder/log" ||
    fail "a complete run: $(cat "$folder/log")"

# Other changes are told: a warning a key, with both values; reports and length change silently.
# changed NAME COUNT ARGUMENTS...: the run goes on, on $n ranks, with COUNT such warnings.
changed() {
    local name=$1 count=$2
    shift 2
    cp -r "$out" "$folder/copy"
    ranks_quietly "$n" "$strata" train "$folder/run.yaml" "train.out=$folder/copy" "$@"
    [ "$(grep -c 'level=warn.* event=resume_changed' "$folder/log")" -eq "$count" ] ||
        fail "$name: $(cat "$folder/log")"
    rm -r "$folder/copy"
}
told() { # PATTERN
    grep -qE "event=resume_changed $1" "$folder/log" || fail "no warning like $1: $(cat "$folder/log")"
}
n=1 # as the run was, but where a line says otherwise
changed "nothing but length and reports" 0 train.steps=6 train.log_every=2 train.checkpoint_every=3 \
    train.keep=1 train.export=true train.threads=2
n=2 changed "rate, schedule and data" 4 train.steps=6 train.lr=5e-4 train.schedule=cosine \
    "data.train=$folder/train.h5,$folder/more files.h5"
told 'key=ranks was=1 now=2$'
told 'key=train.lr was=0.001 now=0.0005$'
told 'key=train.schedule was=constant now=cosine$'
told "key=data.train was=.* now=\".*more files.h5.*\"\$"
table=$(grep -oP '(?<=instructions=)\w+' "$folder/log") # of this machine, by itself
changed "the same instructions by their name" 0 train.steps=6 "train.instructions=$table"
if [ "$table" != reference ]; then
    changed "other instructions" 1 train.steps=6 train.instructions=reference
    told "key=train.instructions was=$table now=reference\$"
fi
mv "$folder/train.h5" "$folder/kept.h5" # the same path, the same size, other tokens
"$make_tokens" "$folder/train.h5" 20 30 95 || exit 1
changed "other contents" 1 train.steps=6
told "key=data.train file=$folder/train.h5 was=\"tokens=.*\" now=\"tokens=.*\"\$"
mv "$folder/kept.h5" "$folder/train.h5"

# Threads change no digit, in a model that is large enough for several.
sed -e 's/65536/256/; s/262144/768/; s/"num_hidden_layers": 200/"num_hidden_layers": 2/; s/512/4/g; s/: 96/: 1000/' \
    "$folder/huge.json" >"$folder/wide.json"
for threads in 1 2 3; do
    ranks_quietly 1 "$strata" train "$folder/run.yaml" model.path= "model.config=$folder/wide.json" \
        data.sequence_length=96 train.global_batch=8 train.steps=3 train.export=true train.threads=$threads \
        "train.out=$folder/threads$threads"
    losses "$folder/threads$threads" >"$folder/got$threads"
    cmp "$folder/got1" "$folder/got$threads" &&
        cmp "$folder"/threads{1,$threads}/model/model.safetensors ||
        fail "$threads threads change what is computed"
done

# A run that ends worse than it could begin says so; the others don't.
ranks_quietly 2 "$strata" train "$folder/run.yaml" train.steps=6 train.lr=0.5 train.clip=0 "train.out=$folder/diverged"
grep -q 'level=warn.* event=diverged step=6 loss=[0-9.]* validation_loss=none uniform_loss=4.5643 hint=' "$folder/log" &&
    [ "$(grep -c event=diverged "$folder/log")" -eq 1 ] || fail "a run that diverged: $(cat "$folder/log")"
ranks_quietly 1 "$strata" train "$folder/run.yaml" train.steps=6 train.lr=0.01 "data.validation=$folder/train.h5" "train.out=$folder/fine"
grep -q event=diverged "$folder/log" && fail "a run that did not diverge: $(cat "$folder/log")"

# A rank that no matrix has is told, and trains.
ranks_quietly 2 "$strata" train "$folder/run.yaml" train.mode=lora lora.rank=33 train.steps=1 "train.out=$folder/rank"
[ "$(grep -c 'level=warn.* event=lora_rank rank=33 module=q_proj rows=[0-9]* columns=32 ' "$folder/log")" -eq 1 ] ||
    fail "a rank above the matrix: $(cat "$folder/log")"
ranks_quietly 1 "$strata" train "$folder/run.yaml" train.mode=lora lora.rank=32 lora.targets=q_proj train.steps=1 "train.out=$folder/rank32"
grep -q event=lora_rank "$folder/log" && fail "a rank within the matrix: $(cat "$folder/log")"

# A warm-up that the run does not outlast is told, whether planned or run.
for flags in "" --dry-run; do # shellcheck disable=SC2086
    ranks_quietly 2 "$strata" train "$folder/run.yaml" train.steps=2 train.warmup=2 "train.out=$folder/warm$flags" $flags
    [ "$(grep -c 'level=warn.* event=long_warmup warmup=2 steps=2 ' "$folder/log")" -eq 1 ] || fail "a warm-up of all steps: $(cat "$folder/log")"
done
ranks_quietly 1 "$strata" train "$folder/run.yaml" train.steps=2 train.warmup=1 "train.out=$folder/warmed"
grep -q event=long_warmup "$folder/log" && fail "a warm-up within the run: $(cat "$folder/log")"

# A step that uses sequences more than once, and more threads than the host has.
ranks_quietly 1 "$strata" train "$folder/run.yaml" train.steps=1 train.global_batch=1000 "train.out=$folder/many"
grep -q 'level=warn event=small_data global_batch=1000 sequences=' "$folder/log" ||
    fail "a batch larger than the data: $(cat "$folder/log")"
cpus=$(env -u OMP_NUM_THREADS nproc)
crowd() { # RANKS ASKED GIVEN [VARIABLE=VALUE]: what the log says when ranks ask for so many threads
    rm -rf "$folder/crowd"
    ranks_quietly "$1" env -u OMP_WAIT_POLICY "${@:4}" "$strata" train "$folder/run.yaml" train.steps=2 \
        "train.threads=$2" "train.out=$folder/crowd"
    grep -q "event=oversubscribed ranks_of_host=$1 asked=$2 threads=$3 cpus=$cpus " "$folder/log" &&
        grep -q "event=start .* threads=$3 " "$folder/log" || fail "$1 ranks, $2 threads: $(cat "$folder/log")"
}
crowd 1 $((cpus + 1)) "$cpus"
crowd 1 $((cpus + 1)) $((cpus + 1)) OMP_WAIT_POLICY=passive
crowd 2 "$cpus" $((cpus > 2 ? cpus / 2 : 1)) # spinning, this would take minutes
crowd 2 "$cpus" "$cpus" GOMP_SPINCOUNT=0
if [ "$cpus" -gt 1 ]; then # by default ranks share the cores
    ranks_quietly 2 "$strata" train "$folder/run.yaml" train.steps=1 train.threads=0 "train.out=$folder/many4"
    grep -q 'event=oversubscribed' "$folder/log" && fail "default threads: $(cat "$folder/log")"
fi
refused "never over a run" 2 'train.resume is never, and .* holds a run at step 4:' train.resume=never "train.out=$out"

# A disk that fills up while a checkpoint is written: the run ends, the last checkpoint stays.
disk=$folder/disk
mkdir "$disk"
if mount -t tmpfs -o size=3m strata-test "$disk" 2>/dev/null; then
    trap 'umount "$disk"; rm -rf "$folder"' EXIT
    ranks_quietly 1 "$strata" train "$folder/run.yaml" train.steps=4 "train.out=$disk/run"
    # room for small files, but not for a checkpoint
    size=$(du -sk "$disk/run/checkpoints" | cut -f1)
    head -c $((3072 - size - size / 2 - 64))k /dev/zero >"$disk/ballast"
    for n in 1 2; do
        refused "full disk" $n "checkpoints/.*No space left on device" train.steps=8 train.checkpoint_every=1 \
            "train.out=$disk/run"
        [ "$(ls -A "$disk/run/checkpoints" | grep -v best.txt)" = step-00000004 ] ||
            fail "full disk: $(ls -A "$disk/run/checkpoints")"
    done
    rm "$disk/ballast"
    ranks_quietly 1 "$strata" train "$folder/run.yaml" train.steps=8 "train.out=$disk/run"
    grep -q 'event=resume step=4' "$folder/log" || fail "no resume from step 4 after a full disk"
else
    echo "skipped: no right to mount a tmpfs"
fi
exit $((failures > 0))
