"""Published architectures as figures: random weights of the right shapes, and no network.

The figures of the full-sized presets are those of the ``config.json`` that each model was published with.
The ``-tiny`` ones are ours: the same architecture, small enough for a two-core machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any

from twinkle_tune.errors import ModelError


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A configuration, and the sizes at which it is profiled unless others are asked for.

    Attributes:
        config: name of the transformers configuration class.
        figures: arguments of that class.
        batches, seq_lens: sequences in a batch, tokens in a sequence.
    """

    config: str
    figures: Mapping[str, Any] = field(hash=False)
    batches: tuple[int, ...] = (1,)
    seq_lens: tuple[int, ...] = (1024,)


def find_preset(name: str) -> Preset:
    """The preset of that name.

    Raises:
        ModelError: there is none; the message names those that are spelled alike.
    """
    if name in PRESETS:
        return PRESETS[name]
    near = get_close_matches(name.lower(), PRESETS, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"presets: {', '.join(PRESETS)}"
    raise ModelError(
        f"model: got {name!r}, which is no preset; {hint} (a Hub id is written owner/name, "
        "a directory must exist, a factory is package.module:function)"
    )


def _rope(theta: float, **scaling: Any) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": theta, **scaling}


def _tiny(config: str, **figures: Any) -> Preset:
    sizes: dict[str, Any] = {
        "hidden_size": 256,
        "intermediate_size": 768,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 2048,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
    }
    return Preset(config=config, figures=MappingProxyType(sizes | figures), seq_lens=(128,))


_QWEN3_0_6B = Preset(
    config="Qwen3Config",
    figures=MappingProxyType(
        {
            "hidden_size": 1024,
            "intermediate_size": 3072,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "vocab_size": 151936,
            "max_position_embeddings": 40960,
            "rope_parameters": _rope(1_000_000.0),
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": True,
        }
    ),
)

_QWEN2_5_1_5B = Preset(
    config="Qwen2Config",
    figures=MappingProxyType(
        {
            "hidden_size": 1536,
            "intermediate_size": 8960,
            "num_hidden_layers": 28,
            "num_attention_heads": 12,
            "num_key_value_heads": 2,
            "vocab_size": 151936,
            "max_position_embeddings": 131072,
            "rope_parameters": _rope(1_000_000.0),
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": True,
        }
    ),
)

_LLAMA_3_2_1B = Preset(
    config="LlamaConfig",
    figures=MappingProxyType(
        {
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 16,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 64,
            "vocab_size": 128256,
            "max_position_embeddings": 131072,
            "rope_parameters": _rope(
                500_000.0,
                rope_type="llama3",
                factor=32.0,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_max_position_embeddings=8192,
            ),
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": True,
        }
    ),
)

_GEMMA_3_1B = Preset(
    # Rotary bases (1e6 for full, 1e4 for sliding attention) and the pattern of five sliding layers to one
    # full layer are this class's defaults.
    config="Gemma3TextConfig",
    figures=MappingProxyType(
        {
            "hidden_size": 1152,
            "intermediate_size": 6912,
            "num_hidden_layers": 26,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "head_dim": 256,
            "query_pre_attn_scalar": 256,
            "vocab_size": 262144,
            "max_position_embeddings": 32768,
            "sliding_window": 512,
            "hidden_activation": "gelu_pytorch_tanh",
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": True,
        }
    ),
)

_MISTRAL_7B = Preset(
    # Version 0.3: a larger vocabulary than 0.1, and no sliding window.
    config="MistralConfig",
    figures=MappingProxyType(
        {
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "vocab_size": 32768,
            "max_position_embeddings": 32768,
            "sliding_window": None,
            "rope_parameters": _rope(1_000_000.0),
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": False,
        }
    ),
)

PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "qwen3-0.6b": _QWEN3_0_6B,
        "qwen2.5-1.5b": _QWEN2_5_1_5B,
        "llama-3.2-1b": _LLAMA_3_2_1B,
        "gemma-3-1b": _GEMMA_3_1B,
        "mistral-7b": _MISTRAL_7B,
        "qwen3-tiny": _tiny("Qwen3Config", head_dim=64),
        "qwen2-tiny": _tiny("Qwen2Config"),
        "llama-tiny": _tiny("LlamaConfig"),
        "mistral-tiny": _tiny("MistralConfig", sliding_window=None),
        "gemma3-tiny": _tiny(
            "Gemma3TextConfig",
            head_dim=64,
            query_pre_attn_scalar=64,
            sliding_window=64,
            layer_types=["sliding_attention", "full_attention"],
            hidden_activation="gelu_pytorch_tanh",
        ),
        "phi-tiny": _tiny(
            "PhiConfig",
            intermediate_size=1024,
            num_key_value_heads=4,
            hidden_act="gelu_new",
            tie_word_embeddings=False,
        ),
    }
)
"""Every preset by its name, the full-sized ones first."""
