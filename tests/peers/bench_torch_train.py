#!/usr/bin/env python3
"""PyTorch's training speed on this machine: tokens/s of a Llama shape with random weights.

    bench_torch_train.py [--layers 12 --hidden 768 --heads 12 --kv-heads 12 --ffn 3072]
                         [--vocab 32000 --batch 4 --context 256 --threads 2 --steps 5 --warmup 2]
                         [--lora-rank 16] [--variants eager,compiled,...] [--quick]

A step is forward, backward, clip to norm 1 and AdamW on a fresh random batch, from fp32 weights; one
JSON line a variant with the median over `steps`. The model is transformers' Llama with the attention
it takes by default (scaled_dot_product_attention).

    eager           what a plain script does: AdamW as it comes (its CPU default: a loop over tensors)
    eager_fused     the same with AdamW(fused=True)
    compiled        torch.compile of the model and fused AdamW
    bf16, bf16_fused, bf16_compiled    the three under autocast to bf16, master weights fp32
    lora, lora_compiled                eager and compiled, LoRA of rank 16 on q, k, v and o

A compiled variant must have become one graph and compile nothing anew while it is timed; otherwise it
is not what it says and the script fails. --quick is a small shape with few steps, to try the script."""

import argparse
import contextlib
import gc
import json
import statistics
import sys
import time
import warnings
from typing import NamedTuple

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch._dynamo.utils import counters
from transformers import LlamaConfig, LlamaForCausalLM


class Variant(NamedTuple):
    compiled: bool = False
    fused: bool = False
    bf16: bool = False
    lora: bool = False


VARIANTS = {
    "eager": Variant(),
    "eager_fused": Variant(fused=True),
    "compiled": Variant(compiled=True, fused=True),
    "bf16": Variant(bf16=True),
    "bf16_fused": Variant(fused=True, bf16=True),
    "bf16_compiled": Variant(compiled=True, fused=True, bf16=True),
    "lora": Variant(lora=True),
    "lora_compiled": Variant(compiled=True, fused=True, lora=True),
}
SHAPE = {"layers": 12, "hidden": 768, "heads": 12, "kv-heads": 12, "ffn": 3072, "vocab": 32000}
RUN = {"batch": 4, "context": 256, "threads": 2, "steps": 5, "warmup": 2, "lora-rank": 16}
QUICK = {"layers": 2, "hidden": 64, "heads": 4, "kv-heads": 4, "ffn": 128, "vocab": 512}
QUICK_RUN = {**RUN, "batch": 2, "context": 32, "steps": 2}


def parse():
    parser = argparse.ArgumentParser()
    for name, value in {**SHAPE, **RUN}.items():
        parser.add_argument(f"--{name}", type=int, help=f"{value} unless given")
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    for name, value in ({**QUICK, **QUICK_RUN} if options.quick else {**SHAPE, **RUN}).items():
        key = name.replace("-", "_")
        if getattr(options, key) is None:
            setattr(options, key, value)
    unknown = set(options.variants.split(",")) - set(VARIANTS)
    if unknown:
        parser.error(f"unknown variant {sorted(unknown)[0]}; there are {', '.join(VARIANTS)}")
    return options


def build(options, lora):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=options.vocab,
        hidden_size=options.hidden,
        intermediate_size=options.ffn,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        num_key_value_heads=options.kv_heads,
        max_position_embeddings=options.context,
        tie_word_embeddings=False,
        use_cache=False,
    )
    model = LlamaForCausalLM(config)
    if lora:
        targets = ["q_proj", "k_proj", "v_proj", "o_proj"]
        rank = options.lora_rank
        model = get_peft_model(
            model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets)
        )
    assert all(p.dtype == torch.float32 for p in model.parameters())
    return model.train()


def compilations():
    """Graphs that torch.compile has made, forward and backward being one, and why it split any."""
    return counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())


def check_compiled(name, after_warmup):
    graphs, breaks = compilations()
    if after_warmup != 1 or graphs != 1 or breaks:
        sys.exit(
            f"bench_torch_train.py: {name} is {graphs} graphs with {breaks} breaks,"
            f" {graphs - after_warmup} of them made while it was timed; it must be one graph"
        )


class Timed(NamedTuple):
    seconds: list
    cpu: list
    losses: list


def train_steps(options, name, step_of):
    """Wall and CPU seconds of the timed steps, and the losses of all."""
    variant = VARIANTS[name]
    random = np.random.default_rng(0)
    timed = Timed([], [], [])
    graphs = 0
    for step in range(options.warmup + options.steps):
        if step == options.warmup:
            graphs = compilations()[0]
        ids = torch.from_numpy(random.integers(0, options.vocab, (options.batch, options.context)))
        start, cpu = time.perf_counter(), time.process_time()
        timed.losses.append(step_of(ids))
        took = time.perf_counter() - start
        warm = "" if step >= options.warmup else " (warm-up)"
        print(f"{name}: step {step + 1} of {options.warmup + options.steps}{warm} {took:.2f} s",
              file=sys.stderr, flush=True)
        if step >= options.warmup:
            timed.seconds.append(took)
            timed.cpu.append(time.process_time() - cpu)
    if variant.compiled:
        check_compiled(name, graphs)
    return timed


def measure(options, name):
    variant = VARIANTS[name]
    torch.compiler.reset()
    counters.clear()
    model = build(options, variant.lora)
    trained = [p for p in model.parameters() if p.requires_grad]
    fused = {"fused": True} if variant.fused else {}
    optimizer = torch.optim.AdamW(trained, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, **fused)
    forward = torch.compile(model) if variant.compiled else model

    def step_of(ids):
        cast = torch.autocast("cpu", torch.bfloat16) if variant.bf16 else contextlib.nullcontext()
        with cast:
            loss = forward(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    timed = train_steps(options, name, step_of)
    median = statistics.median(timed.seconds)
    adapter = sum(p.numel() for n, p in model.named_parameters() if "lora_" in n)
    return {
        "variant": name,
        "tokens_per_s": round(options.batch * options.context / median, 1),
        "median_s": round(median, 4),
        "fastest_s": round(min(timed.seconds), 4),
        "slowest_s": round(max(timed.seconds), 4),
        "step_seconds": [round(s, 4) for s in sorted(timed.seconds)],
        "cpu_share": round(sum(timed.cpu) / sum(timed.seconds) / options.threads, 2),
        "steps": options.steps,
        "first_loss": round(timed.losses[0], 4),
        "last_loss": round(timed.losses[-1], 4),
        "parameters": sum(p.numel() for p in model.parameters()) - adapter,
        "trained": sum(p.numel() for p in trained),
        "compiled": variant.compiled,
        "fused_adamw": variant.fused,
        "autocast": "bf16" if variant.bf16 else "none",
        "attention": model.config._attn_implementation,
        "shape": f"L{options.layers} C{options.hidden} H{options.heads} F{options.ffn}"
        f" V{options.vocab} B{options.batch} T{options.context}",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def main():
    options = parse()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(options.threads)
    for name in options.variants.split(","):
        print(json.dumps(measure(options, name)), flush=True)
        gc.collect()


if __name__ == "__main__":
    sys.exit(main())
