"""What an op says of itself, so that tests, the search, the command line and the bench can treat all alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from twinkle_tune.ops.space import Config, Dims, Space


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """One of our kernels, forward and backward.

    Attributes:
        name: "rms_norm"; also the name of its custom op ``torch.ops.twinkle_tune.<name>``.
        formula: in one line, for a page and a person.
        dims: names of the sizes that make up a call, in the order of a command line's ``--shape 2048x4096``.
        variants: plain arguments that make another kernel of it, by a name ("gelu_tanh": ...); "" is the plain one.
        space: of the configs for a call of these sizes. What begins with ``back_`` concerns the backward alone, and
            the rest the forward alone: one side can be tuned without the other.
        default: the config for a call of these sizes on an architecture (90 for sm_90) that nobody has tuned.
        inputs: made-up arguments, standard normal where it makes sense, tensors that want a gradient requiring one:
            ``inputs(dims, dtype, device, seed, variant)``, the variant by name.
        reference: the formula in plain torch operations, in the dtype of its arguments: the implementation on a CPU,
            and in float64 what the kernels are checked against. Takes ``*inputs`` and a variant's arguments.
        apply: the op: ``apply(*inputs, config=None, **variant)``. Kernels on a GPU, the reference on a CPU;
            differentiable, and one node under torch.compile.
        launch: the forward and the backward kernels on ``*inputs`` whatever device they are on, no fallback: what the
            interpreter runs and what is compiled for a GPU that is not there. Returns outputs and input gradients
            for an incoming gradient of ones.
        moved_bytes: bytes that a call must at least read and write: ``moved_bytes(dims, itemsize, backward)``, with
            ``backward`` those of forward and backward together.
    """

    name: str
    formula: str
    dims: tuple[str, ...]
    space: Callable[[Dims], Space]
    default: Callable[[Dims, int], Config]
    inputs: Callable[..., tuple[Any, ...]]
    reference: Callable[..., Any]
    apply: Callable[..., Any]
    launch: Callable[..., tuple[tuple[Tensor, ...], tuple[Tensor | None, ...]]]
    moved_bytes: Callable[[Dims, int, bool], int]
    variants: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpCall:
    """A call of an op, as far as its config depends on it.

    Attributes:
        op: which.
        dims: its sizes, by the op's names.
        dtype: of its inputs.
        variant: of the op, by name: the one that is nearest to what is called.
    """

    op: Op
    dims: Dims
    dtype: torch.dtype
    variant: str = ""


def cached_default(default: Callable[[Dims, int], Config], *names: str) -> Callable[..., Config]:
    """An op's default config by its sizes in the order of ``names`` and the architecture, found once for each."""

    @lru_cache(maxsize=4096)
    def of_sizes(*sizes: int) -> Config:
        return default(dict(zip(names, sizes[:-1], strict=True)), sizes[-1])

    return of_sizes


def passing(tensors: int, both_ways: int, *names: str) -> Callable[[Dims, int, bool], int]:
    """``Op.moved_bytes`` of an op that passes so many tensors, forward and in both directions, of these sizes."""
    return lambda dims, itemsize, backward: (
        (both_ways if backward else tensors) * math.prod(dims[name] for name in names) * itemsize
    )
