"""The device's state while it is timed: clock rate, temperature, throttling. Read, never set."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from twinkle_tune.device import parse_device, torch_type
from twinkle_tune.outcome import Conditions, DeviceState

__all__ = ["DeviceState", "StateWatch", "cpu_state", "device_state", "disturbed"]

_Told = TypeVar("_Told")

_CPU = Path("/sys/devices/system/cpu")
_THERMAL = Path("/sys/class/thermal")
_MOVED = 0.1
"""A clock rate that moves by more within a round explains a difference of its times."""

_SLOWDOWNS = {
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}
"""NVML's reasons for a lower clock that are no normal state. Idling, set clocks and the power cap are."""


def device_state(device: str) -> DeviceState:
    """The state of a device by name ("cpu", "cuda", "cuda:1", "rocm"). Reading a GPU's needs pynvml or amdsmi.

    Raises:
        DeviceError: the name is unknown.
    """
    kind = parse_device(device)
    if kind == "cpu":
        return cpu_state(_CPU, _THERMAL)
    return _cuda_state("cuda" + device.lower().removeprefix(kind)) if torch_type(kind) == "cuda" else DeviceState()


def disturbed(before: DeviceState, after: DeviceState) -> str:
    """Why a round between these states is no evidence; "" where it is.

    The answer rests on nothing but the device's state, so that to repeat such rounds favours nobody.
    """
    if after.throttling and after.throttling != before.throttling:
        return f"the device began to throttle: {after.throttling}"
    if before.throttled is not None and after.throttled is not None and after.throttled > before.throttled:
        return "the processor was throttled"
    if before.clock_mhz and after.clock_mhz and abs(after.clock_mhz / before.clock_mhz - 1) > _MOVED:
        return f"the clock rate went from {before.clock_mhz:.0f} to {after.clock_mhz:.0f} MHz"
    return ""


class StateWatch:
    """Looks at the device between the rounds of a race.

    Attributes:
        first, last: the states before the first round and after the last.
        repeated: why each repeated round was repeated.
    """

    MOST = 10
    """Rounds that may be repeated in a race: a machine that throttles all the time is the one that there is."""

    def __init__(self, read: Callable[[], DeviceState]) -> None:
        """``read`` gives the state of now."""
        self._read = read
        self.first = self.last = read()
        self.repeated: list[str] = []

    def repeats(self) -> bool:
        """Whether the round that is just over must be repeated: the device was disturbed in it."""
        before, self.last = self.last, self._read()
        why = disturbed(before, self.last)
        if not why or len(self.repeated) >= self.MOST:
            return False
        self.repeated.append(why)
        return True

    @property
    def conditions(self) -> Conditions | None:
        """What is known of the device around the race; None where the machine tells nothing."""
        if self.first == self.last == DeviceState() and not self.repeated:
            return None
        return Conditions(before=self.first, after=self.last, repeated=tuple(self.repeated))


def cpu_state(processors: Path, thermal: Path) -> DeviceState:
    """The state that the files of Linux tell: clock rate, temperature, and how often processors were throttled."""
    khz = _numbers(processors, "cpu[0-9]*/cpufreq/scaling_cur_freq")
    thousandths = _numbers(thermal, "thermal_zone*/temp")
    counts = _numbers(processors, "cpu[0-9]*/thermal_throttle/core_throttle_count")
    return DeviceState(
        clock_mhz=max(khz) / 1e3 if khz else None,
        temperature_c=max(thousandths) / 1e3 if thousandths else None,
        throttled=sum(counts) if counts else None,
    )


def _numbers(folder: Path, pattern: str) -> list[int]:
    numbers = []
    for path in folder.glob(pattern):
        try:
            numbers.append(int(path.read_text(encoding="ascii")))
        except (OSError, ValueError):
            continue  # a sensor that is switched off is none
    return numbers


def _cuda_state(device: str) -> DeviceState:
    return DeviceState(
        clock_mhz=_told(lambda: float(torch.cuda.clock_rate(device))),
        temperature_c=_told(lambda: float(torch.cuda.temperature(device))),
        throttling=_told(lambda: _throttling(device)) or "",
    )


def _told(read: Callable[[], _Told]) -> _Told | None:
    try:
        return read()
    except Exception:
        # pynvml may be missing, and a driver raises errors of its library's own for what a device does not tell.
        return None


def _throttling(device: str) -> str:
    if torch.version.hip is not None:
        return ""
    nvml: Any = importlib.import_module("pynvml")
    handle = torch.cuda._get_pynvml_handler(device)
    # "Throttle" is the older name, which newer bindings may drop.
    read = getattr(nvml, "nvmlDeviceGetCurrentClocksEventReasons", None)
    reasons = (read or nvml.nvmlDeviceGetCurrentClocksThrottleReasons)(handle)
    return ", ".join(text for bit, text in _SLOWDOWNS.items() if reasons & bit)
