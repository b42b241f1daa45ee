"""What all code of a process shares, as one table: how each setting is read, put back, and what a change of it means.

Candidates of one contest run in one process: one that sets the default dtype, flushes denormal numbers or moves to
another directory would change what its rivals compute, or how fast. What libraries change when they are imported or
compile for the first time (the environment, filters of warnings) is no candidate's fault: that is put back alone.
"""

from __future__ import annotations

import gc
import itertools
import os
import random
import signal
import sys
import warnings
from _signal import getsignal  # type: ignore[import-not-found]  # bare: signal's own makes an enum of each
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch._C import _len_torch_dispatch_stack, _len_torch_function_stack

Change = Literal["refused", "put back", "noted"]
"""What becomes of a change: its candidate is refused; it is put back before the next one's turn; people are told."""

WORKING_DIRECTORY = "the working directory"
_UNREADABLE = "unreadable"
_MOST_FILES = 4096
_SMALLEST_NORMAL = sys.float_info.min


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A setting of the process.

    Attributes:
        name: how people are told of it.
        get: reads it.
        put: sets it; None where it is not set but by running code.
        change: what becomes of a candidate's change.
        is_sent: whether a worker process is given the run's.
        has_value: whether the value says something to people.
    """

    name: str
    get: Callable[[], object]
    put: Callable[[Any], object] | None = None
    change: Change = "refused"
    is_sent: bool = False
    has_value: bool = True

    def read(self) -> object:
        """Its value; a text that begins with "unreadable" where torch refuses to tell."""
        try:
            return self.get()
        except (RuntimeError, OSError, AttributeError) as error:
            # Torch refuses to tell the older of two settings of one thing when the newer was used: also a state.
            return f"{_UNREADABLE} ({str(error).splitlines()[0]:.60})"

    def put_back(self, value: object) -> bool:
        """Set it again; whether that could be done."""
        if self.put is None or not is_readable(value):
            return False
        try:
            self.put(value)
        except (RuntimeError, OSError, ValueError, TypeError):
            return False  # a lower priority is for good; a handler is the main thread's
        return True


def is_readable(value: object) -> bool:
    """Whether a value is one that can be set, and not the text for none."""
    return not (isinstance(value, str) and value.startswith(_UNREADABLE))


def _torch_flag(name: str, get: Callable[[], object], put: Callable[[Any], object] | None) -> Setting:
    return Setting(name=name, get=get, put=put, is_sent=put is not None)


def _attribute(owner: Any, name: str, attribute: str) -> Setting:
    return _torch_flag(
        f"{name}.{attribute}", lambda: getattr(owner, attribute), lambda value: setattr(owner, attribute, value)
    )


def _put_back(owner: Any, name: str, attribute: str) -> Setting:
    return replace(_attribute(owner, name, attribute), change="put back", is_sent=False, has_value=False)


def _autocast(name: str, kind: str) -> tuple[Setting, Setting]:
    return (
        Setting(
            name=f"autocast on {name}",
            get=lambda: torch.is_autocast_enabled(kind),
            put=lambda value: torch.set_autocast_enabled(kind, value),
        ),
        Setting(
            name=f"autocast's dtype on {name}",
            get=lambda: torch.get_autocast_dtype(kind),
            put=lambda value: torch.set_autocast_dtype(kind, value),
        ),
    )


def _precision(backend: str, op: str) -> Setting:
    return Setting(
        name=f"torch's fp32_precision of {backend} {op}",
        get=lambda: torch._C._get_fp32_precision_getter(backend, op),
        put=lambda value: torch._C._set_fp32_precision_setter(backend, op, value),
    )


def _set_device(device: torch.device) -> None:
    # With a device torch puts a mode around everything; without one it is the CPU.
    torch.set_default_device(None if device == torch.device("cpu") else device)


def _flushes_denormal() -> bool:
    return _SMALLEST_NORMAL * 0.5 == 0.0


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _set_environment(wanted: dict[str, str]) -> None:
    for name in set(os.environ) - set(wanted):
        del os.environ[name]
    for name, value in wanted.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


def _set_filters(wanted: Sequence[Any]) -> None:
    warnings.resetwarnings()  # which also tells Python that they are others now
    warnings.filters[:] = wanted  # type: ignore[index]


_SIGNALS = tuple(sorted(map(int, signal.valid_signals())))


def _handlers() -> tuple[tuple[int, object], ...]:
    return tuple(zip(_SIGNALS, map(getsignal, _SIGNALS), strict=True))


def _set_handlers(wanted: Sequence[tuple[int, Any]]) -> None:
    for number, handler in wanted:
        if getsignal(number) is not handler:
            signal.signal(number, handler)


_listed: dict[str, tuple[int, frozenset[str]]] = {}


def _files_here() -> frozenset[str]:
    """Names in the working directory, listed again where it changed."""
    here = os.getcwd()
    changed_ns = os.stat(here).st_mtime_ns
    if here not in _listed or _listed[here][0] != changed_ns:
        _listed.clear()
        with os.scandir(here) as found:
            _listed[here] = changed_ns, frozenset(each.name for each in itertools.islice(found, _MOST_FILES))
    return _listed[here][1]


def _numpy() -> Any:
    return sys.modules.get("numpy")


_PRECISIONS = tuple(
    _precision(backend, op)
    for backend, op in (
        *(("generic", "all"), ("cuda", "all"), ("cuda", "matmul"), ("cuda", "conv"), ("cuda", "rnn")),
        *(("mkldnn", "all"), ("mkldnn", "matmul"), ("mkldnn", "conv"), ("mkldnn", "rnn")),
    )
)
"""The newer settings, which a process is given where the older ones cannot be read."""

_CUDA = torch.backends.cuda

_OLDER = (
    _torch_flag(
        "the precision of float32 matrix products",
        torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
    ),
    _attribute(torch.backends.cudnn, "torch.backends.cudnn", "allow_tf32"),
    _attribute(_CUDA.matmul, "torch.backends.cuda.matmul", "allow_tf32"),
)

SETTINGS: tuple[Setting, ...] = (
    _torch_flag("the default dtype", torch.get_default_dtype, torch.set_default_dtype),
    _torch_flag("the default device", torch.get_default_device, _set_device),
    Setting(name="the gradient mode", get=torch.is_grad_enabled, put=torch._C._set_grad_enabled),
    Setting(name="the inference mode", get=torch.is_inference_mode_enabled),
    *_autocast("the CPU", "cpu"),
    *_autocast("CUDA", "cuda"),
    Setting(name="torch's function modes", get=_len_torch_function_stack),
    Setting(name="torch's dispatch modes", get=_len_torch_dispatch_stack),
    _torch_flag("autograd's anomaly mode", torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    _torch_flag("torch's number of threads", torch.get_num_threads, torch.set_num_threads),
    Setting(name="torch's number of threads between operations", get=torch.get_num_interop_threads),
    _torch_flag(
        "deterministic algorithms", torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms
    ),
    *_OLDER,
    *_PRECISIONS,
    _attribute(torch.backends.mkldnn, "torch.backends.mkldnn", "enabled"),
    _attribute(torch.backends.cudnn, "torch.backends.cudnn", "enabled"),
    _attribute(torch.backends.cudnn, "torch.backends.cudnn", "benchmark"),
    _attribute(torch.backends.cudnn, "torch.backends.cudnn", "deterministic"),
    _attribute(_CUDA.matmul, "torch.backends.cuda.matmul", "allow_bf16_reduced_precision_reduction"),
    _attribute(_CUDA.matmul, "torch.backends.cuda.matmul", "allow_fp16_reduced_precision_reduction"),
    _torch_flag("flash attention", _CUDA.flash_sdp_enabled, _CUDA.enable_flash_sdp),
    _torch_flag("memory-efficient attention", _CUDA.mem_efficient_sdp_enabled, _CUDA.enable_mem_efficient_sdp),
    _torch_flag("attention by its formula", _CUDA.math_sdp_enabled, _CUDA.enable_math_sdp),
    # Drawing random numbers moves a generator and leaves its seed.
    Setting(name="the seed of torch's random numbers (torch.manual_seed)", get=torch.initial_seed),
    _torch_flag("the flushing of denormal numbers to zero", _flushes_denormal, torch.set_flush_denormal),
    Setting(
        name="the processors that it may use",
        get=lambda: tuple(sorted(os.sched_getaffinity(0))),
        put=lambda wanted: os.sched_setaffinity(0, wanted),
    ),
    Setting(
        name="its priority",
        get=lambda: os.getpriority(os.PRIO_PROCESS, 0),
        put=lambda wanted: os.setpriority(os.PRIO_PROCESS, 0, wanted),
    ),
    Setting(
        name="Python's garbage collection",
        get=gc.isenabled,
        put=lambda wanted: gc.enable() if wanted else gc.disable(),
    ),
    Setting(
        name="the thresholds of Python's garbage collection",
        get=gc.get_threshold,
        put=lambda wanted: gc.set_threshold(*wanted),
    ),
    Setting(name="the interval of switching threads", get=sys.getswitchinterval, put=sys.setswitchinterval),
    Setting(name="Python's trace function", get=sys.gettrace, put=sys.settrace),
    Setting(name="Python's profile function", get=sys.getprofile, put=sys.setprofile),
    Setting(name="signal handlers", get=_handlers, put=_set_handlers, has_value=False),
    Setting(
        name="a running timer",
        get=lambda: signal.getitimer(signal.ITIMER_REAL)[0] > 0,
        put=lambda wanted: None if wanted else signal.setitimer(signal.ITIMER_REAL, 0),
    ),
    Setting(name=WORKING_DIRECTORY, get=os.getcwd, put=os.chdir),
    Setting(name="the mask of new files' permissions", get=_umask, put=os.umask),
    # torch.compile raises it, and sets entries of the environment and of the path.
    Setting(name="the recursion limit", get=sys.getrecursionlimit, put=sys.setrecursionlimit, change="put back"),
    Setting(
        name="the environment",
        get=lambda: dict(os.environ),
        put=_set_environment,
        change="put back",
        has_value=False,
    ),
    Setting(
        name="the filters of warnings",
        get=lambda: tuple(warnings.filters),
        put=_set_filters,
        change="put back",
        has_value=False,
    ),
    Setting(
        name="Python's search path",
        get=lambda: tuple(sys.path),
        put=lambda wanted: sys.path.__setitem__(slice(None), wanted),
        change="put back",
        has_value=False,
    ),
    *(_put_back(sys, "sys", attribute) for attribute in ("stdout", "stderr", "excepthook")),
    _put_back(warnings, "warnings", "showwarning"),
    Setting(
        name="Python's random numbers", get=random.getstate, put=random.setstate, change="put back", has_value=False
    ),
    Setting(
        name="numpy's handling of floating errors",
        get=lambda: None if _numpy() is None else _numpy().geterr(),
        put=lambda wanted: None if wanted is None else _numpy().seterr(**wanted),
        change="put back",
        has_value=False,
    ),
    Setting(name="files in the working directory", get=_files_here, change="noted", has_value=False),
)


def settings_to_send() -> dict[str, object]:
    """The settings that another process can be given, by name; each in the way in which it was set here."""
    found = {setting.name: setting.read() for setting in SETTINGS if setting.is_sent}
    if not all(is_readable(setting.read()) for setting in _OLDER):
        found |= {setting.name: setting.read() for setting in _PRECISIONS}
    return {name: value for name, value in found.items() if is_readable(value)}


def set_settings(wanted: dict[str, object]) -> None:
    """Set what differs; what does not differ is left alone, as setting a default device has a cost of its own."""
    for setting in SETTINGS:
        if setting.name in wanted and setting.read() != wanted[setting.name]:
            setting.put_back(wanted[setting.name])
