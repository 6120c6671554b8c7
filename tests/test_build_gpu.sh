#!/usr/bin/env bash
# cmake/gpu.cmake: what it finds is what is there, off is off, and what was asked for and is missing
# stops the configuration in one sentence.
#
#   test_build_gpu.sh CMAKE
cmake=$1 here=$PWD
folder=$(mktemp -d "${TMPDIR:-/tmp}/strata-gpu-XXXXXX")
trap 'rm -rf "$folder"' EXIT
failures=0
printf '%s\n' 'cmake_minimum_required(VERSION 3.22)' 'project(gpu LANGUAGES C)' \
    "include($here/cmake/gpu.cmake)" >"$folder/CMakeLists.txt"

# configured CODE PATTERN ARGUMENTS...
configured() {
    local code=$1 pattern=$2 said
    shift 2
    rm -rf "$folder/build"
    said=$("$cmake" -S "$folder" -B "$folder/build" "$@" 2>&1)
    if [ $(($? != 0)) -ne "$code" ] || ! tr -s '\n ' ' ' <<<"$said" | grep -qE "$pattern"; then
        printf 'FAILED: %s, wanted "%s"\n%s\n' "$*" "$pattern" "$said"
        failures=$((failures + 1))
    fi
}
configured 0 'CUDA: off; Strata runs on CPUs -- NCCL: not looked for without CUDA' -DSTRATA_CUDA=OFF
configured 1 "STRATA_CUDA is 'maybe': AUTO, ON and OFF are known" -DSTRATA_CUDA=maybe
configured 1 'STRATA_NCCL is ON: not looked for without CUDA' -DSTRATA_CUDA=OFF -DSTRATA_NCCL=ON
printf '#!/bin/sh\nexit 1\n' >"$folder/nvcc" # there, and of no use
chmod +x "$folder/nvcc"
export CUDACXX=$folder/nvcc
configured 0 'CUDA: no compiler that works was found .*; Strata runs on CPUs'
configured 1 'STRATA_CUDA is ON: no compiler that works was found' -DSTRATA_CUDA=ON
unset CUDACXX
if command -v nvcc >/dev/null; then
    configured 0 'CUDA: release [0-9]+\.[0-9]+ .*nvcc\) .*-- NCCL: ([0-9]+\.[0-9]+\.[0-9]+ |nccl.h or its library)' \
        -DSTRATA_CUDA=ON
else
    echo "skipped: a compiler that works (no nvcc)"
fi
exit $((failures > 0))
