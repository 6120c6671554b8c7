#!/usr/bin/env bash
# The commands of data/ refuse what would lose or garble something.
#   test_data_commands.sh STRATA
strata=$1
failures=0
# refused CODE PATTERN COMMAND...: that exit code, and one line on standard error like PATTERN.
refused() {
    local code=$1 pattern=$2 said
    shift 2
    said=$("$@" 2>&1 >/dev/null)
    if [ $? -ne "$code" ] || [ "$(printf '%s\n' "$said" | wc -l)" -ne 1 ] ||
        ! printf '%s' "$said" | grep -q -- "$pattern"; then
        echo "FAILED: $*: $said"
        failures=$((failures + 1))
    fi
}
# wrong PATTERN COMMAND...: exit code 2, the mistake first and then how to use it.
wrong() {
    local pattern=$1 said
    shift
    said=$("$@" 2>&1 >/dev/null)
    if [ $? -ne 2 ] || ! printf '%s' "$said" | head -n 1 | grep -qE -- "$pattern"; then
        echo "FAILED: $*: $said"
        failures=$((failures + 1))
    fi
}
decode() { printf '%s' "$1" | "$strata" tokenize models/base --decode; }

refused 1 "'abc' is no token id" decode "74 abc"
refused 1 "99999 is no token id" decode "74 99999"
refused 1 "-3 is no token id" decode "-3"
refused 2 "both source and destination" "$strata" convert models/base models/base/.
[ "$(printf 'Once upon a time' | "$strata" tokenize models/base |
    "$strata" tokenize models/base --decode)" = "Once upon a time" ] || failures=$((failures + 1))

# What is wrong with the arguments is said, and options may stand anywhere.
for command in "convert a b" "eval models/base" "inspect models/base" "plot run" "tokenize models/base" \
    "data bpe f" "data tokenize f"; do
    name=$(sed -E "s/^(data [a-z]+|[a-z]+) .*/\1/" <<<"$command")
    wrong "^strata $name: unknown option '--nothing'" "$strata" $command --nothing
    "$strata" $command --help | grep -q "^usage: strata $name" || { echo "FAILED: $command --help"; failures=$((failures + 1)); }
done
wrong "^strata plot: no RUN is named" "$strata" plot
wrong "^strata plot: --out needs a value" "$strata" plot run --out
wrong "^strata eval: an argument is missing" "$strata" eval --text a
wrong "^strata data bpe: --vocab: 'x' is no number" "$strata" data bpe f --out t.json --vocab x
wrong "^strata data tokenize: --format: 'csv' is not" "$strata" data tokenize --format csv f
wrong "^strata data tokenize: exactly one of --tokenizer and --vocabulary" "$strata" data tokenize f --out o.h5
wrong "^strata serve: unknown option --context-size; the nearest known one is --context" \
    "$strata" serve models/base --context-size 9
wrong "^strata serve: option --port: \"high\" must be" "$strata" serve --port high models/base
wrong "^strata chat: unknown option --temprature; the nearest known one is --temperature" \
    "$strata" chat models/base --temprature 1
text=$(mktemp)
echo "Once upon a time there was a king." >"$text"
first=$("$strata" eval models/base --text "$text" --context 64 2>&1)
[ "${first%% seconds=*}" = "$("$strata" eval --context 64 --text "$text" models/base 2>&1 | sed 's/ seconds=.*//')" ] ||
    { echo "FAILED: eval with its model last"; failures=$((failures + 1)); }
"$strata" inspect --json models/base | grep -q '"tensors"' || { echo "FAILED: inspect --json"; failures=$((failures + 1)); }
rm "$text"
# No command writes over its own input.
own=$(mktemp -d)
echo '{"text": "Once upon a time"}' >"$own/in.jsonl"
ln -s in.jsonl "$own/link.jsonl"
cp "$own/in.jsonl" "$own/kept"
refused 1 "both source and destination" "$strata" data tokenize --tokenizer models/base --out "$own/link.jsonl" "$own/in.jsonl"
refused 1 "both source and destination" "$strata" data bpe --vocab 300 --out "$own/in.jsonl" "$own/in.jsonl"
cmp -s "$own/in.jsonl" "$own/kept" || { echo "FAILED: an input was written over"; failures=$((failures + 1)); }
rm -r "$own"

# A GGUF's tokenizer comes along into safetensors, and encodes alike.
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$strata" convert models/base "$folder/base.gguf" >/dev/null
"$strata" convert "$folder/base.gguf" "$folder/back" | grep -q 'tokenizer="written"' &&
    [ "$("$strata" tokenize models/base --special <README.md)" = \
        "$("$strata" tokenize "$folder/back" --special <README.md)" ] || {
    echo "FAILED: the tokenizer on its way through GGUF"
    failures=$((failures + 1))
}
[ "$failures" -eq 0 ]
