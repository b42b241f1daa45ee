"""What a profile tells of the device while it was timed, in words: clock rate, temperature, throttling."""

from __future__ import annotations

from collections.abc import Iterable

from twinkle_tune.device import parse_device, torch_type
from twinkle_tune.outcome import Conditions, DeviceState
from twinkle_tune.profile.schema import Contest, Profile


def conditions_text(contest: Contest) -> str:
    """The device around the contest's last race, and what was repeated in all of them; "" where nothing is known."""
    if not contest.conditions:
        return ""
    last = contest.conditions[-1]
    before, after = _state(last.before), _state(last.after)
    parts = [f"{before} before, {after} after" if before != after else before] if before or after else []
    parts += [f"throttled: {each.throttled}" for each in (last,) if each.throttled]
    repeated = [why for each in contest.conditions for why in each.repeated]
    if repeated:
        parts.append(f"{_rounds(len(repeated))} timed again ({'; '.join(dict.fromkeys(repeated))})")
    return "; ".join(parts)


def disturbances(profile: Profile) -> Iterable[str]:
    """Warnings for the head of a report: that rounds were repeated, and that the device was throttled."""
    held = [each for contest in profile.contests for each in contest.conditions]
    repeated = sum(len(each.repeated) for each in held)
    if repeated:
        contests = sum(any(each.repeated for each in contest.conditions) for contest in profile.contests)
        yield (
            f"The device was not steady: {_rounds(repeated)} of {contests} contest{'' if contests == 1 else 's'} "
            "were disturbed and timed again."
        )
    slow = dict.fromkeys(each.throttled for each in held if each.throttled)
    if slow:
        races = sum(bool(each.throttled) for each in held)
        yield (
            f"The device was throttled in {races} of {len(held)} races ({', '.join(slow)}): cool it, or read the "
            "ratios alone, which both sides' rounds share."
        )
    timed = any(contest.selection.rounds for contest in profile.contests)
    if timed and not held and torch_type(parse_device(profile.device)) == "cuda":
        yield (
            "The driver told nothing of clock rate, temperature and throttling, so a device that slowed down went "
            "unnoticed; with nvidia-ml-py installed it is seen."
        )


def times_throttled(conditions: Conditions) -> int | None:
    """How often processors were throttled in the race; None where the machine does not count it."""
    before, after = conditions.before.throttled, conditions.after.throttled
    return None if before is None or after is None else after - before


def _state(state: DeviceState) -> str:
    clock = "" if state.clock_mhz is None else f"{state.clock_mhz:.0f} MHz"
    heat = "" if state.temperature_c is None else f"{state.temperature_c:.0f} °C"
    return ", ".join(part for part in (clock, heat) if part)


def _rounds(count: int) -> str:
    return "1 round" if count == 1 else f"{count} rounds"
