"""One family of errors. Every message says what, what was got, what was expected and what to do next."""


class TuneError(Exception):
    """Base of every error that twinkle_tune raises on purpose."""


class RegistrationError(TuneError, ValueError):
    """A kernel was registered with arguments that do not fit together."""


class SourceError(TuneError):
    """A candidate's code could not be had: a missing path, package, layer or function, or a refused repo."""


class SignatureError(SourceError, TypeError):
    """A candidate cannot take the original's place: its constructor or its forward signature does not fit."""


class DeviceError(TuneError, ValueError):
    """An unknown device name, or a device that this machine does not have."""


class ModeError(TuneError, ValueError):
    """An unknown mode."""


class ObjectiveError(TuneError, ValueError):
    """An unknown objective, or a slowdown that does not go with it."""


class ModelError(TuneError):
    """The model, or its example inputs, could not be had."""


class CaptureError(TuneError):
    """The model could not be run on its example inputs."""


class ProfileError(TuneError, ValueError):
    """A profile could not be read or does not say what a profile must."""


class StaleProfileError(ProfileError):
    """A profile does not hold on this machine, or for this code, any more."""


class ConfigError(TuneError, ValueError):
    """The config of a kernel does not fit the kernel, or the call."""


class ShapeError(TuneError, ValueError):
    """The tensors of a call of one of our ops do not fit together."""


class BindError(TuneError):
    """Binding a kernel to a model failed; what had been bound was undone."""


class TuneInterrupted(KeyboardInterrupt):
    """Ctrl-C during a profiling run; ``profile`` holds the contests that were finished, None if none was."""

    def __init__(self, profile: object | None) -> None:
        super().__init__("interrupted")
        self.profile = profile


def in_a_line(error: BaseException, limit: int | None = None) -> str:
    """Class and first line of an error, without its full stop and cut after ``limit`` characters."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.')[:limit]}" if lines else type(error).__name__
