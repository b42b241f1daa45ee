"""Patterns that are replaced because somebody says so, and graphs as text. Nothing is timed or compared here."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import fx, nn

from twinkle_tune.catalog.block import blocks_of, composites
from twinkle_tune.errors import GraphError
from twinkle_tune.graph.form import Form
from twinkle_tune.graph.pattern import Pattern, Written, check_fits, instance, places, read
from twinkle_tune.graph.rewrite import inlined, put
from twinkle_tune.graph.table import table
from twinkle_tune.graph.trace import Traced, trace
from twinkle_tune.kernel.host import Host, Variant
from twinkle_tune.kernel.kernelize import bind_plan
from twinkle_tune.kernel.pieces import whole_functions
from twinkle_tune.kernel.plan import Plan
from twinkle_tune.kernel.planned import not_a_module
from twinkle_tune.kernel.record import Binding, record_of
from twinkle_tune.kernel.registry import Registry, default_registry, make_candidate
from twinkle_tune.source.direct import ImplSource

Called = tuple[str, nn.Module, Form]
"""Path, module and form of the calls of what may be a graph."""


def replace_pattern(
    module_or_graph: nn.Module,
    pattern: Written,
    replacement: Written,
    *,
    example_inputs: object = None,
    use_fallback: bool = True,
) -> tuple[str, ...]:
    """Replace each place of a pattern by something else, in place; nothing is measured or compared.

    A pattern is a function of tensors, or a module (or its class) whose children stand for children of the model: those
    of the same class with the same settings, whatever their sizes. A replacement takes the same inputs and gives the
    same results. Written as a module it uses the pattern's children by their names, and gets the model's. Written as a
    function it takes what a function pattern takes; for a pattern that is a module it takes the module first.

    Args:
        module_or_graph: a torch.fx.GraphModule, whose nodes are replaced and whose code is made anew; or any module:
            its repeated blocks and all that lies in them (the whole module where it repeats nothing) are traced one by
            one, and those with the pattern get a forward with the replacement in its place, which
            :func:`restore_model` takes back. Parameters and their names stay.
        pattern: what is looked for.
        replacement: what comes in its place.
        example_inputs: a call of the module (a tensor, a tuple, or a dict), by which its parts are traced; it is run
            once without gradients. Without it parts are traced as they are called with their required arguments alone.
            Calls of another form (an argument more, None in place of a tensor, training in place of evaluating) run
            the original.
        use_fallback: whether a pattern that cannot be replaced is a warning; an error if not. Nothing is replaced then.

    Returns:
        The places: "h.0.mlp: act" (path of the module and name of the node).

    Raises:
        GraphError: with ``use_fallback=False``: the pattern is nowhere, overlaps itself, has other inputs than its
            replacement, or the module cannot be traced.
        BindError: the forward of a module with the pattern was replaced by somebody else.
        ModelError: it is no module.
    """
    if not isinstance(module_or_graph, nn.Module):
        raise not_a_module(module_or_graph)
    try:
        wanted = read(pattern, "pattern")
        check_fits(wanted, replacement)
        if isinstance(module_or_graph, fx.GraphModule):
            return _in_graph(module_or_graph, wanted, replacement)
        return _in_module(module_or_graph, wanted, replacement, example_inputs)
    except GraphError as error:
        if not use_fallback:
            raise
        warnings.warn(f"nothing is replaced: {error}", stacklevel=2)
        return ()


def register_pattern_kernel(
    name: str,
    pattern: type[nn.Module] | nn.Module,
    replacement: type[nn.Module] | nn.Module | Callable[..., Any],
    *,
    device: str | None = "cuda",
    mode: object = None,
    registry: Registry | None = None,
) -> None:
    """Let a replacement compete wherever a pattern stands in a model's repeated blocks. Nothing is run now.

    In a profiling run each place of the pattern is a slot: the pattern's own forward, with the model's children in the
    places of the pattern's, is the original, and the replacement's forward, which takes the same module first, a
    candidate. It is judged and timed as any kernel, and what wins is bound by :func:`kernelize_model` with the profile.
    Without a profile nothing is bound; :func:`replace_pattern` does that.

    Args:
        name: the slot's name. Several replacements of one pattern are registered under one name.
        pattern: a module, or its class, as of :func:`replace_pattern`. Where it stands in the place of one that the
            catalog knows (a residual sum and its norm), it is contested in its place.
        replacement: a module, its class, or a function that takes the module first.
        device: the device that it is for; None for every device.
        mode: "train", "inference", or a ``kernels.Mode``; None for both. Under torch.compile patterns do not compete.
        registry: where to register; the default registry if not given.

    Raises:
        GraphError: the pattern is no module, cannot be one graph, or has other inputs than the replacement.
        RegistrationError: another pattern has the name.
        DeviceError, ModeError: an unknown device or mode.
    """
    if instance(pattern, "pattern") is None:
        raise GraphError(
            f"pattern {name!r}: got the function {_name(pattern)}, expected a module or its class; give it a "
            "class with this forward, or use replace_pattern, which takes functions"
        )
    known = replace(read(pattern, "pattern"), name=name)
    check_fits(known, replacement)
    made = make_candidate(ImplSource(impl=_kernel(known, replacement)), device=device, mode=mode)
    (registry or default_registry).add_pattern(known, made)


def graph_report(module: nn.Module, example_inputs: object = None) -> str:
    """The graphs of a module as text: a line a node, with opcode, name, target, arguments and the class of a child.

    Args:
        module: a torch.fx.GraphModule, or any module, of which the repeated blocks and all that lies in them (the whole
            module where it repeats nothing) are shown, one of each class; and those that are no graph, with the reason.
        example_inputs: as of :func:`replace_pattern`.

    Raises:
        ModelError: it is no module.
    """
    if not isinstance(module, nn.Module):
        raise not_a_module(module)
    if isinstance(module, fx.GraphModule):
        return table(Traced(module=module, graph=module.graph))
    shown, known, whole = [], set(), whole_functions(default_registry)
    for path, part, form in _called(module, example_inputs):
        if (type(part), form) in known:
            continue
        known.add((type(part), form))
        try:
            shown.append(f"{type(part).__qualname__} {path}".rstrip() + f"\n{table(trace(part, form, whole))}")
        except GraphError as error:
            shown.append(str(error))
    return "\n\n".join(shown)


def _in_graph(module: fx.GraphModule, pattern: Pattern, replacement: Written) -> tuple[str, ...]:
    made = read(replacement, "replacement")
    # On a copy first, so that an error leaves the graph as it was.
    graph = fx.Graph(tracer_cls=module.graph._tracer_cls)
    graph.output(graph.graph_copy(module.graph, {}))
    traced = Traced(module=module, graph=graph)
    found = _found(traced, pattern, [])
    for place in reversed(found):
        put(traced, place.match, inlined(made.traced))
    graph.lint()
    module.graph = graph
    module.recompile()
    return tuple(place.node for place in found)


def _in_module(module: nn.Module, pattern: Pattern, replacement: Written, example: object) -> tuple[str, ...]:
    call, name, whole = _kernel(pattern, replacement), _name(replacement), whole_functions(default_registry)
    hosts: dict[nn.Module, tuple[str, list[Variant]]] = {}
    told: list[str] = []
    untraced: list[str] = []
    for path, part, form in _called(module, example):
        try:
            traced = trace(part, form, whole)
        except GraphError as error:
            untraced.append(str(error))
            continue
        found = places(traced, pattern)
        if found:
            kernels = tuple((call, _binding(f"{path}:{place.node}", pattern, name)) for place in found)
            hosts.setdefault(part, (path, []))[1].append(Variant.of(traced, form, found, kernels))
            told += [f"{path}: {place.node}".removeprefix(": ") for place in found]
    if not hosts:
        raise GraphError(_nowhere(pattern, module, untraced))
    layers = tuple((host, Host(*made), _binding(path, pattern, name)) for host, (path, made) in hosts.items())
    bind_plan(module, Plan(layers=(*_bound(module, hosts), *layers)))
    return tuple(dict.fromkeys(told))


def _bound(module: nn.Module, hosts: Mapping[nn.Module, object]) -> Iterator[tuple[nn.Module, Any, Binding]]:
    """What is bound to the other modules, which stays."""
    for part in module.modules():
        record = record_of(part)
        if part not in hosts and record.binding is not None and record.call is not None:
            yield part, record.call, record.binding


def _found(traced: Traced, pattern: Pattern, untraced: list[str]) -> tuple[Any, ...]:
    found = places(traced, pattern)
    if not found:
        raise GraphError(_nowhere(pattern, traced.module, untraced))
    return found


def _nowhere(pattern: Pattern, module: nn.Module, untraced: list[str]) -> str:
    nodes = [n.name for n in pattern.traced.graph.nodes if n.op not in ("placeholder", "output")]
    why = f"; {len(untraced)} of its parts are no graph, the first: {untraced[0]}" if untraced else ""
    return (
        f"{type(module).__qualname__}: the pattern {pattern.name} ({', '.join(nodes)}) is nowhere in it{why}; "
        "compare it with what graph_report(module, example_inputs) shows"
    )


def _kernel(pattern: Pattern, replacement: Written) -> Callable[..., Any]:
    """The replacement as a kernel of the pattern's piece, which it takes first."""
    module = instance(replacement, "replacement")
    if module is not None:
        return type(module).forward
    function: Any = replacement
    if pattern.function is None:
        return function  # type: ignore[no-any-return]
    return lambda piece, *inputs: function(*inputs)


