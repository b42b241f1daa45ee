"""Whether the whole model still computes what it did, with the winners bound.

Each winner was right by itself. Together, and in the model, one may not be: it may count its calls, write where it
should not, or suffer from what another one rounds otherwise. So the loss, the outputs, the norms of the gradients and
what is written into the model are compared with the original model's in each step. What they may differ by is measured,
too: it is what becomes of them when each of the replaced originals is off by a rounding of its output, as every right
kernel may be.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from twinkle_tune.call.arguments import map_tensors
from twinkle_tune.capture.look import Look, apart, with_written
from twinkle_tune.capture.step import Step
from twinkle_tune.capture.untouched import writes_noted
from twinkle_tune.device import cuda_in_use
from twinkle_tune.errors import in_a_line
from twinkle_tune.kernel.functions import original_function
from twinkle_tune.kernel.kernelize import bind_plan, restore_model
from twinkle_tune.kernel.patch import Binding, replaced_by_another
from twinkle_tune.kernel.plan import Plan
from twinkle_tune.measure.chance import unless_by_chance
from twinkle_tune.parity.verdict import Inconclusive, Pass, Reject, Verdict
from twinkle_tune.slot import ATTENTION, HEAD

FACTOR = 8.0
"""Right kernels came out at up to 1.0 times the largest of the noise's runs (tiny models, both dtypes, CPU)."""
_SEEDS = 3
_UNITS = 2.0
"""Where rounding swallows the noise (a loss in half precision), so many units in the last place are allowed."""


class Agreement:
    """What the original computes in a step, and other ways of running it beside it.

    The model is left restored, random states as they were.
    """

    def __init__(self, model: nn.Module, step: Step, plan: Plan, seed: int = 0, *, everywhere: bool = False) -> None:
        """Run the original, which is not compiled.

        Args:
            model: with its originals.
            step: the way of running it.
            plan: what the other ways bind.
            seed: of random numbers that the model draws, and of the noise.
            everywhere: whether each layer may be off by a rounding, as in a compiled model; else those that the plan
                replaces.
        """
        self._model, self._step, self._plan, self._seed, self._everywhere = model, step, plan, seed, everywhere
        self._original = self._look(Plan())

    def verdict(self, runner: nn.Module | None = None, plan: Plan | None = None, *, compiled: bool = False) -> Verdict:
        """Whether another way computes the same, now. Its exceptions pass through.

        Args:
            runner: the model as it runs it; None for the model itself.
            plan: what it binds; None for what was given before.
            compiled: whether it may draw other random numbers from the same seed.
        """
        other = self._look(self._plan if plan is None else plan, runner)
        strange = sorted(other.written.keys() - self._written)
        if strange:
            reason = f"it writes into the model's {strange[0]}, where the original does not"
            return Reject(point=9, tensor=strange[0], error=math.inf, limit=0.0, reason=reason)
        found = _refusal(apart(self._original, other), self._allowed, self._original.units)
        if found is None:
            return Pass(figures=(), deterministic=True)
        draws = compiled and self._look(Plan(), seed=self._seed + 1)
        if draws and any(apart(self._original, draws).values()):
            drawn = "the model draws random numbers, and compiled code draws others from the same seed"
            return Inconclusive(reason=f"{drawn} ({found.reason})")
        return found

    @cached_property
    def _noisy(self) -> tuple[Look, ...]:
        """The original once more, and as it is when each result is off by a rounding."""
        noises = [Noise(self._seed + index) for index in range(_SEEDS)]
        plans = [
            _noisy_everywhere(self._model, noise) if self._everywhere else _noisy(self._plan, noise) for noise in noises
        ]
        return tuple(self._look(plan) for plan in (Plan(), *plans))

    @cached_property
    def _allowed(self) -> dict[str, float]:
        """How far off rounding alone brings the original."""
        figures = [apart(self._original, noisy) for noisy in self._noisy]
        return {name: max(found.get(name, 0.0) for found in figures) for name in figures[0]}

    @cached_property
    def _written(self) -> set[str]:
        """The paths of what the original writes into; where it writes at all, as well when a rounding is off."""
        looks = (self._original, *(self._noisy if self._original.written else ()))
        return {path for look in looks for path in look.written}

    def _look(self, plan: Plan, runner: nn.Module | None = None, seed: int | None = None) -> Look:
        bind_plan(self._model, plan)
        try:
            with _seeded(self._seed if seed is None else seed), writes_noted() as written:
                look = self._step.look(self._model if runner is None else runner)
            return with_written(look, written)
        finally:
            restore_model(self._model)


def disagreement(model: nn.Module, step: Step, plan: Plan, seed: int = 0) -> str:
    """Why a step with a plan bound does not compute what the original computes, or raises; "" if it does not.

    Arguments are those of :class:`Agreement`.
    """
    agreement = Agreement(model, step, plan, seed)
    try:
        verdict = unless_by_chance(agreement.verdict)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        # By itself each was right, in copies and other memory; in the model a stranger's code may still raise anything.
        return f"the whole model raised {in_a_line(error, 200)}"
    return "" if isinstance(verdict, Pass) else verdict.reason


