"""Steps of other sizes than the user's inputs: what won on those must not lose on these."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from twinkle_tune.call.arguments import Call
from twinkle_tune.capture.micro_batches import mapped, with_other_values
from twinkle_tune.capture.optimizer import OptimizerStep
from twinkle_tune.capture.point import Point, read_points, unwrapped
from twinkle_tune.capture.step import Step, make_steps
from twinkle_tune.mode import Mode

_OF_A_LENGTH = frozenset({"position_ids", "cache_position", "past_key_values"})
"""Arguments whose values belong to one length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """A step in which ways of running the model compete.

    Attributes:
        step: on the user's inputs.
        again: the same with other values: who keeps an answer is wrong there. None where no inputs could be made.
        held_out: the same with other sizes, and with a mask where there is none: shorter, longer, a larger batch.
        between: the same with a length between those, with a mask and without.
    """

    step: Step
    again: Step | None
    held_out: tuple[Step, ...]
    between: tuple[Step, ...] = ()

    @property
    def all(self) -> tuple[Step, ...]:
        """Every step of it."""
        return (self.step, *(() if self.again is None else (self.again,)), *self.held_out, *self.between)


def tried_steps(
    model: nn.Module,
    example_inputs: object,
    mode: Mode,
    device: str,
    optimizer: OptimizerStep | None = None,
    *,
    accumulate: int = 1,
) -> tuple[Tried, ...]:
    """The steps of example inputs for ways of running the whole model; arguments as of :func:`make_steps`."""

    def made(points: Sequence[Point]) -> tuple[Step, ...]:
        inputs = [_inputs(point) for point in points]
        return make_steps(model, inputs, mode, device, optimizer, growing=True, accumulate=accumulate)

    tried: list[Tried] = []
    points = read_points(model, example_inputs, device)
    steps = made(points)
    each = len(steps) // len(points)
    for index, point in enumerate(points):
        again = made([with_other_values(point)])
        others, between = (
            [found for other in varied if len(found := made([other])) == each]
            for varied in (_varied(point, _longest(model), trains=mode.trains), _between(point, trains=mode.trains))
        )
        for place in range(each):
            tried.append(
                Tried(
                    step=steps[index * each + place],
                    again=again[place] if len(again) == each else None,
                    held_out=tuple(other[place] for other in others),
                    between=tuple(other[place] for other in between),
                )
            )
    return tuple(tried)


def _inputs(point: Point) -> object:
    args, kwargs = point.call.args, dict(point.call.kwargs)
    return point.named() if args and kwargs else args or kwargs


def _longest(model: nn.Module) -> int:
    found = getattr(getattr(unwrapped(model), "config", None), "max_position_embeddings", None)
    return found if isinstance(found, int) else 1 << 30


def _varied(point: Point, longest: int, *, trains: bool) -> Iterator[Point]:
    """A shorter one, a larger batch, a longer one; the first and the last with a mask; where sizes are known."""
    given = point.named()
    if _OF_A_LENGTH & given.keys() or point.size is None:
        return
    batch, length = point.size
    shorter, longer = _shorter(length), length + length // 2
    sized = [_of_size(point, point.size, size) for size in ((batch, shorter), (2 * batch, length), (batch, longer))]
    known = [each for each in sized if each.size is not None and each.size[1] <= longest and each.size != point.size]
    # With a mask a form of its own begins: its lengths are those between the shortest and the longest.
    masked = [other for each in known if each.size != (2 * batch, length) for other in _masked(each, trains=trains)]
    yield from known[: 2 if masked else None]
    yield from masked


def _between(point: Point, *, trains: bool) -> Iterator[Point]:
    """One of a length between that of the inputs and the shorter one, and the same with a mask."""
    if _OF_A_LENGTH & point.named().keys() or point.size is None:
        return
    batch, length = point.size
    middle = (_shorter(length) + length) // 2
    if _shorter(length) < middle < length:
        sized = _of_size(point, point.size, (batch, middle))
        yield sized
        yield from _masked(sized, trains=trains)


def _shorter(length: int) -> int:
    return max(2, length // 4)


def _masked(point: Point, *, trains: bool) -> Iterator[Point]:
    """A language model's inputs with a mask, where they have none; in training as a trainer would call it."""
    given = point.named()
    ids = given.get("input_ids")
    if not isinstance(ids, Tensor) or "attention_mask" not in point.names:
        return
    more = {} if given.get("attention_mask") is not None else {"attention_mask": torch.ones_like(ids)}
    if trains and point.takes_more and "labels" in point.names:
        # As transformers' Trainer calls a model that takes what a loss is told.
        more |= {"labels": ids.clone(), "num_items_in_batch": torch.tensor(ids.numel(), device=ids.device)}
    if more:
        yield replace(point, call=Call(args=(), kwargs=given | more))


def _of_size(point: Point, size: tuple[int, int], wanted: tuple[int, int]) -> Point:
    def resized(tensor: Tensor) -> Tensor:
        if tensor.dim() < 2 or tuple(tensor.shape[:2]) != size:
            return tensor
        rows = torch.arange(wanted[0], device=tensor.device) % size[0]
        # The last ones stay the last: what pads a prompt stands before it.
        columns = (torch.arange(wanted[1], device=tensor.device) + size[1] - wanted[1]) % size[1]
        return tensor.detach()[rows][:, columns].requires_grad_(tensor.requires_grad)

    return mapped(point, resized)
