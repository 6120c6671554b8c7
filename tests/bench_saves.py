#!/usr/bin/env python3
"""What checkpoints cost a run that trains on while they are written.

    bench_saves.py BUILD FOLDER [--layers 12 --hidden 768 --heads 12 --kv-heads 12 --ffn 3072
                   --vocab 32000 --batch 4 --context 256] [--every 10] [--repeat 1] [--sync]
                   [--piece all|prepare|without|with]

`strata train` with random weights and tokens: a run up to shortly before step EVERY, from whose
checkpoint two others go on, one without saving and one that saves after every EVERY steps. Both are
timed from the end of step EVERY, when a save begins, to that of step 2 EVERY: so what is compared are
EVERY steps, and the same with the copy and the writing of one checkpoint. Prints a line of JSON a
run, and the ratio:
  steps_per_s
  blocked, written      seconds: that training stood still, and until the checkpoint had its name
FOLDER is on the file system to be measured; `all` makes and removes it, a piece leaves it."""

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
                   "train": {"out": f"{folder}/run", "warmup": 0, "keep": 2, "export": False,
                             "global_batch": options.batch, "tensorboard": False,
                             "checkpoint_async": not options.sync}}, file)
    subprocess.run([f"{options.build}/make_tokens", f"{folder}/tokens.h5", "200",
                    str(2 * options.context), str(options.vocab)], check=True)


def run(options, steps, last, every):
    """Trains to step `last` of `steps`. Times at which steps were done, and the first save's line."""
    command = [f"{options.build}/strata", "train", f"{options.folder}/run.yaml",
               f"train.steps={steps}", f"train.checkpoint_every={every}"]
    environment = dict(os.environ, OMP_WAIT_POLICY="passive")
    done, save, lines = {}, "", []
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        for line in process.stderr:
            now = time.monotonic()
            lines.append(line)
            step = re.search(r"event=step step=(\d+) ", line)
            if step:
                done[int(step.group(1))] = now
            if "event=checkpoint step=" in line:
                save = save or line
            if last < steps and last in done and (save or not every):
                process.kill()  # what the end of a run writes is of no interest
                return done, save
    if process.returncode != 0:
        sys.exit("".join(lines))
    return done, save


def measure(options, with_saves):
    first, last = options.every, 2 * options.every
    for step in (first, last):
        shutil.rmtree(f"{options.folder}/run/checkpoints/step-{step:08d}", ignore_errors=True)
    done, save = run(options, last + 1, last, options.every if with_saves else 0)
    row = {"shape": " ".join(f"{name}={getattr(options, name)}" for name in SHAPE),
           "every": options.every if with_saves else 0,
           "steps_per_s": round((last - first) / (done[last] - done[first]), 4)}
    if with_saves:
        row["async"] = not options.sync
        for key in ("mib", "blocked", "written"):
            row[key] = float(re.search(key + r"=([\d.]+)", save).group(1))
    print(json.dumps(row), flush=True)
    return row["steps_per_s"]


def prepare(options):
    os.makedirs(options.folder)
    write_files(options, options.folder)
    run(options, options.every - 2, options.every - 2, 0)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("build")
    parser.add_argument("folder")
    for name, value in zip(SHAPE, (12, 768, 12, 12, 3072, 32000, 4, 256)):
        parser.add_argument("--" + name.replace("_", "-"), type=int, default=value)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--sync", action="store_true", help="training waits for the disk instead")
    parser.add_argument("--piece", choices=("all", "prepare", "without", "with"), default="all")
    options = parser.parse_args()
    try:
        if options.piece in ("all", "prepare"):
            prepare(options)
        for _ in range(options.repeat if options.piece != "prepare" else 0):
            rates = [measure(options, saves) for name, saves in (("without", False), ("with", True))
                     if options.piece in ("all", name)]
            if len(rates) == 2:
                print(json.dumps({"ratio": round(rates[1] / rates[0], 4)}), flush=True)
    finally:
        if options.piece == "all":
            shutil.rmtree(options.folder, ignore_errors=True)


main()
