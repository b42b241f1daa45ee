"""Makes the clocks for slots on a CPU quick: little other work, 7 calls a burst in the place of 21, a small cold cache.

Whoever imports this has it so: ``tests/conftest.py`` does, and so do the layers of tests, for worker processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twinkle_tune.measure import between, cold

_SHORTER = {"_WIDTH": 16, "_INNER": 32, "_ROWS": 4, "_SINGLE_CALLS": ((5_000.0, 7), (200_000.0, 3))}

AS_IT_IS: Mapping[str, Any] = {name: getattr(between, name) for name in _SHORTER}
"""What users have, for tests of that."""

LAST_CACHE_BYTES = cold.last_cache_bytes
"""The same of the clock with cold caches, which sweeps twice that before each call: a tenth of a second a contest."""

cold.last_cache_bytes = lambda: 2**18
for _name, _value in _SHORTER.items():
    setattr(between, _name, _value)
