"""What stands around the figures: the facts at the top, and the lines to copy at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from twinkle_tune.outcome import Status
from twinkle_tune.profile.schema import Profile
from twinkle_tune.profile.shares import Doubt, doubts
from twinkle_tune.report.conditions import disturbances
from twinkle_tune.report.text import bytes_text, one_line, percent, short_name, three_digits
from twinkle_tune.tune.verdict import compiled_problems, taken_back_text, tally_text
from twinkle_tune.words import span

_NAME_LIMIT = 60
_KINDS = {
    "prefill": "{} tokens",
    "decode": "one token after {}",
    "train": "{} tokens",
    "generate": "a prompt of {} tokens, and {} new ones",
}
"""What the size of a step of each kind says beside its batch."""


def notes(profile: Profile, advised: str = "") -> Iterable[str]:
    """What a reader must know before believing a figure.

    Args:
        profile: whose figures.
        advised: the reason of the advice that stands above: what it says already is no note.
    """
    if taken := taken_text(profile):
        yield taken
    if is_busy(profile) and advised != "noise":
        yield _busy(profile)
    if profile.device == "cpu":
        yield "Measured on a CPU; says nothing about a GPU."
    if profile.run is not None and profile.run.calls is not None:
        yield f"Ways were chosen for {profile.run.calls:,} runs of each step, compiling included (--calls)."
    for doubt in doubts(profile):
        yield _doubted(doubt)
    yield from disturbances(profile)
    yield from compiled_problems(profile.compiled)
    if advised != "taken back":
        yield from (taken_back_text(way) for way in profile.compiled if way.taken_back)
    for step in profile.steps:
        if step.left_out:
            yield f"{step.label} was not run: {step.left_out}."
        if step.note:
            yield f"{step.label} was timed {step.note}."
    # What a budget left out is counted beside the contests.
    if not profile.complete and not _is_out_of_time(profile) and advised != "interrupted":
        yield "The run was interrupted: what is here was finished, the rest is missing."
    if not profile.contests:
        yield "No contest was finished, so nothing was chosen: the model stays as it is."


def taken_text(profile: Profile) -> str:
    """Which figures of the whole model are of an earlier run, and of when; "" where none is."""
    whole = {step.label: step.measured for step in profile.steps if step.measured}
    ways = {way.label: way.measured for way in profile.compiled if way.measured}
    named = (("the whole model", whole), ("its ways of running", ways))
    told = [f"{what} in {one_line(', '.join(found), _NAME_LIMIT)}" for what, found in named if found]
    when = sorted({*whole.values(), *ways.values()})
    since = one_line(" to ".join(dict.fromkeys((when[0], when[-1])))) if when else ""
    return f"Taken from the store, measured {since} (--fresh measures anew): {'; '.join(told)}." if told else ""


def is_busy(profile: Profile) -> bool:
    """Whether the machine had much else to do when the run began."""
    here = profile.environment
    return here.load > 0.5 * max(here.processors, 1)


def _busy(profile: Profile) -> str:
    """How busy the machine was, and what that means for what was found."""
    here = profile.environment
    told = f"The machine was busy at first (load {here.load:.1f} on {here.processors} processors)."
    clear = [step.label for step in profile.steps if step.tuned_us and step.high < 1]
    if profile.aim.is_memory:
        return f"{told} Peaks of memory do not depend on it, times do."
    if (profile.winners or profile.setups) and clear:
        # An interval that excludes no gain has the noise in it.
        which = one_line(" and ".join(clear), _NAME_LIMIT)
        return (
            f"{told} What {which} gain{'s' if len(clear) == 1 else ''} is clear all the same; smaller gains may hide."
        )
    return f"{told} That may hide gains: measure again when it is quiet."


_DEFINED = "one slot, a layer or function, at one input shape"
_FATES: Mapping[Status, str] = {
    "kept": "kept the original",
    "no clear winner": "too noisy to tell",
    "all refused": "with every candidate refused",
    "inconclusive": "inconclusive",
    "taken back": "won and taken back, as the whole model gained nothing",
    "nothing to gain": "with nothing to gain",
    "too little": "too little to matter",
    "cut short": "cut short",
}


def contests_text(profile: Profile, *, counted: bool = True) -> str:
    """What a contest is, with how many ended how: "12 contests (...): 8 won by ..., 4 kept the original, 0 not tried".

    Args:
        profile: whose contests.
        counted: whether they are counted here; otherwise the line says what a contest is and no more.
    """
    if not profile.contests:
        return ""
    if not counted:
        return f"A contest is {_DEFINED}."
    counts = Counter(contest.status for contest in profile.contests)
    better = "smaller" if profile.aim.is_memory else "faster"
    parts = [f"{counts['won']} won by a kernel (right and clearly {better})"] if counts["won"] else []
    parts += [f"{counts[status]} {words}" for status, words in _FATES.items() if counts[status]]
    # An interrupted run has no contests but those that were finished.
    known = profile.complete or _is_out_of_time(profile)
    parts += [f"{counts['not tried']} not tried"] if known else ["the rest not tried"]
    count = f"{len(profile.contests)} contest{'' if len(profile.contests) == 1 else 's'}"
    return f"{count} ({_DEFINED}): {', '.join(parts)}."


def _is_out_of_time(profile: Profile) -> bool:
    return profile.run is not None and profile.run.stopped == "budget"


def steps_text(profile: Profile) -> str:
    """What the labels of steps mean, the first of each kind; "" where they are names of somebody's own."""
    told: dict[str, str] = {}
    for step in profile.steps:
        kind, _, size = step.label.partition(" ")
        batch, by, tokens = size.partition("x")
        counts = tokens.split("+")
        if (
            kind in _KINDS
            and by
            and all(map(str.isdecimal, (batch, *counts)))
            and len(counts) == _KINDS[kind].count("{")
        ):
            told.setdefault(kind, f"{step.label}: batch {batch}, {_KINDS[kind].format(*counts)}")
    return "; ".join(told.values())


