#!/usr/bin/env bash
# `make help` has a line for every target that people call, and plain `make` still builds.
targets=$(sed -n 's/^\.PHONY: all //p' Makefile)
said=$(make --no-print-directory help) || exit 1
failures=0
for target in $targets; do
    grep -qE "^  make $target +[^ ]" <<<"$said" || { echo "FAILED: no line for $target"; failures=$((failures + 1)); }
done
[ "$(wc -w <<<"$targets")" -ge 10 ] || { echo "FAILED: targets: $targets"; failures=$((failures + 1)); }
make -pn help 2>/dev/null | grep -qx '.DEFAULT_GOAL := all' || { echo "FAILED: default goal"; failures=$((failures + 1)); }
grep -qx 'all: build' Makefile || { echo "FAILED: all"; failures=$((failures + 1)); }
exit $((failures > 0))