def in_words(tuned: Mapping[str, float], noise: Mapping[str, float], units: Mapping[str, float]) -> str:
    """The first figure that is further off than the noise explains, in words; "" where none is."""
    found = _refusal(tuned, noise, units)
    return "" if found is None else found.reason


def _refusal(tuned: Mapping[str, float], noise: Mapping[str, float], units: Mapping[str, float]) -> Reject | None:
    for name, figure in tuned.items():
        limit = max(FACTOR * noise.get(name, 0.0), _UNITS * units[name])
        if not figure <= limit:
            reason = (
                f"the whole model's {name} came out {figure:.2g} of the size off, over {limit:.2g}, which is "
                f"{FACTOR:g} times what rounding does to the original"
            )
            return Reject(point=2, tensor=name, error=figure, limit=limit, reason=reason)
    return None


def _noisy_everywhere(model: nn.Module, noise: Noise) -> Plan:
    """Each layer that has none inside, its results moved by a rounding."""
    leaves = [p for p in model.modules() if next(p.children(), None) is None and not replaced_by_another(p)]
    binding = Binding(slot="rounding", path="", candidate="noise", rows="all")
    return Plan(layers=tuple((part, noise.on(type(part).forward), binding) for part in leaves))


def _noisy(plan: Plan, noise: Noise) -> Plan:
    """The plan with the original in each winner's place, its results moved by a rounding."""
    layers = tuple(
        (part, noise.on(type(part).forward), binding)
        for module, _, binding in plan.layers
        for part in _replaced(module, binding)
    )
    functions = []
    for slot, replacement, binding in plan.functions:
        call = noise.on(original_function(slot.target))
        families = (
            tuple(
                replace(family, steps=tuple((low, high, call) for low, high, _ in family.steps))
                for family in replacement
            )
            if isinstance(replacement, tuple)
            else call
        )
        functions.append((slot, families, binding))
    return Plan(layers, tuple(functions))


def _replaced(module: nn.Module, binding: Binding) -> Iterator[nn.Module]:
    """What computes otherwise: the module itself, or of a model whose attention is switched each attention
    layer, and of one whose head and loss are one the head."""
    if binding.slot == ATTENTION:
        # What transformers' attention functions ask of the layer that they are called for.
        yield from (part for part in module.modules() if isinstance(getattr(part, "is_causal", None), bool))
    elif binding.slot == HEAD:
        yield from (part for name, part in module.named_children() if name == "lm_head")
    else:
        yield module


class Noise:
    """Moves results, and the gradients of arguments, by about one unit in the last place."""

    def __init__(self, seed: int) -> None:
        """Of a seed: the same noise in the same order of calls."""
        self._seed = seed
        self._generators: dict[torch.device, torch.Generator] = {}

    def on(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The call, with noise on each floating tensor that it returns, and on what goes back to its arguments."""

        def noisy(*args: Any, **kwargs: Any) -> Any:
            if torch.is_grad_enabled():
                args, kwargs = map_tensors(self._back, args), map_tensors(self._back, kwargs)
            return map_tensors(self._there, call(*args, **kwargs))

        return noisy

    def move(self, tensor: Tensor) -> Tensor:
        """Normal noise of a unit in the last place of each value and of its row's root mean square."""
        if not tensor.numel() or not tensor.dim():
            row = tensor.abs()
        else:
            row = torch.linalg.vector_norm(tensor, dim=-1, keepdim=True, dtype=_exact(tensor)) / tensor.shape[-1] ** 0.5
        size = torch.maximum(tensor.abs().to(_exact(tensor)), row.to(_exact(tensor)))
        generator = self._generators.get(tensor.device)
        if generator is None:
            generator = torch.Generator(tensor.device).manual_seed(self._seed)
            self._generators[tensor.device] = generator
        draw = torch.randn(tensor.shape, generator=generator, device=tensor.device, dtype=_exact(tensor))
        return (tensor + draw * size * torch.finfo(tensor.dtype).eps).to(tensor.dtype)

    def _there(self, tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        with torch.no_grad():
            moved = self.move(tensor) - tensor
        return tensor + moved

    def _back(self, tensor: Tensor) -> Tensor:
        if not (tensor.is_floating_point() and tensor.requires_grad):
            return tensor
        same: Tensor = _Back.apply(tensor, self)  # type: ignore[no-untyped-call]
        return same


class _Back(torch.autograd.Function):
    """The tensor as it is, and noise on its gradient."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, noise: Noise) -> Tensor:
        ctx.noise = noise
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return ctx.noise.move(gradients[0]), None


def _exact(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """What the model draws is the same in each run, and nobody's after it."""
    devices = [torch.cuda.current_device()] if cuda_in_use() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield
