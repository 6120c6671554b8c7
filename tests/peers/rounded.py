"""Training in bf16 with fp32 masters in PyTorch: a transformers model that computes in fp32 and
rounds to bf16 what the header of core/block.h says is stored, forward and backward. Its parameters
are the masters; matrices are rounded as they are used, norms and biases are not."""

import torch
from torch.nn import functional
from transformers import AttentionInterface, AutoModelForCausalLM


def bf16(x):
    return x.to(torch.bfloat16).to(torch.float32)


class Stored(torch.autograd.Function):
    """A value that is stored in bf16, as its gradient is."""

    @staticmethod
    def forward(_context, x):
        return bf16(x)

    @staticmethod
    def backward(_context, gradient):
        return bf16(gradient)


class Weight(torch.autograd.Function):
    """A master as it is used; its gradient is fp32."""

    @staticmethod
    def forward(_context, x):
        return bf16(x)

    @staticmethod
    def backward(_context, gradient):
        return gradient


class Logits(torch.autograd.Function):
    """fp32, with a gradient that is stored in bf16."""

    @staticmethod
    def forward(_context, x):
        return x.clone()

    @staticmethod
    def backward(_context, gradient):
        return bf16(gradient)


stored = Stored.apply


def attention(module, query, key, value, _mask, scaling, **_others):
    """Causal, over all earlier positions: models with a window are not for this."""
    query, key = stored(query), stored(key)  # after RoPE
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.transpose(2, 3) * scaling
    future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    weights = scores.masked_fill(future, float("-inf")).softmax(-1)
    return stored((weights @ value).transpose(1, 2)), weights


AttentionInterface.register("rounded", attention)


def use_linear(module, head):
    def forward(x):
        y = functional.linear(x, Weight.apply(module.weight), module.bias)
        return Logits.apply(y) if head else stored(y)

    module.forward = forward


def use_stored_output(module):
    plain = module.forward
    module.forward = lambda x: stored(plain(x))


def use_layer(layer):
    def mlp(x):
        product = functional.silu(layer.mlp.gate_proj(x)) * layer.mlp.up_proj(x)
        return layer.mlp.down_proj(stored(product))

    def forward(hidden_states, **arguments):
        inside = layer.input_layernorm(hidden_states)
        added, _ = layer.self_attn(hidden_states=inside, **arguments)
        middle = stored(hidden_states + added)
        return stored(middle + mlp(layer.post_attention_layernorm(middle)))

    layer.forward = forward


def load_rounded(directory):
    model = AutoModelForCausalLM.from_pretrained(
        str(directory), dtype=torch.float32, attn_implementation="rounded", local_files_only=True
    ).eval()
    if getattr(model.config, "sliding_window", None):
        raise ValueError(f"{directory}: a sliding window")
    with torch.no_grad():  # masters begin as what a bf16 model loads
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.copy_(bf16(parameter))
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            use_linear(module, head=name == "lm_head")
        elif type(module).__name__.endswith("RMSNorm"):
            use_stored_output(module)
    body = model.model
    table = body.embed_tokens
    table.forward = lambda ids: stored(functional.embedding(ids, Weight.apply(table.weight)))
    for layer in body.layers:
        use_layer(layer)
    return model
