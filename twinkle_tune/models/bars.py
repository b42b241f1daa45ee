"""The progress bars of transformers and of the Hub's client, which stay on the screen between our own lines."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_VARIABLE = "HF_HUB_DISABLE_PROGRESS_BARS"


@contextmanager
def without_bars() -> Iterator[None]:
    """Within, transformers shows none, whether it was imported before or is within; afterwards it does as before."""
    before = os.environ.get(_VARIABLE)
    os.environ[_VARIABLE] = "1"
    logging: Any = getattr(getattr(sys.modules.get("transformers"), "utils", None), "logging", None)
    shown = logging is not None and logging.is_progress_bar_enabled()
    if shown:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
        if before is None:
            os.environ.pop(_VARIABLE, None)
        else:
            os.environ[_VARIABLE] = before
