"""Decode steps of encoder-decoders: the encoder has run, the decoder gets one token on a cache.

Generation runs the encoder once and then the decoder token by token, with the encoder's states given. So the step's
cache and states come from one run of the whole model, and are what every run of the step begins with.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from twinkle_tune.call.arguments import Call, map_tensors
from twinkle_tune.capture.point import Point, tensors_in, unwrapped

_NEEDED = frozenset({"decoder_input_ids", "encoder_outputs", "past_key_values"})
_STATES = "encoder_last_hidden_state"


def decoder_points(model: nn.Module, point: Point) -> tuple[Point, Point] | None:
    """What fills the cache of a decode step, and what the step is given beside cache and states.

    None for a model that is no encoder-decoder which generates, where the arguments hold a cache already, or no decoder
    token can be told from them. The tokens are the inputs' own: ``decoder_input_ids``, else what the model makes of
    ``labels``, else the one that generation starts with.
    """
    inner: Any = unwrapped(model)
    config = getattr(inner, "config", None)
    is_one = getattr(config, "is_encoder_decoder", False) and callable(getattr(inner, "generate", None))
    named = point.named()
    if not is_one or not set(point.names) >= _NEEDED or named.get("past_key_values") is not None:
        return None
    ids, mask = _decoder_ids(inner, named), named.get("decoder_attention_mask")
    if ids is None or (mask is not None and tuple(mask.shape) != tuple(ids.shape)):
        return None  # of a mask in another form one cannot tell what it would be for one more token
    prefill = {name: value for name, value in named.items() if name != "labels"}
    prefill |= {"decoder_input_ids": ids, "use_cache": True}
    # What the encoder and the tokens before were given is in its states and in the cache; its mask is read again.
    kept = ("attention_mask",)
    decode = {name: v for name, v in prefill.items() if name in kept or next(tensors_in(v), None) is None}
    decode["decoder_input_ids"] = ids[:, -1:].clone()
    if mask is not None:
        decode["decoder_attention_mask"] = torch.cat([mask, mask.new_ones(mask.shape[0], 1)], dim=1)
    return _with(point, prefill), _with(point, decode)


@contextmanager
def encoder_heard(model: nn.Module) -> Iterator[list[object]]:
    """What the model's encoder returns while the model runs, in order; nothing where its encoder cannot be told.

    Generation hands that on as it is, with whatever the encoder says beside its states (a mask, say).
    """
    heard: list[object] = []
    # A compiled model would keep the hook in its graph, so it is not listened to there.
    get_encoder = getattr(model, "get_encoder", None) if unwrapped(model) is model else None
    encoder = get_encoder() if callable(get_encoder) else None
    if not isinstance(encoder, nn.Module) or encoder is model:
        yield heard
        return
    handle = encoder.register_forward_hook(lambda module, args, output: heard.append(output))
    try:
        yield heard
    finally:
        handle.remove()


def states_of(outputs: object, heard: list[object]) -> dict[str, Any]:
    """What a later call takes for the encoder's states that a run of the whole model gave; nothing for other models.

    Args:
        outputs: of the whole model.
        heard: what its encoder returned, from :func:`encoder_heard`.
    """
    states = getattr(outputs, _STATES, None)
    if not isinstance(states, torch.Tensor):
        return {}
    # A bare tensor, or an encoder that ran more than once, is not what generation hands on.
    whole = heard[0] if len(heard) == 1 and isinstance(heard[0], (tuple, dict)) else (states,)
    return {"encoder_outputs": map_tensors(lambda tensor: tensor.detach().clone(), whole)}


def _decoder_ids(model: Any, named: dict[str, Any]) -> torch.Tensor | None:
    ids, labels = named.get("decoder_input_ids"), named.get("labels")
    if ids is None and isinstance(labels, torch.Tensor) and hasattr(model, "prepare_decoder_input_ids_from_labels"):
        ids = model.prepare_decoder_input_ids_from_labels(labels=labels)
    start = getattr(model.config, "decoder_start_token_id", None)
    first = next(tensors_in(list(named.values())), None)
    if ids is None and isinstance(start, int) and first is not None and first.dim():
        ids = torch.full((first.shape[0], 1), start, dtype=torch.long, device=first.device)
    return ids if isinstance(ids, torch.Tensor) and ids.dim() == 2 else None


def _with(point: Point, kwargs: dict[str, Any]) -> Point:
    return replace(point, call=Call(args=(), kwargs=kwargs))
