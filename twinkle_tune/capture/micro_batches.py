"""Inputs of the same form with other values: of a step once more, or of the micro-batches of a training step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from twinkle_tune.call.arguments import Call, map_tensors
from twinkle_tune.capture.point import Point, tensors_in

_TOKENS = ("input_ids", "decoder_input_ids", "labels")


def micro_batches(point: Point, count: int) -> tuple[Point, ...]:
    """So many inputs of a training step, the given ones first, each of values that the model takes.

    Tokens are turned along their sequence; of other inputs the rows are, for nobody knows what a column means (the end
    of a span, a feature with a vocabulary of its own). Those of a single row are the same again.
    """
    turn = _tokens_turned if "input_ids" in point.named() else _rows_turned
    return (point, *(turn(point, by) for by in range(1, count)))


def _tokens_turned(point: Point, by: int) -> Point:
    given = point.named()
    turned = {name: value.detach().roll(by, -1) for name in _TOKENS if isinstance(value := given.get(name), Tensor)}
    return replace(point, call=Call(args=(), kwargs=given | turned))


def _rows_turned(point: Point, by: int) -> Point:
    rows = next((t.shape[0] for t in tensors_in((point.call.args, dict(point.call.kwargs))) if t.dim() > 1), None)

    def turned(tensor: Tensor) -> Tensor:
        if not tensor.dim() or tensor.shape[0] != rows:
            return tensor
        return tensor.detach().roll(by, 0).requires_grad_(tensor.requires_grad)

    return mapped(point, turned)


def with_other_values(point: Point) -> Point:
    """The tensors with a batch or more turned along the last dimension: values that the model takes, elsewhere.

    Masks stay: what they hide is hidden still.
    """

    def turned(tensor: Tensor) -> Tensor:
        is_mask = tensor.dtype is torch.bool or (not tensor.is_floating_point() and bool((tensor <= 1).all()))
        return (
            tensor if tensor.dim() < 2 or is_mask else tensor.detach().roll(1, -1).requires_grad_(tensor.requires_grad)
        )

    return mapped(point, turned)


def mapped(point: Point, change: Callable[[Tensor], Tensor]) -> Point:
    """The point with each tensor of its call changed."""
    args, kwargs = map_tensors(change, point.call.args), map_tensors(change, dict(point.call.kwargs))
    return replace(point, call=Call(args=args, kwargs=kwargs))
