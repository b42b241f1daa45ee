"""The state that all code of a process shares, and what of it a candidate has changed.

Candidates of one contest run in one process: one that sets the default dtype, a backend's flag or a function of torch
would change what its rivals compute, or how fast.
"""

from __future__ import annotations

import builtins
import gc
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

_KNOWN_POOLS = ("torch", "triton", "tqdm", "huggingface_hub")
"""Whose threads may stay: they wait for more to do."""
_THREAD_GRACE_S = 1.0
_POOL = ("concurrent.futures.thread", "_worker")
"""Module and function in which a pool's thread waits."""
_FOLLOWS_DTYPE = "Storage"
"""torch.Storage is set along with the default dtype."""
# Bound here and now: what a candidate puts in their places changes nothing for us.
_enumerate_threads = threading.enumerate
_now_s = time.monotonic

_SPACES: tuple[tuple[str, Any], ...] = (
    ("torch", torch),
    ("torch.nn.functional", functional),
    ("torch.linalg", torch.linalg),
    ("torch.special", torch.special),
    ("torch.autograd", torch.autograd),
    ("torch.Tensor", torch.Tensor),
    ("torch.nn.Module", nn.Module),
    ("torch.autograd.Function", torch.autograd.Function),
    ("time", time),
    ("gc", gc),
    ("threading", threading),
    ("builtins", builtins),
)
"""Where a replaced function would reach others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Flag:
    """A setting of the process: how it is called, read, and set (None where it is not set but by running code)."""

    name: str
    get: Callable[[], object]
    put: Callable[[Any], object] | None = None


def _attribute(name: str, owner: Any, attribute: str) -> _Flag:
    return _Flag(
        name=f"{name}.{attribute}",
        get=lambda: getattr(owner, attribute),
        put=lambda value: setattr(owner, attribute, value),
    )


_FLAGS = (
    _Flag(name="the default dtype", get=torch.get_default_dtype, put=torch.set_default_dtype),
    _Flag(name="the default device", get=torch.get_default_device, put=torch.set_default_device),
    _Flag(name="the gradient mode", get=torch.is_grad_enabled),
    _Flag(name="the inference mode", get=torch.is_inference_mode_enabled),
    _Flag(name="autocast on the CPU", get=lambda: torch.is_autocast_enabled("cpu")),
    _Flag(name="autocast on CUDA", get=lambda: torch.is_autocast_enabled("cuda")),
    _Flag(name="autograd's anomaly mode", get=torch.is_anomaly_enabled, put=torch.autograd.set_detect_anomaly),
    _Flag(name="torch's number of threads", get=torch.get_num_threads, put=torch.set_num_threads),
    _Flag(
        name="deterministic algorithms",
        get=torch.are_deterministic_algorithms_enabled,
        put=torch.use_deterministic_algorithms,
    ),
    _Flag(
        name="the precision of float32 matrix products",
        get=torch.get_float32_matmul_precision,
        put=torch.set_float32_matmul_precision,
    ),
    _attribute("torch.backends.mkldnn", torch.backends.mkldnn, "enabled"),
    _attribute("torch.backends.cudnn", torch.backends.cudnn, "enabled"),
    _attribute("torch.backends.cudnn", torch.backends.cudnn, "benchmark"),
    _attribute("torch.backends.cudnn", torch.backends.cudnn, "deterministic"),
    _attribute("torch.backends.cudnn", torch.backends.cudnn, "allow_tf32"),
    _attribute("torch.backends.cuda.matmul", torch.backends.cuda.matmul, "allow_tf32"),
    _attribute("torch.backends.cuda.matmul", torch.backends.cuda.matmul, "allow_bf16_reduced_precision_reduction"),
    _attribute("torch.backends.cuda.matmul", torch.backends.cuda.matmul, "allow_fp16_reduced_precision_reduction"),
    _Flag(
        name="flash attention",
        get=torch.backends.cuda.flash_sdp_enabled,
        put=torch.backends.cuda.enable_flash_sdp,
    ),
    _Flag(
        name="memory-efficient attention",
        get=torch.backends.cuda.mem_efficient_sdp_enabled,
        put=torch.backends.cuda.enable_mem_efficient_sdp,
    ),
    _Flag(
        name="attention by its formula",
        get=torch.backends.cuda.math_sdp_enabled,
        put=torch.backends.cuda.enable_math_sdp,
    ),
    # Drawing random numbers moves a generator and leaves its seed.
    _Flag(name="the seed of torch's random numbers (torch.manual_seed)", get=torch.initial_seed),
    _Flag(name="Python's garbage collection", get=gc.isenabled),
    _Flag(name="Python's trace function", get=sys.gettrace),
    _Flag(name="Python's profile function", get=sys.getprofile),
    _Flag(name="the working directory", get=os.getcwd),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What was found at one time. ``spaces`` holds the callables of modules and classes by the name of these."""

    flags: Mapping[str, object]
    spaces: Mapping[str, tuple[Any, Mapping[str, object]]]
    threads: frozenset[threading.Thread]


