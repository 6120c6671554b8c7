#!/usr/bin/env bash
# The bundled model is worth what docs/base-model.md says: its perplexity on the excerpts of books that it
# never saw, within 0.5%.
#   test_data_base_model.sh STRATA
strata=$1
failures=0
# worth CONTEXT: what the page says of the excerpts is what `strata eval` finds.
worth() {
    local said found
    said=$(sed -n "s/.*tests\/fixtures\/held_out\/\*\.txt --context $1 .* perplexity=\([0-9.]*\)$/\1/p" docs/base-model.md)
    found=$("$strata" eval models/base --text tests/fixtures/held_out/*.txt --context "$1" |
        sed -n 's/^file=all .* perplexity=\([0-9.]*\) .*/\1/p')
    echo "context $1: said ${said:-nothing}, found ${found:-nothing}"
    awk -v a="${said:-0}" -v b="${found:-0}" \
        'BEGIN {exit !(a > 1 && b > 1 && a / b < 1.005 && b / a < 1.005)}' || failures=$((failures + 1))
}
worth 1024
worth 256
exit $((failures > 0))
