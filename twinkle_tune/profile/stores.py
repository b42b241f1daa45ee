"""Which store of past outcomes is meant, a file or a server, and its opening."""

from __future__ import annotations

import os
from pathlib import Path

from twinkle_tune.profile.folders import cache_folder
from twinkle_tune.profile.outcomes import STORE_VARIABLE, Outcomes, StoreError
from twinkle_tune.profile.server_store import ServerStore
from twinkle_tune.profile.store import Store
from twinkle_tune.server import is_url


def store_place(named: str | None = None, folder: Path | None = None) -> Path | str | None:
    """Where the store is: a file, or a server's URL, which is a text; None for off.

    Args:
        named: a file, a URL or "off"; None for what the environment variable says, else the user's cache folder.
        folder: in the place of the cache folder.

    Raises:
        StoreError: what is named speaks of an unknown home.
    """
    found = (os.environ.get(STORE_VARIABLE, "") if named is None else named).strip()
    if found.lower() in ("off", "no", "0"):
        return None
    if is_url(found):
        return found
    try:
        return Path(found).expanduser() if found else (folder or cache_folder()) / "store.sqlite"
    except RuntimeError as error:
        raise StoreError(
            f"{STORE_VARIABLE}: got {found!r:.80}, of which no home is known ({error}); give a whole path"
        ) from error


def store_at(place: Path | str, *, reuse: bool = True) -> Outcomes:
    """The store at a place of :func:`store_place`, made where it is not there.

    Raises:
        StoreAwayError: its server does not answer.
        StoreError: it cannot be opened, or is not what it should be.
    """
    return ServerStore(place, reuse=reuse) if isinstance(place, str) else Store(place, reuse=reuse)
