"""Example inputs as the user gives them, read into one list of calls of the model."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from twinkle_tune.call.arguments import Call, fresh, map_tensors, snapshot
from twinkle_tune.device import parse_device, torch_type
from twinkle_tune.errors import CaptureError

_FORMS = "a tensor, a tuple of positional arguments, a dict of keyword arguments, or a list of these"


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One set of arguments of the model's forward, on the device.

    Attributes:
        call: the arguments. The tensors are the point's own: a run gets copies through :meth:`fresh`.
        names: names of the forward's parameters; empty where the signature does not tell.
        takes_more: whether the forward takes keyword arguments of any name.
    """

    call: Call
    names: tuple[str, ...] = ()
    takes_more: bool = False

    def fresh(self) -> Call:
        """Copies for one run: a model that writes into its inputs does not change the next run."""
        return fresh(self.call)

    def named(self) -> dict[str, Any]:
        """All arguments by name, as far as the names are known."""
        return dict(zip(self.names, self.call.args, strict=False)) | dict(self.call.kwargs)

    @property
    def size(self) -> tuple[int, int] | None:
        """(batch, sequence) where the shapes tell it: an integer tensor (B, S), or a floating one (B, S, D).

        ``input_ids`` decides where there are any, else the first tensor.
        """
        first = self.named().get("input_ids")
        if not isinstance(first, torch.Tensor):
            first = next(tensors_in((self.call.args, self.call.kwargs)), None)
        if first is None or first.dim() != (3 if first.is_floating_point() else 2):
            return None
        return int(first.shape[0]), int(first.shape[1])


def read_points(model: nn.Module, example_inputs: object, device: str) -> tuple[Point, ...]:
    """One :class:`Point` for each set of inputs, moved to ``device``.

    Args:
        model: the model that will be called; its forward's signature is held against the inputs.
        example_inputs: a tensor, a tuple of positional arguments, a dict of keyword arguments, or a list of
            these.
        device: a device name ("cpu", "cuda:1").

    Raises:
        DeviceError: the device is none of the known names.
        CaptureError: the inputs are not of these forms, do not fit the forward, cannot be moved, or the model
            is on another device.
    """
    place = _torch_device(device)
    _expect_model_on(model, place)
    several = isinstance(example_inputs, list)
    items = example_inputs if isinstance(example_inputs, list) else [example_inputs]
    if not items:
        raise CaptureError(f"example_inputs: got an empty list, expected {_FORMS}; give at least one set of inputs")
    forward = getattr(unwrapped(model), "forward", None)
    return tuple(
        _read(item, f"example_inputs[{i}]" if several else "example_inputs", forward, place)
        for i, item in enumerate(items)
    )


def unwrapped(model: nn.Module) -> nn.Module:
    """The model behind torch.compile's wrapper; the model itself where there is none."""
    inner = getattr(model, "_orig_mod", None)
    return inner if isinstance(inner, nn.Module) else model


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """The tensors of nested tuples, lists and mappings, in order."""
    match value:
        case torch.Tensor():
            yield value
        case list() | tuple():
            for item in value:
                yield from tensors_in(item)
        case Mapping():
            for item in value.values():
                yield from tensors_in(item)


def _torch_device(device: str) -> torch.device:
    name, colon, index = device.lower().partition(":")
    if colon and not index.isdecimal():
        raise CaptureError(f"device: got {device!r}, expected a number after the colon; pass 'cuda:0' or 'cuda'")
    return torch.device(torch_type(parse_device(name)) + colon + index)


def _read(item: object, where: str, forward: Callable[..., Any] | None, place: torch.device) -> Point:
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    match item:
        case torch.Tensor():
            args = (item,)
        case tuple():
            args = tuple(item)
        case Mapping() if all(isinstance(key, str) for key in item):
            kwargs = dict(item)
        case _:
            hint = (
                "write positional arguments as a tuple" if isinstance(item, list) else "wrap the inputs in one of these"
            )
            raise CaptureError(f"{where}: got {_named(item)}, expected {_FORMS}; {hint}")
    names, takes_more = _names_that_fit(forward, args, kwargs, where)

    def move(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.detach().to(place).requires_grad_(tensor.requires_grad)

    try:
        # A copy here already: the user's tensors are neither written to nor given a gradient.
        own = snapshot(args, kwargs)
        moved = Call(args=map_tensors(move, own.args), kwargs=map_tensors(move, dict(own.kwargs)))
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise CaptureError(f"{where}: a tensor cannot be copied to {place}: {error}; pass another device") from error
    return Point(call=moved, names=names, takes_more=takes_more)


def _names_that_fit(
    forward: Callable[..., Any] | None, args: tuple[Any, ...], kwargs: dict[str, Any], where: str
) -> tuple[tuple[str, ...], bool]:
    try:
        signature = inspect.signature(forward)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return (), False
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise CaptureError(
            f"{where}: got {len(args)} positional and the keyword arguments {sorted(kwargs)}, but the "
            f"model's forward is forward{signature}: {error}; give the arguments that it takes"
        ) from error
    kinds = {name: parameter.kind for name, parameter in signature.parameters.items()}
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    names = tuple(name for name, kind in kinds.items() if kind not in variadic)
    return names, inspect.Parameter.VAR_KEYWORD in kinds.values()


def _expect_model_on(model: nn.Module, place: torch.device) -> None:
    found = {parameter.device.type for parameter in model.parameters()}
    if found and place.type not in found:
        raise CaptureError(
            f"the model's parameters are on {', '.join(sorted(found))}, expected {place.type}; "
            f"call model.to('{place}') first, or pass the device where the model is"
        )


def _named(item: object) -> str:
    if isinstance(item, Mapping):
        return f"a {type(item).__name__} with keys {list(item)[:4]}"
    return f"a {type(item).__name__}" if item is not None else "None"
