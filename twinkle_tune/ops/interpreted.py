"""Whether code runs in Triton's interpreter: there it is right or wrong as on a device, and its speed says nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_INTERPRETER = "triton.runtime.interpreter"


class Ran:
    """How many kernels the interpreter ran so far."""

    kernels = 0


@contextmanager
def interpreted() -> Iterator[Ran]:
    """Count the kernels that Triton's interpreter runs inside the block, on any thread.

    Where the interpreter was never imported nothing can run in it: nothing is imported here.
    """
    ran = Ran()
    executor = getattr(sys.modules.get(_INTERPRETER), "GridExecutor", None)
    if executor is None:
        yield ran
        return
    call: Callable[..., Any] = executor.__call__

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        ran.kernels += 1
        return call(self, *args, **kwargs)

    executor.__call__ = counted
    try:
        yield ran
    finally:
        executor.__call__ = call
