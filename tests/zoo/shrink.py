"""A tiny configuration of a model type: the class's own defaults, made small by the names of the fields.

The defaults stay wherever a field's name says nothing about a size, so that a type keeps its kinds of layers, its
activation, its norm and its rotary embedding. What the configuration computes by itself is computed anew.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from tests.zoo.overrides import OVERRIDES

VOCABULARY = 128
ORDINARY = (20, 90)
"""Ids of ordinary tokens are drawn from here; special tokens lie outside."""
IMAGE, PATCH, CHANNELS = 32, 8, 3
POSITIONS = 128
LAYERS, HEADS, KEY_HEADS, HEAD, WIDTH, INNER, EXPERTS = 2, 4, 2, 16, 64, 96, 4

_BY_NAME: tuple[tuple[str, int], ...] = (
    (r"(.*_)?vocab_size(_per_layer_input)?", VOCABULARY),
    (r"qk_rope_head_dim|qk_nope_head_dim|rotary_dim", 8),
    (
        r"max_position_embeddings|n_positions|n_ctx|max_sequence_length|max_seq_len|max_(source|target)_positions",
        POSITIONS,
    ),
    (r"num_layers|n_layers?|(.*_)?num_hidden_layers|(encoder|decoder)_layers|num_(en|de)coder_layers", LAYERS),
    (r"(text|audio|vision|prediction|memory_attention)_(num_)?(hidden_)?layers", LAYERS),
    (r"num_key_value_heads|num_kv_heads|multi_query_group_num", KEY_HEADS),
    (r"(.*_)?num_attention_heads|num_heads|n_heads?|(encoder|decoder)_attention_heads|attention_heads", HEADS),
    (r"(.*_)?head_dim|d_kv|d_head|attention_head_dim|kv_channels|attention_key_size", HEAD),
    (r"d_model|n_embd|dim|emb_dim", WIDTH),
    (r"(.*_)?(hidden_size|embed_dim|hidden_dim|projection_dim|embedding_dim|embedding_size)", WIDTH),
    (r"(.*_)?(intermediate_size|ffn_dim|mlp_dim|d_ff|ffn_hidden_size|intermediate_dim|d_inner)", INNER),
    (r"dim_feedforward|n_inner", INNER),
    (r"num_experts|n_routed_experts|num_local_experts|moe_num_experts|num_moe_experts", EXPERTS),
    (r"num_experts_per_tok|moe_topk|moe_k|num_experts_per_token|moe_top_k|top_k_experts", 2),
    (r"n_group|topk_group|first_k_dense_replace|num_expert_groups", 1),
    (r"q_lora_rank|kv_lora_rank|o_lora_rank", 16),
    (r"num_kv_shared_layers|num_nextn_predict_layers", 0),
    (r"sliding_window|attention_window|local_attention|window_size", 8),
    (r"image_size|input_size|pretrain_image_size", IMAGE),
    (r"patch_size", PATCH),
    (r"linear_num_key_heads|mamba_n_groups|n_groups", 2),
    (r"linear_num_value_heads", 4),
    (r"num_mel_bins|feature_size|input_feat_per_channel", 16),
    (r"num_queries|num_query_tokens", 8),
    (r"classifier_proj_size", WIDTH),
)
"""The first pattern that a field's whole name matches says how small it becomes."""
_COUNTS = re.compile(r"(.*_)?vocab_size|.*layers|depth|image_size|(.*_)?num_hidden_layers|n_layers?")
_WIDTHS = re.compile(r"(.*_)?(hidden_sizes|embed_dims?|dims|encoder_hidden_sizes|out_channels|widths)")
_SPECIAL = re.compile(r"(.*_)?(token_id|token_index|token_ids)|(pad|bos|eos|unk|sep|cls|mask)_index")
_DEPTHS = re.compile(r"depths?|num_blocks|layer_depths|num_layers|(.*_)?layers|encoder_depths")
_PER_LAYER = re.compile(r"layer_types|mlp_layer_types|layers_block_type|no_rope_layers|indexer_types|layer_rope_theta")


class Numbers:
    """Gives each special token an id of its own at the upper end of the vocabulary."""

    def __init__(self) -> None:
        self._given: dict[str, int] = {}

    def of(self, name: str) -> int:
        """The same name, the same id."""
        return self._given.setdefault(name, VOCABULARY - 1 - len(self._given) % (VOCABULARY - ORDINARY[1] - 1))