def _name(replacement: Written) -> str:
    kind = type(replacement) if isinstance(replacement, nn.Module) else replacement
    return getattr(kind, "__qualname__", repr(kind))


def _binding(path: str, pattern: Pattern, name: str) -> Binding:
    return Binding(slot=pattern.name, path=path, candidate=name, rows="all", is_checked=False)


def _called(module: nn.Module, example: object) -> list[Called]:
    """The parts that may be graphs, with the forms in which they are called."""
    blocks = blocks_of(module)
    inside = {id(part) for block in blocks for part in block.modules()}
    parts = [(path, part) for path, part in composites(module) if not blocks or id(part) in inside]
    if example is None:
        return [(path, part, Form.usual(type(part).forward, training=part.training)) for path, part in parts]
    found: dict[tuple[str, Form], nn.Module] = {}
    handles = []
    for path, part in parts:

        def noted(part: nn.Module, args: tuple[Any, ...], kwargs: Any, path: str = path) -> None:
            found[path, Form.of(args, kwargs, training=part.training)] = part

        handles.append(part.register_forward_pre_hook(noted, with_kwargs=True))
    args, kwargs = _arguments(example)
    try:
        with torch.no_grad():
            module(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return [(path, part, form) for (path, form), part in found.items()]


def _arguments(example: object) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example, Mapping):
        return (), dict(example)
    return (example if isinstance(example, tuple) else (example,)), {}
