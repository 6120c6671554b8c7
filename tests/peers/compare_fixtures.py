#!/usr/bin/env python3
"""Compares fixtures made afresh with the committed ones.

    compare_fixtures.py [FRESH_DIRECTORY]

Configurations, tokens and weights are the same bytes; what PyTorch computed of them is the same up
to the order of its sums, which differs between instruction sets."""

import json
import pathlib
import sys

import numpy as np
from safetensors.numpy import load_file

from common import FIXTURES, FRESH, Checks, relative

EXACT = 0.0
# By the first matching prefix: the largest relative difference (Euclidean norm of the tensor).
LIMITS = [
    ("tokens.", EXACT),
    ("bf16.", 2e-2),  # products are rounded to 8 bits; where depends on the processor
    ("train_bf16.", 2e-3),
    ("grad.", 1e-5),  # between SSE and AVX-512 2.4e-6 was measured,
    ("train.norms", 5e-5),  # 6.4e-6,
    ("", 2e-6),  # and 6e-7
]


def limit_of(file, tensor):
    if file.name != "expected.safetensors":
        return EXACT
    return next(limit for prefix, limit in LIMITS if tensor.startswith(prefix))


def kind_of(tensor):
    parts = tensor.removeprefix("context48.").split(".")
    return ".".join(parts[:2]) if parts[0].startswith("train") else parts[0]


def compare_tensors(checks, name, fresh, kept):
    theirs, ours = load_file(kept), load_file(fresh)
    if set(theirs) != set(ours):
        checks.equal(f"{name} tensors", sorted(ours), sorted(theirs))
        return
    worst = {}
    for tensor, value in theirs.items():
        exact = np.array_equal(ours[tensor], value) and ours[tensor].dtype == value.dtype
        measured = 0.0 if exact else max(relative(ours[tensor], value), 1e-300)
        kind = kind_of(tensor) if kept.name == "expected.safetensors" else "weights"
        limit = limit_of(kept, tensor)
        worst[kind] = max(worst.get(kind, (-1.0, limit)), (measured, limit))
    for kind, (measured, limit) in sorted(worst.items()):
        checks.at_most(f"{name} {kind}", measured, limit)


def main():
    fresh = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else FRESH
    checks = Checks()
    made = sorted(p.relative_to(fresh) for p in fresh.rglob("*") if p.is_file())
    # tests/fixtures may hold other fixtures than these: only ours are looked at
    folders = {path.parts[0] for path in made}
    kept = sorted(
        p.relative_to(FIXTURES)
        for p in FIXTURES.rglob("*")
        if p.is_file() and p.relative_to(FIXTURES).parts[0] in folders
    )
    checks.equal("files", list(map(str, made)), list(map(str, kept)))
    for path in sorted(set(made) & set(kept)):
        if path.suffix == ".json":
            ours, theirs = (json.loads((d / path).read_text()) for d in (fresh, FIXTURES))
            same = ours == theirs
            checks.say(same, str(path), "equal" if same else "differs")
        elif path.suffix == ".model":
            same = (fresh / path).read_bytes() == (FIXTURES / path).read_bytes()
            checks.say(same, str(path), "equal" if same else "differs")
        else:
            compare_tensors(checks, str(path), fresh / path, FIXTURES / path)
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