def tiny_config(
    config_class: Any, level: int = 0, numbers: Numbers | None = None, over: dict[str, Any] | None = None
) -> Any:
    """A small configuration.

    Args:
        config_class: of transformers.
        level: 0 makes all sizes small; 1 the counts of layers and the sizes of inputs alone; 2 nothing.
        over: fields that are set as they are, sub-configurations by name.
    """
    numbers = numbers or Numbers()
    model_type = getattr(config_class, "model_type", "")
    wanted = dict(OVERRIDES.get(model_type, {})) | (over or {})
    default = _default(config_class, wanted)
    made: dict[str, Any] = {}
    for field in dataclasses.fields(config_class):
        if not field.init or field.name in wanted:
            continue
        value = default.__dict__.get(field.name)
        if hasattr(value, "to_dict") and hasattr(type(value), "model_type"):
            made[field.name] = tiny_config(type(value), level, numbers)
        elif (small := _small(field.name, value, level, numbers)) is not None:
            made[field.name] = small
    if level == 0:
        made |= _alike(default, made)
    if level < 2:
        made |= _layers(default, made)
    for name, value in wanted.items():
        if isinstance(value, dict) and hasattr(default.__dict__.get(name), "to_dict"):
            made[name] = tiny_config(type(default.__dict__[name]), level, numbers, value)
        else:
            made[name] = value
    return config_class(**made)


def _default(config_class: Any, wanted: dict[str, Any]) -> Any:
    try:
        return config_class()
    except Exception:
        return config_class(**wanted)


def _small(name: str, value: object, level: int, numbers: Numbers) -> object:
    """The small value of a field; None where it stays."""
    if level >= 2 or isinstance(value, bool) or value is None:
        return None
    if _SPECIAL.fullmatch(name):
        if isinstance(value, int):
            return None if 0 <= value < ORDINARY[0] or value < 0 else numbers.of(name)
        if isinstance(value, (list, tuple)):
            return [numbers.of(f"{name}{i}") for i, _ in enumerate(value)]
        return None
    is_list = isinstance(value, (list, tuple)) and value and all(type(v) is int for v in value)
    if is_list and _DEPTHS.fullmatch(name):
        return type(value)(1 for _ in value)  # type: ignore[call-arg,attr-defined]
    if level == 1 and not _COUNTS.fullmatch(name):
        return None
    if type(value) is int:
        if name == "depth":
            return LAYERS
        for pattern, small in _BY_NAME:
            if re.fullmatch(pattern, name):
                return small if value > small or name.endswith("kv_shared_layers") else None
        return None
    if is_list and level == 0:
        return _small_list(name, value)
    return None


def _small_list(name: str, value: Any) -> object:
    if name in ("image_size", "input_size"):
        return type(value)(IMAGE for _ in value)
    if name == "patch_size" and min(value) > PATCH:
        return type(value)(PATCH for _ in value)
    if _WIDTHS.fullmatch(name):
        # Widths that grow from stage to stage: the same ratios.
        factor = max(1, min(value) // 16)
        return type(value)(max(8, v // factor) for v in value)
    if re.fullmatch(r"num_(attention_)?heads", name):
        return type(value)(1 if v % min(value) else v // min(value) for v in value)
    if name == "conv_dim":
        return type(value)(32 for _ in value)
    return None


def _alike(default: Any, made: dict[str, Any]) -> dict[str, Any]:
    """What must stay as it is among the small values: heads without groups, and the parts of a rotary embedding."""
    found: dict[str, Any] = {}
    given = default.__dict__
    heads, key_heads = given.get("num_attention_heads"), given.get("num_key_value_heads")
    if heads is not None and heads == key_heads and "num_key_value_heads" in made:
        found["num_key_value_heads"] = made.get("num_attention_heads", heads)
    rope = given.get("rope_parameters")
    if "mrope_section" in (getattr(default, "ignore_keys_at_rope_validation", None) or ()) and isinstance(rope, dict):
        head = made.get("head_dim") or given.get("head_dim") or HEAD
        pairs = int(head * float(rope.get("partial_rotary_factor", 1.0))) // 2
        third = pairs * 3 // 8
        found["rope_parameters"] = rope | {"mrope_section": [pairs - 2 * third, third, third]}
    return found


def _layers(default: Any, made: dict[str, Any]) -> dict[str, Any]:
    """One layer of each kind where a configuration lists kinds of layers; lists of the right length elsewhere."""
    names = {f.name for f in dataclasses.fields(default) if f.init}
    count = next((n for n in ("num_hidden_layers", "n_layer", "num_layers", "n_layers") if n in names), None)
    if count is None:
        return {}
    length = default.__dict__.get(count)
    lists = {
        name: value
        for name in names
        if isinstance(value := default.__dict__.get(name), (list, tuple)) and len(value) == length and length
        and (_PER_LAYER.fullmatch(name) or length > 6)
    }  # fmt: skip
    kinds = list(zip(*lists.values(), strict=True)) if lists else []
    kept = [i for i, kind in enumerate(kinds) if kind not in kinds[:i]]
    kept = kept[:4] + [i for i in range(len(kinds)) if i not in kept][: max(0, LAYERS - len(kept))]
    if not kept:
        return {}
    return {count: len(kept)} | {name: [value[i] for i in sorted(kept)] for name, value in lists.items()}
