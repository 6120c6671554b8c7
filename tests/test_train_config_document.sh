#!/usr/bin/env bash
# docs/config.md is what the rows say: $1 prints it.
set -u
if "$1" | diff docs/config.md -; then exit 0; fi
echo "docs/config.md is out of date: $1 > docs/config.md"
exit 1
