"""What a kernel's ``self`` is where its weights are in another layout than the layer's: its form, and one a call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from twinkle_tune.call.drawn import random_kept
from twinkle_tune.errors import SignatureError, in_a_line
from twinkle_tune.source.conversion import Made, conversion_of

Parts = Mapping[str, nn.Module]
"""The layer that a kernel stands for, under "", or the children of it, under their names."""
Arguments = Mapping[str, Any] | list[nn.Module] | None
_BOOKKEEPING = frozenset(vars(nn.Module())) | {"forward"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """What a kernel's ``self`` is for one layer: nothing of the layer is kept here but names.

    Attributes:
        cls: its class.
        names: of the layer's weights.
        made: what its weights are made of, by their names there.
        buffers: which of them are buffers.
        empty: its parameters and buffers that are None.
        linears: its children that are made anew, each a Linear.
        taken: its other children: the part of the layer that has it, and the path there.
        settings: its settings, and the parts that have them; None for all of the layer.
        what: how messages name the kernel.
    """

    cls: type[nn.Module]
    names: tuple[str, ...]
    made: Mapping[str, Made]
    buffers: frozenset[str]
    empty: tuple[str, ...]
    linears: tuple[str, ...]
    taken: Mapping[str, tuple[str, str]]
    settings: Mapping[str, tuple[str, ...]] | None
    what: str

    def weights(self, parts: Parts) -> dict[str, Tensor]:
        """The layer's weights as they are now. Raises SignatureError where it has others than it had, or is mixed."""
        found = weights_of(parts)
        if tuple(found) != self.names:
            other = sorted(found.keys() ^ set(self.names))
            raise SignatureError(f"{self.what}: the layer's weights are others than they were ({', '.join(other)})")
        if len({part.training for part in parts.values()}) > 1:
            raise SignatureError(f"{self.what}: of {', '.join(parts)} some are in training and some are not")
        self._settings(parts)
        return found

    def stand_in(self, parts: Parts, own: Mapping[str, Tensor]) -> nn.Module:
        """The kernel's ``self`` for one call."""
        made = object.__new__(self.cls)
        nn.Module.__init__(made)
        state = made.__dict__
        state.update(self._settings(parts))
        state["training"] = next(iter(parts.values())).training
        made._parameters.update(dict.fromkeys(self.empty))
        for name, (part, path) in self.taken.items():
            made._modules[name] = parts[part].get_submodule(path)
        for name in self.linears:
            made._modules[name] = _bare_linear()
        for name, of in self.made.items():
            owner, _, leaf = name.rpartition(".")
            if name.partition(".")[0] not in self.taken:
                holds = made._modules[owner] if owner else made
                assert holds is not None
                (holds._buffers if name in self.buffers else holds._parameters)[leaf] = of.of(own)  # type: ignore[assignment]
        for name in self.linears:
            linear: Any = made._modules[name]
            linear.__dict__["out_features"], linear.__dict__["in_features"] = linear.weight.shape
        return made

    def _settings(self, parts: Parts) -> dict[str, Any]:
        if self.settings is None:
            return {name: value for part in parts.values() for name, value in _plain(part).items()}
        found: dict[str, Any] = {}
        for name, having in self.settings.items():
            values = [vars(parts[part]).get(name) for part in having]
            if any(not _same(value, values[0]) for value in values):
                raise SignatureError(f"{self.what}: {' and '.join(having)} have a {name!r} each, and they differ")
            found[name] = values[0]
        return found


def form_of(kernel: Any, layout: type[nn.Module], arguments: Arguments, parts: Parts, what: str) -> Form:
    """The form of a kernel's ``self`` for a layer.

    Args:
        kernel: its class.
        layout: the layout's.
        arguments: of the layout's constructor. None where the layer lacks one of them (a width that it does not keep):
            then it is of the form of the layer, with what the conversion makes.
        parts: the layer, or the children of it that the kernel stands for.
        what: how messages name the kernel.

    Raises:
        SignatureError: the layout does not fit the layer, or has something of its own that could not follow the layer.
    """
    names = tuple(weights_of(parts))
    place = next(iter(parts))
    made = conversion_of(layout, names, f"{place}." if place else "", what)
    model = _constructed(layout, arguments, parts, what)
    for name in made:
        if "." not in name and name not in model._parameters and name not in model._buffers:
            model.register_parameter(name, nn.Parameter(torch.empty(0, device="meta")))
    has = weights_of({"": model}).keys()
    if wrong := sorted(has ^ made.keys()):
        holds = "nothing of its conversion_mapping makes" if wrong[0] in has else "it has no place for"
        raise SignatureError(f"{what}: {layout.__name__}: {holds} {wrong[0]!r}; its conversion does not fit this layer")
    linears, taken = _children(model, made, parts, f"{what}: {layout.__name__}")
    return Form(
        cls=type(layout.__name__, (layout,), {"forward": kernel.forward, "__setattr__": _not_written}),
        names=names,
        made=made,
        buffers=frozenset(name for name, _ in model.named_buffers(remove_duplicate=False)),
        empty=tuple(n for held in (model._parameters, model._buffers) for n, value in held.items() if value is None),
        linears=linears,
        taken=taken,
        settings=None if "" in parts else _owners(model, parts, f"{what}: {layout.__name__}"),
        what=what,
    )


