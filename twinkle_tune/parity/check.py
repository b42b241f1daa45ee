"""The judge: what the original does on some calls is worked out once, then any number of candidates judged.

Nothing that a candidate does reaches the model: it runs on fresh copies of the arguments and on a copy of the
module. Everything runs in the process's present state (autocast, determinism flags), which is the caller's
to set. What the original itself raises, and what a candidate raises, is passed on unchanged.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from twinkle_tune.capture.inputs import Call, vary
from twinkle_tune.outcome import ParityFigure
from twinkle_tune.parity.compare import SMALL, Noise, compare, noise_of, pooled
from twinkle_tune.parity.controls import fakes, lower_run
from twinkle_tune.parity.form import same_bits
from twinkle_tune.parity.reference import references
from twinkle_tune.parity.run import Run, Subject, execute
from twinkle_tune.parity.verdict import Inconclusive, Pass, Reject, Verdict

_CONSTANT_SPREAD = 0.25


def check(
    original: Callable[..., Any],
    candidate: Callable[..., Any],
    calls: Sequence[Call],
    *,
    module: nn.Module | None,
    trains: bool,
    seed: int = 0,
) -> Verdict:
    """Judge one candidate; see :class:`Judge` for several."""
    return Judge(original, calls, module=module, trains=trains, seed=seed).judge(candidate)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """One call, and what is right on it."""

    call: Call
    reference: Run
    baseline: Run


class Judge:
    """Judges candidates for one slot on the same calls.

    Attributes:
        inconclusive: why no candidate can be judged on these calls; None where they can.
        note: "" or why the reference is not in float64.
    """

    def __init__(
        self,
        original: Callable[..., Any],
        calls: Sequence[Call],
        *,
        module: nn.Module | None,
        trains: bool,
        seed: int = 0,
    ) -> None:
        """Run the original, its reference and the controls.

        Args:
            original: a class's unbound ``forward`` (with ``module``), or a function.
            calls: at least one. Their values decide how much is seen: ``vary`` makes more.
            module: the layer that ``original`` and the candidates take first; only a copy of it is run. Its
                constant parameters (a norm's ones) are varied in that copy, or a candidate that ignores them
                would pass.
            trains: whether gradients are judged as well.
            seed: of the incoming gradients and of torch's generators during each run.

        Raises:
            ValueError: there are no calls.
        """
        if not calls:
            raise ValueError("calls: got none, expected at least one; capture the slot first")
        self._trains, self._seed = trains, seed
        copied = None if module is None else _with_varied_constants(copy.deepcopy(module), seed)
        self._subject = None if copied is None or module is None else Subject.of(copied, module)
        baselines = [self._run(original, call) for call in calls]
        precise, self.note = references(original, calls, baselines, module=copied, trains=trains, seed=seed)
        self._cases = [
            _Case(call=call, reference=r, baseline=b) for call, r, b in zip(calls, precise, baselines, strict=True)
        ]
        self._seen = _noises(self._cases)
        self.inconclusive = self._control(original)

    def judge(self, candidate: Callable[..., Any]) -> Verdict:
        """Whether ``candidate`` is right on every call, twice. Its exceptions pass through."""
        if self.inconclusive is not None:
            return self.inconclusive
        closest: dict[str, ParityFigure] = {}
        deterministic = True
        for number, case in enumerate(self._cases, start=1):
            first = self._run(candidate, case.call, like=case.baseline)
            again = self._run(candidate, case.call, like=case.baseline)
            same = _same(first, again)
            deterministic &= same
            for finding in (*self._findings(case, first), *(() if same else self._findings(case, again))):
                if isinstance(finding, Reject):
                    return _on_call(finding, number, len(self._cases))
                before = closest.setdefault(finding.tensor, finding)
                if finding.error * before.limit > before.error * finding.limit:
                    closest[finding.tensor] = finding
        return Pass(figures=tuple(closest.values()), deterministic=deterministic)

    def _run(self, function: Callable[..., Any], call: Call, *, like: Run | None = None) -> Run:
        return execute(
            function,
            call,
            subject=self._subject,
            trains=self._trains,
            seed=self._seed,
            incoming=like.incoming if like else None,
            poison=like,
        )

    def _findings(self, case: _Case, run: Run) -> Iterator[ParityFigure | Reject]:
        """Point 1 for the run as a whole, then each tensor; ends at the first refusal."""
        refusal = _misformed(case.baseline, run)
        if refusal is not None:
            yield refusal
            return
        right, mine = case.baseline.tensors, run.tensors
        precise = case.reference.tensors
        for name, baseline in right.items():
            finding = compare(precise[name], baseline, mine[name], tensor=name, seen=self._seen.get(name))
            yield finding
            if isinstance(finding, Reject):
                return

    def _refused(self, case: _Case, run: Run) -> Reject | None:
        return next((f for f in self._findings(case, run) if isinstance(f, Reject)), None)

    def _control(self, original: Callable[..., Any]) -> Inconclusive | None:
        """Point 6: the original passes everywhere, and each control is refused on one call at least."""
        passes: dict[str, bool] = {}
        unstable = ""
        for case in self._cases:
            again = self._run(original, case.call, like=case.baseline)
            unstable = unstable if _same(case.baseline, again) else "the original is random or unstable: "
            refusal = self._refused(case, case.baseline) or self._refused(case, again)
            if refusal is not None:
                return Inconclusive(reason=f"{unstable}run twice on equal inputs, it is refused ({refusal.reason})")
            for name, fake in self._fakes(original, case):
                passes[name] = passes.get(name, True) and self._refused(case, fake) is None
        if not passes:
            return Inconclusive(reason="the original returns no tensor, so there is nothing to compare")
        unrefused = [name for name, everywhere in passes.items() if everywhere]
        if unrefused:
            reason = f"{unstable}{unrefused[0]} would pass: these inputs cannot tell right from wrong"
            return Inconclusive(reason=reason)
        return None

    def _fakes(self, original: Callable[..., Any], case: _Case) -> Iterator[tuple[str, Run]]:
        # With incoming gradients of its own: those of a linear function depend on nothing else.
        stale = execute(
            original,
            vary(case.call, seed=self._seed + 1),
            subject=self._subject,
            trains=self._trains,
            seed=self._seed + 1,
        )
        low = lower_run(
            original,
            case.call,
            module=None if self._subject is None else self._subject.module,
            trains=self._trains,
            seed=self._seed,
            incoming=case.baseline.incoming,
        )
        yield from fakes(case.baseline, stale, low)


def _with_varied_constants(module: nn.Module, seed: int) -> nn.Module:
    """``module`` itself, its constant floating parameters spread by 0.25 around their value."""
    for offset, parameter in enumerate(module.parameters()):
        values = parameter.detach()
        if not values.is_floating_point() or values.numel() == 0 or bool((values != values.reshape(-1)[0]).any()):
            continue
        generator = torch.Generator(values.device).manual_seed(seed + offset)
        noise = torch.randn(values.shape, generator=generator, device=values.device)
        parameter.data = (values + _CONSTANT_SPREAD * noise).to(values.dtype)
    return module


def _noises(cases: Sequence[_Case]) -> dict[str, Noise]:
    """The original's noise over all calls, for tensors with few elements."""
    found: dict[str, list[Noise]] = {}
    for case in cases:
        precise = case.reference.tensors
        for name, tensor in case.baseline.tensors.items():
            if 0 < tensor.numel() < SMALL and tensor.is_floating_point() and bool(torch.isfinite(tensor).all()):
                found.setdefault(name, []).append(noise_of(precise[name], tensor))
    return {name: pooled(noises) for name, noises in found.items()}


def _misformed(right: Run, run: Run) -> Reject | None:
    """What differs between the runs apart from values: nesting, which gradients exist, what was changed."""
    if run.form != right.form:
        return _form("output", f"the output is {run.form}, expected {right.form}")
    for name in sorted(right.graded ^ run.graded):
        return _form(
            name,
            f"{name} {'carries no' if name in right.graded else 'carries a'} gradient, unlike the original's",
        )
    missing = {name for name, gradient in right.gradients.items() if gradient is not None}
    present = {name for name, gradient in run.gradients.items() if gradient is not None}
    for name in sorted(missing ^ present):
        return _form(name, f"{name} is {'None' if name in missing else 'not None'}, unlike the original's")
    for name in sorted(run.changed.keys() - right.changed.keys()):
        return _form(
            name,
            f"{name.removesuffix(' after the call')} is changed by the call; the original leaves it alone",
        )
    for name in sorted(right.changed.keys() - run.changed.keys()):
        return _form(
            name,
            f"{name.removesuffix(' after the call')} is not changed by the call, which the original does",
        )
    return None


def _form(tensor: str, reason: str) -> Reject:
    return Reject(point=1, tensor=tensor, error=1.0, limit=0.0, reason=reason)


def _same(first: Run, second: Run) -> bool:
    a, b = first.tensors, second.tensors
    return a.keys() == b.keys() and all(same_bits(a[name], b[name]) for name in a)


def _on_call(refusal: Reject, number: int, of: int) -> Reject:
    return Reject(
        point=refusal.point,
        tensor=refusal.tensor,
        error=refusal.error,
        limit=refusal.limit,
        reason=f"{refusal.reason} (on call {number} of {of})",
    )
