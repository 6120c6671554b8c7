#!/usr/bin/env python3
"""What `strata convert` writes, in other programs: safetensors in transformers, GGUF in the `gguf`
package and in transformers. And GGUF files that the `gguf` package wrote, in `strata eval`."""

import math
import sys

import gguf
import numpy as np
import torch
from gguf.quants import quantize
from safetensors.numpy import load_file
from transformers import AutoConfig, AutoModelForCausalLM

import gguf_peer
import reference as ref
from check_eval import LOGITS
from common import FIXTURES, Checks, distance, expected_of, numbered, relative, scratch
from common import sequences_of, worst_distance
from contract import F32, Evaluation, convert
from make_fixtures import ADAPTERS, MODELS

MERGED = 1e-6  # |difference| / |weight| of a merged weight
Q8_0_STEP = 0.57  # of a block's step (its largest weight / 127): 0.5, and 127 times fp16's 2^-11
IN_GGUF = ["llama", "llama_tied_llama3", "llama_linear", "qwen2", "qwen25", "qwen3"]


def check_export(checks, name):
    """Exported as it is: the same tensors, and a config.json that transformers reads alike."""
    output = convert(FIXTURES / name, scratch("export", name))
    theirs = load_file(FIXTURES / name / "model.safetensors")
    ours = load_file(output / "model.safetensors")
    checks.equal(f"{name} exported names", sorted(ours), sorted(theirs))
    worst = max(distance(ours[k], theirs[k]) for k in set(ours) & set(theirs))
    checks.at_most(f"{name} exported tensors", worst, 0.0)
    logits = ref.logits_of(ref.load_model(output), sequences_of(name))
    difference = worst_distance(logits, numbered(expected_of(name), "logits"))
    checks.at_most(f"{name} exported, logits in transformers", difference, LOGITS)


def check_merge(checks, name):
    base, expected = ADAPTERS[name][0], expected_of(name)
    output = convert(FIXTURES / base, scratch("merge", name), adapter=FIXTURES / name)
    before = load_file(FIXTURES / base / "model.safetensors")
    merged = {k.removeprefix("merged."): v for k, v in expected.items() if k.startswith("merged.")}
    ours = load_file(output / "model.safetensors")
    checks.equal(f"{name} merged names", sorted(ours), sorted(before))
    worst = max((relative(ours[k], (before | merged)[k]), k) for k in set(ours) & set(before))
    checks.at_most(f"{name} merged weights, worst {worst[1]}", worst[0], MERGED)
    theirs = numbered(expected, "logits")
    logits = ref.logits_of(ref.load_model(output), sequences_of(base))
    difference = worst_distance(logits, theirs)
    checks.at_most(f"{name} merged, logits in transformers", difference, LOGITS)
    logits = Evaluation(output, sequences_of(base), name=f"merged_{name}").logits
    checks.at_most(f"{name} merged, logits of ours", worst_distance(logits, theirs), LOGITS)


def stored_as(values, kind):
    """What a correct file of that type holds; None for Q8_0, whose rounding has freedom."""
    if kind == "f32":
        return values
    if kind == "f16":
        return values.astype(np.float16).astype(np.float32)
    if kind == "bf16":
        packed = quantize(values, gguf.GGMLQuantizationType.BF16)
        return gguf.quants.dequantize(packed, gguf.GGMLQuantizationType.BF16)
    return None


def steps_off(ours, theirs):
    """Largest error of Q8_0 blocks in units of the block's step."""
    blocks = theirs.reshape(-1, 32)
    step = np.abs(blocks).max(axis=1, keepdims=True) / 127
    return float((np.abs(ours.reshape(-1, 32) - blocks) / np.maximum(step, 1e-30)).max())


