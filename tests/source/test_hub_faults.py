"""What goes wrong between here and the Hub: one clear error each, and nothing half fetched is ever used."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from tests.hub import faults
from tests.hub.client import use
from tests.hub.repos import ACTIVATION, build
from tests.hub.server import Fault, LocalHub
from tests.source.repos import FUNCTION_SLOT, identity
from twinkle_tune.errors import SourceError
from twinkle_tune.source.hub import HubSource

REPO = "kernels-community/activation"
GONE = r"the Hub at http://127.0.0.1:\d+ did not answer, or not to the end \({kind}.*check the network"
KINDS: dict[str, tuple[Fault, str]] = {
    "reset": (faults.reset, GONE.format(kind="ReadError")),
    "slow": (faults.slow, GONE.format(kind="ReadTimeout")),
    "404": (faults.status(404, ""), r"the Hub answered with HTTP status 404 .*; try again, or check HF_TOKEN"),
    "401": (faults.status(401, ""), r"the Hub answered with HTTP status 401 .*; try again, or check HF_TOKEN"),
    "500": (faults.status(500, ""), r"the Hub answered with HTTP status 500 .*; try again, or check HF_TOKEN"),
    "half a file": (faults.half, GONE.format(kind="RemoteProtocolError")),
}
REQUESTS = ("/revision/main", "/refs", "/tree/COMMIT/build", "/metadata.json", "/tree/COMMIT", "/layers.py")
FILES = ("/metadata.json", "/layers.py")
CASES = [(kind, name) for kind in KINDS for name in (FILES if kind == "half a file" else REQUESTS)]


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client waits before it tries again; what it does then is not changed by that."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


def loads(**pin: str | int) -> str:
    """Why the repo cannot be loaded; "" where it is loaded."""
    try:
        HubSource(repo_id=REPO, name="relu", **pin).load(FUNCTION_SLOT, identity)  # type: ignore[arg-type]
    except SourceError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(("kind", "request_"), CASES)
def test_faults(local_hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, request_: str) -> None:
    """Whatever breaks wherever is one error; offline nothing of it is used afterwards; online it is made good."""
    fault, message = KINDS[kind]
    commit = local_hub.push(REPO, build(ACTIVATION, ("torch-universal", "torch-cuda")), branches=("main", "v1"))
    pin: dict[str, str | int] = {"version": 1} if request_ == "/refs" else {"revision": "main"}
    path = request_.replace("COMMIT", commit)
    local_hub.fault = lambda handler, asked: asked.endswith(path) and fault(handler, asked)
    told = loads(**pin)
    assert re.search(message, told)
    assert told.startswith(REPO)
    assert len(told.splitlines()) == 1
    use(monkeypatch, local_hub, tmp_path / "cache", offline=True)
    assert loads(revision=commit).startswith(REPO)
    assert loads(**pin).startswith(REPO)
    use(monkeypatch, local_hub, tmp_path / "cache")
    local_hub.fault = None
    assert loads(**pin) == ""


def test_refused(local_hub: LocalHub) -> None:
    """Where nobody listens, the error says so and how to go on without."""
    local_hub.push(REPO, build(ACTIVATION))
    local_hub.stop()
    for pin in ({"revision": "main"}, {"version": 1}, {"revision": "0" * 40}):
        assert "did not answer, or not to the end (ConnectError" in loads(**pin)


def test_what_is_cached_whole_needs_no_hub(local_hub: LocalHub) -> None:
    """A commit that is whole in the cache is loaded without asking anybody, also where the Hub is gone."""
    commit = local_hub.push(REPO, build(ACTIVATION))
    assert loads(revision="main") == ""
    local_hub.stop()
    asked = len(local_hub.asked)
    assert loads(revision=commit) == ""
    assert len(local_hub.asked) == asked


@pytest.mark.parametrize(
    ("repo_id", "revision", "message"),
    [
        ("kernels-community/none", "main", "the Hub has no such kernel repo, or it is private"),
        (REPO, "nowhere", "the repo has no such revision"),
        (REPO, "0" * 40, "the repo has no such revision"),
    ],
)
def test_what_is_not_there(local_hub: LocalHub, repo_id: str, revision: str, message: str) -> None:
    """A repo, branch or commit that the Hub does not have is named as that."""
    local_hub.push(REPO, build(ACTIVATION))
    with pytest.raises(SourceError, match=f"{repo_id} at .*{message}"):
        HubSource(repo_id=repo_id, name="relu", revision=revision).commit()
