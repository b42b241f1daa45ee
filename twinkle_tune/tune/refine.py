"""Shapes between the measured ones: a few contests more, near where the winner changes.

Between two row counts with different winners the original runs, since nobody knows where the one becomes better than
the other. A contest in between, of those who won on either side, halves that gap (in the ratio of the row counts).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from twinkle_tune.call.arguments import fresh
from twinkle_tune.call.rows import with_rows
from twinkle_tune.capture.capture import Observation
from twinkle_tune.kernel.functions import original_function
from twinkle_tune.profile.schema import Contest
from twinkle_tune.slot import ORIGINAL
from twinkle_tune.tune.choose import keep_original
from twinkle_tune.workload import Node, TensorSpec, Workload, observe

EXTRA = 3
"""Contests at most beside the measured ones, for each slot of one form."""
_NEAR = 2.0
"""Row counts within this ratio are near enough."""
_PER_SHAPE = "compile"


@dataclass(frozen=True, slots=True, kw_only=True)
class Between:
    """A place to look at: calls with about ``rows`` rows.

    Attributes:
        slot, larger: name of the slot, and key of the measured workload above, whose calls are cut.
        rows: how many are wanted.
        names: who won on either side, the original first.
    """

    slot: str
    larger: str
    rows: int
    names: tuple[str, ...]


def next_between(
    contests: Sequence[Contest],
    without: Collection[Between] = (),
    is_worth: Callable[[Contest], bool] = lambda contest: True,
) -> Between | None:
    """The widest gap between neighbours of one form with different winners; None where none is worth a contest.

    A winner that is compiled for each shape is bound at measured row counts alone: where only such ones win, nothing
    is gained by knowing more.

    Args:
        contests: of a profile, those between included.
        without: places that turned out not to be had.
        is_worth: whether a contest's winner saves enough to look beside it.
    """
    gaps = [gap for form in _forms(contests) for gap in _gaps(form, is_worth) if gap[1] not in without]
    return max(gaps, key=lambda gap: gap[0])[1] if gaps else None


def observed_at(observation: Observation, rows: int) -> Observation | None:
    """What an observation would be with fewer rows: not seen in any step. None where its calls cannot be cut.

    Whether a call that was made up makes sense is for the original to say: None where it raises.
    """
    call = with_rows(observation.call, rows)
    if call is None:
        return None
    module = observation.module
    original = original_function(observation.slot.target) if module is None else module
    made = fresh(call)
    try:
        with torch.no_grad():
            original(*made.args, **made.kwargs)
    except Exception:
        return None
    workload = observe(observation.workload.target, call.args, call.kwargs, observation.module)
    context = observation.workload.context
    return replace(observation, call=call, workload=replace(workload, context=context), seen=())


def without_orphans(contests: Sequence[Contest]) -> tuple[Contest, ...]:
    """The contests, the unseen ones without a winner that none of the seen ones of their form has kept.

    What was taken back in the whole model's steps was not proven anywhere in between, either.
    """
    kept = {(_form(c), c.selection.winner) for c in contests if c.seen}
    return tuple(
        keep_original(c, "the calls that the model makes keep another")
        if not c.seen and c.selection.winner != ORIGINAL and (_form(c), c.selection.winner) not in kept
        else c
        for c in contests
    )


def _forms(contests: Sequence[Contest]) -> Iterator[list[Contest]]:
    forms: dict[object, list[Contest]] = {}
    for contest in contests:
        forms.setdefault(_form(contest), []).append(contest)
    for found in forms.values():
        if sum(not contest.seen for contest in found) < EXTRA:
            yield sorted(found, key=lambda c: c.workload.rows)


def _gaps(form: Sequence[Contest], is_worth: Callable[[Contest], bool]) -> Iterator[tuple[float, Between]]:
    for low, high in itertools.pairwise(form):
        names = dict.fromkeys((ORIGINAL, low.selection.winner, high.selection.winner))
        ratio = high.workload.rows / max(1, low.workload.rows)
        movable = any(_is_movable(contest) and is_worth(contest) for contest in (low, high))
        tried = bool(low.trials) and bool(high.trials)
        rows = round(math.sqrt(low.workload.rows * high.workload.rows))
        between = low.workload.rows < rows < high.workload.rows
        if tried and movable and between and low.selection.winner != high.selection.winner and ratio > _NEAR:
            yield ratio, Between(slot=high.slot.name, larger=high.workload.key, rows=rows, names=tuple(names))


def _is_movable(contest: Contest) -> bool:
    winner = contest.selection.winner
    return winner != ORIGINAL and contest.trial(winner).source != _PER_SHAPE


def _form(contest: Contest) -> object:
    """What calls have in common that differ in their row count alone."""
    workload = contest.workload
    return (contest.slot, contest.instances, workload.settings, workload.context, *_arguments(workload))


def _arguments(workload: Workload) -> tuple[object, ...]:
    def form_of(node: Node) -> object:
        return (
            (node.dtype, len(node.shape), node.shape[-1:], node.requires_grad) if isinstance(node, TensorSpec) else node
        )

    positional = tuple(form_of(node) for node in workload.args)
    return positional, tuple((name, form_of(node)) for name, node in workload.kwargs)
