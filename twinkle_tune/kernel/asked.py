"""What a call of ``kernelize_model`` asks for: the mode, and what a kernel must be able to do. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from twinkle_tune.errors import ModeError
from twinkle_tune.kernel.registry import Registry
from twinkle_tune.mode import Mode, Needs, mode_of, parse_mode


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What kernels are asked for.

    Attributes:
        device: the device that they run on.
        mode: the mode that the model will run in.
        needs: what they must be able to do.
        also_in_training: whether one without a backward runs in training too.
        registry: what was registered here.
    """

    device: str
    mode: Mode
    needs: Needs
    also_in_training: bool
    registry: Registry


def wanted(mode: object, profiled: Mode | None, backward: bool | None, torch_compile: bool | None) -> Mode:
    """The mode that is asked for: the one that is given, else the profile's, else what the needs say.

    Args:
        mode: as it was given; None if it was not.
        profiled: the mode of the profile that was given; None if none was.

    Raises:
        ModeError: an unknown mode; or a need that the profile's mode does not have.
    """
    if mode is not None:
        found = parse_mode(mode)
    elif profiled is not None:
        found = profiled
    else:
        return mode_of(trains=bool(backward), compiles=bool(torch_compile))
    if profiled is not None:
        for name, is_needed, has in (
            ("needs_backward", backward, found.trains),
            ("needs_torch_compile", torch_compile, found.compiles),
        ):
            if is_needed and not has:
                raise ModeError(f"{name}: got True, and the profile is for mode {found}; profile in a mode that has it")
    return found


def needs_of(mode: Mode, backward: bool | None, torch_compile: bool | None, *, in_training: bool) -> Needs:
    """What a kernel must be able to do: by what is given, else by the mode, else because the model trains.

    Args:
        in_training: whether the model is in training mode, and no mode was given that says what it is for.
    """
    of_mode = Needs.of(mode)
    trains = "the model is in training mode: call model.eval(), or pass needs_backward=False" if in_training else ""
    backwards = {None: of_mode.backward or trains, False: "", True: "needs_backward is True"}
    compiles = {None: of_mode.torch_compile, False: "", True: "needs_torch_compile is True"}
    return Needs(backward=backwards[backward], torch_compile=compiles[torch_compile])
