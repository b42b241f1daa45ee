"""One observed call of a slot, described by explicit fields, and the one key made of them."""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any, Literal

import torch
from torch import nn

_MODULE_BOOKKEEPING = frozenset(nn.Module().__dict__) | {"layer_idx", "training"}
"""Attributes that say nothing of what a module computes, or that merely number it."""

_NOT_COMPUTED = frozenset(
    {"num_hidden_layers", "transformers_version", "torch_dtype", "model_type", "use_cache"}
    | {"architectures", "name_or_path", "initializer_range", "initializer_factor", "finetuning_task", "problem_type"}
    | {"tokenizer_class", "prefix", "num_labels"}
)
"""Settings of a configuration that do not change what a layer computes, or how fast."""
_OF_TOKENS = ("_token_id", "_token_ids", "_token_index")
"""How settings end that number a token: ids are inputs, whichever they are."""
_TENSORS_SHOWN = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """A tensor without its values.

    ``low`` and ``high`` bound an integer tensor's values as they were seen (both included); they are no part
    of the key, so that two batches of the same form are one workload.
    """

    kind: Literal["tensor"] = "tensor"
    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    requires_grad: bool = False
    low: int | None = field(default=None, compare=False)
    high: int | None = field(default=None, compare=False)

    @property
    def rows(self) -> int:
        """The number of rows: elements over the last dimension's size (1 for a scalar)."""
        return math.prod(self.shape[:-1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Plain:
    """A value that is its own description."""

    kind: Literal["plain"] = "plain"
    value: bool | int | float | str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A dtype, function or class, by its full name; or an object of which only the type is known."""

    kind: Literal["name", "object"]
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Items:
    """A tuple or list."""

    kind: Literal["tuple", "list"]
    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entries:
    """A dictionary, ordered by its keys."""

    kind: Literal["dict"] = "dict"
    entries: tuple[tuple[str, Node], ...]


Node = TensorSpec | Plain | Named | Items | Entries


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """State of the process that changes what a call computes or how fast.

    ``training`` is the module's own flag; ``autocast`` the dtype that is cast to, "" when autocast is off.
    """

    training: bool
    grad: bool
    autocast: str
    deterministic: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What one call of a slot looked like.

    Attributes:
        target: "module:qualified.name" of the class or function that was called.
        args, kwargs: the call's arguments.
        settings: the module's own settings (plain attributes, parameters, submodules); empty for a function.
        context: autocast, grad mode and the like.
    """

    target: str
    args: tuple[Node, ...]
    kwargs: tuple[tuple[str, Node], ...]
    settings: tuple[tuple[str, Node], ...]
    context: Context

    @property
    def key(self) -> str:
        """16 hexadecimal digits that are equal exactly when the described call is the same."""
        return digest_of(_without(asdict(self), "low", "high"))

    @property
    def signature(self) -> str:
        """As :attr:`key`, of the target and settings alone: which instances this workload speaks of."""
        return signature_of(self.target, self.settings)

    @property
    def tensors(self) -> tuple[TensorSpec, ...]:
        """The tensors among the arguments, in the order of the call."""
        return tuple(_tensors((*self.args, *(node for _, node in self.kwargs))))

    @property
    def rows(self) -> int:
        """Rows of the first tensor argument; 0 where there is none."""
        return self.tensors[0].rows if self.tensors else 0


def observe(target: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], module: nn.Module | None = None) -> Workload:
    """Describe a call that is about to happen, in the process's present state.

    Args:
        target: "module:qualified.name" of what is called.
        args, kwargs: its arguments, without the module itself.
        module: the layer that is called; None for a function.
    """
    return Workload(
        target=target,
        args=tuple(describe(value) for value in args),
        kwargs=tuple(sorted((name, describe(value)) for name, value in kwargs.items())),
        settings=() if module is None else module_settings(module),
        context=_context(args, kwargs, training=module is not None and module.training),
    )


def describe(value: object) -> Node:
    """The description of one argument or setting."""
    match value:
        case torch.Tensor():
            return tensor_spec(value)
        case float() if not math.isfinite(value):
            return Named(kind="name", name=f"float.{value}")  # JSON has no such number
        case None | bool() | int() | float() | str():
            return Plain(value=value)
        case torch.dtype():
            return Named(kind="name", name=str(value))
        case list() | tuple():
            kind: Literal["list", "tuple"] = "list" if isinstance(value, list) else "tuple"
            return Items(kind=kind, items=tuple(describe(item) for item in value))
        case Mapping():
            return Entries(entries=tuple(sorted((str(k), describe(v)) for k, v in value.items())))
        case functools.partial():
            return Items(kind="tuple", items=tuple(map(describe, (value.func, value.args, value.keywords))))
    name = getattr(value, "__qualname__", None)
    if name is not None and hasattr(value, "__module__"):
        return Named(kind="name", name=f"{value.__module__}.{name}")
    return Named(kind="object", name=f"{type(value).__module__}.{type(value).__qualname__}")


def tensor_spec(tensor: torch.Tensor) -> TensorSpec:
    """The description of a tensor; reads the values of integer tensors once for their bounds."""
    low = high = None
    if tensor.dtype in (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64) and tensor.numel():
        low, high = int(tensor.min()), int(tensor.max())
    return TensorSpec(
        dtype=str(tensor.dtype).removeprefix("torch."),
        shape=tuple(tensor.shape),
        stride=tuple(tensor.stride()),
        requires_grad=tensor.requires_grad,
        low=low,
        high=high,
    )


def module_settings(module: nn.Module) -> tuple[tuple[str, Node], ...]:
    """What a module is set to: plain attributes, parameters and buffers (their form), and its submodules' classes.

    Sorted by name. Two instances with equal settings compute the same function of their inputs and
    parameters, as far as their attributes tell.
    """
    if hasattr(type(module), "set_attn_implementation") and hasattr(module, "config"):
        return _configuration(module)
    found: dict[str, Node] = {}
    for prefix, part in module.named_modules():
        dot = f"{prefix}." if prefix else ""
        if prefix:
            found[f"{dot}class"] = describe(type(part))
        for name, value in part.__dict__.items():
            node = None if name in _MODULE_BOOKKEEPING or name.startswith("_") or name == "forward" else describe(value)
            if node is not None and not (isinstance(node, Named) and node.kind == "object"):
                found[dot + name] = node
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        found[name] = _form(tensor)
    return tuple(sorted(found.items()))


def _configuration(module: nn.Module) -> tuple[tuple[str, Node], ...]:
    """What a whole model of transformers is set to, whatever its depth: plain settings, attention, dtype."""
    config: Any = module.config
    plain = {n: v for n, v in config.to_dict().items() if v is None or isinstance(v, (bool, int, float, str))}
    told = {name: value for name, value in plain.items() if _is_computed(name)}
    dtype = next((str(parameter.dtype) for parameter in module.parameters()), "")
    told |= {"attn_implementation": config._attn_implementation, "dtype": dtype.removeprefix("torch.")}
    return tuple(sorted((name, describe(value)) for name, value in told.items()))


def _is_computed(name: str) -> bool:
    return name not in _NOT_COMPUTED and not name.startswith("_") and not name.endswith(_OF_TOKENS)


def signature_of(target: str, settings: tuple[tuple[str, Node], ...]) -> str:
    """16 hexadecimal digits, equal for instances of a class that are set alike (frozen parameters or not)."""
    plain = [(name, _without(asdict(node), "requires_grad")) for name, node in settings]
    return digest_of({"target": target, "settings": plain})


def call_text(workload: Workload) -> str:
    """What is called, in short: "float32[1,128,256]", or the plain arguments where there is no tensor.

    Equal neighbours are counted ("float32[8,64] x2"), and at most four forms are written out; the autocast
    dtype is told where autocast is on.
    """
    runs = [(text, len(list(same))) for text, same in groupby(map(tensor_text, workload.tensors))]
    parts = [text if count == 1 else f"{text} x{count}" for text, count in runs[:_TENSORS_SHOWN]]
    if len(runs) > _TENSORS_SHOWN:
        parts.append(f"{sum(count for _, count in runs[_TENSORS_SHOWN:])} more")
    if not runs:
        named = [f"{name}={_node_text(node)}" for name, node in workload.kwargs]
        parts = [*(_node_text(node) for node in workload.args), *named] or ["no arguments"]
    text = ", ".join(parts)
    return f"{text}, autocast {workload.context.autocast}" if workload.context.autocast else text


def tensor_text(spec: TensorSpec) -> str:
    """A tensor's dtype and shape: "bfloat16[8,2048]"."""
    return f"{spec.dtype}[{','.join(map(str, spec.shape))}]"


def digest_of(data: object) -> str:
    """16 hexadecimal digits of the canonical JSON of ``data``."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def target_of(obj: object) -> str:
    """The "module:qualified.name" of a class or function; of a class that FSDP2 made of another, the other's."""
    if isinstance(obj, type) and len(obj.__bases__) == 2 and obj.__bases__[0].__name__ == "FSDPModule":
        obj = obj.__bases__[1]
    return f"{obj.__module__}:{getattr(obj, '__qualname__', type(obj).__qualname__)}"


def _node_text(node: Node) -> str:
    match node:
        case TensorSpec():
            return tensor_text(node)
        case Plain():
            return repr(node.value)
        case Named():
            return node.name.rsplit(".", 1)[-1]
        case Items():
            return f"({', '.join(_node_text(item) for item in node.items)})"
        case Entries():
            return f"{{{', '.join(f'{key}: {_node_text(value)}' for key, value in node.entries)}}}"


def _form(tensor: torch.Tensor) -> TensorSpec:
    # Values of parameters and buffers are never read: a profile is for every checkpoint of an architecture.
    return TensorSpec(
        dtype=str(tensor.dtype).removeprefix("torch."),
        shape=tuple(tensor.shape),
        stride=tuple(tensor.stride()),
        requires_grad=tensor.requires_grad,
    )


def _context(args: tuple[Any, ...], kwargs: Mapping[str, Any], *, training: bool) -> Context:
    device = next((v.device.type for v in (*args, *kwargs.values()) if isinstance(v, torch.Tensor)), "cpu")
    casts = torch.is_autocast_enabled(device)
    return Context(
        training=training,
        grad=torch.is_grad_enabled(),
        autocast=str(torch.get_autocast_dtype(device)).removeprefix("torch.") if casts else "",
        deterministic=torch.are_deterministic_algorithms_enabled(),
    )


def _tensors(nodes: tuple[Node, ...]) -> Iterator[TensorSpec]:
    for node in nodes:
        match node:
            case TensorSpec():
                yield node
            case Items():
                yield from _tensors(node.items)
            case Entries():
                yield from _tensors(tuple(value for _, value in node.entries))


def _without(data: Any, *fields: str) -> Any:
    """``data`` without some fields of its tensors."""
    if isinstance(data, dict):
        return {k: _without(v, *fields) for k, v in data.items() if not ("shape" in data and k in fields)}
    if isinstance(data, (list, tuple)):
        return [_without(item, *fields) for item in data]
    return data
