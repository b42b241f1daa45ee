"""What a language model is given in the steps that are made of a user's inputs: to train, a prompt, a token more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from twinkle_tune.call.arguments import Call
from twinkle_tune.capture.point import Point, tensors_in


def for_training(point: Point, is_language: bool) -> Point:
    """The inputs of a training step: with labels where a language model has none, and without a cache."""
    if not is_language:
        return point
    named = point.named()
    if named.get("labels") is None and "labels" in point.names:
        named["labels"] = named["input_ids"].clone()
    # Trainers turn the cache off: nothing reads it.
    return keyword_point(point, {"use_cache": False} | named)


def for_prefill(point: Point) -> Point:
    """The prompt as generation gives it: the last token's logits are asked for, and a cache."""
    named = {name: value for name, value in point.named().items() if name != "labels"}
    last_only = {"logits_to_keep": 1} if "logits_to_keep" in point.names else {}
    return keyword_point(point, last_only | named | {"use_cache": True})


def for_decode(point: Point) -> Point:
    """One token more, on the cache of :func:`for_prefill`."""
    # The other tensors (images, token types) went into the cache with the prefill.
    prefill = for_prefill(point).call.kwargs
    named = {name: value for name, value in prefill.items() if next(tensors_in(value), None) is None}
    named["input_ids"] = prefill["input_ids"][:, -1:].clone()
    mask = prefill.get("attention_mask")
    if mask is not None:
        named["attention_mask"] = torch.cat([mask, mask.new_ones(mask.shape[0], 1)], dim=1)
    positions = prefill.get("position_ids")
    if positions is not None:
        named["position_ids"] = positions[..., -1:] + 1
    elif "position_ids" in point.names:
        # As generation does: not every model can tell by the cache alone where it is.
        named["position_ids"] = _next_position(prefill["input_ids"], mask)
    return keyword_point(point, named)


def _next_position(ids: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """The position of the next token of each row (B, 1): how many tokens there were that count."""
    if mask is None:
        return torch.full((ids.shape[0], 1), ids.shape[1], dtype=torch.long, device=ids.device)
    return (mask != 0).sum(dim=1, keepdim=True)


def is_extensible(point: Point) -> bool:
    """Whether one can tell what the inputs would be with a token more."""
    # Of a mask in another form than (B, S) one cannot tell what it would be for one more token.
    mask = point.named().get("attention_mask")
    return mask is None or (isinstance(mask, torch.Tensor) and mask.dim() == 2)


def keyword_point(point: Point, kwargs: Mapping[str, Any]) -> Point:
    """A call of the same model with these arguments, all by name."""
    return replace(point, call=Call(args=(), kwargs=kwargs))
