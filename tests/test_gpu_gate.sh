#!/usr/bin/env bash
# The gate that a GPU build must pass, on the build's own cubins, after it was shown to stop what it
# must: kernels with a stack, with notes of ptxas, with other instructions than the rules say.
#
#   test_gpu_gate.sh NVCC|"" KEPT ARCHITECTURES SOURCE...       NVCC is "" where there is none
nvcc=$1 kept=$2
shift 2
if [[ -z $nvcc || $nvcc == *NOTFOUND ]]; then
    echo "skipped: a compiler that works (no nvcc)"
    exit 0
fi
failures=0
folder=$(mktemp -d "${TMPDIR:-/tmp}/strata-gate-XXXXXX")
trap 'rm -rf "$folder"' EXIT
cat >"$folder/planted.cu" <<'CODE'
#include <cuda_runtime.h>
__global__ void plain(float *x) { x[threadIdx.x] *= 2; }
__global__ void stacked(float *x, const int *which) {
    float local[64];
    for (int i = 0; i < 64; i++) local[which[i]] = x[i];
    x[0] = local[which[64]];
}
__global__ void ignored(float *x) { /* setmaxnreg without launch bounds */
    asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
    x[threadIdx.x] = 1;
}
CODE
cmake/nvcc_logged.sh "$folder/kept" "$nvcc" -gencode=arch=compute_90a,code=sm_90a \
    -Xptxas -v,--warn-on-spills,--warn-on-local-memory-usage -c "$folder/planted.cu" \
    -o "$folder/planted.o" 2>/dev/null || failures=1

# planted RULES PATTERN: the gate fails on it with these words.
planted() {
    local said
    printf '%b' "$1" >"$folder/rules"
    said=$(tests/gpu_gate.py "$folder/rules" "$folder/kept" sm_90a "$folder/planted.cu" 2>&1)
    if [ $? -eq 0 ] || ! grep -qE "$2" <<<"$said"; then
        printf 'FAILED: rules "%s", wanted "%s"\n%s\n' "$1" "$2" "$said"
        failures=$((failures + 1))
    fi
}
planted '' 'stacked .*sm_90a: 256 bytes of stack, .* \(0 allowed\)'
planted '' 'planted.cu: .*C7508'
planted 'stack stacked sm_90a 255 a reason\n' 'stacked .*256 bytes of stack, .* \(255 allowed\)'
planted 'note ignored sm_90a C7508 it names no kernel\n' 'planted.cu: .*C7508'
planted 'opcodes plain sm_90a HMMA>=1\n' 'plain .*0 HMMA, where HMMA>=1 is asked for'
planted 'opcodes stacked sm_90a STL=0\n' 'stacked .*[1-9][0-9]* STL, where STL=0 is asked for'
planted 'opcodes absent * HMMA>=1\n' 'rules:1: no kernel absent for \*'
planted 'stack stacked sm_90a 256\n' 'no reason is given'
touch -d '1 hour' "$folder/planted.cu"
planted '' 'missing or older: build first'
touch -d '1 hour ago' "$folder/planted.cu"
# With the one note taken out and the stack allowed, the rest passes.
sed -i '/C7508/d' "$folder/kept/planted.log"
printf 'stack stacked sm_90a 256 planted\nopcodes stacked * STL>=1 HMMA=0\nopcodes ignored sm_90a USETMAXREG<=1\n' \
    >"$folder/rules"
tests/gpu_gate.py "$folder/rules" "$folder/kept" sm_90a "$folder/planted.cu" || failures=$((failures + 1))

# No kernel is left out of the build.
for source in kernels/*.cu kernels/*/*.cu; do
    if [[ " $* " != *"/$source "* ]]; then
        echo "FAILED: $source is compiled for no GPU (kernels/CMakeLists.txt)"
        failures=$((failures + 1))
    fi
done
tests/gpu_gate.py tests/gpu_gate.txt "$kept" "$@" || failures=$((failures + 1))
exit $((failures > 0))
