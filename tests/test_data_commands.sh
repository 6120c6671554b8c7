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
decode() { printf '%s' "$1" | "$strata" tokenize models/base --decode; }

refused 1 "'abc' is no token id" decode "74 abc"
refused 1 "99999 is no token id" decode "74 99999"
refused 1 "-3 is no token id" decode "-3"
refused 2 "both source and destination" "$strata" convert models/base models/base/.
[ "$(printf 'Once upon a time' | "$strata" tokenize models/base |
    "$strata" tokenize models/base --decode)" = "Once upon a time" ] || failures=$((failures + 1))
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
