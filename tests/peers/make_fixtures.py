#!/usr/bin/env python3
"""Makes tests/fixtures: tiny random models, adapters, and what transformers and PEFT say of them.

    make_fixtures.py OUTPUT_DIRECTORY

README.md beside this file says what is in each file. Weights and tokens are drawn by NumPy's PCG64,
so they are the same bits everywhere; what is computed of them differs by rounding alone."""

import json
import pathlib
import shutil
import sys
import tempfile
import zlib

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.numpy import load_file
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

import reference as ref
from make_vectors import make_vectors
from rounded import load_rounded

LENGTHS = (1, 7, 33, 48)
HIDDEN_SEQUENCE = 2  # whose hidden states are kept

LLAMA_ROPE_SHAPE = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
}

# name -> (config class, its arguments, what the transformers-4 form of config.json changes,
#          extra content of expected.safetensors)
MODELS = {
    "llama": (
        LlamaConfig,
        {
            "vocab_size": 96,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,  # not hidden / heads
            "max_position_embeddings": 128,
            "rms_norm_eps": 1e-5,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
        {},
        {"gradients", "weights", "bf16"},
    ),
    "llama_tied_llama3": (
        LlamaConfig,
        {
            "vocab_size": 96,
            "hidden_size": 48,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "max_position_embeddings": 512,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": True,
            "bos_token_id": 1,
            "eos_token_id": [2, 3],
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        },
        {},
        set(),
    ),
    "llama_yarn": (
        LlamaConfig,
        {
            **LLAMA_ROPE_SHAPE,
            "max_position_embeddings": 512,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 500.0,
                "factor": 4.0,
                "beta_fast": 8.0,
                "beta_slow": 0.5,
                "original_max_position_embeddings": 128,
            },
        },
        {},
        set(),
    ),
    "llama_linear": (
        LlamaConfig,
        {
            **LLAMA_ROPE_SHAPE,
            "max_position_embeddings": 128,
            "rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
        },
        {"rope_scaling": {"type": "linear", "factor": 4.0}},  # the key before it was rope_type
        set(),
    ),
    "llama_dynamic": (
        LlamaConfig,
        {
            **LLAMA_ROPE_SHAPE,
            "max_position_embeddings": 32,  # the two longer sequences pass it
            "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
        },
        {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
        {"context"},
    ),
    "mistral": (
        MistralConfig,
        {
            "vocab_size": 101,
            "hidden_size": 40,
            "intermediate_size": 72,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 256,
            "rms_norm_eps": 1e-5,
            "sliding_window": 8,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
        {"head_dim": None},  # absent: hidden / heads
        {"gradients"},
    ),
    "qwen2": (
        Qwen2Config,
        {
            "vocab_size": 128,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 256,
            "tie_word_embeddings": True,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
        },
        {"sliding_window": 8, "layer_types": None},  # present but switched off: to be ignored
        {"gradients"},
    ),
    "qwen25": (
        Qwen2Config,
        {
            "vocab_size": 112,
            "hidden_size": 48,
            "intermediate_size": 56,
            "num_hidden_layers": 2,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "max_position_embeddings": 256,
            "tie_word_embeddings": False,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
        },
        {"sliding_window": 8, "layer_types": None},
        set(),
    ),
    "qwen3": (
        Qwen3Config,
        {
            "vocab_size": 100,
            "hidden_size": 32,
            "intermediate_size": 56,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "max_position_embeddings": 256,
            "tie_word_embeddings": True,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
        },
        {"layer_types": None},
        {"gradients"},
    ),
}

ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

# name -> (base model, LoRA arguments)
ADAPTERS = {
    "lora_llama_all": ("llama", {"target_modules": ALL_LINEAR}),
    "lora_llama_qv_rslora": ("llama", {"target_modules": ["q_proj", "v_proj"], "use_rslora": True}),
    "lora_qwen2_all": ("qwen2", {"target_modules": ALL_LINEAR}),
    "lora_qwen2_qv_rslora": ("qwen2", {"target_modules": ["q_proj", "v_proj"], "use_rslora": True}),
}


def random_of(name):
    """A generator of its own for each thing, so that adding a model changes no other."""
    return np.random.default_rng(zlib.crc32(name.encode()))


def draw_tokens(name, vocabulary):
    random = random_of(name + ".tokens")
    return [random.integers(0, vocabulary, length).tolist() for length in LENGTHS]


def draw_parameter(random, name, shape):
    """Values of the size a trained model has where it matters: attention that is not flat, norms
    and biases that are neither 1 nor 0."""
    if len(shape) == 1:
        if name.endswith("norm.weight"):
            return random.uniform(0.5, 1.5, shape)
        return random.normal(0.0, 0.3, shape)
    if "embed_tokens" in name:
        return random.normal(0.0, 0.5, shape)
    if "lora_B" in name:  # with A this makes deltas of half a base weight's size; twice or more
        return random.normal(0.0, 0.1, shape)  # saturates attention, and training turns chaotic
    gain = 1.5 if "q_proj" in name or "k_proj" in name else 1.0
    return random.normal(0.0, gain / np.sqrt(shape[1]), shape)


def fill_parameters(model, name, chosen=lambda name: True):
    random = random_of(name)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if chosen(parameter_name):
                values = draw_parameter(random, parameter_name, tuple(parameter.shape))
                parameter.copy_(torch.from_numpy(values.astype(np.float32)))


def config_as_transformers_4(config, changes):
    """config.json in the form transformers 4 wrote: rope_theta and rope_scaling, torch_dtype."""
    old = dict(config)
    rope = dict(old.pop("rope_parameters"))
    old["rope_theta"] = rope.pop("rope_theta")
    old["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    old["torch_dtype"] = old.pop("dtype")
    old["transformers_version"] = "4.57.1"
    old.update(changes)
    for key in [key for key in changes if changes[key] is None]:
        del old[key]
    return old


def write_json(path, content):
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def check_config_v4(directory, sequences, logits):
    """transformers itself must read config_v4.json as the same model."""
    with tempfile.TemporaryDirectory() as scratch:
        shutil.copy(directory / "model.safetensors", scratch)
        shutil.copy(directory / "config_v4.json", pathlib.Path(scratch) / "config.json")
        for mine, old in zip(logits, ref.logits_of(ref.load_model(scratch), sequences)):
            assert np.array_equal(mine, old), f"{directory}: config_v4.json is another model"


def with_prefix(prefix, tensors):
    return {prefix + name: value for name, value in tensors.items()}


def numbered(prefix, arrays):
    return {f"{prefix}.{index}": array for index, array in enumerate(arrays)}


# Also trained in bf16 with fp32 masters; none has a sliding window.
ROUNDED = ["llama", "llama_tied_llama3", "qwen2", "qwen3"]


def make_model(output, name):
    config_class, arguments, old_changes, extras = MODELS[name]
    directory = output / name
    config = config_class(**arguments, dtype="float32")
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    fill_parameters(model, name)
    model.save_pretrained(directory)
    saved = json.loads((directory / "config.json").read_text())
    write_json(directory / "config_v4.json", config_as_transformers_4(saved, old_changes))

    sequences = draw_tokens(name, config.vocab_size)
    model = ref.load_model(directory)
    logits = ref.logits_of(model, sequences)
    check_config_v4(directory, sequences, logits)
    expected = numbered("tokens", [np.array(tokens, np.int32) for tokens in sequences])
    expected |= numbered("logits", logits)
    expected |= ref.hidden_states(model, sequences[HIDDEN_SEQUENCE])
    loss, named_gradients = ref.gradients(model, sequences)
    expected["loss"] = np.float32(loss)
    if "gradients" in extras:
        expected |= with_prefix("grad.", named_gradients)
    expected["train.losses"], expected["train.norms"] = ref.train_adamw(model, sequences)
    if "weights" in extras:
        expected |= with_prefix("train.weight.", ref.trainable_weights(model))
    model = ref.load_model(directory)
    expected["train_clip.losses"], _ = ref.train_adamw(model, sequences, clip=1.0)
    if name in ROUNDED:
        expected["train_bf16.losses"], _ = ref.train_adamw(load_rounded(directory), sequences)
    if "bf16" in extras:
        bf16 = ref.load_model(directory, torch.bfloat16)
        expected |= numbered("bf16.logits", ref.logits_of(bf16, sequences))
    if "context" in extras:
        fixed = expected_with_context(directory, sequences)
        expected |= with_prefix(f"context{LENGTHS[-1]}.", fixed)
    ref.save_tensors(directory / "expected.safetensors", expected)


def expected_with_context(directory, sequences):
    """Where angles depend on the longest sequence: the same with the run's longest for all."""
    model = ref.load_model(directory)
    ref.fix_context(model, LENGTHS[-1])
    expected = numbered("logits", ref.logits_of(model, sequences))
    expected["loss"] = np.float32(ref.gradients(model, sequences)[0])
    expected["train.losses"], _ = ref.train_adamw(model, sequences)
    return expected


def make_adapter(output, name):
    base, arguments = ADAPTERS[name]
    directory = output / name
    lora = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, task_type="CAUSAL_LM", **arguments)
    model = get_peft_model(ref.load_model(output / base), lora)
    fill_parameters(model, name, chosen=lambda parameter: "lora_" in parameter)
    model.save_pretrained(directory)
    (directory / "README.md").unlink(missing_ok=True)  # an empty model card
    saved = json.loads((directory / "adapter_config.json").read_text())
    saved["base_model_name_or_path"] = f"tests/fixtures/{base}"
    saved["target_modules"].sort()  # a set when PEFT writes it
    write_json(directory / "adapter_config.json", saved)

    def load():
        return PeftModel.from_pretrained(
            ref.load_model(output / base), str(directory), is_trainable=True
        ).eval()

    sequences = draw_tokens(base, model.config.vocab_size)
    model = load()
    expected = numbered("logits", ref.logits_of(model, sequences))
    loss, named_gradients = ref.gradients(model, sequences)
    expected["loss"] = np.float32(loss)
    for parameter, gradient in named_gradients.items():
        expected["grad." + ref.peft_file_name(parameter)] = gradient
    expected["train.losses"], expected["train.norms"] = ref.train_adamw(model, sequences)
    for parameter, weight in ref.trainable_weights(model).items():
        expected["train.weight." + ref.peft_file_name(parameter)] = weight

    before = load_file(output / base / "model.safetensors")
    merged = load().merge_and_unload().state_dict()
    for parameter, old in before.items():
        new = merged[parameter].numpy()
        if not np.array_equal(old, new):
            expected["merged." + parameter] = new
    ref.save_tensors(directory / "expected.safetensors", expected)


def main():
    output = pathlib.Path(sys.argv[1])
    ref.deterministic()
    for name in [*MODELS, *ADAPTERS, "vectors"]:
        shutil.rmtree(output / name, ignore_errors=True)
    for name in MODELS:
        make_model(output, name)
        print(f"made {name}", flush=True)
    for name in ADAPTERS:
        make_adapter(output, name)
        print(f"made {name}", flush=True)
    make_vectors(output / "vectors")
    print("made vectors", flush=True)


if __name__ == "__main__":
    main()
