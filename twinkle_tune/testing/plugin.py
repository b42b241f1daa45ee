"""The pytest plugin: a fixture. Loaded in every session of an environment that has the package, so it is light."""

from __future__ import annotations

from collections.abc import Callable

import pytest


@pytest.fixture(name="assert_parity", scope="session")
def _assert_parity() -> Callable[..., None]:
    """:func:`twinkle_tune.testing.assert_parity`, without an import at the top of the test file."""
    from twinkle_tune.testing.parity import assert_parity

    return assert_parity
