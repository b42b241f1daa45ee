"""Tiny models of real architectures with random weights, and the slots that tests look for in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import nn

from twinkle_tune.mode import Mode
from twinkle_tune.occurrence import Occurrence
from twinkle_tune.slot import Slot, SlotKind
from twinkle_tune.workload import target_of

WINDOW = 4
"""The sliding window of the models that have one; shorter than the tests' sequences."""

_SIZES: dict[str, Any] = {
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


def _qwen3() -> Any:
    return transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**_SIZES, head_dim=8))


def _gemma3() -> Any:
    layers = ["sliding_attention", "full_attention"]
    config = transformers.Gemma3TextConfig(**_SIZES, head_dim=8, sliding_window=WINDOW, layer_types=layers)
    return transformers.Gemma3ForCausalLM(config)


def _mistral() -> Any:
    return transformers.MistralForCausalLM(transformers.MistralConfig(**_SIZES, sliding_window=WINDOW))


def _phi() -> Any:
    return transformers.PhiForCausalLM(transformers.PhiConfig(**_SIZES))


def _llama() -> Any:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**_SIZES))


def _qwen2() -> Any:
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**_SIZES))


FAMILIES: dict[str, Callable[[], Any]] = {
    "llama": _llama,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "gemma3": _gemma3,
    "mistral": _mistral,
    "phi": _phi,
}


def tiny(family: str) -> nn.Module:
    """A tiny model of the family, the same weights at each call, in eval mode."""
    torch.manual_seed(0)
    model: nn.Module = FAMILIES[family]()
    return model.eval()


def token_ids(batch: int = 2, length: int = 6) -> torch.Tensor:
    """Token ids (batch, length), the same at each call."""
    return torch.randint(0, 64, (batch, length), generator=torch.Generator().manual_seed(1))


def layers(model: nn.Module, name: str, class_ending: str) -> Occurrence:
    """The layer slot ``name``: every module whose class name ends so."""
    found = tuple((path, m) for path, m in model.named_modules() if type(m).__name__.endswith(class_ending))
    slot = Slot(name=name, kind=SlotKind.LAYER, target=target_of(type(found[0][1])))
    return Occurrence(slot=slot, instances=found)


def function(target: str) -> Occurrence:
    """The function slot of "module:qualified.name"."""
    module, _, qualified = target.partition(":")
    return Occurrence(slot=Slot(name=f"{module}.{qualified}", kind=SlotKind.FUNCTION, target=target))


def rotary(model: nn.Module) -> Occurrence:
    """The function slot of the family's rotary embedding."""
    return function(f"{type(model).__module__}:apply_rotary_pos_emb")


def inputs_of(mode: Mode) -> dict[str, torch.Tensor]:
    """Two sequences of 12 tokens, with labels in the train modes."""
    ids = torch.randint(0, _SIZES["vocab_size"], (2, 12), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "labels": ids} if mode.trains else {"input_ids": ids}
