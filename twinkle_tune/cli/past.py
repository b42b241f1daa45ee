"""Locks and the store of past outcomes, as the commands use them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from twinkle_tune.cli.say import tell
from twinkle_tune.cli.typed import command_line

if TYPE_CHECKING:
    from twinkle_tune.profile.store import Store


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


def open_store(*, fresh: bool) -> Store | None:
    """The store of past outcomes; None where it is turned off or there is no place for it, which is told.

    Raises:
        StoreError: it is damaged, or a file that was asked for cannot be opened.
    """
    import os

    from twinkle_tune.profile.folders import usable_folder
    from twinkle_tune.profile.store import STORE_VARIABLE, Store, StoreDamagedError, StoreError, store_path

    # The locks' folder, of which was told where it is another than the one that was meant.
    path = store_path() if os.environ.get(STORE_VARIABLE) else store_path(usable_folder(lambda line: None))
    if path is None:
        return None
    try:
        return Store(path, reuse=not fresh)
    except StoreError as error:
        # A home that cannot be written to must not keep anyone from profiling.
        if os.environ.get(STORE_VARIABLE) or isinstance(error, StoreDamagedError):
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
