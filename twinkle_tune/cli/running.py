"""What a command runs contests with: where they run, and what shows them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from twinkle_tune.cli.say import tell
from twinkle_tune.errors import TuneError

if TYPE_CHECKING:
    from torch import nn

    from twinkle_tune.mode import Mode
    from twinkle_tune.tune.events import Listener
    from twinkle_tune.tune.executor import Executor
    from twinkle_tune.tune.neighbour import Neighbour


def listener(*, quiet: bool) -> AbstractContextManager[Listener | None]:
    """What shows a run while it goes on; nothing where it is to be quiet."""
    if quiet:
        return nullcontext()
    from twinkle_tune.cli.show import Progress

    return Progress()


def check_executor(named: str, *, in_process: bool) -> None:
    """Refuse what ``--executor`` cannot be, before anything else is done.

    Raises:
        TuneError: it names none, Ray is not installed, or contests are to run in this process.
    """
    from twinkle_tune.fleet.ray_devices import address_of, import_ray

    address_of(named)
    if in_process:
        raise TuneError("--executor and --in-process: got both, expected one: on a cluster, or in this process")
    import_ray()


def executor_of(
    *, in_process: bool, named: str | None = None, device: str = "cpu", races_twice: bool = True
) -> AbstractContextManager[Executor | None]:
    """Where contests run: in a worker process for all of them, in this one (None), or on the devices of a cluster.

    ``named`` is what ``--executor`` says, ``device`` the kind of device of a run on a cluster, and ``races_twice``
    whether each winner is going to have a second race, in a process of its own.
    """
    if in_process:
        return nullcontext()
    if named is not None:
        from twinkle_tune.fleet.ray_devices import address_of, on_ray

        return on_ray(address_of(named), device)
    from twinkle_tune.tune.isolated import Isolated

    return Isolated(ahead=races_twice)


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
