"""What is said and refused before and beside a Ray cluster; none is needed here."""

from __future__ import annotations

import importlib.util
import signal
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from twinkle_tune.cli.app import run
from twinkle_tune.environment import current_environment
from twinkle_tune.fleet.ray_devices import RayDevices, RayError, address_of, connect, device_of
from twinkle_tune.fleet.spread import NoDeviceError, Spread
from twinkle_tune.tune.events import nobody

HERE = current_environment("cpu")


def test_without_ray_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before the model is loaded, in one line, with exit code 2."""
    monkeypatch.setitem(sys.modules, "ray", None)
    assert run(["profile", "qwen3-tiny", "--executor", "ray"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "ray is not installed" in line
    assert "pip install 'twinkle_tune[ray]', or leave out --executor" in line


@pytest.mark.parametrize(
    "named", ["dask", "ray:", "ray://", "ray://host", "ray://:1", "ray://host:port", "ray://h:1/x"]
)
def test_another_executor_is_refused(named: str) -> None:
    """It says what was got and what is expected."""
    with pytest.raises(RayError, match=r"--executor: got .*, expected 'ray', or 'ray://HOST:PORT'"):
        address_of(named)


def test_an_executor_has_an_address_or_none() -> None:
    """Host and port; a cluster of this machine's own where none is named."""
    assert address_of("ray") is None
    assert address_of("ray://10.0.0.1:6379") == "10.0.0.1:6379"


def test_a_cluster_and_this_process_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    """--executor with --in-process is refused."""
    assert run(["profile", "qwen3-tiny", "--executor", "ray", "--in-process"]) == 2
    assert "--executor and --in-process: got both" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("resource", "device"),
    [
        ("twinkle:cpu:a1", "cpu"),
        ("twinkle:cuda:1:host", "cuda:1"),
        ("twinkle:cuda:host", "cuda"),
        ("twinkle:cuda", ""),
        ("twinkle::x", ""),
        ("CPU", ""),
        ("node:10.0.0.1", ""),
    ],
)
def test_a_resource_names_a_device(resource: str, device: str) -> None:
    """Its kind, and its number where it has one; other resources are no devices."""
    assert device_of(resource) == device


def cluster(**resources: float) -> Any:
    """A cluster that has resources and starts nothing."""
    return SimpleNamespace(cluster_resources=lambda: resources)


def test_one_name_for_two_devices_is_refused() -> None:
    """Ray would let two contests run on them at once, and nobody would know on which."""
    devices = RayDevices(ray=cluster(**{"twinkle:cpu:a": 2.0}), wanted=HERE)
    with pytest.raises(RayError, match=r"twinkle:cpu:a: got 2 of this resource, expected 1"):
        devices.wait()


def test_a_cluster_without_devices_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the patience that a node deserves."""
    from tests.fleet.test_spread import task

    monkeypatch.setattr("twinkle_tune.fleet.ray_devices.time.sleep", lambda seconds: None)
    time_s = iter(range(0, 10_000, 25))
    spread = Spread(RayDevices(ray=cluster(CPU=8.0), wanted=HERE), lambda: next(time_s))
    with pytest.raises(NoDeviceError, match=r"no resource of the cluster is named 'twinkle:cpu:\.\.\.'"):
        list(spread.run([task(1, HERE.fingerprint)], nobody))


def test_ray_does_not_take_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM keeps what is finished, as without a cluster, though Ray puts a handler of its own there."""

    def init(**options: Any) -> None:
        signal.signal(signal.SIGTERM, lambda number, frame: None)

    found: Any = SimpleNamespace(is_initialized=lambda: False, init=init)
    monkeypatch.setitem(sys.modules, "ray", found)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert connect(None, {"twinkle:cpu:0:here": 1.0}) is found
        assert signal.getsignal(signal.SIGTERM) is before
    finally:
        signal.signal(signal.SIGTERM, before)


def test_an_address_where_nobody_answers_is_refused_at_once() -> None:
    """It says how a node is started there."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("ray is not installed")
    with pytest.raises(RayError, match=r"no Ray cluster at '127.0.0.1:9'.*ray start --address=127.0.0.1:9"):
        connect("127.0.0.1:9", {})
