#!/usr/bin/env bash
# No test leaves a case out silently, and in strict mode only for a reason that is listed.
set -u
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
bad=0
silent=$(grep -n '\<skip()' tests/*.c tests/*.h | grep -v '^tests/check\.h:')
[ -z "$silent" ] || { printf 'skip() without a reason: %s\n' "$silent"; bad=1; }

mkdir -p "$folder/Testing/Temporary"
verdict() { # WANTED STRICT LINE
    printf '[ RUN      ] test_x\n%s\n[       OK ] test_x\n' "$3" >"$folder/Testing/Temporary/LastTest.log"
    STRATA_STRICT=$2 tests/skipped.sh "$folder" >"$folder/out"
    [ $? = "$1" ] && return
    echo "strict=$2, a log with \"$3\": not $1"
    cat "$folder/out"
    bad=1
}
verdict 0 1 ""
verdict 0 1 "skipped: it takes two ranks, and runs with them"
verdict 1 1 "skipped: STRATA_TEST_DATA is not set"
verdict 1 1 "skipped: it takes two ranks"
# Every reason that a script gives itself and that a machine may have is listed as it is said.
verdict 0 1 "$(sed -n 's/^ *echo "\(skipped: .*\)"$/\1/p' tests/test_build_gpu.sh)"
verdict 0 0 "skipped: STRATA_TEST_DATA is not set"
exit $bad
