"""Which clock decides a contest."""

from __future__ import annotations

from twinkle_tune.device import parse_device, torch_type
from twinkle_tune.errors import DeviceError
from twinkle_tune.measure.between import BetweenCpuClock
from twinkle_tune.measure.clock import Clock, clock_for
from twinkle_tune.measure.graph import GraphClock


def slot_clock(device: str, *, graphs: bool = False) -> Clock:
    """The clock of a contest on a device by name ("cpu", "cuda", "cuda:1", "rocm").

    Args:
        device: the name.
        graphs: whether the model will run under CUDA graphs, where launches cost nothing.

    Raises:
        DeviceError: the name is unknown, this machine does not have the device, there is no clock for it, or it
            has no graphs.
    """
    kind = parse_device(device)
    if graphs and torch_type(kind) != "cuda":
        raise DeviceError(
            f"device: got {device!r}, expected cuda or rocm: only they have CUDA graphs; pass graphs=False"
        )
    if kind == "cpu":
        return BetweenCpuClock()
    clock = clock_for(device)
    return GraphClock("cuda" + device.lower().removeprefix(kind)) if graphs else clock
