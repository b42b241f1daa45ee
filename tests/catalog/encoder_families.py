"""Tiny models beside the decoder families: encoders, encoder-decoders, speech, vision, and the older decoders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor, nn

_BERT: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "pad_token_id": 0,
}
_BART: dict[str, Any] = {
    "vocab_size": 64,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}
_T5: dict[str, Any] = {
    "vocab_size": 64,
    "d_model": 32,
    "d_ff": 48,
    "d_kv": 8,
    "num_layers": 2,
    "num_heads": 4,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}


def _t5(**settings: Any) -> Any:
    return transformers.T5ForConditionalGeneration(transformers.T5Config(**_T5, **settings))


def _modernbert() -> Any:
    return transformers.ModernBertForMaskedLM(
        transformers.ModernBertConfig(**_BERT, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2)
    )


def _gpt2() -> Any:
    config = transformers.GPT2Config(
        vocab_size=64, n_embd=32, n_inner=48, n_layer=2, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2
    )
    return transformers.GPT2LMHeadModel(config)


def _bert() -> Any:
    return transformers.BertForMaskedLM(transformers.BertConfig(**_BERT))


def _bart() -> Any:
    config = transformers.BartConfig(**_BART, max_position_embeddings=64, forced_eos_token_id=None, dropout=0.0)
    return transformers.BartForConditionalGeneration(config)


def _opt() -> Any:
    config = transformers.OPTConfig(
        vocab_size=64,
        hidden_size=32,
        word_embed_proj_dim=32,
        ffn_dim=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        pad_token_id=0,
        dropout=0.0,
    )
    return transformers.OPTForCausalLM(config)


def _whisper() -> Any:
    config = transformers.WhisperConfig(**_BART, max_source_positions=16, max_target_positions=32, num_mel_bins=16)
    return transformers.WhisperForConditionalGeneration(config)


def _deberta() -> Any:
    config = transformers.DebertaV2Config(**_BERT, relative_attention=True, pos_att_type=["p2c", "c2p"])
    return transformers.DebertaV2ForMaskedLM(config)


def _wav2vec2() -> Any:
    config = transformers.Wav2Vec2Config(
        **_BERT,
        conv_dim=(16, 16),
        conv_stride=(5, 2),
        conv_kernel=(10, 3),
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
        mask_time_prob=0.0,
        layerdrop=0.0,
        hidden_dropout=0.0,
        activation_dropout=0.0,
        attention_dropout=0.0,
        feat_proj_dropout=0.0,
    )
    return transformers.Wav2Vec2ForSequenceClassification(config)


def _vit() -> Any:
    config = transformers.ViTConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=16,
        patch_size=4,
        num_labels=5,
    )
    return transformers.ViTForImageClassification(config)


FAMILIES: dict[str, Callable[[], Any]] = {
    "t5": _t5,
    "t5-gated": lambda: _t5(feed_forward_proj="gated-gelu"),
    "modernbert": _modernbert,
    "gpt2": _gpt2,
    "bert": _bert,
    "bart": _bart,
    "opt": _opt,
    "whisper": _whisper,
    "deberta": _deberta,
    "wav2vec2": _wav2vec2,
    "vit": _vit,
}
"""By name what makes a tiny model, with the family's own dropouts.

OPT, BART and wav2vec2 have none here: whether to skip a layer they draw in torch's default dtype, so that in float64
their dropouts would draw other elements, and nothing could be told of the whole model.
"""
ENCODER_DECODERS = ("t5", "t5-gated", "bart", "whisper")


def tiny(family: str) -> nn.Module:
    """A model of width 32 in two layers, evaluating; its weights are random, never 0 or 1, the same at each call."""
    torch.manual_seed(0)
    model: nn.Module = FAMILIES[family]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def inputs_of(family: str, *, trains: bool) -> dict[str, Tensor]:
    """Two rows of what the family takes, with labels where it trains on them."""
    source = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 64, (2, 12), generator=source)
    target = torch.randint(3, 64, (2, 7), generator=source)
    if family == "vit":
        pixels = {"pixel_values": torch.randn(2, 3, 16, 16, generator=source)}
        return pixels | ({"labels": torch.tensor([1, 3])} if trains else {})
    if family == "wav2vec2":
        waves = {"input_values": torch.randn(2, 400, generator=source)}
        return waves | ({"labels": torch.tensor([1, 0])} if trains else {})
    given = {"input_features": torch.randn(2, 16, 32, generator=source)} if family == "whisper" else {"input_ids": ids}
    if family in ENCODER_DECODERS:
        return given | ({"labels": target} if trains else {"decoder_input_ids": target})
    return given | ({"labels": ids} if trains else {})
