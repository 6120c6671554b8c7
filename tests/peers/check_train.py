#!/usr/bin/env python3
"""`strata train` against PyTorch's AdamW: the losses of 20 steps on one batch, with and without
clipping, and in bf16; LoRA from a given adapter; the weights it ends with."""

import sys

from safetensors.numpy import load_file

import reference as ref
from common import FIXTURES, Checks, distance, expected_of, relative, sequences_of
from contract import Training, lora_from
from make_fixtures import ADAPTERS, MODELS, ROUNDED

LOSS = 1e-4  # absolute, each of the 20 steps
BF16_LOSS = 0.015  # the same where both round to bf16; a rate 3% off moves them by 0.05 at least
WEIGHT = 1e-5  # |difference| / |weight| after 20 steps, the worst tensor


def batch_of(model):
    """The sequences that predict anything: the one-token sequence adds nothing to a loss."""
    return [tokens for tokens in sequences_of(model) if len(tokens) > 1]


def check_losses(checks, name, losses, expected, limit=LOSS):
    checks.equal(f"{name} steps", len(losses), ref.STEPS)
    checks.at_most(f"{name} losses", distance(losses, expected), limit)


def check_weights(checks, name, path, expected):
    ours = load_file(path)
    prefix = "train.weight."
    theirs = {k.removeprefix(prefix): v for k, v in expected.items() if k.startswith(prefix)}
    checks.equal(f"{name} names", sorted(ours), sorted(theirs))
    worst = max((relative(ours[k], theirs[k]), k) for k in set(ours) & set(theirs))
    checks.at_most(f"{name}, worst {worst[1]}", worst[0], WEIGHT)


def check_full(checks, name):
    expected = expected_of(name)
    losses = expected.get("context48.train.losses", expected["train.losses"])
    run = Training(f"train_{name}", FIXTURES / name, batch_of(name))
    check_losses(checks, f"{name} train", run.losses, losses)
    if "train.weight.model.norm.weight" in expected:
        path = run.model / "model.safetensors"
        check_weights(checks, f"{name} trained weights", path, expected)


def check_clip(checks, name):
    run = Training(f"clip_{name}", FIXTURES / name, batch_of(name), clip=1.0)
    expected = expected_of(name)["train_clip.losses"]
    check_losses(checks, f"{name} train, clip 1", run.losses, expected)


def check_bf16(checks, name):
    run = Training(f"bf16_{name}", FIXTURES / name, batch_of(name), dtype="bf16")
    expected = expected_of(name)["train_bf16.losses"]
    check_losses(checks, f"{name} train, bf16", run.losses, expected, BF16_LOSS)


def check_lora(checks, name):
    base, expected = ADAPTERS[name][0], expected_of(name)
    lora = lora_from(FIXTURES / name)
    run = Training(f"train_{name}", FIXTURES / base, batch_of(base), lora=lora)
    check_losses(checks, f"{name} train", run.losses, expected["train.losses"])
    path = run.adapter / "adapter_model.safetensors"
    check_weights(checks, f"{name} trained adapter", path, expected)


def main():
    checks = Checks()
    for name in MODELS:
        checks.attempt(f"{name} train", lambda: check_full(checks, name))
        if "context48.loss" not in expected_of(name):
            checks.attempt(f"{name} clip", lambda: check_clip(checks, name))
    for name in ROUNDED:
        checks.attempt(f"{name} bf16", lambda: check_bf16(checks, name))
    for name in ADAPTERS:
        checks.attempt(f"{name} train", lambda: check_lora(checks, name))
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
