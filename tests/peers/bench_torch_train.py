#!/usr/bin/env python3
"""PyTorch's training speed on this machine: tokens/s of a Llama shape with random weights.

    bench_torch_train.py [--layers 12 --hidden 768 --heads 12 --kv-heads 12 --ffn 3072]
                         [--vocab 32000 --batch 4 --context 256 --threads 2 --steps 5 --warmup 2]
                         [--variants eager,compiled,bf16,lora,lora_compiled]

A step is forward, backward, clip and AdamW on a fresh random batch; one JSON line a variant with
the median over `steps`. The model is transformers' Llama with the attention it takes by default
(scaled_dot_product_attention); the compiled variants are torch.compile with fused AdamW, fp32."""

import argparse
import contextlib
import json
import statistics
import sys
import time
import warnings

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

# name -> (compile and fuse, bf16 autocast, LoRA)
VARIANTS = {
    "eager": (False, False, False),
    "compiled": (True, False, False),
    "bf16": (False, True, False),
    "bf16_compiled": (True, True, False),
    "lora": (False, False, True),
    "lora_compiled": (True, False, True),
}


def parse():
    parser = argparse.ArgumentParser()
    shape = {"layers": 12, "hidden": 768, "heads": 12, "kv-heads": 12, "ffn": 3072, "vocab": 32000}
    run = {"batch": 4, "context": 256, "threads": 2, "steps": 5, "warmup": 2, "lora-rank": 16}
    for name, value in {**shape, **run}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--variants", default="eager,compiled,bf16,lora,lora_compiled")
    options = parser.parse_args()
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
        use_cache=False,
    )
    model = LlamaForCausalLM(config)
    if lora:
        targets = ["q_proj", "k_proj", "v_proj", "o_proj"]
        rank = options.lora_rank
        model = get_peft_model(
            model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets)
        )
    return model.train()


def measure(options, name):
    compiled, bf16, lora = VARIANTS[name]
    torch.compiler.reset()
    model = build(options, lora)
    trained = [p for p in model.parameters() if p.requires_grad]
    fused = {"fused": True} if compiled else {}
    optimizer = torch.optim.AdamW(trained, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, **fused)
    forward = torch.compile(model) if compiled else model
    random = np.random.default_rng(0)
    seconds, losses = [], []
    for step in range(options.warmup + options.steps):
        ids = torch.from_numpy(random.integers(0, options.vocab, (options.batch, options.context)))
        cast = torch.autocast("cpu", torch.bfloat16) if bf16 else contextlib.nullcontext()
        start = time.perf_counter()
        with cast:
            loss = forward(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
        if step >= options.warmup:
            seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds)
    return {
        "variant": name,
        "tokens_per_s": round(options.batch * options.context / median, 1),
        "median_s": round(median, 4),
        "fastest_s": round(min(seconds), 4),
        "slowest_s": round(max(seconds), 4),
        "steps": options.steps,
        "first_loss": round(losses[0], 4),
        "last_loss": round(losses[-1], 4),
        "parameters": sum(p.numel() for p in model.parameters()),
        "trained": sum(p.numel() for p in trained),
        "shape": f"L{options.layers} C{options.hidden} H{options.heads} F{options.ffn}"
        f" V{options.vocab} B{options.batch} T{options.context}",
        "threads": options.threads,
        "torch": torch.__version__,
    }


def main():
    options = parse()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(options.threads)
    for name in options.variants.split(","):
        print(json.dumps(measure(options, name)), flush=True)


if __name__ == "__main__":
    sys.exit(main())