def check_gguf_tensor(kind, stored, ours, theirs):
    """An empty string, or what is wrong."""
    if ours.shape != theirs.shape:
        return f"shape {ours.shape} is not {theirs.shape}"
    if theirs.ndim == 1:
        allowed = {"f32"}
    elif kind == "q8_0" and theirs.shape[1] % 32:
        allowed = {"f32", "f16", "bf16"}  # a row that blocks of 32 don't fill
    else:
        allowed = {kind}
    if stored not in allowed:
        return f"stored as {stored}, not {' or '.join(sorted(allowed))}"
    exact = stored_as(theirs, stored)
    if exact is None:
        steps = steps_off(ours, theirs)
        return f"{steps:.3g} steps off" if not steps <= Q8_0_STEP else ""
    return "" if np.array_equal(ours, exact) else f"{distance(ours, exact):.3g} off"


def metadata_agrees(ours, theirs):
    if isinstance(theirs, float):
        return isinstance(ours, float) and math.isclose(ours, theirs, rel_tol=1e-6)
    return ours == theirs


def check_gguf(checks, name, kind):
    path = convert(FIXTURES / name, scratch("gguf", f"{name}-{kind}.gguf"), kind=kind)
    ours, keys = gguf_peer.read(path)
    theirs = gguf_peer.tensors_of(FIXTURES / name)
    label = f"{name} GGUF {kind}"
    checks.equal(f"{label} names", sorted(ours), sorted(theirs))
    wrong = []
    for tensor in sorted(set(ours) & set(theirs)):
        stored, values = ours[tensor]
        if tensor == "rope_freqs.weight":
            complaint = "" if relative(values, theirs[tensor]) < 1e-6 else "wrong divisors"
        else:
            complaint = check_gguf_tensor(kind, stored, values, theirs[tensor])
        wrong += [f"{tensor}: {complaint}"] if complaint else []
    checks.say(not wrong, f"{label} tensors", "; ".join(wrong[:3]) or f"{len(theirs)} equal")
    if kind != "f32":
        return
    wrong = []
    for key, value in gguf_peer.metadata_of(FIXTURES / name).items():
        if not metadata_agrees(keys.get(key), value):
            wrong.append(f"{key} is {keys.get(key)!r}, not {value!r}")
    checks.say(not wrong, f"{label} metadata", "; ".join(wrong) or "equal")
    if name in ("llama", "qwen2", "qwen25", "qwen3"):  # transformers reads no scaling from GGUF
        check_gguf_in_transformers(checks, label, name, path)


def check_gguf_in_transformers(checks, label, name, path):
    # nor Qwen3's head_dim; there only the tensors are put to the test
    known = {"config": AutoConfig.from_pretrained(FIXTURES / name)} if name == "qwen3" else {}
    model = AutoModelForCausalLM.from_pretrained(
        str(path.parent),
        gguf_file=path.name,
        dtype=torch.float32,
        attn_implementation="eager",
        local_files_only=True,
        **known,
    )
    logits = ref.logits_of(model.eval(), sequences_of(name))
    difference = worst_distance(logits, numbered(expected_of(name), "logits"))
    checks.at_most(f"{label} logits in transformers", difference, LOGITS)


def check_reading(checks, name):
    """Theirs in ours: a GGUF file of the `gguf` package gives the logits of the directory."""
    path = gguf_peer.write(FIXTURES / name, scratch("gguf", f"{name}-theirs.gguf"))
    logits = Evaluation(path, sequences_of(name), options=F32, name=f"gguf_{name}").logits
    difference = worst_distance(logits, numbered(expected_of(name), "logits"))
    checks.at_most(f"{name} GGUF of gguf-py, logits of ours", difference, LOGITS)


def main():
    ref.deterministic()
    checks = Checks()
    for name in MODELS:
        checks.attempt(f"{name} export", lambda: check_export(checks, name))
    for name in ADAPTERS:
        checks.attempt(f"{name} merge", lambda: check_merge(checks, name))
    for name in IN_GGUF:
        for kind in ("f32", "f16", "bf16", "q8_0"):
            checks.attempt(f"{name} GGUF {kind}", lambda: check_gguf(checks, name, kind))
        checks.attempt(f"{name} GGUF of gguf-py", lambda: check_reading(checks, name))
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
