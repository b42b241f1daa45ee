"""Code from the Hub, against local repos in its place: no network."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.source.repos import FUNCTION_SLOT, LAYER_SLOT, Identity, identity, stand_in, write_kernel_repo
from twinkle_tune.errors import RegistrationError, SourceError
from twinkle_tune.source.hub import TRUST_VARIABLE, HubSource

REPO = "kernels-community/activation"


@pytest.fixture(autouse=True)
def _clean_modules() -> Iterator[None]:
    yield
    for name in [name for name in sys.modules if name.startswith("_stand_in_")]:
        del sys.modules[name]


def _source(name: str = "Double", **pin: Any) -> HubSource:
    return HubSource(repo_id=REPO, name=name, **pin)


def test_layer_and_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer and a function of a Hub repo load, asked for at the revision or version that was given."""
    hub = stand_in(monkeypatch, activation=write_kernel_repo(tmp_path, "_stand_in_hub"))
    layer = _source(revision="main").load(LAYER_SLOT, Identity.forward)
    assert layer.call(Identity(), torch.ones(1)).item() == 2.0
    assert _source("doubled", version="3").load(FUNCTION_SLOT, identity).call(2) == 4
    assert [(a.get("revision"), a.get("version")) for a in hub.asked] == [("main", None), (None, 3)]


@pytest.mark.parametrize(("value", "trusted"), [(None, False), ("NO", False), ("YES", True), ("true", True)])
def test_trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str | None, trusted: bool) -> None:
    """TWINKLE_TRUST_REMOTE_CODE reaches the client; by default nothing is trusted beyond what the Hub trusts."""
    hub = stand_in(monkeypatch, activation=write_kernel_repo(tmp_path, "_stand_in_trust"))
    monkeypatch.delenv(TRUST_VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(TRUST_VARIABLE, value)
    _source(revision="main").load(LAYER_SLOT, Identity.forward)
    assert hub.asked[0]["trust_remote_code"] is trusted


def test_digest_is_of_the_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The digest follows the commit that was loaded, and the name, not the branch that was asked for."""
    hub = stand_in(monkeypatch, activation=write_kernel_repo(tmp_path, "_stand_in_commit"))
    main = _source(revision="main").digest(LAYER_SLOT, identity)
    assert _source(revision="v1").digest(LAYER_SLOT, identity) == main
    assert _source("TwoInputs", revision="main").digest(LAYER_SLOT, identity) != main
    for loaded in hub.loaded:
        loaded.repo_info.revision = "f" * 40
    monkeypatch.setattr("kernels.get_kernel", lambda *args, **kwargs: hub.loaded[0].module)
    assert _source(revision="main").digest(LAYER_SLOT, identity) != main


def test_commit_that_is_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the client does not tell the commit there is no digest, and the message says what to give."""
    stand_in(monkeypatch, activation=write_kernel_repo(tmp_path, "_stand_in_untold"))
    monkeypatch.setattr("kernels.get_loaded_kernels", list)
    with pytest.raises(SourceError, match=r"does not tell which commit was loaded; give revision=<commit>"):
        _source(revision="main").digest(LAYER_SLOT, identity)


def test_both_pins() -> None:
    """Revision and version together are refused at once."""
    with pytest.raises(RegistrationError, match=r"got both revision='main' and version=1, expected one of them"):
        _source(revision="main", version=1)


@pytest.mark.parametrize(
    ("pin", "message"),
    [
        ({}, r"got neither revision nor version, expected one of them .*register it with revision='main' or version=1"),
        ({"version": "0.1.0"}, r"got version='0.1.0', expected a whole number .* or with revision="),
    ],
)
def test_pins_that_do_not_load(monkeypatch: pytest.MonkeyPatch, pin: dict[str, Any], message: str) -> None:
    """Without a pin, or with one that the Hub has no more, nothing is asked of the Hub."""
    hub = stand_in(monkeypatch)
    with pytest.raises(SourceError, match=message):
        _source(**pin).load(LAYER_SLOT, Identity.forward)
    assert not hub.asked


def test_repo_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the client raises becomes one error that says what to check."""
    stand_in(monkeypatch)
    message = (
        rf"{REPO}: cannot be had from the Hub \(FileNotFoundError: no repo .*\); check the network.*{TRUST_VARIABLE}"
    )
    with pytest.raises(SourceError, match=message):
        _source(revision="main").load(LAYER_SLOT, Identity.forward)


def test_layer_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that the repo does not have is an error that lists what it offers."""
    stand_in(monkeypatch, activation=write_kernel_repo(tmp_path, "_stand_in_lacking"))
    with pytest.raises(SourceError, match=r"there is no 'Triple'; it offers Constructed, Double"):
        _source("Triple", revision="main").load(LAYER_SLOT, Identity.forward)
