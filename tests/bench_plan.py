#!/usr/bin/env python3
"""How well `strata plan` predicts step times on this machine: trains tiny models in 12 layouts of
one or two ranks, calibrates on 4 of them and predicts all.

    tests/bench_plan.py BUILD_FOLDER [--work FOLDER] [--only NAME,...]

Prints layout, measured and predicted seconds of a step (measured: the one that a quarter of them is
faster than), and their ratio. Runs that FOLDER holds
already are not made again, so that --only can make them in pieces; without it what is missing is
made and the table printed. Nothing else should run meanwhile: about two minutes on 2 cores.
"""
import argparse
import json
import os
import subprocess
import sys


def layout(ranks, width, length, batch, micro, layers=4, vocabulary=8192, lora=False, **keys):
    return dict(ranks=ranks, width=width, length=length, batch=batch, micro=micro, layers=layers,
                vocabulary=vocabulary, lora=lora, keys=keys)


CALIBRATION = {
    "wide": layout(1, 512, 256, 4, 4),
    "small_step": layout(1, 512, 64, 1, 1, vocabulary=16384),
    "dp2": layout(2, 512, 128, 4, 2, vocabulary=16384, zero=0),
    "tp2_long": layout(2, 512, 1024, 2, 1, tp=2),
}
PREDICTED = {
    "wider_accumulated": layout(1, 768, 256, 4, 2),
    "recompute": layout(1, 512, 512, 2, 2, recompute="full"),
    "lora": layout(1, 512, 256, 4, 4, lora=True),
    "long": layout(1, 256, 2048, 1, 1),
    "zero1": layout(2, 512, 256, 4, 2, zero=1),
    "zero3": layout(2, 512, 512, 4, 2, zero=3),
    "pp2": layout(2, 512, 256, 4, 1, pp=2),
    "tp2": layout(2, 512, 256, 4, 2, tp=2),
}
ENVIRONMENT = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
                   OMPI_MCA_btl_vader_single_copy_mechanism="none", OMP_WAIT_POLICY="passive",
                   OMP_NUM_THREADS="1")


def call(words):
    done = subprocess.run(words, env=ENVIRONMENT, stdin=subprocess.DEVNULL, capture_output=True,
                          text=True)
    if done.returncode:
        sys.exit(f"{' '.join(words)}\n{done.stdout}{done.stderr}")
    return done.stdout


def write_model(folder, o):
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, "config.json")
    with open(path, "w") as file:
        json.dump({"architectures": ["LlamaForCausalLM"], "model_type": "llama",
                   "vocab_size": o["vocabulary"], "hidden_size": o["width"],
                   "intermediate_size": 4 * o["width"], "num_hidden_layers": o["layers"],
                   "num_attention_heads": o["width"] // 64,
                   "num_key_value_heads": o["width"] // 64, "max_position_embeddings": 4096,
                   "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False,
                   "hidden_act": "silu", "torch_dtype": "float32"}, file)
    return path


def arguments(work, name, o, steps, **more):
    out = os.path.join(work, name)
    parallel = {key: value for key, value in o["keys"].items() if key != "recompute"}
    dp = o["ranks"] // (parallel.get("tp", 1) * parallel.get("pp", 1))
    settings = {"train.out": out, "train.steps": steps, "train.threads": 1, "train.export": "false",
                "train.tensorboard": "false", "train.global_batch": o["batch"],
                "train.micro_batch": o["micro"], "data.sequence_length": o["length"],
                "data.train": os.path.join(work, f"tokens{o['vocabulary']}.h5"),
                "parallel.dp": dp, "train.recompute": o["keys"].get("recompute", "none"),
                **{f"parallel.{key}": value for key, value in parallel.items()}, **more}
    return [f"{key}={value}" for key, value in settings.items()]


def train(build, work, name, o, steps, **more):
    words = [os.path.join(build, "strata"), "train", os.path.join(work, "empty.yaml"),
             *arguments(work, name, o, steps, **more)]
    if o["ranks"] > 1:
        words = ["mpirun", "-n", str(o["ranks"]), "--bind-to", "none", "--oversubscribe", *words]
    call(words)


def measure(build, work, name, o):
    """Trains unless it was done; LoRA on a model that a step of training has written."""
    if os.path.exists(os.path.join(work, name, "done")):
        return
    tokens = os.path.join(work, f"tokens{o['vocabulary']}.h5")
    if not os.path.exists(tokens):
        call([os.path.join(build, "make_tokens"), tokens, "40", "20000", str(o["vocabulary"])])
    with open(os.path.join(work, "empty.yaml"), "w") as file:
        file.write("train: {lr: 1e-4}\n")
    config = write_model(os.path.join(work, name + "-model"), o)
    model = {"model.config": config}
    if o["lora"]:
        train(build, work, name + "-base", o, 1, **model, **{"train.export": "true"})
        model = {"model.path": os.path.join(work, name + "-base", "model"), "train.mode": "lora"}
    train(build, work, name, o, 10, **model)
    open(os.path.join(work, name, "done"), "w").close()


def measured(work, name, o):
    rates = []
    with open(os.path.join(work, name, "metrics.jsonl")) as file:
        for line in map(json.loads, file):
            if line["kind"] == "train":
                rates.append(line["tokens_per_second"])
    return o["batch"] * o["length"] / sorted(rates[2:])[len(rates[2:]) * 3 // 4]


def predicted(build, work, name, o):
    runs = [os.path.join(work, each) for each in CALIBRATION]
    text = call([os.path.join(build, "strata"), "plan", os.path.join(work, name, "config.yaml"),
                 "--gpu", "cpu", "--nodes", "1", "--gpus-per-node", str(o["ranks"]),
                 "--this-layout", "--json", "--calibrate", *runs])
    return json.loads(text)["layouts"][0]["seconds"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("build")
    parser.add_argument("--work")
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    work = options.work or os.path.join(options.build, "bench", "plan")
    os.makedirs(work, exist_ok=True)
    layouts = {**CALIBRATION, **PREDICTED}
    only = options.only.split(",") if options.only else list(layouts)
    for name in only:
        measure(options.build, work, name, layouts[name])
    if options.only:
        return
    print(f"{'layout':18} {'':10} {'measured s':>11} {'predicted s':>12} {'ratio':>6}")
    near = 0
    for name, o in layouts.items():
        real, guess = measured(work, name, o), predicted(options.build, work, name, o)
        fitted = name in CALIBRATION
        near += not fitted and abs(guess / real - 1) <= 0.15
        print(f"{name:18} {'calibrated' if fitted else '':10} {real:11.4f} {guess:12.4f} "
              f"{guess / real:6.3f}")
    print(f"within 15%: {near} of {len(PREDICTED)}")


if __name__ == "__main__":
    main()