def state_now(extra: Sequence[tuple[str, Any]] = ()) -> State:
    """The state now. ``extra``: more modules or classes whose functions are watched, with their names."""
    return State(
        flags={flag.name: _read(flag) for flag in _FLAGS},
        spaces={name: (space, _callables(space)) for name, space in (*_SPACES, *extra)},
        threads=frozenset(_enumerate_threads()),
    )


def changes_since(before: State) -> str:
    """What is different now, in words; "" where nothing is. Threads that are about to end are waited for."""
    found = [
        f"{flag.name} from {before.flags[flag.name]} to {now}"
        for flag in _FLAGS
        if (now := _read(flag)) != before.flags[flag.name]
    ]
    patched = [
        f"{name}.{attribute}" for name, (space, old) in before.spaces.items() for attribute in _other(space, old)
    ]
    found += [f"{patch} (replaced)" for patch in patched]
    told = f"changed {'; '.join(found[:4])}{f' and {len(found) - 4} more' if len(found) > 4 else ''}" if found else ""
    left = [thread.name for thread in _left_behind(before.threads)]
    running = f"left {len(left)} thread{'' if len(left) == 1 else 's'} running ({', '.join(left[:3])})" if left else ""
    return " and ".join(part for part in (told, running) if part)


def flags_now() -> dict[str, object]:
    """The settings that another process can be given, by name."""
    return {flag.name: _read(flag) for flag in _FLAGS if flag.put is not None}


def set_flags(wanted: Mapping[str, object]) -> None:
    """Set what differs; what does not differ is left alone, as setting a default device has a cost of its own."""
    for flag in _FLAGS:
        if flag.put is not None and flag.name in wanted and _read(flag) != wanted[flag.name]:
            flag.put(wanted[flag.name])


def cuda_in_use() -> bool:
    """Whether this process has a CUDA context."""
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def _read(flag: _Flag) -> object:
    try:
        return flag.get()
    except RuntimeError as error:
        # Torch refuses to tell the older of two settings of one thing when the newer was used: also a state.
        return f"unreadable ({str(error).splitlines()[0]:.60})"


def _callables(space: Any) -> dict[str, object]:
    return {name: value for name, value in vars(space).items() if callable(value) and name != _FOLLOWS_DTYPE}


def _other(space: Any, old: Mapping[str, object]) -> list[str]:
    """Names whose callable is another now, or was put before that of a base class."""
    now = vars(space)
    changed = [name for name, value in old.items() if now.get(name) is not value and not _is_compilers(now.get(name))]
    if isinstance(space, type) and len(now) > len(old):
        inherited = {name for base in space.__mro__[1:] for name in vars(base)}
        changed += [name for name in now if name not in old and name in inherited and callable(now[name])]
    return changed


def _is_compilers(value: object) -> bool:
    """Whether torch.compile has put it there, which does so with its first use."""
    return str(getattr(value, "__module__", "")).startswith(("torch._dynamo.", "torch._inductor."))


def _left_behind(before: frozenset[threading.Thread]) -> list[threading.Thread]:
    until_s = _now_s() + _THREAD_GRACE_S
    while True:
        new = [thread for thread in _enumerate_threads() if thread not in before and not _is_known(thread)]
        left = [thread for thread in new if thread.is_alive() and not _waits_for_work(thread)]
        if not left or _now_s() > until_s:
            return left
        left[0].join(_THREAD_GRACE_S / 20)


def _waits_for_work(thread: threading.Thread) -> bool:
    """Whether it is one of a pool of the standard library, which nobody ends, and has nothing to do."""
    frame = sys._current_frames().get(thread.ident or 0)
    return frame is not None and (frame.f_globals.get("__name__"), frame.f_code.co_name) == _POOL


def _is_known(thread: threading.Thread) -> bool:
    places = (getattr(thread, "_target", None), type(thread))
    modules = {str(getattr(place, "__module__", "")).partition(".")[0] for place in places}
    return bool(modules & set(_KNOWN_POOLS))
