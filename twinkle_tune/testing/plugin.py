"""The pytest plugin: fixtures, and the conventions of benchmarks. Loaded in every session, so it is light."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest

_FIXTURE, _PREFIX, _PARAM = "benchmark_kernel", "test_benchmark_", "param:"


@pytest.fixture(name="assert_parity", scope="session")
def _assert_parity() -> Callable[..., None]:
    """:func:`twinkle_tune.testing.assert_parity`, without an import at the top of the test file."""
    from twinkle_tune.testing.parity import assert_parity

    return assert_parity


@pytest.fixture(name=_FIXTURE)
def _benchmark_kernel(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """:func:`twinkle_tune.testing.benchmark_kernel` with pytest-benchmark's fixture."""
    try:
        benchmark = request.getfixturevalue("benchmark")
    except pytest.FixtureLookupError:
        pytest.fail(f"{_FIXTURE}: it reports through pytest-benchmark; pip install pytest-benchmark", pytrace=False)
    from twinkle_tune.testing.benchmark import benchmark_kernel

    return partial(benchmark_kernel, benchmark)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: Sequence[pytest.Item]) -> None:
    """Refuse a benchmark of another name, and a parameter to group by that a benchmark lacks.

    Raises:
        pytest.UsageError: with the test, and what it has.
    """
    asked = str(config.getoption("benchmark_group_by", None) or "")
    wanted = [part.removeprefix(_PARAM) for part in asked.split(",") if part.startswith(_PARAM)]
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if _FIXTURE in fixtures and not item.name.startswith(_PREFIX):
            raise pytest.UsageError(
                f"{item.nodeid}: it uses {_FIXTURE}, expected a name that starts with {_PREFIX}, so that "
                f'-k benchmark and -k "not benchmark" tell benchmarks from tests; rename it'
            )
        if "benchmark" in fixtures or _FIXTURE in fixtures:
            _check_parameters(item, wanted)


def _check_parameters(item: pytest.Item, wanted: Sequence[str]) -> None:
    has = getattr(getattr(item, "callspec", None), "params", {})
    for name in wanted:
        if name not in has:
            known = ", ".join(has) or "none"
            raise pytest.UsageError(
                f"--benchmark-group-by: {_PARAM}{name} is no parameter of {item.nodeid} (it has {known}); group by "
                "what all benchmarks of the run have, or choose with -k"
            )
