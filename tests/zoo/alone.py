"""One type in a process of its own, forked from one that has everything imported, with limits on time and memory."""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import time
import warnings
from typing import Any

from tests.zoo.names import Kind
from tests.zoo.trial import Result, as_record, tried

CPU_S = 150
HANGS_S = 1800.0
MEMORY_BYTES = 8 << 30


def tried_alone(
    kind: Kind, *, cpu_s: int = CPU_S, hangs_s: float = HANGS_S, memory_bytes: int = MEMORY_BYTES
) -> dict[str, Any]:
    """The record of a type; one whose process ends by itself is a fault, one that is stopped took too long.

    The caller must run no threads of its own: it is forked.

    Args:
        cpu_s: seconds of processor time after which the process is stopped; a busy machine does not shorten them.
        hangs_s: seconds of a clock after which it is stopped, whatever it used: it waits for something.
        memory_bytes: of data that the process may take.
    """
    readable, writable = os.pipe()
    began_s = time.monotonic()
    child = os.fork()
    if child == 0:
        os.close(readable)
        _child(kind, writable, cpu_s, memory_bytes)
    os.close(writable)
    said = _read(readable, began_s + hangs_s)
    os.close(readable)
    if said is None:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if said:
        record: dict[str, Any] = json.loads(said)
        return record
    is_stopped = said is None or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU)
    lost = Result(name=kind.name, model_class=kind.model_class.__name__, aliases=list(kind.aliases))
    if is_stopped:
        lost.verdict = "too long"
        lost.message = f"hung: stopped after {hangs_s:g} s" if said is None else f"stopped after {cpu_s} s of CPU time"
    else:
        lost.fault("the process", f"ended with {_ended(status)}")
    lost.seconds = round(time.monotonic() - began_s, 1)
    return as_record(lost)


def _child(kind: Kind, writable: int, cpu_s: int, memory_bytes: int) -> None:
    """Never returns: what a parent cleans up at its end is not the child's."""
    code = 1
    try:
        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 5))
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            said = json.dumps(as_record(tried(kind))).encode()
        while said:
            said = said[os.write(writable, said) :]
        code = 0
    finally:
        os._exit(code)


def _read(readable: int, ends_s: float) -> bytes | None:
    """All that the child writes; None where it is not done in time."""
    found = b""
    while True:
        ready, _, _ = select.select([readable], [], [], max(0.0, ends_s - time.monotonic()))
        if not ready:
            return None
        piece = os.read(readable, 1 << 16)
        if not piece:
            return found
        found += piece


def _ended(status: int) -> str:
    return f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit code {os.WEXITSTATUS(status)}"
