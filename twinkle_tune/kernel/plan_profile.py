"""From a profile to what will be bound: checked against the model as it is, before anything is touched."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from twinkle_tune.catalog.head import why_aside
from twinkle_tune.catalog.recognise import functions_of
from twinkle_tune.environment import changes, current_environment
from twinkle_tune.errors import TuneError
from twinkle_tune.kernel.dispatch import (
    KEPT,
    Choice,
    Family,
    RowsFrom,
    Rule,
    family_of,
    layer_dispatcher,
    rules_of,
    rules_text,
    tensor_dispatcher,
)
from twinkle_tune.kernel.forward import Winner
from twinkle_tune.kernel.functions import original_function
from twinkle_tune.kernel.mappings import mapped_functions
from twinkle_tune.kernel.measured import Measured, State
from twinkle_tune.kernel.patch import Binding, replaced_by_another
from twinkle_tune.kernel.paths import contests_at
from twinkle_tune.kernel.plan import Kept, Plan, with_ways
from twinkle_tune.kernel.plan_patterns import beside_pieces, plan_patterns
from twinkle_tune.kernel.reasons import reasons_text
from twinkle_tune.kernel.registry import Registry
from twinkle_tune.kernel.resolve import Resolver
from twinkle_tune.kernel.setups import Layers, setup_layers
from twinkle_tune.kernel.switch import attention_dispatcher
from twinkle_tune.mode import Mode
from twinkle_tune.occurrence import Occurrence
from twinkle_tune.profile.schema import Contest, Profile
from twinkle_tune.slot import HEAD, MODEL, OF_THE_MODEL, ORIGINAL, Implementation, Slot, SlotKind
from twinkle_tune.workload import TensorSpec, module_settings, signature_of, target_of


def plan_profile(model: nn.Module, profile: Profile, device: str, mode: Mode, registry: Registry) -> Plan:
    """Plan the binding of a profile's winners.

    Entries that do not hold any more (another environment, changed code, changed settings) are left out and
    named in ``stale``.
    """
    whole = _stale_as_a_whole(profile, device, mode)
    if whole:
        return Plan(stale=whole)
    resolver = Resolver(device, mode, registry)
    layers, kept = _plan_layers(model, profile, resolver)
    pieces, kept_pieces = plan_patterns(model, profile, resolver, _layer_entry)
    layers, lost = beside_pieces(layers, pieces)
    functions, kept_functions = _plan_functions(model, profile, resolver)
    ways, why = _plan_setups(model, profile, layers=bool(layers), functions=bool(functions))
    stale = (*map(str, resolver.stale), *([why] if why else []))
    kernels = Plan(layers, functions, (*kept, *kept_pieces, *lost, *kept_functions), stale, tuple(resolver.stale))
    return with_ways(kernels, ways) if ways else kernels


def _plan_setups(model: nn.Module, profile: Profile, *, layers: bool, functions: bool) -> tuple[Layers, str]:
    """The forwards of the ways of running the whole model, or why they cannot be bound."""
    if not profile.setups:
        return (), ""
    made = setup_layers(model, profile.setups, layers=layers, functions=functions)
    names = ", ".join(dict.fromkeys(setup.name for setup in profile.setups))
    return ((), f"{MODEL} ({names}): {made}") if isinstance(made, str) else (made, "")


def _stale_as_a_whole(profile: Profile, device: str, mode: Mode) -> tuple[str, ...]:
    if profile.mode != mode:
        return (f"the profile is for mode {profile.mode}, got mode {mode}; profile the model in that mode",)
    if profile.device != device:
        return (f"the profile is for device {profile.device}, got device {device}; profile the model on that device",)
    differ = changes(profile.environment, current_environment(device))
    if differ:
        return (
            f"the profile was made in another environment ({'; '.join(differ)}); profile the model again here, or have "
            "its winners tried with kernelize_model(..., example_inputs=)",
        )
    return ()


def _plan_layers(
    model: nn.Module, profile: Profile, resolver: Resolver
) -> tuple[tuple[tuple[nn.Module, Callable[..., Any], Binding], ...], tuple[Kept, ...]]:
    by_target: dict[str, list[Contest]] = {}
    for contest in profile.contests:
        if contest.slot.kind is SlotKind.LAYER:
            by_target.setdefault(contest.slot.target, []).append(contest)
    planned, kept = [], []
    placed: set[int] = set()
    for path, module in model.named_modules():
        spoken_of = contests_at(path, by_target.get(target_of(type(module)), []))
        if not spoken_of:
            continue
        placed |= {id(contest) for contest in spoken_of}
        if replaced_by_another(module):
            reason = "its forward was replaced on the instance by somebody else"
            kept.append(Kept(slot=f"{spoken_of[0].slot.name} {path}", reason=reason))
            continue
        signature = signature_of(target_of(type(module)), module_settings(module))
        fitting = [contest for contest in spoken_of if contest.workload.signature == signature]
        if not fitting:
            for contest in spoken_of:
                resolver.note(contest, f"{path or 'the model'}: {_what_changed(contest, module)}; profile again")
            continue
        entry = _layer_entry(path, module, fitting, resolver)
        if isinstance(entry, Kept):
            kept.append(entry)
        else:
            planned.append((module, *entry))
    for contest in (c for found in by_target.values() for c in found):
        if id(contest) not in placed and contest.selection.winner != ORIGINAL:
            where = ", ".join(contest.instances[:3])
            resolver.note(
                contest, f"the model has no {contest.slot.target} at {where}; is it the one that was profiled?"
            )
    return tuple(planned), tuple(kept)


def _layer_entry(
    path: str, module: nn.Module, contests: Sequence[Contest], resolver: Resolver
) -> tuple[Callable[..., Any], Binding] | Kept:
    slot = contests[0].slot.name
    if slot in OF_THE_MODEL:
        return _model_entry(path, module, contests, resolver)
    states: dict[State, list[Contest]] = {}
    for contest in contests:
        states.setdefault(State.of(contest.workload.context), []).append(contest)
    made = [_calls_in_a_state(path, module, same, resolver) for same in states.values()]
    found = [each for each in made if not isinstance(each, str)]
    if not found:
        reasons = dict.fromkeys(each for each in made if isinstance(each, str))
        return Kept(slot=f"{slot} {path}", reason="; ".join(reasons))
    binding = Binding(
        slot=slot,
        path=path,
        candidate=", ".join(dict.fromkeys(each.candidates for each in found)),
        rows="; ".join(dict.fromkeys(each.rows for each in found)),
    )
    return Winner(*((each.call, each.measured) for each in found)), binding


@dataclass(frozen=True, slots=True, kw_only=True)
class _Calls:
    """What runs in one state of the process: a forward, what it was measured under, and both in words."""

    call: Callable[..., Any]
    measured: Measured
    candidates: str
    rows: str


def _calls_in_a_state(path: str, module: nn.Module, contests: Sequence[Contest], resolver: Resolver) -> _Calls | str:
    """The winners of contests that were held in one state of the process; why there are none, where there are none."""
    points, calls, rows_from, reasons = [], {}, None, []
    original, is_for_all = type(module).forward, True
    for contest in contests:
        loaded = resolver.winner(contest, Occurrence(slot=contest.slot, instances=((path, module),)))
        rows = contest.workload.rows
        choice = KEPT
        if loaded is None:
            reasons.append((rows, resolver.why(contest)))
        else:
            choice = _choice(contest, loaded)
            calls[choice] = loaded.call
            is_for_all = is_for_all and not loaded.per_shape and not loaded.within_measured
        points.append((rows, choice))
        rows_from = rows_from or RowsFrom.of(contest.workload)
    choices = {choice for _, choice in points}
    if choices == {KEPT}:
        return reasons_text(reasons)
    measured = Measured.of([contest.workload for contest in contests], module)
    dtypes = {contest.workload.tensors[0].dtype for contest in contests if contest.workload.tensors}
    # Where parameters of that dtype are among the settings, who reads the report knows it.
    needs_dtype = not dtypes <= {
        node.dtype for _, node in contests[0].workload.settings if isinstance(node, TensorSpec)
    }
    if len(choices) == 1 and is_for_all and not needs_dtype:
        (choice,) = choices
        return _Calls(call=calls[choice], measured=measured, candidates=choice.candidate, rows="all")
    rules = rules_of(points)
    if len({choice.candidate for choice in choices}) == 1 and is_for_all and rules:
        # One winner for all observed calls is one for others too; with several configs the nearest one.
        rules = (replace(rules[0], low=0), *rules[1:])
        rules = (*rules[:-1], replace(rules[-1], high=sys.maxsize))
    if not rules or rows_from is None or len(dtypes) != 1:
        return "its calls have different winners that no row count tells apart"
    winners = ", ".join(dict.fromkeys(rule.winner.candidate for rule in rules))
    (dtype,) = dtypes
    if measured.dtype is not None:
        call = tensor_dispatcher(rules, calls, original)
    else:
        call = layer_dispatcher(rules, calls, original, rows_from)
    told = rules_text(rules) + (f" ({dtype} alone)" if needs_dtype else "")
    return _Calls(call=call, measured=measured, candidates=winners, rows=told)


def _model_entry(
    path: str, module: nn.Module, contests: Sequence[Contest], resolver: Resolver
) -> tuple[Callable[..., Any], Binding] | Kept:
    occurrence = Occurrence(slot=contests[0].slot, instances=((path, module),))
    slot = occurrence.slot.name
    found = [(contest, resolver.winner(contest, occurrence)) for contest in contests]
    made = attention_dispatcher([(c, None if w is None else w.call) for c, w in found], occurrence.original)
    reason = reasons_text((contest.workload.rows, resolver.why(contest)) for contest in contests)
    if made is not None and slot == HEAD:
        why = why_aside(module)
        if why:
            for contest, winner in found:
                if winner is not None:
                    resolver.note(contest, why)
            made, reason = None, why
    if made is None:
        return Kept(slot=f"{slot} {path}".rstrip(), reason=reason)
    return made[0], Binding(slot=slot, path=path, candidate=made[1], rows=made[2])


def _plan_functions(
    model: nn.Module, profile: Profile, resolver: Resolver
) -> tuple[tuple[tuple[Slot, tuple[Family, ...], Binding], ...], tuple[Kept, ...]]:
    by_slot: dict[Slot, list[Contest]] = {}
    for contest in profile.contests:
        if contest.slot.kind is SlotKind.FUNCTION:
            by_slot.setdefault(contest.slot, []).append(contest)
    planned, kept = [], []
    # A profile is data: nothing is imported because it names it, only what the model or the user speaks of.
    known = {slot.target for slot in (*functions_of(model), *mapped_functions(model))} if by_slot else set()
    known |= resolver.registered_functions
    for slot, contests in by_slot.items():
        if slot.target not in known:
            reason = f"the model has no function slot {slot.target!r}, and none is registered"
            for contest in (c for c in contests if c.selection.winner != ORIGINAL):
                resolver.note(contest, f"{reason}; register it, or profile again")
            kept.append(Kept(slot=slot.name, reason=reason))
            continue
        entry = _function_entry(slot, contests, resolver)
        if isinstance(entry, Kept):
            kept.append(entry)
        else:
            planned.append((slot, *entry))
    return tuple(planned), tuple(kept)


def _function_entry(
    slot: Slot, contests: Sequence[Contest], resolver: Resolver
) -> tuple[tuple[Family, ...], Binding] | Kept:
    try:
        occurrence = Occurrence(slot=slot, function=original_function(slot.target))
    except TuneError as error:
        resolver.note(contests[0], str(error))
        return Kept(slot=slot.name, reason=str(error))
    groups: list[tuple[Family, list[tuple[int, Choice]], dict[Choice, Callable[..., Any]]]] = []
    reasons = []
    for contest in contests:
        loaded = resolver.winner(contest, occurrence)
        if loaded is None:
            reasons.append((contest.workload.rows, resolver.why(contest)))
        family = family_of(contest.workload, resolver.device)
        if family is None:
            why = "its arguments are not only tensors and plain values, so its calls cannot be told apart"
            reasons.append((contest.workload.rows, why))
            continue
        points, calls = next(((p, c) for f, p, c in groups if f.same_calls(family)), (None, None))
        if points is None or calls is None:
            points, calls = [], {}
            groups.append((family, points, calls))
        choice = KEPT
        if loaded is not None:
            choice = _choice(contest, loaded)
            calls[choice] = loaded.call
        points.append((contest.workload.rows, choice))
    families: list[Family] = []
    rules: list[Rule] = []
    for family, points, calls in groups:
        found = rules_of(points)
        rules += found
        told = (slot.name, ", ".join(dict.fromkeys(r.winner.candidate for r in found)))
        families.append(replace(family, steps=tuple((r.low, r.high, calls[r.winner]) for r in found), told=told))
    if not rules:
        return Kept(slot=slot.name, reason=reasons_text(reasons) or "no row count tells its winners apart")
    winners = ", ".join(dict.fromkeys(rule.winner.candidate for rule in rules))
    return tuple(families), Binding(slot=slot.name, path="", candidate=winners, rows=rules_text(rules))


def _choice(contest: Contest, loaded: Implementation) -> Choice:
    winner = contest.selection.winner
    config = contest.trial(winner).config
    return Choice(
        candidate=winner,
        config=None if config is None else tuple(sorted(config.items())),
        rows=contest.workload.rows if loaded.per_shape else None,
    )


def _what_changed(contest: Contest, module: nn.Module) -> str:
    then, now = dict(contest.workload.settings), dict(module_settings(module))
    names = [name for name in sorted(then.keys() | now.keys()) if then.get(name) != now.get(name)]
    shown = "; ".join(f"{name}: {_short(then.get(name))} then, {_short(now.get(name))} now" for name in names[:3])
    return f"its settings changed ({shown})"


def _short(node: object) -> str:
    shape, dtype = getattr(node, "shape", None), getattr(node, "dtype", "")
    if shape is not None:
        return f"{dtype}{list(shape)}"
    return str(getattr(node, "value", getattr(node, "name", "nothing")))
