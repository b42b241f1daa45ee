"""A search that cannot run is an error of the run, before it begins."""

from __future__ import annotations

import sys

import pytest

from twinkle_tune.errors import TuneError
from twinkle_tune.search.possible import check_search_is_possible


def test_a_gpu_run_without_the_search_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU the missing package is named, also one that optuna itself needs; a CPU searches nothing."""
    check_search_is_possible("cuda")
    monkeypatch.setitem(sys.modules, "optuna", None)
    check_search_is_possible("cpu")
    for device in ("cuda", "rocm"):
        with pytest.raises(TuneError, match=rf"device '{device}': .* needs optuna, and optuna cannot be imported"):
            check_search_is_possible(device)
