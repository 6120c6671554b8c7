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
# Texts are UTF-8: the first byte that isn't is named, with its place in the file.
bad=$(mktemp -d)
printf 'caf\xe9 au lait\n' >"$bad/latin.txt"
printf 'one\n\ntwo\nth\xff\n' >"$bad/late.txt"
printf 'ab\0cd' >"$bad/nul.txt"
printf '{"text": "fine"}\n\n{"text": "\xc3"}\n' >"$bad/lines.jsonl"
gzip -c README.md >"$bad/packed.txt"
not_text() { # FILE PATTERN [OPTION...]
    refused 1 "$bad/$1: not UTF-8 text: $2" "$strata" data tokenize --tokenizer models/base --out "$bad/out.h5" "${@:3}" "$bad/$1"
    [ ! -e "$bad/out.h5" ] || { echo "FAILED: $1 was tokenized"; failures=$((failures + 1)); }
}
not_text latin.txt "byte 3 is 0xE9; iconv -f latin1"
not_text late.txt "byte 11 is 0xFF"
not_text late.txt "byte 11 is 0xFF" --format paragraphs
not_text nul.txt "byte 2 is 0x00$"
not_text lines.jsonl "byte 28 is 0xC3"
not_text packed.txt "byte 1 is 0x8B; it looks like compressed by gzip"

# JSON that is no lines of JSON, and lines whose name doesn't say that they are.
printf '{"text": "Once upon a time"}\n{"text": "there was a king"}\n' >"$bad/two.jsonl"
cp "$bad/two.jsonl" "$bad/two"
jsonl() { refused 1 "$1" "$strata" data tokenize --tokenizer models/base --out "$bad/out.h5" "${@:2}"; }
jsonl "two: its first line is JSON with a document: say --format jsonl" "$bad/two"
jsonl "/dev/stdin: its first line is JSON with a document: say --format jsonl" /dev/stdin < <(cat "$bad/two")
printf ' [ {"text": "one"},\n {"text": "two"} ]\n' >"$bad/array.json"
printf '\n{\n "text": "one"\n}\n' >"$bad/pretty.json"
jsonl "array.json: a JSON array, not JSON lines: one object a line (jq -c '.\[\]' FILE" "$bad/array.json"
jsonl "pretty.json: a JSON object over several lines, not JSON lines" "$bad/pretty.json"
# A pipe that is said to be JSON, and a byte order mark, which is no part of a text.
tokens_of() { "$strata" data tokenize --tokenizer models/base --out "$bad/out.h5" "$@" 2>&1 | grep -o ' documents=.* trained_tokens=[0-9]*'; }
{ printf '\xef\xbb\xbf' && cat "$bad/two"; } >"$bad/marked.jsonl"
printf 'a text\n' >"$bad/plain.txt"
printf '\xef\xbb\xbfa text\n' >"$bad/marked.txt"
lines=$(tokens_of "$bad/two.jsonl") plain=$(tokens_of "$bad/plain.txt")
[ -n "$lines" ] && [ "$(tokens_of --format jsonl - <"$bad/two")" = "$lines" ] &&
    [ "$(cat "$bad/two" | tokens_of --format jsonl -)" = "$lines" ] &&
    [ "$(tokens_of "$bad/marked.jsonl")" = "$lines" ] && [ -n "$plain" ] &&
    [ "$(tokens_of "$bad/marked.txt")" = "$plain" ] &&
    [ "$(tokens_of --format paragraphs "$bad/marked.txt")" = "$(tokens_of --format paragraphs "$bad/plain.txt")" ] ||
    { echo "FAILED: pipes and byte order marks: $lines, $plain"; failures=$((failures + 1)); }
rm "$bad/out.h5"

# What tokenize writes, eval reads: ids under either key, and token files.
echo '{"text": "Once upon a time"}' | "$strata" tokenize models/base --jsonl >"$bad/ids.jsonl"
sed s/ids/tokens/ "$bad/ids.jsonl" >"$bad/tokens.jsonl"
echo '{"ids": [1, 2], "tokens": [1, 2]}' >"$bad/both.jsonl"
refused 1 'both.jsonl: line 1: it has both "tokens" and "ids"' "$strata" eval models/base --tokens "$bad/both.jsonl"
"$strata" data tokenize --tokenizer models/base --out "$bad/tokens.h5" "$bad/tokens.jsonl" 2>"$bad/log"
loss() { "$strata" eval models/base --tokens "$1" "${@:2}" | grep -o 'sequences=.* perplexity'; }
[ -n "$(loss "$bad/ids.jsonl")" ] && [ "$(loss "$bad/ids.jsonl")" = "$(loss "$bad/tokens.jsonl")" ] &&
    [ "$(loss "$bad/ids.jsonl")" = "$(loss "$bad/tokens.h5")" ] ||
    { echo "FAILED: eval of lines and of a token file differ"; failures=$((failures + 1)); }
