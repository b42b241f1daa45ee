"""What a command runs contests with: where they run, and what shows them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from twinkle_tune.tune.events import Listener
    from twinkle_tune.tune.task import Executor


def listener(*, quiet: bool) -> AbstractContextManager[Listener | None]:
    """What shows a run while it goes on; nothing where it is to be quiet."""
    if quiet:
        return nullcontext()
    from twinkle_tune.cli.show import Progress

    return Progress()


def executor_of(*, in_process: bool) -> AbstractContextManager[Executor | None]:
    """Where contests run: in a worker process for all of them, or (None) in this one."""
    if in_process:
        return nullcontext()
    from twinkle_tune.tune.isolated import Isolated

    return Isolated(ahead=True)
