#!/usr/bin/env bash
# Builds every libFuzzer target and runs each for SECONDS; a finding is a failure.
#   tests/fuzz/run.sh [SECONDS]
set -euo pipefail
cd "$(dirname "$0")/../.."
seconds=${1:-60}
cmake --preset fuzz > /dev/null
targets=$(sed -n 's/^strata_fuzz(\([a-z_]*\) .*/\1/p' tests/fuzz/CMakeLists.txt)
cmake --build build-fuzz --target make_model_seeds $(printf 'fuzz_%s ' $targets) > build-fuzz/build.log ||
    { tail -40 build-fuzz/build.log; exit 1; }
mkdir -p build-fuzz/seeds
build-fuzz/make_model_seeds build-fuzz/seeds > /dev/null
passed=0
for target in $targets; do
    seeds=(build-fuzz/seeds) # model files, which the program writes
    [ ! -d "tests/fuzz/seeds/$target" ] || seeds=("tests/fuzz/seeds/$target")
    mkdir -p "build-fuzz/corpus/$target"
    if build-fuzz/fuzz_"$target" -max_total_time="$seconds" -rss_limit_mb=4096 -timeout=20 \
        -artifact_prefix="build-fuzz/$target-" "build-fuzz/corpus/$target" "${seeds[@]}" \
        > "build-fuzz/$target.log" 2>&1; then
        passed=$((passed + 1))
        grep -E '^Done|stat::number_of' "build-fuzz/$target.log" | head -1 | sed "s/^/fuzz_$target: /"
    else
        echo "fuzz_$target found something:"
        tail -40 "build-fuzz/$target.log"
        exit 1
    fi
done
echo "$passed fuzz targets, $seconds s each, no finding"
