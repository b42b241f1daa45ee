"""What holds for every test: no network, and no GPU test without a GPU."""

from __future__ import annotations

import functools
import gc
import itertools
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.hub.server import LocalHub
    from tests.postgres import Postgres

# Before anything imports huggingface_hub, which reads it once.
os.environ["HF_HUB_OFFLINE"] = "1"
# One thread: on a busy machine threads wait for each other for milliseconds at every operation, and tests of
# who is faster would measure that. Also for the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# With bytecode of the package: else each of some hundred processes that tests start would compile it anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# A run in the background ignores Ctrl-C, and so would the processes in which tests press it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)


_LONG = (
    *("test_docs.py", "ops/test_ops.py", "tune/test_isolated.py", "tune/test_asking.py", "zoo/test_zoo.py"),
    *("kernel/test_setups.py", "kernel/test_generation.py", "test_families.py", "tune/test_planted_ways.py"),
)
"""Files that take long, 10 to 40 seconds of processor time: begun last, one would be waited for alone."""


@pytest.fixture(scope="session")
def _caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folders to come, counted here: pytest would count them by reading all that are there, thousands in the end."""
    folder = tmp_path_factory.mktemp("caches")
    return (folder / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, _caches: Iterator[Path]) -> None:
    """Locks and past outcomes are those of the test, not of the user who runs it."""
    cache = next(_caches)
    cache.mkdir()
    monkeypatch.setenv("TWINKLE_TUNE_CACHE", str(cache))
    monkeypatch.delenv("TWINKLE_TUNE_STORE", raising=False)


@pytest.fixture(scope="session", autouse=True)
def as_it_is() -> Iterator[Mapping[str, Any]]:
    """A step of the whole model is timed for 0.3 s, not 6 s, and a slot's calls as :mod:`tests.shorter` says.

    Each profile of a tiny model would take several seconds for either. The machine's roof is measured once. Gives what
    the clock for slots has as it is, for tests of that.
    """
    from tests.shorter import AS_IT_IS
    from twinkle_tune.measure.roof import measured_roof

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("twinkle_tune.tune.settle.SECONDS", 0.3)
        patch.setattr("twinkle_tune.tune.order.measured_roof", functools.cache(measured_roof))
        yield AS_IT_IS


@pytest.fixture
def compiled_anew() -> Iterator[None]:
    """Nothing is compiled before a test, or after it."""
    import torch

    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def little_garbage() -> None:
    """For files whose tests collect garbage many times: what is there before need not be walked through each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def local_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LocalHub]:
    """A Hub on loopback that this process's client talks to, with an empty cache in ``tmp_path / "cache"``."""
    from tests.hub.client import use
    from tests.hub.server import LocalHub

    with LocalHub() as hub:
        use(monkeypatch, hub, tmp_path / "cache")
        yield hub


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server that the tests of this process share; each makes a database of its own."""
    from tests.postgres import postgres_server, why_not

    if why_not():
        pytest.skip(why_not())
    with postgres_server() as server:
        yield server


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What collecting imports is no garbage: torch and all tests are half a second for whoever collects garbage.

    So none is collected meanwhile, and afterwards nobody looks there any more.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long come first; tests marked ``gpu`` are skipped where torch finds no CUDA device."""
    import torch

    items.sort(key=lambda item: not str(item.path).endswith(_LONG))

    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason=f"needs a CUDA device; torch {torch.__version__} finds none")
    for item in items:
        if item.get_closest_marker("gpu") is not None:
            item.add_marker(skip)
