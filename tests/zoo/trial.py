"""One model type, from its configuration to a verdict: built, profiled, every right rival bound, compared, restored."""

from __future__ import annotations

import inspect
import time
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from tests.zoo.build import CannotBuildError, OwnForwardError, build, said
from tests.zoo.compare import generated, outputs_of, same_bits, too_far
from tests.zoo.inputs import with_labels
from tests.zoo.names import Kind
from tests.zoo.quick import quick_profile
from tests.zoo.state import differences, noted
from twinkle_tune import kernelize_model, kernelize_report, restore_model
from twinkle_tune.mode import Mode
from twinkle_tune.outcome import Measurement, Rejection
from twinkle_tune.profile.schema import Profile
from twinkle_tune.slot import ORIGINAL
from twinkle_tune.testing import with_winner

_MOST_FAULTS = 12
_NO_RIVAL = ("there was no candidate to race against the original", "every other candidate was refused")
Verdict = Literal["held", "fault", "too long", "own forward fails", "cannot be built"]


@dataclass(slots=True, kw_only=True)
class Result:
    """What came of one type. ``message`` says why there is no model of it, or why that does not run by itself.

    Attributes:
        level: how small the configuration was made (:func:`tests.zoo.shrink.tiny_config`).
        modes: in which it was tried.
        slots: contests by slot.
        right: rivals that passed the check, as "slot: candidate".
        refused: rivals that did not, with the reason.
        bound: places that a rival was bound at.
        kept: slots that keep the original though a rival was put in, with the reason.
        faults: what does not hold, as "where: what", the first twelve.
        generated: how the tokens compare ("same", "a tie"); "" where nothing is generated.
    """

    name: str
    model_class: str
    aliases: list[str] = field(default_factory=list)
    verdict: Verdict = "held"
    message: str = ""
    faults: list[str] = field(default_factory=list)
    level: int = 0
    parameters: int = 0
    inputs: list[str] = field(default_factory=list)
    modes: list[str] = field(default_factory=list)
    slots: dict[str, int] = field(default_factory=dict)
    right: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    bound: int = 0
    kept: dict[str, str] = field(default_factory=dict)
    generated: str = ""
    seconds: float = 0.0

    def fault(self, where: str, what: str) -> None:
        """Note what does not hold."""
        self.verdict = "fault"
        if len(self.faults) < _MOST_FAULTS:
            self.faults.append(f"{where}: {what}")

    @contextmanager
    def step(self, where: str) -> Iterator[None]:
        """An exception inside is a fault, and no more than that."""
        try:
            yield
        except Exception as error:
            self.fault(where, said(error))


def trains_too(name: str) -> bool:
    """Whether a type is among the quarter that is tried in training as well, the same ones always."""
    return zlib.crc32(name.encode()) % 4 == 0


def tried(kind: Kind, *, train: bool | None = None) -> Result:
    """Try one type. Never raises for what the type or the package does wrong: that is in the result.

    Args:
        train: whether it is tried in training as well; None for :func:`trains_too`.
    """
    began_s = time.monotonic()
    result = Result(name=kind.name, model_class=kind.model_class.__name__, aliases=list(kind.aliases))
    try:
        built = build(kind)
    except CannotBuildError as error:
        result.verdict, result.message = "cannot be built", str(error)
    except OwnForwardError as error:
        result.verdict, result.message = "own forward fails", str(error)
    else:
        result.level, result.inputs = built.level, sorted(built.inputs)
        result.parameters = sum(p.numel() for p in built.model.parameters())
        modes = [Mode.INFERENCE, *([Mode.TRAIN] if (trains_too(kind.name) if train is None else train) else [])]
        for mode in modes:
            with result.step(f"{mode}"):
                _try_mode(result, built.model, built.inputs, mode)
    result.seconds = round(time.monotonic() - began_s, 1)
    return result


def as_record(result: Result) -> dict[str, Any]:
    """What is written to a line of JSON; empty fields are left out."""
    return {name: value for name, value in asdict(result).items() if value not in ("", [], {}, 0)}


