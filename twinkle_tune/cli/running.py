"""What a command runs contests with: where they run, and what shows them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from twinkle_tune.cli.say import tell

if TYPE_CHECKING:
    from torch import nn

    from twinkle_tune.mode import Mode
    from twinkle_tune.tune.events import Listener
    from twinkle_tune.tune.neighbour import Neighbour
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


def neighbour_of(repo: str, model: nn.Module, mode: Mode, device: str) -> Neighbour:
    """The nearest profile of a model in a collection on the Hub, to start from; it is said what its machine differs in.

    Raises:
        SourceError, ProfileError: the collection cannot be had, or has none of this model and mode.
    """
    from twinkle_tune.kernel.shared import nearest
    from twinkle_tune.profile.hub import fetch, parse_place
    from twinkle_tune.tune.neighbour import Neighbour

    shelf, match = nearest(parse_place(repo), model, mode, device)
    made = fetch(shelf, match.listed)
    tell(f"starting from {shelf}, published by {shelf.place.publisher}: {'; '.join(match.differs) or 'this machine'}")
    return Neighbour(profile=made, whose=str(shelf))
