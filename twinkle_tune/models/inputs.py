"""Batches of random inputs for a model: tokens for a causal language model, what others take for others."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from twinkle_tune.errors import ModelError, in_a_line
from twinkle_tune.mode import Mode
from twinkle_tune.models.architecture import factory_text, is_causal
from twinkle_tune.models.factory import move
from twinkle_tune.models.modalities import Unknown, model_inputs, text_positions

_TOKENS = 128
"""Tokens of a sequence where nobody asked for a length."""


def example_inputs(
    model: nn.Module, batches: Sequence[int], seq_lens: Sequence[int], mode: Mode, device: str
) -> list[dict[str, Tensor]]:
    """Keyword arguments for ``model``, one set for each batch size and sequence length; the same each time.

    Each holds ``input_ids`` (int64, ``[batch, tokens]``), drawn evenly from the vocabulary; where the mode
    trains, also ``labels``, the same tensor's copy.

    Raises:
        ModelError: the model takes no tokens, or a size is below 1 or beyond the model's positions.
    """
    vocabulary, positions = _limits(model)
    for option, sizes in (("batch", batches), ("seq-len", seq_lens)):
        if not sizes or min(sizes) < 1:
            raise ModelError(f"{option}: got {list(sizes)}, expected whole numbers of at least 1")
    _check_length(max(seq_lens), positions)
    generator = torch.Generator().manual_seed(0)
    sets: list[dict[str, Tensor]] = []
    for batch in batches:
        for seq_len in seq_lens:
            try:
                tokens = torch.randint(0, vocabulary, (batch, seq_len), generator=generator).to(device)
            except (RuntimeError, MemoryError, OverflowError, TypeError) as error:
                raise ModelError(
                    f"batch and seq-len: got {batch} x {seq_len} tokens, for which there is no memory "
                    f"({in_a_line(error, 120)}); ask for fewer"
                ) from error
            sets.append({"input_ids": tokens, "labels": tokens.clone()} if mode.trains else {"input_ids": tokens})
    return sets


def other_inputs(
    spec: str,
    model: nn.Module,
    batches: Sequence[int] | None,
    seq_lens: Sequence[int] | None,
    mode: Mode,
    device: str,
) -> list[dict[str, Tensor]]:
    """Keyword arguments for a transformers model that is no decoder, one set for each size; the model was run on one.

    Args:
        spec: what the user asked for.
        batches, seq_lens: sizes; None for 1, and for 128 tokens, or as many as the model's positions allow.

    Raises:
        ModelError: what to call it with is not known, or it raised; the message has a factory to paste.
    """
    positions = text_positions(getattr(model, "config", None))
    if seq_lens is not None:
        _check_length(max(seq_lens), positions)
    lengths = (min(_TOKENS, positions or _TOKENS),) if seq_lens is None else seq_lens
    kind = next((each.dtype for each in model.parameters() if each.is_floating_point()), None)
    try:
        sets = [
            move(model_inputs(model, batch, length, trains=mode.trains), device, kind)
            for batch in batches or (1,)
            for length in lengths
        ]
    except Unknown as unknown:
        raise ModelError(factory_text(spec, model, str(unknown))) from unknown
    try:
        with torch.no_grad():
            model(**sets[0])
    except Exception as error:  # whatever a model raises of inputs that were guessed: they are the wrong ones
        raise ModelError(factory_text(spec, model, in_a_line(error))) from error
    return sets


def is_decoder(model: nn.Module) -> bool:
    """Whether the model is a causal language model of transformers: what :func:`example_inputs` feeds."""
    config = getattr(model, "config", None)
    return takes_tokens(model) and is_causal(config, type(model).__name__)


def takes_tokens(model: nn.Module) -> bool:
    """Whether the model is one that :func:`example_inputs` knows how to feed."""
    return hasattr(model, "config") and "input_ids" in signature(model.forward).parameters


def _check_length(tokens: int, positions: int | None) -> None:
    if positions is not None and tokens > positions:
        raise ModelError(
            f"seq-len: got {tokens}, expected at most {positions}, the positions that the model's configuration "
            "allows; ask for a shorter sequence"
        )


def _limits(model: nn.Module) -> tuple[int, int | None]:
    """Number of tokens in the vocabulary and of positions; None where the configuration sets no limit."""
    config: Any = getattr(model, "config", None)
    if hasattr(config, "get_text_config"):
        config = config.get_text_config()
    vocabulary = getattr(config, "vocab_size", None)
    if not isinstance(vocabulary, int):
        raise ModelError(
            f"inputs: got {type(model).__name__}, whose configuration names no vocab_size, expected a causal "
            "language model; write a factory that returns (module, inputs)"
        )
    positions = getattr(config, "max_position_embeddings", None)
    return vocabulary, positions if isinstance(positions, int) else None
