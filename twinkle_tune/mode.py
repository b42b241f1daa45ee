"""Modes: how the model will run, and with it which kernels may compete and which clock decides."""

from __future__ import annotations

from enum import StrEnum

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
            return _from_flags(trains="TRAINING" in flags, compiles="TORCH_COMPILE" in flags)
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


def _from_flags(*, trains: bool, compiles: bool) -> Mode:
    if trains:
        return Mode.TRAIN_COMPILE if compiles else Mode.TRAIN
    return Mode.COMPILE if compiles else Mode.INFERENCE


def _is_hf_mode(value: object) -> bool:
    # By name, so that the kernels package is not imported to find out that a value is not its own.
    return type(value).__name__ == "Mode" and type(value).__module__.split(".")[0] == "kernels"
