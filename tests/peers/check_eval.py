#!/usr/bin/env python3
"""`strata eval` against transformers: logits, loss and gradients of every fixture model; both forms
of config.json; weights stored sharded, in BF16 and in F16; the forward in bf16."""

import shutil
import sys

import numpy as np
import torch

import reference as ref
from common import FIXTURES, Checks, distance, expected_of, numbered, relative, scratch
from common import sequences_of, worst_distance
from contract import BF16, F32, Evaluation
from make_fixtures import MODELS

LOGITS = 1e-4  # absolute
LOSS = 1e-5
GRADIENT = 1e-4  # |difference| / |gradient|, the worst tensor
BF16_ERROR = 1.5  # our distance from fp32 over PyTorch's own, root mean square


def check_gradients(checks, name, ours, expected):
    theirs = {k.removeprefix("grad."): v for k, v in expected.items() if k.startswith("grad.")}
    checks.equal(f"{name} gradient names", sorted(ours), sorted(theirs))
    common = set(ours) & set(theirs)
    worst = max(((relative(ours[k], theirs[k]), k) for k in common), default=(np.inf, "none"))
    checks.at_most(f"{name} gradients, worst {worst[1]}", worst[0], GRADIENT)


def check_model(checks, name):
    expected = expected_of(name)
    wanted = any(key.startswith("grad.") for key in expected)
    prefix = "context48." if "context48.loss" in expected else ""
    found = Evaluation(FIXTURES / name, sequences_of(name), gradients=wanted, name=name)
    theirs = numbered(expected, prefix + "logits")
    checks.at_most(f"{name} logits", worst_distance(found.logits, theirs), LOGITS)
    checks.at_most(f"{name} loss", distance(found.loss, expected[prefix + "loss"].item()), LOSS)
    if wanted:
        check_gradients(checks, name, found.gradients, expected)
    if prefix:  # a run's longest sequence sets the angles: each sequence a run of its own
        alone = [Evaluation(FIXTURES / name, [s], name=name).logits[0] for s in sequences_of(name)]
        difference = worst_distance(alone, numbered(expected, "logits"))
        checks.at_most(f"{name} logits, each sequence alone", difference, LOGITS)
    return found


def check_config_v4(checks, name, found):
    directory = scratch(name, "v4", "config.json").parent
    shutil.copy(FIXTURES / name / "model.safetensors", directory)
    shutil.copy(FIXTURES / name / "config_v4.json", directory / "config.json")
    old = Evaluation(directory, sequences_of(name), name=name)
    same = worst_distance(old.logits, found.logits)
    checks.at_most(f"{name} logits, config.json of transformers 4", same, 0.0)


def check_storage(checks, name, kind, dtype, shard):
    """Stored otherwise: the reference is fp32 arithmetic on the weights as stored."""
    directory = scratch(name, kind, "config.json").parent
    shutil.rmtree(directory, ignore_errors=True)
    model = ref.load_model(FIXTURES / name).to(dtype)
    model.config.dtype = dtype
    model.save_pretrained(directory, max_shard_size=shard)
    sharded = (directory / "model.safetensors.index.json").exists()
    assert sharded == (kind == "sharded"), f"{kind} was saved in another form"
    theirs = ref.logits_of(ref.load_model(directory), sequences_of(name))
    ours = Evaluation(directory, sequences_of(name), options=F32, name=name).logits
    checks.at_most(f"{name} logits, {kind}", worst_distance(ours, theirs), LOGITS)


def check_bf16(checks, name):
    expected = expected_of(name)
    exact = np.concatenate(numbered(expected, "logits"))
    theirs = np.concatenate(numbered(expected, "bf16.logits"))
    found = Evaluation(FIXTURES / name, sequences_of(name), options=BF16, name=name)
    ours = np.concatenate(found.logits)
    error = relative(ours, exact) / relative(theirs, exact)
    checks.at_most(f"{name} logits in bf16, error over PyTorch's", error, BF16_ERROR)
    # the same bits as fp32 would mean that nothing ran in bf16
    checks.say(distance(ours, exact) > 1e-3, f"{name} bf16 is bf16", f"{distance(ours, exact):.3g}")


def main():
    ref.deterministic()
    checks = Checks()
    for name in MODELS:
        found = checks.attempt(f"{name} eval", lambda: check_model(checks, name))
        if found:
            checks.attempt(f"{name} config_v4", lambda: check_config_v4(checks, name, found))
    storage = [
        ("sharded", torch.float32, "40KB"),
        ("bf16 weights", torch.bfloat16, "5GB"),
        ("f16 weights", torch.float16, "5GB"),
    ]
    for name in ("llama", "qwen3"):
        for kind, dtype, shard in storage:
            work = lambda: check_storage(checks, name, kind, dtype, shard)  # noqa: E731
            checks.attempt(f"{name} {kind}", work)
    checks.attempt("llama bf16", lambda: check_bf16(checks, "llama"))
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
