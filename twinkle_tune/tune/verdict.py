"""The one sentence at the head of a profile: what was found, or why there is nothing to say yet. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from twinkle_tune.objective import BY_TIME, Aim, Objective
from twinkle_tune.outcome import UNDECIDED, Status
from twinkle_tune.profile.fuller import finished
from twinkle_tune.profile.run import RunFacts
from twinkle_tune.profile.schema import Contest, StepResult
from twinkle_tune.profile.setup import CompiledStep, Setup
from twinkle_tune.slot import ORIGINAL
from twinkle_tune.tune.gain import figures, gained_clearly, time_words
from twinkle_tune.words import span

_NOT_HELD: tuple[Status, ...] = (*UNDECIDED, "nothing to gain", "too little")


def verdict_of(
    contests: Sequence[Contest],
    steps: Sequence[StepResult],
    aim: Aim = BY_TIME,
    run: RunFacts | None = None,
) -> str:
    """What a run found.

    Args:
        contests: all of them, with what became of them.
        steps: the whole model, where it was compared.
        aim: what decided.
        run: how it went; None where that is not known, as for a run that did all it had to.
    """
    if run is not None and run.stopped == "budget":
        found = f"So far: {_found(contests, steps, aim)}" if _won(contests) else "No conclusion yet."
        return f"{stopped_text(contests, run)} {found} {more_text(contests, run)}"
    return _found(contests, steps, aim)


def stopped_text(contests: Sequence[Contest], run: RunFacts) -> str:
    """What a run did within its budget: "Stopped by the 30 s budget: 1 of 12 contests finished, 11 not tried."."""
    budget = f"the {span(run.budget_s)} budget" if run.budget_s is not None else "the budget"
    return f"Stopped by {budget}: {tally_text(contests)}."


def tally_text(contests: Sequence[Contest]) -> str:
    """The one count of what a budget sufficed for: "1 of 12 contests finished, 1 cut short, 10 not tried"."""
    parts = [f"{finished(contests)} of {len(contests)} contests finished"]
    partly = [contest for contest in contests if not contest.is_whole and contest.status not in UNDECIDED]
    names = sorted({name for contest in partly for name in contest.untimed("budget")})
    parts += [f"{len(partly)} without a turn for {', '.join(names)}"] if names else []
    cut = sorted({name for contest in contests for name in contest.untimed("cut off")})
    parts += [f"{', '.join(cut)} cut off"] if cut else []
    for status in UNDECIDED:
        count = sum(contest.status == status for contest in contests)
        parts += [f"{count} {status}"] if count else []
    return ", ".join(parts)


def more_text(contests: Sequence[Contest], run: RunFacts) -> str:
    """What would be enough: "About 4 min would be enough."."""
    if run.needs_s is None and any(contest.untimed("cut off") for contest in contests):
        return "What would be enough is not known: who was cut off may hang."
    enough = "A larger --budget" if run.needs_s is None else f"About {span(round_up_s(run.needs_s))}"
    return f"{enough} would be enough."


def compiled_text(steps: Sequence[CompiledStep]) -> str:
    """What the ways of running the whole model gain, the best of each step first; "" where none was tried."""
    if not steps:
        return ""
    by_step: dict[str, list[CompiledStep]] = {}
    for step in steps:
        by_step.setdefault(step.label, []).append(step)
    told = [f"{label}: {_ways_text(ways)}" for label, ways in by_step.items()]
    took_s = sum(step.compile_s for step in steps)
    return f"Ways of running the whole model (compiling took {took_s:.0f} s): {'; '.join(told)}."


def _timed(ways: Sequence[CompiledStep]) -> list[CompiledStep]:
    return [way for way in ways if not way.problem]


def _ways_text(ways: Sequence[CompiledStep]) -> str:
    """The best way of a step with its interval, the others in short; where there is none what is wrong with each."""
    timed = sorted(_timed(ways), key=lambda step: step.ratio)
    failed = [way for way in ways if way.problem]
    if not timed:
        return ", ".join(f"{way.way} {_failed(way)} ({way.problem})" for way in failed)
    best, *others = timed
    clear = "" if best.high < 1 else ", not clearly faster"
    parts = [f"{best.way} {best.ratio:.2f} of the time ({best.low:.2f} to {best.high:.2f}{clear})"]
    parts += [f"{way.way} {way.ratio:.2f}" for way in others]
    return ", ".join((*parts, *(f"{way.way} {_failed(way)}" for way in failed)))


def _failed(way: CompiledStep) -> str:
    return {"wrong": "is refused", "inconclusive": "cannot be checked", "not timed": "is not timed"}.get(
        way.cause, "failed"
    )


def setups_text(setups: Sequence[Setup], results: Sequence[StepResult]) -> str:
    """Which way the whole model runs in which step, and what that gains."""
    found = {result.label: result for result in results}
    told = (f"{s.label}: {s.name}, {time_words(r.ratio, r.low, r.high)}" for s in setups if (r := found[s.label]))
    return f"The whole model gains most in another way of running it: {'; '.join(told)}."


def compiled_problems(steps: Sequence[CompiledStep]) -> Iterator[str]:
    """Why ways have no figures: a sentence for those of a step that have the same reason."""
    same: dict[tuple[str, str, str], list[str]] = {}
    for step in steps:
        if step.problem:
            same.setdefault((step.label, _failed(step), step.problem), []).append(step.way)
    for (label, failed, problem), names in same.items():
        yield f"{label}: {', '.join(names)} {failed}: {problem}."


def taken_back_text(way: CompiledStep) -> str:
    """That a way won its step and does not run all the same, and why."""
    return (
        f"{way.label}: {way.way} took {way.ratio:.3f} of the time in its contest ({way.low:.3f} to {way.high:.3f}) "
        f"and was taken back: {way.taken_back}."
    )


def round_up_s(seconds: float) -> int:
    """An estimate as it is told, never more exactly than it is known: to half a minute, then to minutes."""
    step = 30 if seconds <= 120 else 60 if seconds <= 3600 else 900
    return math.ceil(seconds / step) * step


def _found(contests: Sequence[Contest], steps: Sequence[StepResult], aim: Aim) -> str:
    won = _won(contests)
    taken = sum(contest.status == "taken back" for contest in contests)
    if not won and taken:
        return (
            f"Keep the original: kernels won {taken} of {len(contests)} contests by themselves, "
            f"but with them no step of the whole model became {_better(aim)} and stayed right."
        )
    if not won:
        return _none(contests, aim)
    slots = ", ".join(sorted({contest.slot.name.rpartition(".")[2] for contest in won}))
    compared = [step for step in steps if step.tuned_us]
    gains = [f"{step.label} {_gain(step, aim)}" for step in compared]
    measured = "; ".join(gains) if gains else "the whole model was not timed"
    clear = any(gained_clearly(step, aim) for step in compared)
    head = f"{len(won)} of {len(contests)} contests won by a kernel ({slots})"
    return f"{head}: {measured}." if clear or not gains else f"{head}, but no clear gain end to end: {measured}."


def _gain(step: StepResult, aim: Aim) -> str:
    if aim.is_memory:
        return figures(step, aim).replace("took", "takes")
    return time_words(step.ratio, step.low, step.high)


def _none(contests: Sequence[Contest], aim: Aim) -> str:
    held = [contest for contest in contests if contest.status not in _NOT_HELD]
    if not held:
        little = any(contest.status == "too little" for contest in contests)
        why = "what could be gained is too little to matter" if little else "nothing else competed with it"
        return f"Keep the original: {why}."
    told = f"Keep the original: none of {len(held)} contests found a kernel that is right and clearly {_better(aim)}"
    unclear = [contest.selection for contest in held if contest.status == "no clear winner"]
    if not unclear:
        return f"{told}."
    visible = [chosen.visible_gain for chosen in unclear if chosen.visible_gain is not None]
    known = bool(visible) and len(visible) == len(unclear)
    seen = f" (this run could have seen gains from {max(visible):.0%})" if known else ""
    return f"{told}; {len(unclear)} {'was' if len(unclear) == 1 else 'were'} too noisy to tell{seen}."


def _better(aim: Aim) -> str:
    if not aim.is_memory:
        return "faster"
    return f"smaller within {aim.slowdown:g}x the time" if aim.objective is Objective.BALANCED else "smaller"


def _won(contests: Sequence[Contest]) -> list[Contest]:
    return [contest for contest in contests if contest.selection.winner != ORIGINAL]
