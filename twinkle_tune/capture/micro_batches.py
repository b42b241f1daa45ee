"""Inputs of the same form with other values: of a step once more, or of the micro-batches of a training step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from twinkle_tune.call.arguments import Call, map_tensors
from twinkle_tune.capture.point import Point


def micro_batches(point: Point, count: int) -> tuple[Point, ...]:
    """So many inputs of a training step, the given ones first: each has other values than those before it."""
    return (point, *(with_other_values(point, by) for by in range(1, count)))


def with_other_values(point: Point, by: int = 1) -> Point:
    """The tensors with a batch or more turned along the last dimension: values that the model takes, elsewhere.

    Masks stay: what they hide is hidden still.
    """

    def turned(tensor: Tensor) -> Tensor:
        is_mask = tensor.dtype is torch.bool or (not tensor.is_floating_point() and bool((tensor <= 1).all()))
        return (
            tensor if tensor.dim() < 2 or is_mask else tensor.detach().roll(by, -1).requires_grad_(tensor.requires_grad)
        )

    return mapped(point, turned)


def mapped(point: Point, change: Callable[[Tensor], Tensor]) -> Point:
    """The point with each tensor of its call changed."""
    args, kwargs = map_tensors(change, point.call.args), map_tensors(change, dict(point.call.kwargs))
    return replace(point, call=Call(args=args, kwargs=kwargs))
