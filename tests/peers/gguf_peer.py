"""GGUF by the `gguf` package (ggml-org/llama.cpp, gguf-py), which shares no code with strata: which
tensors and metadata a model's file has, a writer of such files, and a reader."""

import json
import math

import gguf
import numpy as np
from gguf.quants import dequantize
from safetensors.numpy import load_file

ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "mistral": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
}


def config_of(directory):
    config = json.loads((directory / "config.json").read_text())
    config["head_dim"] = (
        config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    )
    return config


def interleaved(weight, heads):
    """Half-split rotation's rows in the order of interleaved rotation, as llama's q, k are kept."""
    half = weight.shape[0] // heads // 2
    return weight.reshape(heads, 2, half, -1).swapaxes(1, 2).reshape(weight.shape)


def llama3_divisors(config):
    """rope_freqs.weight: what each frequency of the plain rotation is divided by (Llama 3.1)."""
    rope = config["rope_parameters"]
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    divisors = []
    for index in range(0, config["head_dim"], 2):
        wavelength = 2 * math.pi * rope["rope_theta"] ** (index / config["head_dim"])
        turns = rope["original_max_position_embeddings"] / wavelength
        smooth = min(max((turns - low) / (high - low), 0.0), 1.0)
        divisors.append(1.0 / (smooth + (1.0 - smooth) / rope["factor"]))
    return np.array(divisors, np.float32)


def tensors_of(directory):
    """{GGUF name: fp32 values} of a model directory."""
    config = config_of(directory)
    architecture = ARCHITECTURES[config["model_type"]]
    names = gguf.get_tensor_name_map(architecture, config["num_hidden_layers"])
    permuted = {
        "q_proj.weight": config["num_attention_heads"],
        "k_proj.weight": config["num_key_value_heads"],
    }
    found = {}
    for name, weight in load_file(directory / "model.safetensors").items():
        suffix = ".".join(name.split(".")[-2:])
        if architecture == gguf.MODEL_ARCH.LLAMA and suffix in permuted:
            weight = interleaved(weight, permuted[suffix])
        found[names.get_name(name, try_suffixes=(".weight", ".bias"))] = weight
    if config["rope_parameters"]["rope_type"] == "llama3":
        found["rope_freqs.weight"] = llama3_divisors(config)
    return found


def metadata_of(directory):
    """The keys that say what the model is."""
    config = config_of(directory)
    name = gguf.MODEL_ARCH_NAMES[ARCHITECTURES[config["model_type"]]]
    rope = config["rope_parameters"]
    found = {
        "general.architecture": name,
        f"{name}.block_count": config["num_hidden_layers"],
        f"{name}.context_length": config["max_position_embeddings"],
        f"{name}.embedding_length": config["hidden_size"],
        f"{name}.feed_forward_length": config["intermediate_size"],
        f"{name}.attention.head_count": config["num_attention_heads"],
        f"{name}.attention.head_count_kv": config["num_key_value_heads"],
        f"{name}.attention.key_length": config["head_dim"],
        f"{name}.attention.value_length": config["head_dim"],
        f"{name}.rope.dimension_count": config["head_dim"],
        f"{name}.vocab_size": config["vocab_size"],
        f"{name}.attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        f"{name}.rope.freq_base": float(rope["rope_theta"]),
    }
    if rope["rope_type"] == "linear":
        found[f"{name}.rope.scaling.type"] = "linear"
        found[f"{name}.rope.scaling.factor"] = float(rope["factor"])
    return found


def write(directory, path):
    """The model of a directory as a GGUF v3 file, F32, without a tokenizer."""
    metadata = metadata_of(directory)
    writer = gguf.GGUFWriter(path, metadata.pop("general.architecture"))
    for key, value in metadata.items():
        add = {str: writer.add_string, int: writer.add_uint32, float: writer.add_float32}
        add[type(value)](key, value)
    for name, weight in tensors_of(directory).items():
        writer.add_tensor(name, np.ascontiguousarray(weight, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def read(path):
    """({name: (type, fp32 values)}, {key: value})"""
    reader = gguf.GGUFReader(path)
    tensors = {}
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        shape = [int(n) for n in reversed(tensor.shape)]
        tensors[tensor.name] = (tensor.tensor_type.name.lower(), values.reshape(shape))
    return tensors, {key: field.contents() for key, field in reader.fields.items()}
