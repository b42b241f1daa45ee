"""A profile in which a given kernel has won, so that a test does not hang on which kernel is faster today."""

from __future__ import annotations

from dataclasses import replace

from twinkle_tune.errors import ProfileError
from twinkle_tune.measure.statistics import Ratio, paired_ratio
from twinkle_tune.outcome import Measurement, Selection
from twinkle_tune.profile.schema import Contest, Profile
from twinkle_tune.slot import ORIGINAL

_REASON = "put in by twinkle_tune.testing.with_winner: measured and right, whether it is faster or not"


def with_winner(profile: Profile, slot: str | None = None, candidate: str | None = None) -> Profile:
    """A copy of a profile in which measured and right rivals of the original have won.

    Which kernel is faster changes from machine to machine and from day to day; what a kernel computes, and what a
    model with it does, must not. Only candidates that passed the numerical check and were timed can be put in, with
    the figures that they were measured with.

    Args:
        profile: as :func:`twinkle_tune.tune_model` returned it, or loaded.
        slot: name of the slot ("RMSNorm") whose contests change; None for all of them.
        candidate: name of the rival ("torch.rms_norm") that wins wherever it was measured and right; None for the
            rival with the smallest time in each contest.

    Returns:
        The profile with other selections. Contests without such a rival keep theirs; whole-model figures stay as
        measured, so they are not those of the new winners.

    Raises:
        ProfileError: the profile has no contest of that slot, or the named candidate was nowhere measured and right.
    """
    meant = [contest for contest in profile.contests if slot in (None, contest.slot.name)]
    if not meant and slot is not None:
        names = ", ".join(sorted({contest.slot.name for contest in profile.contests}))
        raise ProfileError(f"with_winner: got slot={slot!r}, expected a slot of the profile ({names or 'it has none'})")
    if candidate is not None and not any(candidate in _rivals(contest) for contest in meant):
        right = ", ".join(sorted({name for contest in meant for name in _rivals(contest)}))
        raise ProfileError(
            f"with_winner: got candidate={candidate!r}, expected a rival that was measured and right "
            f"({right or 'there is none'}); name one of these, or profile with more time"
        )
    changed = tuple(_won(contest, candidate) if contest in meant else contest for contest in profile.contests)
    return replace(profile, contests=changed)


def _won(contest: Contest, candidate: str | None) -> Contest:
    ratios = {name: ratio for name, ratio in _rivals(contest).items() if candidate in (None, name)}
    if not ratios:
        return contest
    name = min(ratios, key=lambda each: ratios[each].ratio)
    best = ratios[name]
    selection = Selection(
        winner=name, ratio=best.ratio, low=best.low, high=best.high, rounds=best.rounds, reason=_REASON
    )
    return replace(contest, selection=selection)


def _rivals(contest: Contest) -> dict[str, Ratio]:
    times = {t.candidate: t.outcome.times_us for t in contest.trials if isinstance(t.outcome, Measurement)}
    original = times.pop(ORIGINAL, None)
    return {} if original is None else {name: paired_ratio(its, original) for name, its in times.items()}
