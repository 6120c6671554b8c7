"""How strata is called: every subcommand, option, configuration key and output file that the check
scripts rely on, in one place."""

import json
import shutil

from safetensors.numpy import load_file

from common import numbered, scratch, strata, write_tokens

BF16 = ["--dtype", "bf16"]  # compute in bf16
F32 = ["--dtype", "fp32"]  # compute in fp32, whatever the weights are stored in


class Evaluation:
    """What `strata eval` said of a model: logits a sequence, loss, gradients by name."""

    def __init__(self, model, sequences, *, adapter=None, gradients=False, options=(), name="eval"):
        tokens = write_tokens(scratch(name, "tokens.jsonl"), sequences)
        logits = scratch(name, "logits.safetensors")
        found = scratch(name, "gradients.safetensors")
        for old in (logits, found):
            old.unlink(missing_ok=True)
        arguments = ["eval", model, "--tokens", tokens, "--logits", logits, *options]
        arguments += ["--adapter", adapter] if adapter else []
        arguments += ["--gradients", found] if gradients else []
        said = strata(*arguments)
        tensors = load_file(logits)
        self.logits = numbered(tensors, "logits")
        self.gradients = load_file(found) if gradients else {}
        self.loss = loss_of(self.gradients, tensors, said)
        self.gradients.pop("loss", None)


def loss_of(gradients, logits, said):
    """The mean next-token loss: a tensor `loss` in either file, else `loss=` on standard output."""
    for tensors in (gradients, logits):
        if "loss" in tensors:
            return float(tensors["loss"].reshape(-1)[0])
    words = [word for word in said.split() if word.startswith("loss=")]
    return float(words[-1].removeprefix("loss="))


class Training:
    """A run of `strata train`: every step the same batch, and a constant learning rate where
    `train`, further keys of that section, says nothing else."""

    def __init__(
        self,
        name,
        model,
        sequences,
        *,
        steps=20,
        clip=0.0,
        lora=None,
        weights="auto",
        dtype="fp32",
        train=None,
    ):
        self.directory = scratch(name, "run")
        shutil.rmtree(self.directory, ignore_errors=True)
        tokens = scratch(name, "train.h5")
        jsonl = write_tokens(scratch(name, "train.jsonl"), sequences)
        vocabulary = json.loads((model / "config.json").read_text())["vocab_size"]
        strata("data", "tokenize", jsonl, "--vocabulary", vocabulary, "--out", tokens)
        config = {
            "model": {"path": str(model), "dtype": dtype, "weights": weights},
            "data": {
                "train": [str(tokens)],
                "sequence_length": max(map(len, sequences)),
                "packing": "off",
                "shuffle": False,
            },
            "train": {
                "out": str(self.directory),
                "mode": "lora" if lora else "full",
                "global_batch": len(sequences),
                "steps": steps,
                "lr": 1e-3,
                "schedule": "constant",
                "warmup": 0,
                "beta1": 0.9,
                "beta2": 0.95,
                "eps": 1e-8,
                "weight_decay": 0.1,
                "clip": clip,  # 0: none
                "resume": "never",
                "seed": 1,
                **(train or {}),
            },
        }
        if lora:
            config["lora"] = lora
        path = scratch(name, "train.yaml")
        path.write_text(json.dumps(config, indent=2) + "\n")  # JSON is YAML
        strata("train", path)
        lines = [json.loads(line) for line in (self.directory / "metrics.jsonl").open()]
        self.losses = [line["loss"] for line in lines if "loss" in line]
        self.rates = [line["lr"] for line in lines if "lr" in line]

    @property
    def adapter(self):
        return self.directory / "adapter"

    @property
    def model(self):
        return self.directory / "model"


def lora_from(adapter):
    """Go on from a PEFT adapter."""
    return {"init_from": str(adapter)}


def lora_new(rank, alpha, targets, rslora):
    return {"rank": rank, "alpha": alpha, "dropout": 0.0, "rslora": rslora, "targets": targets}


def convert(model, output, *, kind="f32", adapter=None):
    """A directory of safetensors, or one GGUF file where output ends so. f32, f16, bf16, q8_0."""
    form = "gguf" if output.suffix == ".gguf" else "safetensors"
    arguments = ["convert", model, output, "--type", form, "--dtype", kind]
    strata(*arguments, *(["--adapter", adapter] if adapter else []))
    return output


def tokenize(tokenizer, texts, *, special=False):
    """One list of ids a text."""
    lines = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    options = ["--jsonl"] + (["--special"] if special else [])
    said = strata("tokenize", tokenizer, *options, text=lines)
    return [json.loads(line)["ids"] for line in said.splitlines()]