"$strata" data tokenize --vocabulary 4096 --out "$bad/free.h5" "$bad/tokens.jsonl" 2>"$bad/log"
[ "$(loss "$bad/free.h5")" = "$(loss "$bad/tokens.h5")" ] || { echo "FAILED: eval of ids without a tokenizer"; failures=$((failures + 1)); }
refused 2 "needs at least 2" "$strata" eval models/base --tokens "$bad/tokens.h5" --context 1
"$strata" data bpe --vocab 300 --out "$bad/other/tokenizer.json" README.md >"$bad/log" # which makes the folder
"$strata" data tokenize --tokenizer "$bad/other" --out "$bad/other.h5" README.md 2>"$bad/log"
refused 1 "other.h5 was made with another tokenizer ($bad/other, hash .*models/base, hash .*: make it again with strata data tokenize --tokenizer models/base$" \
    "$strata" eval models/base --tokens "$bad/other.h5"

# Folders of outputs are made; a file in the way is named.
"$strata" data tokenize --tokenizer models/base --out "$bad/a/b/out.h5" README.md 2>"$bad/log" &&
    "$strata" convert models/base "$bad/c/d/model.gguf" >"$bad/log" &&
    "$strata" convert models/base "$bad/e/f/" >"$bad/log" &&
    echo '{"kind":"train","step":1,"loss":2,"grad_norm":1,"tokens_per_second":3}' >"$bad/metrics.jsonl" &&
    "$strata" plot "$bad/metrics.jsonl" --out "$bad/g/h/loss.svg" >"$bad/log" &&
    [ -s "$bad/a/b/out.h5" ] && [ -s "$bad/c/d/model.gguf" ] && [ -s "$bad/e/f/model.safetensors" ] &&
    [ -s "$bad/g/h/loss.svg" ] || { echo "FAILED: folders of outputs: $(cat "$bad/log")"; failures=$((failures + 1)); }
# A file that can't be written whole is named once.
said=$( (trap '' XFSZ; ulimit -f 64; "$strata" convert models/base "$bad/full.gguf" 2>&1 >/dev/null))
[ "$(grep -o "$bad/full.gguf" <<<"$said" | wc -l)" -eq 1 ] && [ "$(wc -l <<<"$said")" -eq 1 ] ||
    { echo "FAILED: a disk that is full: $said"; failures=$((failures + 1)); }
refused 1 "README.md: neither a GGUF nor a safetensors file; nor is it a token file or a checkpoint" "$strata" inspect README.md
in_way="late.txt: a file is in the way of the folder"
refused 1 "$in_way" "$strata" data tokenize --tokenizer models/base --out "$bad/late.txt/out.h5" README.md
refused 1 "$in_way" "$strata" convert models/base "$bad/late.txt/b/model.gguf"
refused 1 "$in_way" "$strata" convert models/base "$bad/late.txt"
refused 1 "$in_way" "$strata" plot "$bad/metrics.jsonl" --out "$bad/late.txt/loss.svg"

# A run without its adapter, by its own name or that of what it hasn't made, and one with a model.
mkdir -p "$bad/run/checkpoints" "$bad/full/model"
touch "$bad/full/metrics.jsonl" "$bad/full/model/config.json"
for run in "$bad/run" "$bad/run/adapter" "$bad/run/adapter/"; do
    unfinished="$bad/run: a run that has made no adapter"
    refused 1 "$unfinished" "$strata" eval models/base --adapter "$run" --tokens "$bad/ids.jsonl"
    refused 1 "$unfinished" "$strata" convert models/base "$bad/merged" --adapter "$run"
    refused 1 "$unfinished" "$strata" serve models/base --adapter "a=$run" --dry-run
    refused 1 "$unfinished" "$strata" chat models/base --adapter "a=$run"
done
refused 1 "$bad/full: a run that made a model, $bad/full/model, not an adapter" "$strata" eval models/base \
    --adapter "$bad/full/adapter" --tokens "$bad/ids.jsonl"
# A dry run of the server looks at the adapter's tensors.
refused 1 "lora_A.weight doesn't have the shape \[4, 192\]" "$strata" serve models/base \
    --adapter a=tests/fixtures/lora_llama_all --dry-run
rm -r "$bad"

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
# So do token files: one made with any of the three fits all.
"$strata" data tokenize --tokenizer models/base --out "$folder/tokens.h5" README.md 2>/dev/null
for model in "$folder/base.gguf" "$folder/back"; do
    "$strata" eval "$model" --tokens "$folder/tokens.h5" --context 64 >/dev/null || failures=$((failures + 1))
done
# The README's run file is one, also on a GGUF of its model, and it names every chat template.
sed -n '/cat >run.yaml <<END/,/^    END/p' README.md | sed '1d;$d;s/^    //' >"$folder/run.yaml"
for base in "" "model.path=$folder/base.gguf model.weights=stored"; do
    "$strata" train "$folder/run.yaml" $base --dry-run "data.train=$folder/tokens.h5" "train.out=$folder/run" |
        grep -q '^tokenizer: the one that the token files were made with' ||
        { echo "FAILED: the README's run file $base"; failures=$((failures + 1)); }
done
names=$("$strata" data tokenize --tokenizer models/base --out "$folder/o.h5" --template none README.md 2>&1)
tr '\n' ' ' <README.md | grep -qF -- "--template NAME\`: ${names##*there are }." ||
    { echo "FAILED: the README's chat templates"; failures=$((failures + 1)); }
[ "$failures" -eq 0 ]
