"""The judge: what the original does on some calls is worked out once, then any number of candidates judged.

Nothing that a candidate does reaches the model: it runs on fresh copies of the arguments and on a copy of the
module. Everything runs in the process's present state (autocast, determinism flags), which is the caller's
to set. What the original itself raises, and what a candidate raises, is passed on unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import nn

from twinkle_tune.call.arguments import Call, vary
from twinkle_tune.errors import in_a_line, is_by_chance
from twinkle_tune.interpreted import rounded_as_on_devices
from twinkle_tune.parity.anew import Slices, errors_anew
from twinkle_tune.parity.calls import Kin
from twinkle_tune.parity.compare import compare
from twinkle_tune.parity.conduct import misconduct, overwriting, remarks, reused, same_results
from twinkle_tune.parity.controls import fakes, lower_run
from twinkle_tune.parity.copied import varied_copy
from twinkle_tune.parity.lean import Lean
from twinkle_tune.parity.pooling import key, noises
from twinkle_tune.parity.reference import NoReferenceError, references
from twinkle_tune.parity.run import Run, Subject, baseline_of, execute
from twinkle_tune.parity.sheet import Sheet, on_call, raised_on
from twinkle_tune.parity.verdict import (
    Doubt,
    Finding,
    Inconclusive,
    Pass,
    Reject,
    Strictness,
    Verdict,
    checked_strictness,
)

_LITTLE = 4.0
"""So many times its limit a tensor or slice may be off before it is wrong whatever other roundings would show."""


def check(
    original: Callable[..., Any],
    candidate: Callable[..., Any],
    calls: Sequence[Call],
    *,
    module: nn.Module | None,
    trains: bool,
    seed: int = 0,
    kin: Sequence[Kin] = (),
    strictness: Strictness = "normal",
) -> Verdict:
    """Judge one candidate; see :class:`Judge` for several."""
    judge = Judge(original, calls, module=module, trains=trains, seed=seed, kin=kin, strictness=strictness)
    return judge.judge(candidate)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """One call, and what is right on it. ``kin`` is set for calls of another size or layout."""

    call: Call
    reference: Run
    baseline: Run
    reuses: frozenset[str] = frozenset()
    kin: Kin | None = None


class Judge:
    """Judges candidates for one slot on the same calls.

    Attributes:
        inconclusive: why no candidate can be judged on these calls; None where they can.
        note: "" or why the reference is not in float64.
        left_out: which of ``kin`` the original does not take, and why.
    """

    def __init__(
        self,
        original: Callable[..., Any],
        calls: Sequence[Call],
        *,
        module: nn.Module | None,
        trains: bool,
        seed: int = 0,
        kin: Sequence[Kin] = (),
        strictness: Strictness = "normal",
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
            kin: calls of another size or layout; those that the original itself does not take are left out.
            strictness: under "strict", point 5 refuses; under "normal" it is a note on the pass.

        Raises:
            ValueError: there are no calls, or no such strictness.
        """
        if not calls:
            raise ValueError("calls: got none, expected at least one; capture the slot first")
        self._strict = checked_strictness(strictness) == "strict"
        self._trains, self._seed, self._random = trains, seed, False
        copied = None if module is None else varied_copy(module, seed)
        self._subject = None if copied is None or module is None else Subject.of(copied, module)
        self._copied, self._original = copied, original
        self._anew: dict[int, Mapping[str, Sequence[Slices]]] = {}
        baselines = [baseline_of(partial(self._run, original, call), k) for k, call in enumerate(calls)]
        self.inconclusive: Inconclusive | None = None
        self.left_out: dict[str, str] = {}
        try:
            precise, self.note = references(original, calls, baselines, module=copied, trains=trains, seed=seed)
        except NoReferenceError as error:
            self._cases, self.note = [], str(error)
            self.inconclusive = Inconclusive(reason=str(error))
            return
        self._cases = [
            _Case(call=call, reference=r, baseline=b) for call, r, b in zip(calls, precise, baselines, strict=True)
        ]
        self._seen = noises((case.reference, case.baseline) for case in self._cases)
        found = self._control(original)
        if found is not None:
            self.inconclusive = replace(found, reason=f"{found.reason} ({self.note})") if self.note else found
        else:
            self._cases += [case for each in kin if (case := self._kin_case(each)) is not None]

    def judge(self, candidate: Callable[..., Any], *, for_kin: Callable[..., Any] | None = None) -> Verdict:
        """Whether ``candidate`` is right on every call, twice.

        Its exceptions pass through, but for the calls of another size or layout: there one is a refusal, or for
        a layout a note.

        Args:
            candidate: what is judged.
            for_kin: the same code for calls of another size or layout; None for ``candidate`` itself. A compiled
                candidate would be compiled once more for each of them.
        """
        return self._judge(candidate, for_kin, twice=True)

    def again(self, candidate: Callable[..., Any], *, for_kin: Callable[..., Any] | None = None) -> Verdict:
        """Point 8: whether ``candidate`` is still right, once on every call. Its exceptions pass through."""
        return self._judge(candidate, for_kin, twice=False)

    def _judge(self, candidate: Callable[..., Any], for_kin: Callable[..., Any] | None, *, twice: bool) -> Verdict:
        if self.inconclusive is not None:
            return self.inconclusive
        sheet, lean = Sheet(), Lean()
        for number, case in enumerate(self._cases, start=1):
            function = candidate if case.kin is None else for_kin or candidate
            try:
                refusal = self._judge_case(case, function, sheet, lean, twice=twice)
            except Exception as error:
                # Memory that others had just then says nothing of another size: whoever judges may try again.
                if case.kin is None or (is_by_chance(error) and not case.kin.may_raise):
                    raise
                refusal = raised_on(case.kin, error, sheet)
            if refusal is not None:
                found = on_call(refusal, number, len(self._cases), case.kin)
                return self._drawn_apart(case, function, found) or found
        passed = Pass(
            figures=tuple(sheet.closest.values()), deterministic=sheet.deterministic, notes=tuple(sheet.notes)
        )
        return lean.refusal() or passed

    def _judge_case(
        self, case: _Case, candidate: Callable[..., Any], sheet: Sheet, lean: Lean, *, twice: bool
    ) -> Reject | None:
        first = self._run(candidate, case.call, like=case.baseline)
        findings = list(self._findings(case, first))
        if case.kin is None and not self._random:
            lean.take(case.reference, case.baseline, first, findings)
        sheet.notes.update(dict.fromkeys(remarks(case.baseline, first)))
        if twice:
            again = self._run(candidate, case.call, like=case.baseline)
            lost = overwriting(first, again, case.reuses)
            same = same_results(first, again)
            sheet.deterministic &= same
            findings += [] if lost is None else [lost]
            findings += [] if same else self._findings(case, again)
        return next((refusal for f in findings if (refusal := sheet.enter(f)) is not None), None)

    def _drawn_apart(self, case: _Case, candidate: Callable[..., Any], refusal: Reject) -> Inconclusive | None:
        """Where original and candidate both draw random numbers, other values may mean no more than other draws."""
        if not self._random or refusal.point == 1:
            return None
        mine = self._run(candidate, case.call, like=case.baseline)
        if same_results(mine, self._run(candidate, case.call, like=case.baseline, seed=self._seed + 1)):
            return None
        return Inconclusive(
            reason="the original draws random numbers and the candidate draws others from the same seed, so their "
            f"values cannot be compared ({refusal.reason})"
        )

    def _run(
        self,
        function: Callable[..., Any],
        call: Call,
        scale: float = 1.0,
        *,
        like: Run | None = None,
        seed: int | None = None,
    ) -> Run:
        with rounded_as_on_devices():
            return execute(
                function,
                call,
                subject=self._subject,
                trains=self._trains,
                seed=self._seed if seed is None else seed,
                incoming=like.incoming if like else None,
                scale=scale,
                poison=like,
            )

    def _findings(self, case: _Case, run: Run) -> Iterator[Finding | Doubt]:
        """Point 1 for the run as a whole, then each tensor; ends at the first refusal."""
        refusal = misconduct(case.baseline, run)
        if refusal is not None:
            yield refusal
            return
        right, mine = case.baseline.tensors, run.tensors
        precise = case.reference.tensors
        for name, baseline in right.items():
            seen = self._seen.get(key(name, baseline, case.baseline))
            finding = compare(precise[name], baseline, mine[name], tensor=name, seen=seen)
            if isinstance(finding, Reject) and finding.point in (2, 3) and finding.error <= _LITTLE * finding.limit:
                anew = self._errors_anew(case).get(name, ())
                finding = compare(precise[name], baseline, mine[name], tensor=name, seen=seen, anew=anew)
            finding = finding.refusal if self._strict and isinstance(finding, Doubt) else finding
            yield finding
            if isinstance(finding, Reject):
                return

    def _errors_anew(self, case: _Case) -> Mapping[str, Sequence[Slices]]:
        """Worked out for the first candidate that a slice of this call refuses by little."""
        if id(case.call) not in self._anew:
            self._anew[id(case.call)] = errors_anew(
                self._original,
                case.call,
                case.baseline,
                subject=self._subject,
                module=self._copied,
                trains=self._trains,
                seed=self._seed,
            )
        return self._anew[id(case.call)]

    def _refused(self, case: _Case, run: Run) -> Reject | None:
        return next((f for f in self._findings(case, run) if isinstance(f, Reject)), None)

    def _control(self, original: Callable[..., Any]) -> Inconclusive | None:
        """Point 6: the original passes everywhere, and each control is refused on one call at least."""
        passes: dict[str, bool] = {}
        unstable = ""
        for index, case in enumerate(self._cases):
            again = self._run(original, case.call, like=case.baseline)
            same = same_results(case.baseline, again)
            unstable = unstable if same else "the original is random or unstable: "
            self._cases[index] = replace(case, reuses=reused(case.baseline, again))
            if index == 0 and same:
                other = self._run(original, case.call, like=case.baseline, seed=self._seed + 1)
                self._random = not same_results(case.baseline, other)
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

    def _kin_case(self, kin: Kin) -> _Case | None:
        """A call that the original may refuse, or take and be no judge of; then it is left out."""
        try:
            baseline = self._run(self._original, kin.call)
            (reference,), _ = references(
                self._original, [kin.call], [baseline], module=self._copied, trains=self._trains, seed=self._seed
            )
            again = self._run(self._original, kin.call, like=baseline)
        except Exception as error:
            # What it says to a call that nobody made does not matter, and it can say anything.
            self.left_out[kin.what] = in_a_line(error, 200)
            return None
        case = _Case(call=kin.call, reference=reference, baseline=baseline, reuses=reused(baseline, again), kin=kin)
        refusal = self._refused(case, again)
        if refusal is not None:
            self.left_out[kin.what] = f"the original differs from itself ({refusal.reason})"
            return None
        return case

    def _fakes(self, original: Callable[..., Any], case: _Case) -> Iterator[tuple[str, Run]]:
        # With incoming gradients of its own: those of a linear function depend on nothing else.
        stale = execute(
            original,
            vary(case.call, seed=self._seed + 1),
            subject=self._subject,
            trains=self._trains,
            seed=self._seed + 1,
            scale=case.baseline.scale,
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
