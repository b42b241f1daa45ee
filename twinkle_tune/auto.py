"""``import twinkle_tune.auto``: the profiles that are kept for a script's models are applied when it calls them.

With ``TWINKLE_TUNE_THEN=profile`` the models are tuned when the script has ended, and the profiles kept; with
``TWINKLE_TUNE_THEN=online`` what is not kept is raced inside of the script's steps. One line on stderr for each model
says what became of it. Put it anywhere before the first call of a model.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from typing import Any, get_args

from twinkle_tune.errors import TuneError
from twinkle_tune.script.session import Asked, Session, Then, tell

THEN_VARIABLE = "TWINKLE_TUNE_THEN"
"""Environment variable: "apply" (default), "profile" or "online"."""
_EARLY: Any = getattr(threading, "_register_atexit", atexit.register)
"""Before threads are joined: afterwards no process pool takes any work, and compilers are such. The pools of
concurrent.futures (imported above) are told to end after what was registered later than they were."""


def _begun() -> Session | None:
    wanted = os.environ.get(THEN_VARIABLE, "apply").strip().lower() or "apply"
    known: dict[str, Then] = {then: then for then in get_args(Then)}
    if wanted not in known:
        tell(f"{THEN_VARIABLE}: got {wanted!r:.80}, expected {', '.join(known)}; nothing is done")
        return None
    try:
        made = Session(Asked(then=known[wanted]))
        made.begin()
    except TuneError as error:
        tell(str(error))
        return None
    return made


def _end() -> None:
    if session is not None:
        failed = getattr(sys, "last_type", None)
        session.end("exit" if failed is None else failed.__name__, is_fine=failed is None)


session = _begun()
if session is not None:
    _EARLY(_end)
