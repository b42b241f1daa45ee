"""Tiny models of the families in which pieces stand in a block's graph, each of another form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from tests.capture.tiny_models import _SIZES as SIZES
from tests.capture.tiny_models import FAMILIES as FIRST
from tests.zoo.build import Built, build
from tests.zoo.inputs import with_labels
from tests.zoo.names import kind_of

_HEADS = {"head_dim": 8}
_PLAIN = {k: v for k, v in SIZES.items() if k != "num_key_value_heads"}


def _gpt2() -> Any:
    sizes = {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, bos_token_id=None, eos_token_id=None))


def _gpt_neox(*, side_by_side: bool) -> Any:
    return transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**_PLAIN, use_parallel_residual=side_by_side))


def _vit() -> Any:
    sizes = {k: _PLAIN[k] for k in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")}
    return transformers.ViTForImageClassification(transformers.ViTConfig(**sizes, image_size=8, patch_size=4))


FAMILIES: dict[str, Callable[[], Any]] = {
    **{name: FIRST[name] for name in ("llama", "qwen2", "qwen3", "gemma3", "mistral", "phi")},
    "gemma2": lambda: transformers.Gemma2ForCausalLM(transformers.Gemma2Config(**SIZES, **_HEADS)),
    "olmo2": lambda: transformers.Olmo2ForCausalLM(transformers.Olmo2Config(**SIZES)),
    "glm4": lambda: transformers.Glm4ForCausalLM(transformers.Glm4Config(**SIZES, **_HEADS)),
    "gpt2": _gpt2,
    "gpt_neox": lambda: _gpt_neox(side_by_side=True),
    "gpt_neox in turn": lambda: _gpt_neox(side_by_side=False),
    "bert": lambda: transformers.BertForMaskedLM(transformers.BertConfig(**{**_PLAIN, "pad_token_id": 0})),
    "vit": _vit,
}
SIDE_BY_SIDE = ("phi", "gpt_neox", "gptj", "codegen", "cohere", "falcon")
"""Attention and MLP read the block's input, both: what a block adds up is its output."""
_BUILT = ("opt", "bart", "whisper", "bloom", "mpt", "xglm", "marian", "xlnet", *SIDE_BY_SIDE[2:])
"""Those that the zoo builds: with Linears and activations that are no layer, or side by side."""
PLACES: dict[str, dict[str, int]] = {
    **{name: {"AddNorm": 2} for name in FAMILIES if name not in SIDE_BY_SIDE},
    **{name: {"AddNorm": 4} for name in ("gemma2", "gemma3", "olmo2", "glm4", "bert")},
    **{name: {"AddNorm": 2, "LinearAct": 2} for name in ("whisper", "mpt", "xglm", "xlnet")},
    **{name: {"AddNorm": 4, "LinearAct": 2} for name in ("bart", "marian")},
    **{name: {"LinearAct": 2} for name in ("opt", "bloom")},
}
"""Places in two layers by the slot's name."""


def model_of(family: str) -> nn.Module:
    """The model, the same weights at each call, evaluating."""
    if family in _BUILT:
        return _built(family).model
    torch.manual_seed(0)
    model: nn.Module = FAMILIES[family]()
    return model.eval()


def inputs_of(family: str, *, trains: bool) -> dict[str, Tensor]:
    """Two sequences of some tokens or two pictures, with labels where it trains."""
    if family in _BUILT:
        made = _built(family)
        return with_labels(made.model, made.inputs) if trains else made.inputs
    source = torch.Generator().manual_seed(1)
    if family == "vit":
        given = {"pixel_values": torch.randn(2, 3, 8, 8, generator=source)}
        return {**given, "labels": torch.tensor([0, 1])} if trains else given
    ids = torch.randint(0, 64, (2, 6), generator=source)
    return {"input_ids": ids, "labels": ids} if trains else {"input_ids": ids}


def _built(family: str) -> Built:
    return build(kind_of(family))