def _try_mode(result: Result, model: nn.Module, inputs: dict[str, Any], mode: Mode) -> None:
    wanted = with_labels(model, inputs) if mode.trains else inputs
    try:
        before = outputs_of(model, wanted, mode)
    except Exception as error:
        if not mode.trains:
            raise
        result.modes.append(f"no {mode}: its own step raises {said(error)[:120]}")
        return
    result.modes.append(str(mode))
    state = noted(model)
    profile = quick_profile(model, wanted, mode)
    _unchanged(result, f"{mode}, profiling", state, model)
    _note(result, profile)
    _same(result, f"{mode}, profiling", before, outputs_of(model, wanted, mode))
    _put_in(result, model, wanted, mode, with_winner(profile), whole=True)
    for slot, candidate in _others(profile):
        _put_in(result, model, wanted, mode, with_winner(profile, slot, candidate), whole=False)
    _same(result, f"{mode}, restoring", before, outputs_of(model, wanted, mode))


def _put_in(
    result: Result, model: nn.Module, inputs: dict[str, Any], mode: Mode, profile: Profile, *, whole: bool
) -> None:
    """Bind a profile's winners, compare, and restore; with ``whole`` everything, else the outputs alone."""
    names = sorted({f"{c.slot.name}: {c.selection.winner}" for c in profile.contests if c.selection.winner != ORIGINAL})
    if not names:
        return
    where = f"{mode}, bound {', '.join(name.rpartition('.modeling_')[2] for name in names)}"
    signatures = {path: inspect.signature(m.forward) for path, m in model.named_modules()}
    state = noted(model)
    with result.step(where), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        kernelize_model(model, profile=profile)
        for told in (str(w.message) for w in caught if str(w.message).startswith("original kept")):
            result.fault(where, f"not bound right after it was measured: {told[:300]}")
        report = kernelize_report(model)
        if whole:
            result.bound += len(report.bound)
            result.kept |= {kept.slot: kept.reason for kept in report.kept if kept.reason not in _NO_RIVAL}
        _signatures_stay(result, where, signatures, model)
    restore_model(model)
    _unchanged(result, f"{where}, restored", state, model)
    with result.step(f"{where}, compared"):
        if why := too_far(model, inputs, mode, profile):
            result.fault(f"{where}, compared", why)
    if whole and not mode.trains:
        with result.step(f"{where}, generating"):
            result.generated, why = generated(model, inputs, profile)
            if why:
                result.fault(f"{where}, generating", why)


def _signatures_stay(result: Result, where: str, signatures: dict[str, inspect.Signature], model: nn.Module) -> None:
    for path, module in model.named_modules():
        now = inspect.signature(module.forward)
        if now != signatures[path]:
            name = f"{path or 'the model'} ({type(module).__name__})"
            result.fault(where, f"the signature of {name} was {signatures[path]}, is {now}"[:300])
            return


def _others(profile: Profile) -> Iterator[tuple[str, str]]:
    """Right rivals that are not the best of all their contests: each is bound by itself."""
    best = {(c.slot.name, c.selection.winner) for c in with_winner(profile).contests}
    right = {
        (c.slot.name, t.candidate)
        for c in profile.contests
        for t in c.trials
        if isinstance(t.outcome, Measurement) and t.candidate != ORIGINAL
    }
    yield from sorted(right - best)


def _note(result: Result, profile: Profile) -> None:
    for contest in profile.contests:
        result.slots[contest.slot.name] = result.slots.get(contest.slot.name, 0) + 1
        for trial in contest.trials:
            name = f"{contest.slot.name}: {trial.candidate}"
            if isinstance(trial.outcome, Rejection):
                result.refused[name] = f"{trial.outcome.stage}: {trial.outcome.reason}"[:200]
            elif trial.candidate != ORIGINAL and name not in result.right:
                result.right.append(name)


def _same(result: Result, after: str, before: list[torch.Tensor], now: list[torch.Tensor]) -> None:
    if not same_bits(before, now):
        result.fault(after, "the original does not compute what it did, bit for bit")


def _unchanged(result: Result, after: str, state: dict[str, object], model: nn.Module) -> None:
    changed = differences(state, noted(model))
    if changed:
        result.fault(after, f"other state: {'; '.join(changed)}"[:400])
