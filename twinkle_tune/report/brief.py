"""A report in short: the winners by what they save, one line for all that stayed, and what no part of a step is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from twinkle_tune.outcome import UNDECIDED
from twinkle_tune.profile.schema import Contest, Profile, Seen
from twinkle_tune.profile.shares import step_us
from twinkle_tune.report.derive import Fate, fate, share_after
from twinkle_tune.report.text import NOTHING, call_text, gain_text, one_line, percent, ratio_text, short_name, time_text
from twinkle_tune.slot import ORIGINAL

_NAME_LIMIT = 60
_STAYED: Mapping[Fate, str] = {
    "no clear winner": "no clear winner",
    "all refused": "every other kernel was refused",
    "inconclusive": "the original could not be tried by itself",
    "taken back": "a kernel won by itself and was taken back",
    "nothing to gain": "nothing could be gained",
    "too little": "too little to matter",
}
"""Why the original stays, where that it was kept is not all that is to say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Saving:
    """What a winner saves of the step in which it saves most.

    Attributes:
        number: the contest's, from 1.
        slot, call, winner: names for people.
        gain: the winner against the original: "11.2% faster".
        step: the label of that step; "" for a size that the model never calls.
        share: what is saved of the step, 0 to 1; negative where a winner by memory takes more time.
        text: the same with the time, where that is known: "1.20 ms, 2.1%".
    """

    number: int
    slot: str
    call: str
    winner: str
    gain: str
    ratio: str
    step: str
    share: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Brief:
    """A report in short.

    Attributes:
        winners: those of the sizes that the model calls, what saves most first.
        probed: those of sizes that it never calls, which were only tried; in a line.
        stayed: the largest of the others, by why the original stays in it; "" where there is none.
    """

    winners: tuple[Saving, ...]
    probed: str
    stayed: str


def brief(profile: Profile) -> Brief:
    """The short report of a profile. A contest that no step has seen is of a size that the model never calls."""
    whole_us = {step.label: known for step in profile.steps if (known := step_us(step)) is not None}
    numbered = list(enumerate(profile.contests, 1))
    called = [(number, contest) for number, contest in numbered if contest.seen]
    won = [saving(number, contest, whole_us) for number, contest in called if contest.selection.winner != ORIGINAL]
    return Brief(
        winners=tuple(sorted(won, key=lambda each: (-each.share, each.number))),
        probed=_probed([(number, contest) for number, contest in numbered if not contest.seen]),
        stayed=_stayed([contest for _, contest in called if contest.selection.winner == ORIGINAL]),
    )


def saving(number: int, contest: Contest, whole_us: Mapping[str, float]) -> Saving:
    """What a contest's winner saves; nothing where it is the original."""
    best = max(contest.seen, key=lambda seen: _saved(contest, seen, whole_us), default=None)
    share = 0.0 if best is None else _saved(contest, best, whole_us)
    chosen = contest.selection
    return Saving(
        number=number,
        slot=one_line(short_name(contest.slot.name), _NAME_LIMIT),
        call=short_call(contest),
        winner=one_line(chosen.winner, _NAME_LIMIT),
        gain=gain_text(chosen.ratio) if chosen.winner != ORIGINAL else NOTHING,
        ratio=ratio_text(chosen.ratio, chosen.low, chosen.high),
        step="" if best is None else one_line(best.step, _NAME_LIMIT),
        share=share,
        text=_saved_text(share, None if best is None else whole_us.get(best.step)),
    )


def short_call(contest: Contest) -> str:
    """A call by the shape of its first tensor: "[1,128,256]"; the whole of it where it has none."""
    text = call_text(contest.workload)
    start, end = text.find("["), text.find("]")
    return one_line(text[start : end + 1] if 0 <= start < end else text, _NAME_LIMIT)


def largest_share(contest: Contest) -> tuple[float, str]:
    """The contest's largest share of a step, and the step's label; 0 and "" where no step has seen it."""
    seen = max(contest.seen, key=lambda each: each.share, default=None)
    return (0.0, "") if seen is None else (seen.share, seen.step)


def _saved(contest: Contest, seen: Seen, whole_us: Mapping[str, float]) -> float:
    return seen.share - share_after(contest, seen, whole_us)


def _saved_text(share: float, step_us: float | None) -> str:
    if not share:
        return NOTHING
    return percent(share) if step_us is None else f"{time_text(share * step_us)}, {percent(share)}"


def _stayed(contests: Sequence[Contest]) -> str:
    """ "Largest that kept the original: GatedMLP, 43.5% of prefill 1x128 (no clear winner)". They are counted once,
    and not here.
    """
    told = "; ".join(_groups(contests))
    return told[:1].upper() + told[1:]


def _groups(contests: Sequence[Contest]) -> Iterator[str]:
    kept = [contest for contest in contests if fate(contest) not in UNDECIDED]
    late = ([contest for contest in contests if fate(contest) == what] for what in UNDECIDED)
    for group, what in ((kept, "kept the original"), *zip(late, UNDECIDED, strict=True)):
        if group:
            which = f"largest {'that ' if group is kept else ''}{what}" if len(group) > 1 else what
            largest = max(group, key=lambda contest: largest_share(contest)[0])
            share, step = largest_share(largest)
            of = f", {percent(share)} of {one_line(step, _NAME_LIMIT)}" if share else ""
            why = f" ({_STAYED[fate(largest)]})" if fate(largest) in _STAYED else ""
            yield f"{which}: {one_line(short_name(largest.slot.name), _NAME_LIMIT)}{of}{why}"


def _probed(contests: Sequence[tuple[int, Contest]]) -> str:
    if not contests:
        return ""
    won = Counter(contest.selection.winner for _, contest in contests if contest.selection.winner != ORIGINAL)
    told = ", ".join(f"{one_line(name, _NAME_LIMIT)} in {count}" for name, count in won.most_common())
    tried = f"{len(contests)} more size{'' if len(contests) == 1 else 's'} tried that this model never called"
    return f"{tried}: {told or 'the original runs'}"
