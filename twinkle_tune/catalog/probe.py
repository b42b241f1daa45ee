"""Small computed tests of what a module does, on stand-ins: module and random state stay as they are."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

_SEED = 20231
_BOOKKEEPING = frozenset(nn.Module().__dict__)
PATCHES = frozenset({"forward", "_old_forward", "_hf_hook", "_twinkle_tune_binding"})
"""Attributes of an instance that are somebody's patch or hook: recognised is what the class computes."""


def generator() -> torch.Generator:
    """A source of random numbers of its own, always at the same start."""
    return torch.Generator(device="cpu").manual_seed(_SEED)


def random_like(shape: tuple[int, ...], source: torch.Generator) -> Tensor:
    """Values between 0.5 and 1.5: far enough from 0, from 1 and from each other to tell formulas apart."""
    return torch.rand(shape, generator=source, device="cpu", dtype=torch.float32) + 0.5


def stand_in(
    module: nn.Module,
    children: dict[str, nn.Module] | None = None,
    shapes: dict[str, tuple[int, ...]] | None = None,
) -> nn.Module:
    """A copy of the module on the CPU in float32, with random parameters, evaluating, and without any hook.

    Args:
        module: a module without buffers; its parameters' values are not read (it may be on the meta device).
        children: the children that the copy gets in place of the module's own.
        shapes: of parameters that the copy gets in other shapes than the module's.
    """
    double = type(module).__new__(type(module))
    nn.Module.__init__(double)
    for name, value in vars(module).items():
        if name not in _BOOKKEEPING | PATCHES:
            double.__dict__[name] = copy.deepcopy(value)
    source = generator()
    for name, parameter in module._parameters.items():
        shape = (shapes or {}).get(name, () if parameter is None else tuple(parameter.shape))
        value = None if parameter is None else nn.Parameter(random_like(shape, source))
        double._parameters[name] = value
    double._modules.update(children or {})
    double.training = False
    return double


def run(module: nn.Module, *args: Tensor) -> Any:
    """What the class's forward gives on a stand-in: no hooks, no gradients."""
    return type(module).forward(module, *args)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No gradients, no autocast, no warnings, and the process's random state put back: probes leave no trace."""
    with warnings.catch_warnings(), torch.no_grad(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        with torch.autocast("cpu", enabled=False):
            yield


def holds(claim: Callable[[], bool]) -> bool:
    """Whether a probe's claim is true; one that raises is not.

    A probe runs code that nobody has looked at, on inputs it was perhaps not made for: whatever it raises
    means the same, that this is not what was looked for.
    """
    try:
        with quiet():
            return claim()
    except Exception:
        return False


def same(got: Any, expected: Tensor) -> bool:
    """Whether a result is the expected tensor up to rounding in float32."""
    if not isinstance(got, Tensor) or got.shape != expected.shape or got.dtype != expected.dtype:
        return False
    return torch.allclose(got, expected, rtol=1e-4, atol=1e-6)


def takes_one_input(module: nn.Module) -> bool:
    """Whether the class's forward takes one tensor by position and nothing else."""
    try:
        parameters = list(inspect.signature(type(module).forward).parameters.values())
    except (TypeError, ValueError):
        return False
    return len(parameters) == 2 and parameters[1].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD


@functools.cache
def _recorder(is_compiler_there: bool) -> Callable[[], Any]:
    """What notes operations. To keep its compiler away torch imports it, a second: not where nothing is compiled."""

    class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __init__(self) -> None:
            super().__init__()  # type: ignore[no-untyped-call]
            self.names: list[str] = []

        @classmethod
        def _should_skip_dynamo(cls) -> bool:
            return is_compiler_there

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.names.append(str(func))
            return func(*args, **(kwargs or {}))

    return Recorder


def operations(call: Callable[[], object]) -> list[str]:
    """The torch operations that a call runs, in order."""
    recorder = _recorder("torch._dynamo" in sys.modules)()
    with quiet(), recorder:
        call()
    return list(recorder.names)


def adds_nothing(module: nn.Module, forward: Callable[..., Any], x: Tensor) -> bool:
    """Whether a candidate runs the very operations that the original runs already: no contestant then."""
    double = stand_in(module)
    return operations(lambda: run(double, x)) == operations(lambda: forward(double, x))
