#!/usr/bin/env bash
# Every command explains itself with an example, and a mistyped word names the one that was meant.
#   test_main_help.sh STRATA
strata=$1
failures=0
fail() {
    echo "FAILED: $*"
    failures=$((failures + 1))
}
# says CODE PATTERN COMMAND...: that exit code, and PATTERN in what is printed.
says() {
    local code=$1 pattern=$2 said got
    shift 2
    said=$("$strata" "$@" 2>&1 </dev/null)
    got=$?
    [ "$got" -eq "$code" ] || fail "$* exits with $got: $said"
    printf '%s\n' "$said" | grep -qE -- "$pattern" || fail "$* does not say '$pattern': $said"
}

commands=$("$strata" --help | sed -n 's/^  \([a-z]*\) .*/\1/p')
[ "$(printf '%s\n' "$commands" | wc -l)" -ge 9 ] || fail "the list is short: $commands"
for command in $commands; do
    says 0 "^usage: strata $command" "$command" --help
    says 0 "^usage: strata $command" "$command" -h
    says 0 "^usage: strata $command" help "$command"
    [ "$command" = data ] || [ "$command" = bench ] || says 0 "^example: strata $command " "$command" --help
done
says 0 "^example: strata data tokenize " data tokenize --help
says 0 "^example: strata data bpe " data bpe -h
says 0 "^example: strata bench scaling " bench scaling --help
says 0 "^usage: strata COMMAND" -h
says 2 "^usage: strata COMMAND"
says 2 "no command 'trian'; the nearest is 'train'" trian
says 2 "no command 'xyzzy' \(" xyzzy
says 2 "no command 'sever'; the nearest is 'serve'" sever --port 1
says 2 "no command 'tokenise'; the nearest is 'tokenize'" data tokenise x
says 2 "unknown option '--adaptor'; the nearest is --adapter" convert a b --adaptor c
[ "$("$strata" trian 2>&1 | wc -l)" -eq 1 ] || fail "a mistyped command takes more than one line"
[ "$failures" -eq 0 ]
