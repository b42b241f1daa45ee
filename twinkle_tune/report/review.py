"""What a reviewer is told of two profiles of one thing: the whole model first, then what was lost and what was won."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from twinkle_tune.environment import changes as environment_changes
from twinkle_tune.errors import ProfileError
from twinkle_tune.measure.statistics import Ratio
from twinkle_tune.profile.schema import Profile, StepResult
from twinkle_tune.report.compare import STEP, Change, ChangeKind, changes
from twinkle_tune.report.markdown import escape, folded
from twinkle_tune.report.text import gain_text, one_line, ratio_text, reading, short_name, time_text
from twinkle_tune.report.ways import way_of
from twinkle_tune.slot import ORIGINAL

_HEADS: dict[ChangeKind, str] = {
    "regression": "Slower",
    "lost winner": "Lost a winner: no kernel is clearly faster than the original any more",
    "gain": "Faster",
    "winner changed": "Another winner, as fast",
    "new": "Only in the newer profile",
    "gone": "Only in the older profile",
    "same": "The same",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FailOn:
    """What a reviewer does not accept.

    Attributes:
        is_steps_only: whether only the whole model counts.
        is_lost: whether a lost winner counts as well.
        share: what must be exceeded, of the older time (0.05: slower by more than 5%).
    """

    is_steps_only: bool = False
    is_lost: bool = False
    share: float = 0.0

    def refuses(self, change: Change) -> bool:
        """Whether a change is one that is not accepted. Sizes that the model never calls never are."""
        if not change.is_called or (self.is_steps_only and not change.is_step):
            return False
        if change.kind == "lost winner":
            return self.is_lost and _grown(change) > self.share
        return change.kind == "regression" and _grown(change) > self.share


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """The comparison in lines.

    Attributes:
        elsewhere: what differs between the two machines or their software; "" where they are alike.
        steps: the whole model, a line each.
        groups: a heading and its lines, the worst first.
        summary: all of it counted in one line.
        refused: the changes that are not accepted.
        found: every change, those that are the same too.
    """

    elsewhere: str
    steps: tuple[str, ...]
    groups: tuple[tuple[str, tuple[str, ...]], ...]
    summary: str
    refused: tuple[Change, ...]
    found: tuple[Change, ...]


def review(before: Profile, after: Profile, fail_on: FailOn | None = None, *, everything: bool = False) -> Review:
    """Compare an older with a newer profile of the same thing.

    Args:
        everything: also what is the same, sizes that the model never calls, and contests without a winner that only
            one of the two has.

    Raises:
        ProfileError: nothing was measured in both.
    """
    found = changes(before, after)
    if not any(_is_measured(change, before, after) for change in found):
        raise ProfileError(
            f"diff: nothing to compare: {_measured(before)} in BEFORE, {_measured(after)} in AFTER; expected a figure "
            "that both have; profile the model again with more time (--budget)"
        )
    told = [change for change in found if everything or change.is_news]
    return Review(
        elsewhere="; ".join(one_line(line) for line in environment_changes(before.environment, after.environment)),
        steps=tuple(_steps(before, after)),
        groups=tuple(_groups(change for change in told if not change.is_step or change.measure != "ratio")),
        summary=_summary(found, len(found) - len(told)),
        refused=tuple(change for change in found if (fail_on or FailOn()).refuses(change)),
        found=found,
    )


def markdown(shown: Review) -> str:
    """The review as Markdown for a pull request: the whole model, then a list a group, folded where it is long."""
    parts = [f"**{'Slower' if shown.refused else 'No loss'}.** {escape(shown.summary)}"]
    parts += [f"> {escape(f'Measured differently: {shown.elsewhere}.')}"] if shown.elsewhere else []
    parts += ["\n".join(f"- {escape(line)}" for line in shown.steps)] if shown.steps else []
    for head, lines in shown.groups:
        listed = "\n".join(f"- {escape(line)}" for line in lines)
        title = f"{head.partition(':')[0]} {len(lines)}"
        parts += folded(title, [listed]) if head != _HEADS["regression"] else [f"**{head}**", listed]
    return "\n\n".join(parts) + "\n"


def sentence(shown: Review) -> str:
    """The first line where the two were measured under different conditions; "" where they were not."""
    if not shown.elsewhere:
        return ""
    return f"Measured differently: {shown.elsewhere}. Compare ratios, not times."


def _groups(told: Iterable[Change]) -> Iterator[tuple[str, tuple[str, ...]]]:
    lines: dict[ChangeKind, list[str]] = {}
    for change in told:
        lines.setdefault(change.kind, []).append(_line(change))
    for kind, head in _HEADS.items():
        if kind in lines:
            yield head, tuple(lines[kind])


def _line(change: Change) -> str:
    slot, _, call = change.where.removeprefix(STEP).partition(" ")
    where = f"{short_name(slot)} {call}"
    probed = "" if change.is_called else " (the model never calls this size)"
    if change.measure != "ratio":
        return one_line(f"{where}: {change.text}")
    was, now = _side(change.before, change.winner_before), _side(change.after, change.winner_after)
    return one_line(f"{where}: {was} → {now}{probed}")


def _side(figure: Ratio | None, winner: str) -> str:
    if figure is None:
        return "not measured"
    if winner in ("", ORIGINAL):
        return winner or reading(figure.ratio, figure.low, figure.high)
    return f"{winner}, {gain_text(figure.ratio)}, {ratio_text(figure.ratio, figure.low, figure.high)}"


def _steps(before: Profile, after: Profile) -> Iterator[str]:
    """A line a step of the whole model: its gain then and now, and the times with the winners."""
    old, new = ({step.label: step for step in profile.steps} for profile in (before, after))
    for label in dict.fromkeys([*old, *new]):
        was, now = old.get(label), new.get(label)
        gains = _gain(was, way_of(before, label)), _gain(now, way_of(after, label))
        yield one_line(f"{label}: {' → '.join(gains)}{_times(was, now)}")


def _gain(step: StepResult | None, way: str) -> str:
    if step is None:
        return "not measured"
    if not step.tuned_us:
        return "the original runs"
    told = reading(step.ratio, step.low, step.high)
    return f"{f'{way}, ' if way else ''}{told}, {ratio_text(step.ratio, step.low, step.high)}"


def _times(was: StepResult | None, now: StepResult | None) -> str:
    known = [each for each in (was, now) if each is not None and each.tuned_us]
    if len(known) < 2:
        return ""
    return f"; {' → '.join(time_text(median(each.tuned_us)) for each in known)} a step"


def _summary(found: Sequence[Change], left_out: int) -> str:
    counted = [
        (sum(c.kind == "regression" and c.is_called for c in found), "slower"),
        (sum(c.kind == "lost winner" and c.is_called for c in found), "lost a winner"),
        (sum(c.kind == "gain" and c.is_called for c in found), "faster"),
    ]
    told = ", ".join(f"{count} {what}" for count, what in counted if count) or "nothing slower, nothing faster"
    rest = f"; {left_out} figures without news are left out (--all shows them)" if left_out else ""
    return f"{told}, of {len(found)} figures{rest}"


def _is_measured(change: Change, before: Profile, after: Profile) -> bool:
    if change.before is None or change.after is None:
        return False
    if not change.is_step:
        return True
    if change.before.rounds and change.after.rounds:
        return True
    # That the original runs in a step is a result only where contests came to it.
    return all(any(contest.trials for contest in profile.contests) for profile in (before, after))


def _measured(profile: Profile) -> str:
    done = sum(bool(contest.trials) for contest in profile.contests)
    return f"{done} of {len(profile.contests)} contests measured"


def _grown(change: Change) -> float:
    """By how much of the older figure the newer one is larger."""
    if change.before is None or change.after is None or change.before.ratio <= 0:
        return 0.0
    return change.after.ratio / change.before.ratio - 1