def _constructed(layout: type[nn.Module], arguments: Arguments, parts: Parts, what: str) -> nn.Module:
    """A module of the form that a layout's constructor says, on no device."""
    if arguments is None:
        (layer,) = parts.values()
        made = nn.Module()
        made._modules |= layer._modules
        made._parameters |= {name: None for name, value in layer._parameters.items() if value is None}
        return made
    try:
        with random_kept(), torch.device("meta"):
            made = layout(*arguments) if isinstance(arguments, list) else layout(**arguments)
    except Exception as error:
        raise SignatureError(f"{what}: the constructor of {layout.__name__} raised {in_a_line(error, 200)}") from error
    _owners(made, parts, f"{what}: {layout.__name__}")
    return made


def _owners(model: nn.Module, parts: Parts, what: str) -> dict[str, tuple[str, ...]]:
    """Which parts of the layer have each setting. Raises SignatureError for one that none has."""
    found = {name: tuple(part for part, of in parts.items() if name in vars(of)) for name in _plain(model)}
    for name, having in found.items():
        if not having:
            raise SignatureError(
                f"{what}: its constructor sets {name!r}, which the layer does not have under this name, so that a "
                "change there would not count; name it as the layer does, or write a constant outside the class"
            )
    return found


def _children(
    model: nn.Module, made: Mapping[str, Made], parts: Parts, what: str
) -> tuple[tuple[str, ...], dict[str, tuple[str, str]]]:
    """Which children are Linears made of the layer's weights, and which are modules of the layer, and where."""
    linears: list[str] = []
    taken: dict[str, tuple[str, str]] = {}
    for name, child in model._modules.items():
        if child is None:
            continue
        own = next((at for at in _alike(name, child, parts) if _is_as_it_is(name, child, at, made)), None)
        if own is not None:
            taken[name] = own
        elif type(child) is nn.Linear:
            linears.append(name)
        else:
            raise SignatureError(
                f"{what}: its constructor makes {name!r}, a {type(child).__name__}, expected Linears and modules of "
                "the layer under their names, with their weights: settings of others would not follow the layer's"
            )
    return tuple(linears), taken


def _alike(name: str, child: nn.Module, parts: Parts) -> Iterator[tuple[str, str]]:
    """The modules of the layer that a child of the layout is, or may be: the same, or of its name and class."""
    for part, of in parts.items():
        yield from ((part, path) for path, own in of.named_modules() if own is child)
    for part, of in parts.items():
        if type(of._modules.get(name)) is type(child):
            yield part, name


def _is_as_it_is(name: str, child: nn.Module, at: tuple[str, str], made: Mapping[str, Made]) -> bool:
    """Whether the child's weights are those of that module of the layer, unconverted."""
    before = "".join(f"{each}." for each in at if each)
    weights = weights_of({"": child})
    return all(made[f"{name}.{w}"] == Made(sources=(before + w,)) for w in weights)


def _not_written(self: nn.Module, name: str, value: object) -> NoReturn:
    raise AttributeError(
        f"the kernel writes self.{name}, expected that it only reads: its self is there for one call; return it"
    )


def _bare_linear() -> nn.Linear:
    made = object.__new__(nn.Linear)
    nn.Module.__init__(made)
    made.register_parameter("weight", None)
    made.register_parameter("bias", None)
    return made


def weights_of(parts: Parts) -> dict[str, Tensor]:
    """Every weight by every name that it has: two names may be of one weight."""
    found: dict[str, Tensor] = {}
    for place, part in parts.items():
        before = f"{place}." if place else ""
        found |= {before + name: p for name, p in part.named_parameters(remove_duplicate=False)}
        found |= {before + name: b for name, b in part.named_buffers(remove_duplicate=False)}
    return found


def _plain(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if name not in _BOOKKEEPING and name[:1] != "_"}


def _same(one: Any, other: Any) -> bool:
    return one is other or (type(one) is type(other) and isinstance(one, (int, float, str)) and one == other)
