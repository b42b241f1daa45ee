"""What to do with a profile: apply it, leave it, or measure again. A pure function over the profile's figures.

Every format says the same, since it is made here: as a kind for a badge, one sentence for people, and what to run.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from twinkle_tune.outcome import UNDECIDED, Untimed
from twinkle_tune.profile.schema import Contest, Profile, StepResult
from twinkle_tune.profile.setup import CompiledStep
from twinkle_tune.report import head
from twinkle_tune.report.amdahl import amdahl, decided
from twinkle_tune.report.text import gain_text, interval_text, one_line, percent, ratio_text, reading
from twinkle_tune.tune.gain import figures, gained_clearly, promised, time_words
from twinkle_tune.tune.verdict import round_up_s, taken_back_text, verdict_of
from twinkle_tune.words import span

Kind = Literal["apply", "do not bother", "measure again"]
Reason = Literal[
    "gain", "small gain", "kept", "outside", "noise", "budget", "interrupted", "nothing measured", "taken back"
]

TITLES: dict[Kind, str] = {
    "apply": "Apply it",
    "do not bother": "Do not bother",
    "measure again": "Measure again",
}
WORTH = 0.02
"""Share of a step's time under which a gain is not worth a change: the least that a contest looks for, too."""
_STEPS_TOLD = 2
"""The reason names so many steps; the table has all."""
_MOSTLY = 0.8
"""A step with more than this outside of its slots is mostly outside of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """What to do with a profile.

    Attributes:
        kind: what to do.
        reason: why, as a word to tell cases apart by.
        why: why, in one or two sentences.
        whole: each step of the whole model in words: "prefill 1x128 2.8% faster (1.03x)"; "" where no step is known.
        run: the lines of Python, or the command, to do it with; "" where nothing is to be done.
        then: what else there is to do, before its command; "" where there is nothing more.
        then_run: that command.
    """

    kind: Kind
    reason: Reason
    why: str
    whole: str
    run: str
    then: str = ""
    then_run: str = ""

    @property
    def title(self) -> str:
        """The kind for people: "Apply it"."""
        return TITLES[self.kind]


def recommend(profile: Profile, path: str = "profile.json") -> Recommendation:
    """What to do with a profile that lies at ``path``."""
    kind, reason, why = _decide(profile)
    why += f" {untried_text(profile)}" if kind == "do not bother" and untried_text(profile) else ""
    run = {"apply": head.code(profile, path), "measure again": _again(profile), "do not bother": ""}[kind]
    then, then_run = _then(profile, path) if kind == "apply" else _fewer(profile) if reason == "budget" else ("", "")
    whole = whole_text(profile)
    return Recommendation(kind=kind, reason=reason, why=why, whole=whole, run=run, then=then, then_run=then_run)


def advice_text(profile: Profile) -> str:
    """What to do, and why, in a line."""
    advice = recommend(profile)
    return f"{advice.title}. {advice.why}"


def whole_text(profile: Profile) -> str:
    """The whole model, step by step, as people say it: "prefill 1x128 2.8% faster (1.03x); decode 1x128 unchanged"."""
    return "; ".join(f"{step.label} {step_words(profile, step)}" for step in profile.steps)


def step_words(profile: Profile, step: StepResult) -> str:
    """One step in words: "2.8% faster (1.03x)", or what became of it where it was not compared."""
    aim = profile.aim
    if not step.tuned_us:
        return uncompared(profile, step)
    return figures(step, aim).replace("took", "takes") if aim.is_memory else time_words(step.ratio, step.low, step.high)


def is_kept(profile: Profile, step: StepResult) -> bool:
    """Whether a step that was not compared keeps its originals: it was run, all is decided, and nothing won in it."""
    return not step.left_out and not _has_winner(profile, step) and decided(profile, step) == "all"


def uncompared(profile: Profile, step: StepResult) -> str:
    """What became of a step that was not compared: "unchanged" says that its originals run, since nothing won."""
    if step.left_out:
        return f"not run: {step.left_out}"
    if _has_winner(profile, step):
        return "not timed with the winners"
    return {"all": "unchanged", "some": "unchanged so far", "none": "not timed with kernels"}[decided(profile, step)]


def _has_winner(profile: Profile, step: StepResult) -> bool:
    return bool(profile.setups) or any(seen.step == step.label for contest in profile.winners for seen in contest.seen)


def visible_step_gain(step: StepResult) -> float | None:
    """The smallest gain of a step that its rounds could have shown, as a share; None where it was not compared.

    Of a step with the same scatter around another median: whose interval just lies under 1.
    """
    return 1 - step.ratio / step.high if step.tuned_us else None


def _decide(profile: Profile) -> tuple[Kind, Reason, str]:
    aim = profile.aim
    compared = [step for step in profile.steps if step.tuned_us]
    better = [step for step in compared if gained_clearly(step, aim)]
    stopped = "" if profile.run is None else profile.run.stopped
    if (profile.winners or profile.setups) and better:
        more = " The run was stopped before it had tried everything: more may be found." if not profile.complete else ""
        ways = {setup.label.partition(" ")[0]: setup.name for setup in profile.setups}
        told = "; ".join(f"{step}: {way}" for step, way in ways.items())
        how = f", run another way ({told})" if ways else ""
        return (
            "apply",
            "gain",
            f"Checked and timed on the whole model{how}. {_measured_text(profile, compared, better)}{more}",
        )
    if not profile.complete:
        if stopped == "budget" and profile.run is not None:
            return "measure again", "budget", verdict_of(profile.contests, profile.steps, aim, profile.run)
        return "measure again", "interrupted", "The run was interrupted: finish it."
    if taken := [way for way in profile.compiled if way.taken_back]:
        return "do not bother", "taken back", " ".join(map(taken_back_text, taken))
    if way := _hidden_way(profile):
        told = f"{way.label}: {way.way} took {ratio_text(way.ratio, way.low, way.high)} of the time"
        why = f"Other ways of running the whole model were too noisy to tell ({told}). {_calmer(profile)}"
        return "measure again", "noise", why
    if not profile.contests:
        return "measure again", "nothing measured", "No call of a replaceable place was seen, so nothing was measured."
    if profile.winners:
        return _without_clear_gain(profile, compared)
    return _without_winner(profile)


def _measured_text(profile: Profile, compared: Sequence[StepResult], better: Sequence[StepResult]) -> str:
    """The compared steps, a sentence each; of many those that gained first, and how many more there are."""
    told = compared
    if len(compared) > _STEPS_TOLD:
        told = [*better, *(step for step in compared if step not in better)][:_STEPS_TOLD]
    more = len(compared) - len(told)
    sentences = [f"{step.label[:1].upper()}{step.label[1:]}: {_measured(profile, step)}." for step in told]
    return " ".join([*sentences, *([f"{more} more step{'' if more == 1 else 's'} below."] if more else [])])


def _measured(profile: Profile, step: StepResult) -> str:
    """A compared step with its interval: "2.8% faster (95% interval 1.8% to 3.6%)", "no clear difference"."""
    if profile.aim.is_memory:
        return step_words(profile, step)
    if step.low <= 1 <= step.high:
        return reading(step.ratio, step.low, step.high)
    rounds = min(len(step.tuned_us), len(step.original_us))
    return f"{gain_text(step.ratio)} ({interval_text(step.ratio, step.low, step.high, rounds)})"


def _without_clear_gain(profile: Profile, compared: Sequence[StepResult]) -> tuple[Kind, Reason, str]:
    if not compared:
        return "measure again", "nothing measured", "Kernels won contests, but the whole model was not timed with them."
    most = max(1 - step.low for step in compared)
    if most < WORTH:
        return "do not bother", "small gain", f"With the winners the whole model is at most {percent(most)} faster."
    saved = max(promised(profile, step.label) for step in compared)
    if saved < WORTH and not profile.aim.is_memory:
        told = f"With the winners no step was clearly faster; by themselves they save at most {percent(saved)} of one."
        return "do not bother", "small gain", told
    visible = max(gain for step in compared if (gain := visible_step_gain(step)) is not None)
    return (
        "measure again",
        "noise",
        f"Kernels won contests, but the whole model was too noisy to tell: gains from {percent(visible)} would have "
        f"been seen. {_calmer(profile)}",
    )


def _without_winner(profile: Profile) -> tuple[Kind, Reason, str]:
    covered = {step.label: amdahl(profile, step).covered for step in profile.steps}
    most = max(covered.values(), default=0.0)
    unclear = [contest for contest in profile.contests if contest.status == "no clear winner"]
    hidden = max((_hidden(unclear, step) for step in profile.steps), default=0.0)
    if hidden >= WORTH:
        count = f"{len(unclear)} of {len(profile.contests)} contests"
        return (
            "measure again",
            "noise",
            f"{count} {'was' if len(unclear) == 1 else 'were'} too noisy to tell, and could hide up to "
            f"{percent(hidden)} of a step. {_calmer(profile)}",
        )
    if profile.steps and most < 1 - _MOSTLY:
        rest = percent(1 - most)
        return "do not bother", "outside", f"{rest} or more of every step lies outside of what can be replaced here."
    held = sum(contest.status not in (*UNDECIDED, "nothing to gain", "too little") for contest in profile.contests)
    little = sum(contest.status == "too little" for contest in profile.contests)
    if not held and little:
        return "do not bother", "kept", "What other kernels could save of a step here is too little to matter."
    if not held and profile.run is not None and profile.run.started_from:
        return "do not bother", "kept", "No other kernel won in the profile that the run started from; none was tried."
    if not held:
        return "do not bother", "kept", "No other kernel competes with the originals here."
    contests = "The contest" if held == 1 else f"Each of {held} contests"
    better = "smaller" if profile.aim.is_memory else "faster"
    taken = sum(contest.status == "taken back" for contest in profile.contests)
    if taken:
        return (
            "do not bother",
            "kept",
            f"Kernels won {taken} of {held} contests by themselves; with them no step of the whole model became "
            f"{better} and stayed right, so the originals run.",
        )
    outcomes = (trial.outcome for contest in profile.contests for trial in contest.trials)
    untimed = sum(isinstance(outcome, Untimed) and outcome.cause == "interpreter" for outcome in outcomes)
    more = f" {untimed} ran in Triton's interpreter and could not be timed here: profile on a GPU." if untimed else ""
    if little:
        more = f" {little} more could have saved too little to matter.{more}"
    return "do not bother", "kept", f"{contests} kept the original: no kernel was right and clearly {better}.{more}"


def _hidden_way(profile: Profile) -> CompiledStep | None:
    """The way that seemed to gain most where noise left it open; None where a way runs, or none seemed to gain."""
    seemed = [way for way in profile.compiled if way.is_open(1 - WORTH)]
    return None if profile.setups or profile.aim.is_memory else min(seemed, key=lambda way: way.ratio, default=None)


def _hidden(unclear: Sequence[Contest], step: StepResult) -> float:
    """Share of a step that gains which nobody could have seen would save, together."""
    return sum(
        seen.share * (contest.selection.visible_gain or 0.0)
        for contest in unclear
        for seen in contest.seen
        if seen.step == step.label
    )


def untried_text(profile: Profile) -> str:
    """That nobody tried to compile the model, where one may, and no neighbour's profile said not to; else ""."""
    if profile.run is not None and profile.run.started_from:
        return ""
    if profile.compiled or profile.mode.compiles or profile.aim.is_memory:
        return ""
    return "Other ways of running the whole model were not tried: --ways."


