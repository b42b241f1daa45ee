"""Locks and the store of past outcomes, as the commands use them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from twinkle_tune.cli.say import tell
from twinkle_tune.cli.typed import command_line

if TYPE_CHECKING:
    from twinkle_tune.profile.outcomes import Outcomes


@contextmanager
def locked(device: str, out: Path | None, *, wait: bool) -> Iterator[None]:
    """Hold the lock of a profile that will be written, and that of the device ("cpu", "cuda:1").

    Raises:
        LockError: another run has one of them and ``wait`` is not set.
    """
    from twinkle_tune.cli.lock import held, lock_path

    wanted = [(f"device {device}", f"device-{_device_key(device)}")]
    if out is not None:
        # Always the profile first, so that no two runs each wait for what the other has.
        wanted.insert(0, (f"the profile {out}", f"out-{out.resolve()}"))
    said: set[str] = set()

    def tell_once(line: str) -> None:
        if line not in said:
            _tell(line)
        said.add(line)

    with ExitStack() as stack:
        for what, name in wanted:
            stack.enter_context(held(what, lock_path(name, tell_once), command=command_line(), wait=wait, tell=_tell))
        yield


def open_store(named: str | None, *, fresh: bool) -> Outcomes | None:
    """The store of past outcomes; None where it is turned off, away or there is no place for it, which is told.

    Args:
        named: a file, a server's URL or "off"; None for what the environment says.
        fresh: whether nothing is taken from it.

    Raises:
        StoreError: it is damaged, or a file or server that was asked for cannot be used as one.
    """
    import os

    from twinkle_tune.profile.folders import usable_folder
    from twinkle_tune.profile.outcomes import STORE_VARIABLE, StoreAwayError, StoreDamagedError, StoreError
    from twinkle_tune.profile.stores import store_at, store_place

    is_asked = bool(named or os.environ.get(STORE_VARIABLE))
    # The locks' folder, of which was told where it is another than the one that was meant.
    place = store_place(named) if is_asked else store_place(folder=usable_folder(lambda line: None))
    if place is None:
        return None
    try:
        return store_at(place, reuse=not fresh)
    except StoreError as error:
        # A home that cannot be written to, or a server that is away, must not keep anyone from profiling.
        is_away = isinstance(error, StoreAwayError)
        if (is_asked and not is_away) or isinstance(error, StoreDamagedError):
            raise
        _tell(f"no store: {error}")
        return None


def _device_key(device: str) -> str:
    """A name of the device itself: its number depends on which devices the process may see."""
    import torch

    from twinkle_tune.device import parse_device, torch_type

    if torch_type(parse_device(device)) != "cuda":
        return device
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return f"cuda-{getattr(properties, 'uuid', device)}"


def _tell(line: str) -> None:
    tell(f"twinkle-tune: {line}")
