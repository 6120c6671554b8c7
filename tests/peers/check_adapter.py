#!/usr/bin/env python3
"""Adapters in both directions: PEFT's in `strata eval` (logits, loss, gradients of A and B), and
those that `strata train` makes in PEFT."""

import shutil
import sys

from peft import PeftModel
from safetensors.numpy import load_file

import reference as ref
from check_eval import GRADIENT, LOGITS, LOSS
from common import FIXTURES, Checks, distance, expected_of, numbered, relative, sequences_of
from common import scratch, worst_distance
from contract import Evaluation, Training, lora_new
from make_fixtures import ADAPTERS, ALL_LINEAR

OURS = {  # name -> (base, rank, alpha, targets, rsLoRA)
    "ours_llama_all": ("llama", 4, 8, ALL_LINEAR, False),
    "ours_llama_qv_rslora": ("llama", 3, 5, ["q_proj", "v_proj"], True),
    "ours_qwen2_mlp": ("qwen2", 4, 8, ["gate_proj", "up_proj", "down_proj"], False),
    "ours_qwen3_attention": ("qwen3", 2, 4, ["q_proj", "k_proj", "v_proj", "o_proj"], False),
}
EFFECT = 1e-2  # an adapter that changes no logit by this much would compare as equal to none


def check_theirs(checks, name):
    base, expected = ADAPTERS[name][0], expected_of(name)
    found = Evaluation(
        FIXTURES / base, sequences_of(base), adapter=FIXTURES / name, gradients=True, name=name
    )
    difference = worst_distance(found.logits, numbered(expected, "logits"))
    checks.at_most(f"{name} logits", difference, LOGITS)
    checks.at_most(f"{name} loss", distance(found.loss, expected["loss"].item()), LOSS)
    theirs = {k.removeprefix("grad."): v for k, v in expected.items() if k.startswith("grad.")}
    checks.equal(f"{name} gradient names", sorted(found.gradients), sorted(theirs))
    common = set(theirs) & set(found.gradients)
    worst = max((relative(found.gradients[k], theirs[k]), k) for k in common)
    checks.at_most(f"{name} gradients, worst {worst[1]}", worst[0], GRADIENT)


def check_ours(checks, name):
    base, rank, alpha, targets, rslora = OURS[name]
    sequences = sequences_of(base)
    lora = lora_new(rank, alpha, targets, rslora)
    run = Training(name, FIXTURES / base, sequences[1:], steps=10, lora=lora)
    model = ref.load_model(FIXTURES / base)
    before = ref.logits_of(model, sequences)
    model = PeftModel.from_pretrained(model, str(run.adapter)).eval()

    settings = model.peft_config["default"]
    read = (settings.r, settings.lora_alpha, sorted(settings.target_modules), settings.use_rslora)
    checks.equal(f"{name} settings in PEFT", read, (rank, alpha, sorted(targets), rslora))
    check_names(checks, name, model, run.adapter)
    theirs = ref.logits_of(model, sequences)
    ours = Evaluation(FIXTURES / base, sequences, adapter=run.adapter, name=name).logits
    checks.at_most(f"{name} logits in PEFT", worst_distance(ours, theirs), LOGITS)
    effect = worst_distance(before, theirs)
    checks.say(effect > EFFECT, f"{name} has an effect", f"{effect:.3g} (at least {EFFECT})")


def check_names(checks, name, model, adapter):
    """PEFT's own file of the same adapter has the same names: none was ignored or left random."""
    again = scratch(name, "peft", "adapter_config.json").parent
    shutil.rmtree(again, ignore_errors=True)
    model.save_pretrained(again)
    theirs = load_file(again / "adapter_model.safetensors")
    ours = load_file(adapter / "adapter_model.safetensors")
    checks.equal(f"{name} names", sorted(ours), sorted(theirs))
    same = max(distance(ours[k], theirs[k]) for k in set(ours) & set(theirs))
    checks.at_most(f"{name} tensors", same, 0.0)


def main():
    ref.deterministic()
    checks = Checks()
    for name in ADAPTERS:
        checks.attempt(f"{name} eval", lambda: check_theirs(checks, name))
    for name in OURS:
        checks.attempt(f"{name}", lambda: check_ours(checks, name))
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