def _calmer(profile: Profile) -> str:
    here = profile.environment
    if head.is_busy(profile):
        return (
            f"The machine was busy (load {here.load:.1f} on {here.processors} processors): stop what else runs there."
        )
    return "Stop what else runs on the machine, or use larger inputs."


def _again(profile: Profile) -> str:
    """The command (or the call) that measures again, with the budget that would be enough where that was too small."""
    needs_s = None if profile.run is None else profile.run.needs_s
    budget = "" if needs_s is None else _budget(round_up_s(needs_s))
    if not profile.command:
        call = head.again(profile)
        return call if not budget else f"{call[:-1]}, budget_s={budget!r})"
    # Without the budget it had: what stopped it, or left few rounds to the whole model, does so again.
    return _with_budget(profile, budget)


def _fewer(profile: Profile) -> tuple[str, str]:
    """What takes less than all of a run that was stopped: the command for torch's own candidates, and its time."""
    run = profile.run
    # Without a command line there is no option to advise, and with --candidates it was narrowed.
    if run is None or not profile.command or any(word.startswith("--candidates") for word in _words(profile.command)):
        return "", ""
    if run.needs_s is None or run.torch_needs_s is None or run.torch_needs_s >= run.needs_s:
        return "", ""
    told_s = round_up_s(run.torch_needs_s)
    command = _with_budget(profile, _budget(told_s), "--candidates", "torch")
    return f"Or torch's own candidates alone, about {span(told_s)}:", command


def _with_budget(profile: Profile, budget: str, *more: str) -> str:
    """The command line of a profile with another budget ("" for none), and with more words."""
    kept, skips = [], False
    for word in _words(profile.command):
        if skips or word == "--budget" or word.startswith("--budget="):
            skips = word == "--budget"
            continue
        kept.append(word)
    return one_line(shlex.join([*kept, *more, *(["--budget", budget] if budget else [])]))


def _then(profile: Profile, path: str) -> tuple[str, str]:
    """What to do with a profile that is applied: check now and then that it still holds."""
    # A model's code is never taken from a profile: whoever verifies names a factory or a directory. Made from Python it
    # has a name that may be anything.
    named = [profile.model.name] if profile.command else []
    return "After an update of torch, or on another machine:", shlex.join(["twinkle-tune", "verify", path, *named])


def _budget(seconds: int) -> str:
    return f"{seconds // 60}m" if seconds % 60 == 0 else f"{seconds}s"


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError:  # a quote that does not end
        return command.split()
