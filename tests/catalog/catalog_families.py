"""Tiny models of the families that the catalog is for, with random weights that are neither 0 nor 1."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import nn

FAMILIES = ("llama", "qwen2", "qwen3", "mistral", "gemma", "gemma2", "gemma3_text", "phi", "phi3")


def tiny(family: str, **settings: Any) -> nn.Module:
    """A causal language model of the family, two layers of width 32 unless other settings are given."""
    sizes: dict[str, Any] = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    if family not in ("phi", "phi3"):
        sizes["head_dim"] = 8
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(family, **(sizes | settings))
    model: nn.Module = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def width(module: nn.Module) -> int:
    """The last dimension of a module's input."""
    linears = [child for child in module.children() if isinstance(child, nn.Linear)]
    if linears:
        return min(linear.in_features for linear in linears)
    return next((p.shape[-1] for p in module.parameters()), 16)
