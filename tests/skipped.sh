#!/usr/bin/env bash
# Says which tests left cases out in the last run of ctest, and why.
#   tests/skipped.sh BUILD_FOLDER
log=$1/Testing/Temporary/LastTest.log
grep '^skipped: ' "$log" | sort | uniq -c | sed 's/^ *\([0-9]*\) skipped: /\1 cases skipped: /'
grep -q '^skipped: ' "$log" || echo "no case was skipped"
