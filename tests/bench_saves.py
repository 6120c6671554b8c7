#!/usr/bin/env python3
"""What checkpoints cost a run that trains on while they are written.

    bench_saves.py BUILD FOLDER [--layers 12 --hidden 768 --heads 12 --kv-heads 12 --ffn 3072
                   --vocab 32000 --batch 4 --context 256] [--every 10] [--repeat 1] [--sync]

Runs `strata train` with random weights and tokens for two times --every steps, saving after each
--every: a save begins when step EVERY is done, so the steps before it are without one, and those from
there on pay for one, for its copy and for its writing. A line of JSON a run:
  without, with_saves   steps a second
  ratio                 the second over the first
  blocked, written      seconds: that training stood still, and until the checkpoint had its name
FOLDER is on the file system to be measured; what is made there is removed."""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time

SHAPE = ("layers", "hidden", "heads", "kv_heads", "ffn", "vocab", "batch", "context")


def write_files(options, folder):
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": options.vocab,
        "hidden_size": options.hidden, "intermediate_size": options.ffn,
        "num_hidden_layers": options.layers, "num_attention_heads": options.heads,
        "num_key_value_heads": options.kv_heads, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "max_position_embeddings": options.context, "hidden_act": "silu",
        "tie_word_embeddings": False}
    with open(f"{folder}/config.json", "w") as file:
        json.dump(config, file)
    with open(f"{folder}/run.yaml", "w") as file:
        json.dump({"model": {"config": f"{folder}/config.json"},
                   "data": {"train": [f"{folder}/tokens.h5"], "packing": "split",
                            "sequence_length": options.context},
                   "train": {"out": f"{folder}/run", "steps": 2 * options.every, "warmup": 0,
                             "global_batch": options.batch, "keep": 1, "export": False,
                             "checkpoint_every": options.every, "tensorboard": False,
                             "checkpoint_async": not options.sync}}, file)
    subprocess.run([f"{options.build}/make_tokens", f"{folder}/tokens.h5", "200",
                    str(2 * options.context), str(options.vocab)], check=True)


def run(options, folder):
    """Times at which steps were done, by step; and the figures of the first save."""
    command = [f"{options.build}/strata", "train", f"{folder}/run.yaml"]
    environment = dict(os.environ, OMP_WAIT_POLICY="passive")
    done, save, lines = {}, None, []
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        for line in process.stderr:
            now = time.monotonic()
            lines.append(line)
            step = re.search(r"event=step step=(\d+) ", line)
            if step:
                done[int(step.group(1))] = now
            found = re.search(r"event=checkpoint step=\d+ mib=([\d.]+) blocked=([\d.]+)s "
                              r"written=([\d.]+)s", line)
            save = save or found
    if process.returncode != 0 or not save:
        sys.exit("".join(lines))
    return done, [float(figure) for figure in save.groups()]


def measure(options, folder):
    shutil.rmtree(f"{folder}/run", ignore_errors=True)
    done, (mib, blocked, written) = run(options, folder)
    every = options.every
    without = (every - 1) / (done[every] - done[1])  # the first step finds cold memory
    with_saves = every / (done[2 * every] - done[every])
    print(json.dumps({
        "shape": " ".join(f"{name}={getattr(options, name)}" for name in SHAPE), "every": every,
        "async": not options.sync, "mib": mib, "without": round(without, 4),
        "with_saves": round(with_saves, 4), "ratio": round(with_saves / without, 4),
        "blocked": blocked, "written": written}), flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("build")
    parser.add_argument("folder")
    for name, value in zip(SHAPE, (12, 768, 12, 12, 3072, 32000, 4, 256)):
        parser.add_argument("--" + name.replace("_", "-"), type=int, default=value)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--sync", action="store_true", help="training waits for the disk instead")
    options = parser.parse_args()
    os.makedirs(options.folder)
    try:
        write_files(options, options.folder)
        for _ in range(options.repeat):
            measure(options, options.folder)
    finally:
        shutil.rmtree(options.folder)


main()
