"""A Llama that is small enough for every test, and kernels that show in its output that they ran."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import linear, silu
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

from tests.kernel.toys import layer_contest
from tests.kernel.toys import profile as profile_of
from twinkle_tune.kernel import Registry, kernelize_model, register_external_layer, register_layer_kernel
from twinkle_tune.profile.schema import Profile

transformers_names_layers = pytest.mark.skipif(
    not hasattr(LlamaRMSNorm, "kernel_layer_name"),
    reason="transformers names no layers for kernels beside a version of kernels that is not of its range",
)
NORM, MLP = "impl:shifted_norm", "impl:fused_mlp"


def shifted_norm(self: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    """The norm plus 0.1: wrong, so that it is seen to run."""
    normed: torch.Tensor = LlamaRMSNorm.forward(self, hidden_states)
    return normed + 0.1


def fused_mlp(self: Any, x: torch.Tensor) -> torch.Tensor:
    """Twice the MLP, from the weights of its submodules, which it does not call."""
    gated = silu(linear(x, self.gate_proj.weight)) * linear(x, self.up_proj.weight)
    return linear(gated, self.down_proj.weight) * 2


def tiny_llama() -> LlamaForCausalLM:
    """Two layers of width 8, in float32, always with the same weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        use_cache=False,
    )
    return LlamaForCausalLM(config).eval()


def tokens() -> torch.Tensor:
    """Token ids (2, 6)."""
    return torch.arange(12).view(2, 6)


def logits(model: nn.Module) -> torch.Tensor:
    """What the model gives for the tokens, without gradients."""
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=tokens()).logits
    return found


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    """The gradients of one training step, by the parameter's name in the plain model."""
    model.zero_grad()
    model(input_ids=tokens(), labels=tokens()).loss.backward()
    return {
        name.removeprefix("module.").replace("_checkpoint_wrapped_module.", ""): parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def known(*, mlp: bool = False, registry: Registry | None = None) -> Registry:
    """A registry (None for a new one) with the norm's kernel and, if asked for, the MLP's."""
    registry = Registry() if registry is None else registry
    register_external_layer(LlamaRMSNorm, "RMSNorm", registry=registry)
    register_layer_kernel("RMSNorm", layer_impl=shifted_norm, device="cpu", registry=registry)
    if mlp:
        register_external_layer(LlamaMLP, "GatedMLP", registry=registry)
        register_layer_kernel("GatedMLP", layer_impl=fused_mlp, device="cpu", registry=registry)
    return registry


def profile(*, mlp: bool = False) -> Profile:
    """A profile in which the kernels won everywhere, at every norm (and MLP), with gradients and without."""
    model, registry = tiny_llama(), known(mlp=mlp)
    norms = [path for path, module in model.named_modules() if isinstance(module, LlamaRMSNorm)]
    states = (False, True)
    contests = [layer_contest(model, norms, 12, NORM, registry, slot="RMSNorm", grad=grad) for grad in states]
    if mlp:
        paths = [path for path, module in model.named_modules() if isinstance(module, LlamaMLP)]
        contests += [layer_contest(model, paths, 12, MLP, registry, slot="GatedMLP", grad=grad) for grad in states]
    return profile_of(contests)


def kernelized_logits(*, mlp: bool = False) -> torch.Tensor:
    """What a model gives that is only kernelized."""
    model = tiny_llama()
    bind(model, mlp=mlp)
    return logits(model)


def bind(model: nn.Module, *, mlp: bool = False, group: object = None) -> nn.Module:
    """The profile's winners bound to a model, by all ranks of a group where there is one; a stale entry is an error."""
    made, registry = profile(mlp=mlp), known(mlp=mlp)
    return kernelize_model(model, profile=made, registry=registry, use_fallback=False, group=group)
