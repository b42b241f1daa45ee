"""What stands around the figures: the facts at the top, and the lines to copy at the end."""

from __future__ import annotations

from collections.abc import Iterable

from twinkle_tune.profile.fuller import held
from twinkle_tune.profile.schema import Profile
from twinkle_tune.profile.shares import Doubt, doubts
from twinkle_tune.report.conditions import disturbances
from twinkle_tune.report.text import bytes_text, one_line, percent, short_name, three_digits
from twinkle_tune.words import span

_NAME_LIMIT = 60


def notes(profile: Profile) -> Iterable[str]:
    """What a reader must know before believing a figure."""
    if profile.device == "cpu":
        yield "Measured on a CPU; says nothing about a GPU."
    here = profile.environment
    if here.load > 0.5 * max(here.processors, 1):
        yield f"The machine was busy when the run began: load {here.load:.1f} on {here.processors} processors."
    for doubt in doubts(profile):
        yield _doubted(doubt)
    yield from disturbances(profile)
    for step in profile.steps:
        if step.left_out:
            yield f"{step.label} was not run: {step.left_out}."
        if step.note:
            yield f"{step.label} was timed {step.note}."
    if not profile.complete:
        yield _stopped(profile)
    if not profile.contests:
        yield "No contest was finished, so nothing was chosen: the model stays as it is."


def _stopped(profile: Profile) -> str:
    """What a profile lacks whose run did not do everything."""
    if profile.run is not None and profile.run.stopped == "budget":
        return f"The time budget was used up after {held_text(profile)}: what is here was measured, the rest was not."
    return "The run was interrupted: what is here was finished, the rest is missing."


def run_text(profile: Profile) -> str:
    """How the run went, for the facts: "complete, 4 min", "budget of 30 s used up after 1 of 12 contests"."""
    run = profile.run
    if run is None:
        return "complete" if profile.complete else "interrupted"
    if run.stopped == "budget":
        return f"budget of {span(run.budget_s)} used up after {held_text(profile)}"
    return f"{run.stopped or 'complete'}, {span(run.took_s)}"


def held_text(profile: Profile) -> str:
    """ "1 of 12 contests": those that had all their time."""
    return f"{held(profile)} of {len(profile.contests)} contests"


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
    mode = f"{profile.mode}{by(profile)}"
    return " · ".join((model.name, model.dtype, mode, device, profile.created[:10]))


def by(profile: Profile) -> str:
    """The objective as the end of a title; nothing where it is time."""
    return f", by {profile.aim}" if profile.aim.is_memory else ""


def facts(profile: Profile) -> Iterable[tuple[str, str]]:
    """Name and value of what was profiled, how, where and when; an empty value is nothing to tell."""
    model, here = profile.model, profile.environment
    yield "Model", f"{model.name} ({model.target}), {_count(model.parameters)} parameters, {model.dtype}"
    yield "Mode", str(profile.mode)
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
    yield "Made by", profile.tool


def _training(profile: Profile) -> str:
    """What a training step is made of; "" in the other modes."""
    if not profile.mode.trains:
        return ""
    names = dict.fromkeys(step.optimizer for step in profile.steps if step.optimizer)
    return f"forward, backward and the step of {', '.join(names)}" if names else "forward and backward"


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
    return f"from twinkle_tune import tune_model\n\nprofile = tune_model(model, example_inputs, {call})"


def code(profile: Profile, path: str) -> str:
    """The Python lines that apply the profile, and where they make a difference."""
    call = f"mode={str(profile.mode)!r}, device={one_line(profile.device)!r}, profile={one_line(path)!r}"
    where = "".join(f"\n# {sentence}" for sentence in profile.mode.where)
    return f"from twinkle_tune import kernelize_model\n\nmodel = kernelize_model(model, {call}){where}"
