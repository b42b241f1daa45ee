"""How a pair of kernels, forward and backward, becomes one differentiable op of torch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, get_type_hints

import torch
from torch import Tensor, nn

from twinkle_tune.ops import launch
from twinkle_tune.ops.once import differentiable_once

Tensors = tuple[Tensor, ...]
_PLAIN = (Tensor, nn.Parameter)


class Node:
    """One node of a graph: kernels on CUDA and in Triton's interpreter, the plain formula elsewhere.

    Its arguments are always the tensors (None where one is optional) and the settings: one named tuple of plain
    values, the last of which is ``config: list[int] | None``. Outside torch.compile and torch.export a call goes
    straight to the kernels, past torch's dispatcher; inside it is ``torch.ops.twinkle_tune.<name>``, whose backward is
    ``torch.ops.twinkle_tune.<name>_backward``. Both take the settings one by one.
    """

    def __init__(
        self,
        name: str,
        *,
        tensors: int,
        outputs: int,
        settings: type[Any],
        reference: Callable[..., Any],
        allocate: Callable[..., Tensors],
        forward: Callable[..., Tensors],
        kept: Callable[[Sequence[Any], Tensors], Sequence[Tensor | None]],
        allocate_backward: Callable[..., Tensors],
        backward: Callable[..., Tensors],
        backward_reference: Callable[..., Sequence[Tensor | None]],
        spread: Callable[[Tensors], Sequence[Tensor]] = tuple,
    ) -> None:
        """Register the op and its backward.

        Args:
            name: of the op.
            tensors: how many of the first arguments are tensors.
            outputs: how many of the first results are for the caller; the others are for the backward alone.
            settings: the type of the last argument.
            reference: the formula on ``(*tensors, *settings)`` without config: a tensor, or a tuple of the outputs.
            allocate: of all arguments, new contiguous memory of the results: the fake implementation as well.
                Annotated: torch reads the op's schema there.
            forward: runs the kernel on all arguments and gives the results.
            kept: of arguments and results, what the backward wants to see again.
            allocate_backward: of the arguments of ``backward``, memory of the gradients, one a tensor, contiguous;
                an empty one (``no_gradient``) where there is none.
            backward: ``(*gradients of outputs, *kept, needs: list[bool], settings)`` to gradients, formed as
                ``allocate_backward`` gives them. ``needs`` says of which tensors a gradient is wanted.
            backward_reference: the same in plain torch operations; torch does not differentiate what runs inside an
                op. None where there is no gradient.
            spread: what ``backward`` gives to one gradient per tensor, where two tensors share one: an op of torch
                must not give the same memory twice.
        """
        self.name, self.tensors, self.outputs, self.settings = name, tensors, outputs, settings
        self.reference, self.allocate, self.forward, self.kept = reference, allocate, forward, kept
        self.allocate_backward, self.backward = allocate_backward, backward
        self.backward_reference, self.spread = backward_reference, spread
        self._register()
        self.overload = getattr(torch.ops.twinkle_tune, name).default
        self._backward_overload = getattr(torch.ops.twinkle_tune, f"{name}_backward").default

    def __call__(self, *args: Any) -> Any:
        """The output, or a tuple of the outputs."""
        given = args[: self.tensors]
        if torch.compiler.is_compiling() or not all(x is None or type(x) in _PLAIN for x in given):
            return self._of(self.overload(*given, *args[-1]))
        if not launch.kernels_run(*given):
            return self.reference(*given, *args[-1][:-1])
        if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in given):
            return _Eager.apply(self, *args)  # type: ignore[no-untyped-call]
        return self._of(self.forward(*args))

    def run_kernels(self, *args: Any) -> tuple[Tensors, tuple[Tensor | None, ...]]:
        """Outputs, and gradients for incoming gradients of ones, by the kernels and on whatever device."""
        made = self.forward(*args)
        ones = [torch.ones_like(made[index]) for index in range(self.outputs)]
        needs = [x is not None and x.is_floating_point() for x in args[: self.tensors]]
        found = self.spread(self.backward(*ones, *self.kept(args, made), needs, args[-1]))
        return made[: self.outputs], tuple(x if need else None for x, need in zip(found, needs, strict=True))

    def _of(self, made: Tensors) -> Any:
        return made[0] if self.outputs == 1 else tuple(made[: self.outputs])

    def _register(self) -> None:
        for name, function, allocate in (
            (self.name, self._forward_here, self.allocate),
            (f"{self.name}_backward", self._backward_here, self.allocate_backward),
        ):
            fake = self._one_by_one(allocate)
            schema = torch.library.infer_schema(fake, mutates_args=())
            op = torch.library.custom_op(f"twinkle_tune::{name}", function, mutates_args=(), schema=schema)
            op.register_fake(fake)
            if name == self.name:
                op.register_autograd(self._graph_backward, setup_context=self._graph_keep)

    def _one_by_one(self, allocate: Callable[..., Tensors]) -> Callable[..., Tensors]:
        """The same with the settings one by one, in its signature too: torch reads the op's schema there."""
        signature = inspect.signature(allocate, eval_str=True)
        *others, _ = signature.parameters.values()
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        settings = [
            inspect.Parameter(name, kind, annotation=hint) for name, hint in get_type_hints(self.settings).items()
        ]

        def fake(*args: Any) -> Tensors:
            return allocate(*self._packed(args))

        fake.__signature__ = signature.replace(parameters=[*others, *settings])  # type: ignore[attr-defined]
        return fake

    def _packed(self, args: Sequence[Any]) -> tuple[Any, ...]:
        """The arguments of an op of torch with the settings as one value."""
        count = len(self.settings._fields)
        return (*args[:-count], self.settings(*args[-count:]))

    def _forward_here(self, *args: Any) -> Tensors:
        args = self._packed(args)
        if launch.kernels_run(*args[: self.tensors]):
            return self.forward(*args)
        made, given = self.allocate(*args), self.reference(*args[: self.tensors], *args[-1][:-1])
        for result, value in zip(made, (given,) if self.outputs == 1 else given, strict=False):
            result.copy_(value)
        for result in made[self.outputs :]:
            result.zero_()  # for the kernels' backward; the formula's goes without
        return made

    def _backward_here(self, *args: Any) -> Tensors:
        args = self._packed(args)
        if launch.kernels_run(*(x for x in args if isinstance(x, Tensor))):
            return self.backward(*args)
        made = self.allocate_backward(*args)
        for result, value in zip(made, self.backward_reference(*args), strict=True):
            if result.numel() and value is not None:
                result.copy_(value)
        return made

    def _graph_keep(self, ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        ctx.save_for_backward(*self.kept(inputs, output))
        ctx.settings = inputs[self.tensors :]  # one by one, as the backward's op takes them

    def _graph_backward(self, ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        # torch gives the op's results as one list; a gradient that nobody asked for may be missing.
        given = gradients[0] if len(gradients) == 1 and isinstance(gradients[0], (list, tuple)) else gradients
        return _gradients(self, self._backward_overload, ctx, given[: self.outputs], ctx.needs_input_grad)


class _Eager(torch.autograd.Function):
    """The op outside of compiled graphs."""

    @staticmethod
    def forward(ctx: Any, node: Node, *args: Any) -> Any:
        made = node.forward(*args)
        ctx.save_for_backward(*node.kept(args, made))
        ctx.node, ctx.settings = node, args[-1:]
        return node._of(made)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, *gradients: Any) -> Any:
        node = ctx.node
        return (None, *_gradients(node, node.backward, ctx, gradients, ctx.needs_input_grad[1:]))


def _gradients(
    node: Node, backward: Callable[..., Tensors], ctx: Any, gradients: Sequence[Any], wanted: Sequence[bool]
) -> tuple[Any, ...]:
    needs = list(wanted[: node.tensors])
    found = node.spread(backward(*gradients, *ctx.saved_tensors, needs, *ctx.settings))
    return (*(x if need else None for x, need in zip(found, needs, strict=True)), *(None for _ in ctx.settings))


def no_gradient(like: Tensor) -> Tensor:
    """What stands for the gradient of a tensor that has none: ops of torch cannot give None."""
    return like.new_empty(0)
