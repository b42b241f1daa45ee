"""What a winner was measured under: the form of the calls, the state of the process, the dtype of the weights."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from twinkle_tune.workload import Context, Items, Named, Node, Plain, TensorSpec, Workload, describe

Accepts = Callable[[Any], bool]
"""Whether an argument may be this value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """The state of the process: whether gradients are made, and what autocast casts to ("" where it is off)."""

    grad: bool
    autocast: str

    @classmethod
    def of(cls, context: Context) -> State:
        """Of a workload's context."""
        return cls(grad=context.grad, autocast=context.autocast)

    def is_now(self, module: nn.Module, tensors: Iterable[Any], device: str) -> bool:
        """Whether the process is in this state, as far as a call of the module on some tensors can tell."""
        return _is_in(self.grad, self.autocast, module, tensors, device)


def _is_in(grad: bool, autocast: str, module: nn.Module, tensors: Iterable[Any], device: str) -> bool:
    if torch.is_grad_enabled() is not grad and (grad or wants_gradients(module, tensors)):
        return False
    return casts_to(device) == autocast


def wants_gradients(module: nn.Module, tensors: Iterable[Any]) -> bool:
    """Whether a call with gradients on makes any."""
    given = (tensor for tensor in tensors if isinstance(tensor, Tensor))
    return any(t.requires_grad for t in given) or any(p.requires_grad for p in module.parameters())


def casts_to(device: str) -> str:
    """The dtype that autocast casts to on a device type; "" where it is off, or there is none (meta)."""
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return ""
    return str(torch.get_autocast_dtype(device)).removeprefix("torch.")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Form:
    """Calls that look alike but for the sizes of their tensors: what each argument may be, by position and by name."""

    args: tuple[Accepts, ...]
    kwargs: Mapping[str, Accepts]

    @classmethod
    def of(cls, workload: Workload) -> Form:
        """Of the calls like an observed one."""
        # A tensor alone may have any dimensions before its last one; several belong to each other.
        accepts = accepts_of if len(workload.tensors) > 1 else functools.partial(accepts_of, any_dimensions=True)
        return cls(args=tuple(map(accepts, workload.args)), kwargs={n: accepts(node) for n, node in workload.kwargs})


_Fits = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], bool]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Measured:
    """What a winner's calls were when it was measured.

    Attributes:
        state: of the process.
        forms: of the calls, each of them once.
        dtype: of the one tensor, where every call was given one by position and nothing else; else None.
        weight, weight_dtype: the layer's first own parameter of a floating dtype, and that; "" where there is none, or
            it has the dtype of the one tensor.
    """

    state: State
    forms: tuple[Form, ...]
    dtype: torch.dtype | None
    weight: str = ""
    weight_dtype: torch.dtype | None = None

    @classmethod
    def of(cls, workloads: Iterable[Workload], module: nn.Module) -> Measured:
        """Of workloads in one state of the process, of a module."""
        found = {_form_key(workload): workload for workload in workloads}
        first = next(iter(found.values()))
        own = ((n, p.dtype) for n, p in module._parameters.items() if p is not None and p.is_floating_point())
        weight, weight_dtype = next(own, ("", None))
        dtype = _only_dtype(list(found.values()))
        if weight_dtype is dtype:
            weight = ""  # a model changes its dtype as a whole: the tensor's tells
        return cls(
            state=State.of(first.context),
            forms=tuple(map(Form.of, found.values())),
            dtype=dtype,
            weight=weight,
            weight_dtype=weight_dtype,
        )

    def fits(self) -> _Fits:
        """Says of a module and the arguments of a call, now, whether they are as those that were measured.

        A function that holds plain values and functions alone: torch.compile, which meets it as what a function holds,
        takes no object of ours there before torch 2.13.
        """
        weight_name, weight_dtype, grad, autocast = self.weight, self.weight_dtype, self.state.grad, self.state.autocast
        forms = tuple((form.args, dict(form.kwargs)) for form in self.forms)

        def fits(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
            if weight_name:
                weight = module._parameters.get(weight_name)
                if weight is None or weight.dtype is not weight_dtype:
                    return False
            if not any(_has_form(by_position, by_name, args, kwargs) for by_position, by_name in forms):
                return False
            tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
            device = tensors[0].device.type if tensors else "cpu"
            return _is_in(grad, autocast, module, tensors, device)

        return fits

    def why_not(self, module: nn.Module) -> str:
        """Why no call of the module is as measured, whatever it is given; "" where one may be."""
        weight = module._parameters.get(self.weight) if self.weight else None
        if weight is not None and weight.dtype is not self.weight_dtype:
            return (
                f"its {self.weight} is {weight.dtype} now and was {self.weight_dtype}: the original runs; "
                "kernelize again"
            )
        return ""


def _has_form(
    by_position: tuple[Accepts, ...], by_name: Mapping[str, Accepts], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> bool:
    return (
        len(args) == len(by_position)
        and kwargs.keys() == by_name.keys()
        and all(accepts(value) for accepts, value in zip(by_position, args, strict=True))
        and all(by_name[name](value) for name, value in kwargs.items())
    )


def _only_dtype(workloads: Sequence[Workload]) -> torch.dtype | None:
    alone = [w.args[0] for w in workloads if len(w.args) == 1 and not w.kwargs]
    dtypes = {node.dtype for node in alone if isinstance(node, TensorSpec)}
    is_only = len(alone) == len(workloads) and len(dtypes) == 1 and all(isinstance(n, TensorSpec) for n in alone)
    return getattr(torch, dtypes.pop()) if is_only else None


def _form_key(workload: Workload) -> object:
    def key(node: Node) -> object:
        return (node.dtype, len(node.shape)) if isinstance(node, TensorSpec) else repr(node)

    return tuple(map(key, workload.args)), tuple((name, key(node)) for name, node in workload.kwargs)


def accepts_of(node: Node, *, any_dimensions: bool = False) -> Accepts:
    """Whether a value is as the described one: a tensor of its dtype and number of dimensions, an equal plain value."""
    match node:
        case TensorSpec():
            dtype, dimensions = getattr(torch, node.dtype), len(node.shape)
            return lambda value: (
                isinstance(value, Tensor) and value.dtype is dtype and (any_dimensions or value.dim() == dimensions)
            )
        case Plain(value=expected):
            return lambda value: type(value) is type(expected) and value == expected
        case Named(kind="object"):
            return lambda value: f"{type(value).__module__}.{type(value).__qualname__}" == node.name
        case Items(items=items):
            inside = tuple(map(accepts_of, items))
            return lambda value: (
                isinstance(value, (list, tuple))
                and len(value) == len(inside)
                and all(accepts(item) for accepts, item in zip(inside, value, strict=True))
            )
    return lambda value: describe(value) == node
