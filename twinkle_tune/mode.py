"""Modes: how the model will run, and with it which kernels may compete and which clock decides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from twinkle_tune.errors import ModeError
from twinkle_tune.words import did_you_mean

_CALLED = {"training": "train", "eval": "inference", "infer": "inference", "predict": "inference"}


class Mode(StrEnum):
    """How a slot will run."""

    INFERENCE = "inference"
    TRAIN = "train"
    COMPILE = "compile"
    """Inference under torch.compile."""
    TRAIN_COMPILE = "train+compile"

    @property
    def trains(self) -> bool:
        """Whether gradients are wanted."""
        return self in (Mode.TRAIN, Mode.TRAIN_COMPILE)

    @property
    def compiles(self) -> bool:
        """Whether the slot runs under torch.compile."""
        return self in (Mode.COMPILE, Mode.TRAIN_COMPILE)

    @property
    def where(self) -> tuple[str, str]:
        """Where what won in this mode runs, and where the originals do, as two sentences."""
        if self.trains:
            return (
                "The winners run with gradients on, as in a training step.",
                "With gradients off (evaluation, model.generate) the original layers run.",
            )
        return (
            "The winners run with gradients off: in torch.no_grad(), torch.inference_mode(), model.generate.",
            "A plain model(x), with gradients on, runs the originals.",
        )


FALLBACKS: Mapping[Mode, tuple[Mode | None, ...]] = MappingProxyType(
    {
        Mode.INFERENCE: (Mode.INFERENCE, Mode.COMPILE, Mode.TRAIN, Mode.TRAIN_COMPILE, None),
        Mode.TRAIN: (Mode.TRAIN, Mode.TRAIN_COMPILE, None),
        Mode.COMPILE: (Mode.COMPILE, Mode.TRAIN_COMPILE, None),
        Mode.TRAIN_COMPILE: (Mode.TRAIN_COMPILE, None),
    }
)
"""By the mode to run in: the modes whose kernels may run then, the closest first. None is every mode (``FALLBACK``).

The order is that of the ``kernels`` package: a kernel for training serves inference, never the other way round.
"""


def distance(registered: Iterable[Mode], wanted: Mode) -> int | None:
    """How far a kernel's modes are from the one to run in, 0 the closest; None where it must not run.

    Args:
        registered: the modes that it is for; none of them for every mode.
        wanted: the mode to run in.
    """
    order = FALLBACKS[wanted]
    found = [order.index(mode) for mode in (tuple(registered) or (None,)) if mode in order]
    return min(found, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a kernel must be able to do: for each why it is needed, "" where it is not."""

    backward: str = ""
    torch_compile: str = ""

    @classmethod
    def of(cls, mode: Mode) -> Needs:
        """What running in a mode needs."""
        why = f"the mode is {mode}"
        return cls(backward=why if mode.trains else "", torch_compile=why if mode.compiles else "")


def parse_mode(value: object) -> Mode:
    """The mode that a name or a ``kernels.Mode`` value stands for.

    ``kernels.Mode.TORCH_COMPILE`` alone is read as ``compile``; ``kernels.Mode.FALLBACK`` is no
    mode to run in and is refused (see :func:`parse_registered_mode`).

    Raises:
        ModeError: the value names no mode.
    """
    if isinstance(value, Mode):
        return value
    if isinstance(value, str):
        try:
            return Mode(value.lower())
        except ValueError:
            pass
    elif _is_hf_mode(value):
        flags = {flag.name for flag in value}  # type: ignore[attr-defined]
        if flags and flags <= {"TRAINING", "INFERENCE", "TORCH_COMPILE"}:
            return mode_of(trains="TRAINING" in flags, compiles="TORCH_COMPILE" in flags)
    hint = did_you_mean(str(value), Mode, _CALLED) or "; choose inference if nothing is trained"
    raise ModeError(f"mode: got {value!r}, expected one of {', '.join(Mode)} or a kernels.Mode value{hint}")


def parse_registered_mode(value: object) -> Mode | None:
    """As :func:`parse_mode`; None and ``kernels.Mode.FALLBACK`` mean every mode.

    Raises:
        ModeError: the value names no mode.
    """
    if value is None or (_is_hf_mode(value) and getattr(value, "name", None) == "FALLBACK"):
        return None
    return parse_mode(value)


def serves_alone(value: object) -> bool:
    """Whether a kernel registered for it runs under torch.compile alone, and not where :data:`FALLBACKS` has its mode.

    So it is with "compile" and ``kernels.Mode.TORCH_COMPILE``, which speak of torch.compile and of nothing else;
    ``INFERENCE | TORCH_COMPILE`` speaks of inference too.
    """
    return value == Mode.COMPILE or (_is_hf_mode(value) and getattr(value, "name", None) == "TORCH_COMPILE")


def mode_of(*, trains: bool, compiles: bool) -> Mode:
    """The mode of training or inference, compiled or not."""
    if trains:
        return Mode.TRAIN_COMPILE if compiles else Mode.TRAIN
    return Mode.COMPILE if compiles else Mode.INFERENCE


def _is_hf_mode(value: object) -> bool:
    # By name, so that the kernels package is not imported to find out that a value is not its own.
    return type(value).__name__ == "Mode" and type(value).__module__.split(".")[0] == "kernels"
