"""The reference side of every comparison: Hugging Face transformers and PEFT on the CPU, fp32,
eager attention, one thread, one sequence a forward (no padding and no packing can hide in it)."""

import pathlib
import warnings

import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import AutoModelForCausalLM
from transformers.utils import logging

STEPS = 20
ADAMW = {"lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-8}
WEIGHT_DECAY = 0.1  # on matrices (embeddings and LoRA's A and B too), never on norms and biases


def deterministic():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)


def load_model(directory, dtype=torch.float32):
    model = AutoModelForCausalLM.from_pretrained(
        str(directory), dtype=dtype, attn_implementation="eager", local_files_only=True
    )
    return model.eval()


def forward(model, tokens):
    """Logits (positions, vocabulary) of one sequence. Dynamic RoPE scaling remembers the longest
    sequence it has seen; it is made to forget, so that a result depends on its own tokens alone."""
    for module in model.modules():
        if hasattr(module, "original_inv_freq"):
            module.inv_freq = module.original_inv_freq
            module.max_seq_len_cached = module.original_max_seq_len
    return model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0].float()


def fix_context(model, length):
    """Dynamic RoPE scaling for a run whose longest sequence has `length` tokens: one set of angles
    for every sequence, however short."""
    forward(model, [0] * length)
    for module in model.modules():
        if hasattr(module, "original_inv_freq"):
            module.original_inv_freq = module.inv_freq
            module.original_max_seq_len = length


def logits_of(model, sequences):
    """One (positions, vocabulary) fp32 array a sequence."""
    with torch.no_grad():
        return [forward(model, tokens).numpy().copy() for tokens in sequences]


def mean_loss(model, sequences):
    """Sum of the token losses / number of predicted tokens; a sequence of n tokens predicts n-1."""
    total, predicted = torch.zeros(()), 0
    for tokens in sequences:
        if len(tokens) < 2:
            continue
        logits, targets = forward(model, tokens)[:-1], torch.tensor(tokens[1:])
        total = total + torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
        predicted += len(tokens) - 1
    return total / predicted


def hidden_states(model, tokens):
    """embed: the embedding; layer.i: the residual stream after block i; norm: the last norm's."""
    found, hooks = {}, []

    def keep(name):
        def hook(_module, _inputs, output):
            tensor = output[0] if isinstance(output, tuple) else output
            found[name] = tensor.detach().reshape(len(tokens), -1).numpy().copy()

        return hook

    body = model.model
    hooks.append(body.embed_tokens.register_forward_hook(keep("hidden.embed")))
    for index, layer in enumerate(body.layers):
        hooks.append(layer.register_forward_hook(keep(f"hidden.layer.{index}")))
    hooks.append(body.norm.register_forward_hook(keep("hidden.norm")))
    logits_of(model, [tokens])
    for hook in hooks:
        hook.remove()
    return found


def gradients(model, sequences):
    """(loss, {parameter name: gradient}) of the trainable parameters."""
    model.zero_grad(set_to_none=True)
    loss = mean_loss(model, sequences)
    loss.backward()
    named = {
        name: parameter.grad.numpy().copy()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    model.zero_grad(set_to_none=True)
    return float(loss.detach()), named


def train_adamw(model, sequences, clip=None):
    """STEPS steps on the same batch, in place. (losses before each update, gradient norms)."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in trained if p.dim() >= 2], "weight_decay": WEIGHT_DECAY},
            {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
        ],
        foreach=False,
        **ADAMW,
    )
    losses, norms = [], []
    for _ in range(STEPS):
        optimizer.zero_grad(set_to_none=True)
        loss = mean_loss(model, sequences)
        loss.backward()
        limit = float("inf") if clip is None else clip
        norms.append(float(torch.nn.utils.clip_grad_norm_(trained, limit, foreach=False)))
        optimizer.step()
        losses.append(float(loss.detach()))
    return np.array(losses, np.float32), np.array(norms, np.float32)


def trainable_weights(model):
    return {n: p.detach().numpy().copy() for n, p in model.named_parameters() if p.requires_grad}


def peft_file_name(name):
    """A PEFT parameter's name in adapter_model.safetensors: without the adapter's own name."""
    return name.replace(".default.", ".")


def save_tensors(path, tensors):
    arrays = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    save_file(arrays, str(path))