def run_text(profile: Profile) -> str:
    """How the run went, for the facts: "complete, 4 min", "budget of 30 s used up: 1 of 12 contests finished"."""
    run = profile.run
    if run is None:
        return "complete" if profile.complete else "interrupted"
    if run.stopped == "budget":
        return f"budget of {span(run.budget_s)} used up: {tally_text(profile.contests)}"
    return f"{run.stopped or 'complete'}, {span(run.took_s)}"


def _doubted(doubt: Doubt) -> str:
    """Why the shares of a step are to be read with care."""
    slot, step = one_line(short_name(doubt.slot), _NAME_LIMIT), one_line(doubt.step, _NAME_LIMIT)
    if doubt.is_impossible:
        return (
            f"The machine's load was not the same all the time: timed alone, slots come to {percent(doubt.together)} "
            f"of {step}. Its shares are those of the running model ({slot}: {percent(doubt.in_model)})."
        )
    return (
        f"The share of {slot} in {step} is uncertain: {percent(doubt.in_model)} while the model ran, "
        f"{percent(doubt.timed)} by the times of its calls alone."
    )


def line(profile: Profile) -> str:
    """Model, mode, device and date in one line."""
    model, here = profile.model, profile.environment
    device = f"{here.device_name} ({profile.device})"
    mode = f"{profile.mode}{under(profile)}{by(profile)}"
    return " · ".join((model.name, model.dtype, mode, device, profile.created[:10]))


def under(profile: Profile) -> str:
    """Autocast as the end of a title; nothing where it was off."""
    told = [one_line(dtype, _NAME_LIMIT) for dtype in profile.autocasts if dtype]
    return f", autocast {' and '.join(told)}" if told else ""


def by(profile: Profile) -> str:
    """The objective as the end of a title; nothing where it is time."""
    return f", by {profile.aim}" if profile.aim.is_memory else ""


def facts(profile: Profile) -> Iterable[tuple[str, str]]:
    """Name and value of what was profiled, how, where and when; an empty value is nothing to tell."""
    model, here = profile.model, profile.environment
    yield "Model", f"{model.name} ({model.target}), {_count(model.parameters)} parameters, {model.dtype}"
    yield "Mode", str(profile.mode)
    yield "Autocast", under(profile).removeprefix(", autocast ")
    yield "Objective", str(profile.aim)
    yield "Training step", _training(profile)
    yield "Dynamic shapes", "" if profile.dynamic is None else "on" if profile.dynamic else "off"
    capability = f", capability {here.capability}" if here.capability else ""
    memory = f", {bytes_text(here.memory_bytes)}" if here.memory_bytes else ""
    yield "Device", f"{profile.device}: {here.device_name}{capability}{memory}"
    yield "Threads", str(here.threads)
    yield "torch", f"{here.torch}{f' for {here.runtime}' if here.runtime else ''}"
    yield "Triton", here.triton or "not installed"
    yield "Triton FP fusion", "" if here.fp_fusion == "default" else here.fp_fusion
    yield "System", f"{here.system}, Python {here.python}"
    yield "Environment", here.fingerprint
    yield "Date", profile.created
    yield "Run", run_text(profile)
    if profile.run is not None and profile.run.started_from:
        yield "Started from", profile.run.started_from
    yield "Made by", profile.tool


def _training(profile: Profile) -> str:
    """What a training step is made of; "" in the other modes."""
    if not profile.mode.trains:
        return ""
    names = dict.fromkeys(step.optimizer for step in profile.steps if step.optimizer)
    times = "" if profile.accumulate is None else f" of {profile.accumulate} micro-batches"
    return f"forward, backward{times} and the step of {', '.join(names)}" if names else f"forward and backward{times}"


def _count(number: int) -> str:
    for scale, unit in ((10**9, "billion"), (10**6, "million")):
        if number >= scale:
            return f"{three_digits(number / scale)} {unit}"
    return f"{number:,}"


def again(profile: Profile) -> str:
    """What measures the same again: the command line that made the profile, or the call from Python."""
    if profile.command:
        return one_line(profile.command)
    call = f"mode={str(profile.mode)!r}, device={one_line(profile.device)!r}, name={one_line(profile.model.name)!r}"
    if profile.aim.is_memory:
        call += f", objective={str(profile.objective)!r}"
    if profile.slowdown is not None:
        call += f", slowdown={profile.slowdown:g}"
    call += "" if profile.dynamic is None else f", dynamic={profile.dynamic}"
    call += "" if profile.accumulate is None else f", accumulate={profile.accumulate}"
    call += ", ways=True" if profile.compiled else ""
    made = f"profile = tune_model(model, example_inputs, {call})"
    casts = [dtype for dtype in profile.autocasts if dtype]
    if not casts:
        return f"from twinkle_tune import tune_model\n\n{made}"
    opened = f"with torch.autocast({one_line(profile.device)!r}, dtype=torch.{one_line(casts[0])}):"
    return f"import torch\nfrom twinkle_tune import tune_model\n\n{opened}\n    {made}"


def code(profile: Profile, path: str) -> str:
    """The Python lines that apply the profile, and where they make a difference."""
    call = f"mode={str(profile.mode)!r}, device={one_line(profile.device)!r}, profile={one_line(path)!r}"
    sentences = [*(["The first calls compile it."] if profile.setups else []), *profile.mode.where]
    where = "".join(f"\n# {sentence}" for sentence in sentences)
    return f"from twinkle_tune import kernelize_model\n\nmodel = kernelize_model(model, {call}){where}"
