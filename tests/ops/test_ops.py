"""What holds for every op: right in the interpreter, one node for torch, and data that fit together."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.ops.interpreter import run_interpreted
from tests.ops.sizes import SIZES
from tests.today import by_day
from twinkle_tune.errors import ConfigError
from twinkle_tune.ops.all import all_ops, op_named, op_names
from twinkle_tune.ops.node import Node
from twinkle_tune.ops.op import Op

OPS = pytest.mark.parametrize("op", all_ops(), ids=op_names())
ARCHITECTURES = (80, 89, 90, 100, 120)
# Of each op one variant a day, and the others by `make slow`.
VARIANTS = [
    param
    for op in all_ops()
    for param in by_day(
        [pytest.param(op, variant, id=f"{op.name}-{variant or 'plain'}") for variant in op.variants], len(op.variants)
    )
]


def made(op: Op, variant: str, dtype: torch.dtype = torch.float32) -> tuple[Any, ...]:
    """Inputs of the usual size."""
    return op.inputs(SIZES[op.name].usual, dtype, "cpu", 0, variant)


def called(op: Op, variant: str) -> Any:
    """The op as a function of its inputs alone."""
    settings = dict(op.variants[variant])
    return lambda *args: op.apply(*args, **settings)


def flat(output: Any) -> list[Tensor]:
    """An output's tensors."""
    return list(output) if isinstance(output, tuple) else [output]


def go_backward(output: Any) -> None:
    """Sends a constant gradient into every output."""
    backward: Any = torch.autograd.backward
    backward(flat(output), [torch.full_like(each, 0.5) for each in flat(output)])


@pytest.mark.parametrize("name", op_names())
def test_kernels_are_right_in_the_interpreter(name: str) -> None:
    """Today's twelfth of the cases of :func:`test_kernels_are_right_in_the_interpreter_in_every_case`."""
    run_interpreted("tests.ops.parity_cases", name, "--today")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", op_names())
def test_kernels_are_right_in_the_interpreter_in_every_case(name: str) -> None:
    """Forward and backward, all dtypes and variants, odd shapes and layouts, against float64 by the parity rule."""
    run_interpreted("tests.ops.parity_cases", name, timeout_s=850.0)


@pytest.mark.parametrize(("op", "variant"), VARIANTS)
def test_opcheck_passes(op: Op, variant: str) -> None:
    """torch's own check of schema, fake implementation and autograd, forward and backward op."""
    calls = recorded(op, variant)
    assert {str(overload).split(".")[1] for overload, _ in calls} >= {op.name, f"{op.name}_backward"}
    for overload, args in calls:
        torch.library.opcheck(overload, args)


def recorded(op: Op, variant: str) -> list[tuple[Any, tuple[Any, ...]]]:
    """Each custom op that a call, forward and backward, comes down to, and its arguments."""
    from torch.utils._python_dispatch import TorchDispatchMode

    found: list[tuple[Any, tuple[Any, ...]]] = []

    class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func.namespace == "twinkle_tune":
                found.append((func, args))
            return func(*args, **(kwargs or {}))

    inputs = made(op, variant)
    with pytest.MonkeyPatch.context() as patch, Recorder():  # type: ignore[no-untyped-call]
        patch.setattr(Node, "__call__", lambda self, *args: self._of(self.overload(*args[:-1], *args[-1])))
        output = called(op, variant)(*inputs)
        go_backward(output)
    # The forward with leaves that want gradients; the backward without: it is not differentiable once more.
    fresh = made(op, variant)
    return [
        (func, fresh + args[len(fresh) :] if str(func).split(".")[1] == op.name else detached(args))
        for func, args in found
    ]


def detached(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments, none of which wants a gradient."""
    return tuple(x.detach() if isinstance(x, Tensor) else x for x in args)


@pytest.mark.parametrize(("op", "variant"), VARIANTS)
def test_torch_compile_sees_one_node(op: Op, variant: str) -> None:
    """No graph break forward or backward, equal results and gradients, and the op's node in the graph."""
    nodes: list[str] = []

    def backend(graph: torch.fx.GraphModule, example: Any) -> Any:
        nodes.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph.forward

    torch._dynamo.reset()
    function, inputs, twins = called(op, variant), made(op, variant), made(op, variant)
    seen: Any = torch.compile(function, fullgraph=True, backend=backend)
    seen(*inputs)
    assert [node for node in nodes if "twinkle_tune" in node] == [f"twinkle_tune.{op.name}.default"]
    compiled: Any = torch.compile(function, fullgraph=True, backend="aot_eager")
    got, expected = compiled(*inputs), function(*twins)
    for ours, theirs in zip(flat(got), flat(expected), strict=True):
        torch.testing.assert_close(ours, theirs)
    for output in (got, expected):
        go_backward(output)
    for ours, theirs in zip(inputs, twins, strict=True):
        if isinstance(ours, Tensor) and ours.requires_grad:
            torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("strict", [True, False])
@OPS
def test_torch_export_sees_one_node(op: Op, strict: bool) -> None:
    """An exported program holds the op, and computes the formula."""

    class Wrapped(nn.Module):
        def forward(self, *args: Any) -> Any:
            return op.apply(*args, **op.variants[""])

    inputs = tuple(x.detach() if isinstance(x, Tensor) else x for x in made(op, ""))
    program = torch.export.export(Wrapped(), inputs, strict=strict)
    assert f"torch.ops.twinkle_tune.{op.name}.default" in str(program.graph_module.code)
    for ours, theirs in zip(flat(program.module()(*inputs)), flat(op.reference(*inputs)), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@OPS
def test_default_configs_are_in_their_space(op: Op, architecture: int) -> None:
    """What is shipped for a call is a config that the space of that call has."""
    sizes = SIZES[op.name]
    for dims in (sizes.usual, *sizes.odd, *(dims for dims, _ in sizes.changed)):
        op.space(dims).check(op.default(dims, architecture))


@OPS
def test_wrong_configs_are_refused_by_name(op: Op) -> None:
    """A config with an unknown parameter is an error that lists what was expected."""
    with pytest.raises(ConfigError, match=r"got the parameters \['speed'\], expected"):
        op.apply(*made(op, ""), config={"speed": 11})


def test_unknown_ops_are_refused_with_a_list() -> None:
    with pytest.raises(ConfigError, match="expected one of rms_norm"):
        op_named("rms")
