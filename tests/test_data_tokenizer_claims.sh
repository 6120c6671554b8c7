#!/usr/bin/env bash
# No vector of ids in the data folder is left out silently: each file of its tok_* folders (but SOURCE.txt,
# which says where the others come from) was opened by a test of tokenizers that passed (ctest runs these
# before), or tests/vectors_without.txt says why not.
#   test_data_tokenizer_claims.sh FOLDER_OF_WHAT_WAS_OPENED
set -u
data=${STRATA_TEST_DATA:-}
[ -n "$data" ] || { echo "skipped: STRATA_TEST_DATA is not set"; exit 0; }
opened=$(cat "$1"/* | sort -u)
rm -f "$1"/*
bad=0

# A name that is a folder's stands for the files in it.
claimed() { # FILE
    printf '%s\n' "$opened" | grep -qxF -e "$1" -e "${1%/*}"
}

patterns=() used=()
while read -r pattern _; do
    case $pattern in '' | '#'*) continue ;; esac
    patterns+=("$pattern") used+=(0)
done < tests/vectors_without.txt

count=0
while read -r file; do
    count=$((count + 1))
    reason=
    for i in "${!patterns[@]}"; do
        # shellcheck disable=SC2053 # a pattern
        [[ $file == ${patterns[i]} ]] && { reason=$i; break; }
    done
    if claimed "$file"; then
        [ -z "$reason" ] || { echo "$file has a test: strike ${patterns[reason]}"; bad=1; }
    elif [ -z "$reason" ]; then
        echo "no test opens $file, and tests/vectors_without.txt does not say why"
        bad=1
    else
        used[reason]=1
    fi
done < <(cd "$data" && find tok_* -type f ! -name SOURCE.txt | sort)
for i in "${!patterns[@]}"; do
    [ "${used[i]}" = 1 ] || { echo "no file is ${patterns[i]}: strike it"; bad=1; }
done
[ "$count" -gt 80 ] || { echo "only $count files in $data/tok_*"; bad=1; }
echo "$count files"
exit $bad
