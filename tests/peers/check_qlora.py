#!/usr/bin/env python3
"""A base in NF4 against bitsandbytes and PEFT: the codes are its own, so with our 8-bit absmax its
weights are ours; with its own double quantization logits and 20 steps of QLoRA stay near."""

import shutil
import sys

import bitsandbytes.functional as nf4
import numpy as np
import torch
from bitsandbytes.nn import Linear4bit, Params4bit
from peft import LoraConfig, get_peft_model

import reference as ref
from common import ROOT, Checks, relative, scratch, worst_distance
from contract import F32, Evaluation, Training, lora_from

LOGITS = 1e-4  # absolute, where the weights are the same
LOSS = 2e-2  # absolute, each of 20 steps from about 8 down, where absmax is coded otherwise
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SEQUENCES = [
    [(7 * i * i + 31 * s + 3) % 4096 for i in range(length)] for s, length in enumerate((33, 48, 7))
]


def our_absmax(absmax, rows, cols):
    """fp32 -> the square code of kernels/quantized.h -> fp32; blocks of 64 along each row."""
    blocks = cols // 64
    group = next(g for g in (16, 8, 4, 2, 1) if g * blocks <= 256 or g == 1)
    table = absmax.numpy().reshape(rows, blocks)
    squares = (np.arange(256) ** 2).astype(np.float32) / np.float32(65025)
    out = np.empty_like(table)
    for first in range(0, rows, group):
        part = table[first : first + group]
        ratio = part / part.max()
        code = np.abs(ratio[..., None].astype(np.float64) - squares).argmin(axis=-1)
        out[first : first + group] = part.max() * squares[code]
    return torch.from_numpy(out.reshape(-1))


def projections(model):
    for name, module in model.named_modules():
        if name.rsplit(".", 1)[-1] in PROJECTIONS:
            yield name, module


def with_our_values(model):
    """bitsandbytes' codes and our absmax, in plain layers."""
    for _, layer in projections(model):
        rows, cols = layer.weight.shape
        codes, state = nf4.quantize_4bit(layer.weight.data, blocksize=64, quant_type="nf4")
        state.absmax = our_absmax(state.absmax, rows, cols)
        layer.weight.data = nf4.dequantize_4bit(codes, state)
    return model


def in_nf4(model):
    """QLoRA's base: NF4 with double quantization, computing in fp32."""
    for name, layer in list(projections(model)):
        rows, cols = layer.weight.shape
        kept = Linear4bit(cols, rows, bias=False, quant_type="nf4", compute_dtype=torch.float32)
        kept.weight = Params4bit(
            layer.weight.data, requires_grad=False, quant_type="nf4", blocksize=64
        )
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, kept.to("cpu"))
    model.is_loaded_in_4bit = True
    return model


def check_logits(checks, base):
    ours = Evaluation(base, SEQUENCES, options=[*F32, "--weights", "nf4"], name="qlora_eval").logits
    exact = ref.logits_of(ref.load_model(base), SEQUENCES)
    same = ref.logits_of(with_our_values(ref.load_model(base)), SEQUENCES)
    theirs = ref.logits_of(in_nf4(ref.load_model(base)), SEQUENCES)
    checks.at_most("logits with bitsandbytes' codes", worst_distance(ours, same), LOGITS)
    error, apart = (
        max(relative(a, b) for a, b in zip(pair, exact if pair is theirs else theirs))
        for pair in (theirs, ours)
    )
    checks.at_most("distance from bitsandbytes over its own from fp32", apart / error, 0.5)
    mine = max(relative(a, b) for a, b in zip(ours, exact))
    checks.at_most("our distance from fp32 over bitsandbytes'", mine / error, 1.2)


def check_training(checks, base):
    torch.manual_seed(1)
    config = LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", target_modules=PROJECTIONS)
    model = get_peft_model(in_nf4(ref.load_model(base)), config)
    adapter = scratch("qlora_train", "adapter")
    model.save_pretrained(adapter)
    run = Training("qlora_train", base, SEQUENCES, lora=lora_from(adapter), weights="nf4")
    losses, _ = ref.train_adamw(model, SEQUENCES)
    checks.equal("steps", len(run.losses), ref.STEPS)
    checks.say(losses[-1] < losses[0] - 0.1, "QLoRA learns", f"{losses[0]:.3f} to {losses[-1]:.3f}")
    checks.at_most("losses of 20 steps", float(np.abs(np.array(run.losses) - losses).max()), LOSS)


def main():
    ref.deterministic()
    checks = Checks()
    base = scratch("qlora", "base")  # without a tokenizer, which these tokens do not come from
    shutil.rmtree(base, ignore_errors=True)
    base.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        shutil.copy(ROOT / "models" / "base" / name, base)
    checks.attempt("logits", lambda: check_logits(checks, base))
    checks.attempt("training", lambda: check_training(checks, base))
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
