#!/usr/bin/env bash
# Says which tests left cases out in the last run of ctest, and why, and where layouts are listed.
#   tests/skipped.sh BUILD_FOLDER
# With STRATA_STRICT=1 it fails where a reason is not one of tests/skips_allowed.txt.
log=$1/Testing/Temporary/LastTest.log
allowed=$(dirname "$0")/skips_allowed.txt
grep '^skipped: ' "$log" | sort | uniq -c | sed 's/^ *\([0-9]*\) skipped: /\1 cases skipped: /'
grep -q '^skipped: ' "$log" || echo "no case was skipped"
[ ! -f "$1/layouts.txt" ] || echo "layouts tried, and what is excluded: $1/layouts.txt"
[ "${STRATA_STRICT:-0}" = 1 ] || exit 0
unlisted=$(sed -n 's/^skipped: //p' "$log" | sort -u | grep -vxFf <(grep -v '^#' "$allowed"))
[ -z "$unlisted" ] && exit 0
printf 'FAILED: a case was skipped for a reason that is not in %s: %s\n' "$allowed" "$unlisted"
exit 1
