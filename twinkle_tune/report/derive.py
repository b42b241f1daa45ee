"""What follows from a profile's figures: where the time goes, what runs for which rows, what became of a contest."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

import pandas as pd

from twinkle_tune.kernel.dispatch import KEPT, Choice, Rule, family_of, rules_of
from twinkle_tune.kernel.switch import size_rules, sizes_text
from twinkle_tune.outcome import Measurement, Status
from twinkle_tune.profile.schema import Contest, Profile, Seen
from twinkle_tune.slot import OF_THE_MODEL, ORIGINAL, Slot

Fate = Status
"""What became of a contest. The original stays in all but the first."""

WHOLE = "whole step"
"""The name of the part that is everything."""


def fate(contest: Contest) -> Fate:
    """What became of a contest."""
    return contest.status


def parts(profile: Profile) -> pd.DataFrame:
    """Where each step's time goes: one row a step and slot, and one for the whole step, which is first.

    Columns: ``step``; ``slot``; ``before``, its share of the original step's time (0 to 1); ``after``, what that
    share becomes with the winners' ratios, in the original step's time too. The whole step's ``after`` is measured.
    Where the times are of the block around a slot, the slot's share shrinks by what a winner saves in the block.
    A slot inside another one counts in both, so shares need not add up to 1.
    """
    whole_us = {step.label: median(step.original_us) for step in profile.steps if step.original_us}
    rows = [
        {
            "step": seen.step,
            "slot": contest.slot.name,
            "before": seen.share,
            "after": share_after(contest, seen, whole_us),
        }
        for contest in profile.contests
        for seen in contest.seen
    ]
    whole = [{"step": step.label, "slot": WHOLE, "before": 1.0, "after": step.ratio} for step in profile.steps]
    table = pd.DataFrame([*whole, *rows], columns=["step", "slot", "before", "after"])
    summed = table.groupby(["step", "slot"], sort=False, as_index=False).sum()
    order = {label: place for place, label in enumerate(dict.fromkeys(summed["step"]))}
    return (
        summed.assign(place=summed["step"].map(order), rest=summed["slot"].ne(WHOLE))
        .sort_values(["place", "rest", "before"], ascending=[True, True, False], kind="stable")
        .drop(columns=["place", "rest"])
        .reset_index(drop=True)
    )


def share_after(contest: Contest, seen: Seen, whole_us: Mapping[str, float]) -> float:
    """What becomes of a contest's share of a step with its winner, by the winner's own ratio.

    Args:
        whole_us: microseconds of each original step, by its label; a step without them counts as it is seen.
    """
    if contest.timed_on is None or not contest.block:
        return seen.share * contest.selection.ratio
    original = contest.trial(ORIGINAL).outcome if contest.trials else None
    if not isinstance(original, Measurement) or seen.step not in whole_us:
        return seen.share
    saved_us = (1 - contest.selection.ratio) * original.median_us * seen.calls / contest.timed_on.calls
    return max(0.0, seen.share - saved_us / whole_us[seen.step])


@dataclass(frozen=True, slots=True, kw_only=True)
class Shapes:
    """A slot's contests that differ in their row count, in ascending order of it.

    Attributes:
        slot: its name.
        where: the instances that are called so; empty for a function.
        contests: numbers from 1 and contests.
        rules: from how many to how many rows which winner runs; the original runs elsewhere.
        sizes: of a slot that is a whole model, what runs for which batch and sequence length, as the binding tells it.
    """

    slot: str
    where: tuple[str, ...]
    contests: tuple[tuple[int, Contest], ...]
    rules: tuple[Rule, ...]
    sizes: str = ""

    @property
    def text(self) -> str:
        """What is bound for what, in words."""
        return f"{self.sizes}; else the original" if self.sizes else rules_text(self.rules)


def shapes(profile: Profile) -> tuple[Shapes, ...]:
    """The slots that were measured with several row counts: what :func:`kernelize_model` tells apart by rows."""
    groups: list[list[tuple[int, Contest]]] = []
    at: dict[tuple[Slot, tuple[str, ...]], list[list[tuple[int, Contest]]]] = {}
    for number, contest in enumerate(profile.contests, 1):
        there = at.setdefault((contest.slot, contest.instances), [])
        group = next((g for g in there if _same_place(g[0][1], contest, profile.device)), None)
        if group is None:
            there.append([(number, contest)])
            groups.append(there[-1])
        else:
            group.append((number, contest))
    return tuple(_shapes(group) for group in groups if len({c.workload.rows for _, c in group if c.trials}) > 1)


def _shapes(group: list[tuple[int, Contest]]) -> Shapes:
    group = sorted(group, key=lambda pair: (pair[1].workload.rows, pair[0]))
    first = group[0][1]
    if first.slot.name in OF_THE_MODEL:
        return _sizes(group)
    return Shapes(
        slot=first.slot.name,
        where=first.instances,
        contests=tuple(group),
        rules=dispatch([contest for _, contest in group]),
    )


def _sizes(group: list[tuple[int, Contest]]) -> Shapes:
    """Of a whole model's slot, which is bound by batch and sequence length."""
    first = group[0][1]
    rules = size_rules((contest.workload, contest.selection.winner) for _, contest in group)
    return Shapes(
        slot=first.slot.name,
        where=first.instances,
        contests=tuple(group),
        rules=tuple(
            replace(rule, low=batch * rule.low, high=batch * rule.high)
            for (batch, _), ruled in rules.items()
            for rule in ruled
        ),
        sizes=sizes_text(rules),
    )


def dispatch(contests: Sequence[Contest]) -> tuple[Rule, ...]:
    """Which winner is bound for which row counts, by the rules of :mod:`twinkle_tune.kernel.dispatch`."""
    points = [(contest.workload.rows, _bound(contest)) for contest in contests]
    first = points[0][1]
    if contests[0].slot.kind.takes_module and first.rows is None and {choice for _, choice in points} == {first}:
        # One winner for all that was measured is bound as it is, for every row count.
        return () if first == KEPT else (Rule(low=0, high=sys.maxsize, winner=first),)
    return rules_of(points)


def rules_text(rules: Iterable[Rule]) -> str:
    """ "1 to 128 rows: torch.rms_norm; 2048 rows: compile; else the original"."""
    told = []
    for rule in rules:
        if rule.high == sys.maxsize:
            return f"every row count: {rule.winner.candidate}"
        rows = f"{rule.low} to {rule.high} rows" if rule.low != rule.high else f"{rule.low} rows"
        told.append(f"{rows}: {rule.winner.candidate}")
    return "; ".join([*told, "else the original"]) if told else "every row count: the original"


def _bound(contest: Contest) -> Choice:
    """The winner, with the row count where it is compiled for that alone. Its configs are one to a reader."""
    winner = contest.selection.winner
    is_compiled = winner != ORIGINAL and contest.trial(winner).source == "compile"
    return Choice(candidate=winner, rows=contest.workload.rows if is_compiled else None)


def _same_place(one: Contest, other: Contest, device: str) -> bool:
    its_tensors = other.workload.tensors
    if not its_tensors:
        return False
    if one.slot.name in OF_THE_MODEL:
        return True
    if one.slot.kind.takes_module:
        mine, its, tensors = one.workload, other.workload, one.workload.tensors
        return (
            bool(tensors)
            and tensors[0].shape[-1:] == its_tensors[0].shape[-1:]
            and tensors[0].dtype == its_tensors[0].dtype
            and mine.context == its.context
            and mine.signature == its.signature
        )
    family, its_family = family_of(one.workload, device), family_of(other.workload, device)
    return family is not None and its_family is not None and family.same_calls(its_family)
