"""A model with layers as wide as those of a model that people run; small enough for a CPU in all else."""

from __future__ import annotations

from torch import nn


def qwen3_wide() -> nn.Module:
    """A Qwen3 of four layers and width 1024, with the tiny presets' vocabulary; random weights."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    model: nn.Module = Qwen3ForCausalLM(
        Qwen3Config(
            hidden_size=1024, intermediate_size=3072, num_hidden_layers=4, num_attention_heads=16,
            num_key_value_heads=8, head_dim=128, vocab_size=2048, max_position_embeddings=4096,
            tie_word_embeddings=True,
        )
    )  # fmt: skip
    return model
