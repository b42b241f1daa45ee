"""Whose code from the Hub runs: a stranger's is neither fetched nor imported."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hub import faults
from tests.hub.client import use
from tests.hub.repos import ACTIVATION, build, marked
from tests.hub.server import Fault, LocalHub
from tests.source.repos import FUNCTION_SLOT, identity
from twinkle_tune.errors import SourceError
from twinkle_tune.source.hub import HubSource
from twinkle_tune.source.hub_files import SIGNATURE_VARIABLE
from twinkle_tune.source.hub_trust import PUBLISHERS_VARIABLE, TRUST_VARIABLE

REPO = "stranger/activation"


def loads(repo_id: str = REPO, *, trusted: bool = False) -> str:
    """Why a repo is refused; "" where it is loaded."""
    try:
        HubSource(repo_id=repo_id, name="relu", revision="main", trusted=trusted).load(FUNCTION_SLOT, identity)
    except SourceError as error:
        return str(error)
    return ""


@pytest.fixture
def mark(local_hub: LocalHub, tmp_path: Path) -> Path:
    """A file that the stranger's code makes when it is imported."""
    local_hub.push(REPO, build(marked(ACTIVATION, str(tmp_path / "mark"))))
    return tmp_path / "mark"


def test_a_stranger_s_code_is_not_fetched(local_hub: LocalHub, mark: Path, tmp_path: Path) -> None:
    """Of an untrusted publisher's repo not one byte is asked for, and nothing of it runs."""
    assert "the Hub does not list 'stranger' as a trusted kernel publisher; if you trust its code" in loads()
    assert [path for path in local_hub.asked if "agent" not in path] == ["GET /api/organizations/stranger/overview"]
    assert not mark.exists()
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("value", ["YES", "true", "1", "NO", ""])
def test_trust_in_everybody(mark: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """TWINKLE_TRUST_REMOTE_CODE=YES lets everybody's code run, and nothing else does."""
    monkeypatch.setenv(TRUST_VARIABLE, value)
    assert (loads() == "") == mark.exists() == (value not in ("NO", ""))


@pytest.mark.parametrize("value", ["stranger", "a, stranger ,b", REPO, "strange", "stranger/other", "STRANGER"])
def test_listed_publishers(local_hub: LocalHub, mark: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """TWINKLE_TRUSTED_PUBLISHERS lets those run whose name, or whose repo's, is in it, word for word."""
    monkeypatch.setenv(PUBLISHERS_VARIABLE, value)
    trusted = value in ("stranger", "a, stranger ,b", REPO)
    assert (loads() == "") == mark.exists() == trusted
    assert any("organizations" in path for path in local_hub.asked) == (not trusted)


def test_whoever_the_hub_vouches_for(local_hub: LocalHub, mark: Path) -> None:
    """A publisher that the Hub lists is trusted; so is who registered it saying so."""
    assert loads(trusted=True) == ""
    assert mark.exists()
    local_hub.trusted.add("friend")
    local_hub.push("friend/activation", build(ACTIVATION, version=2))
    assert loads("friend/activation") == ""


def test_offline_nobody_vouches(
    local_hub: LocalHub, mark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the cache holds of a publisher that only the Hub could vouch for does not run offline, unless listed."""
    assert loads(trusted=True) == ""
    mark.unlink()
    use(monkeypatch, local_hub, tmp_path / "cache", offline=True)
    assert "offline nobody can be asked whether 'stranger' is a trusted publisher" in loads()
    assert not mark.exists()
    monkeypatch.setenv(PUBLISHERS_VARIABLE, "stranger")
    assert loads() == ""
    assert mark.exists()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (faults.status(404, ""), "the Hub does not list 'stranger'"),
        (faults.status(401, ""), "asking whether 'stranger' is a trusted publisher: the Hub answered with HTTP"),
        (faults.reset, "asking whether 'stranger' is a trusted publisher: the Hub at http://127.0.0.1"),
    ],
)
def test_a_question_without_an_answer_is_no_trust(local_hub: LocalHub, mark: Path, fault: Fault, message: str) -> None:
    """A publisher that is no organisation, or of whom the Hub does not tell, is not trusted."""
    local_hub.trusted.add("stranger")
    local_hub.fault = faults.at("/overview", fault)
    assert message in loads()
    assert not mark.exists()


def test_signature_that_is_required(
    local_hub: LocalHub, mark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With TWINKLE_REQUIRE_SIGNATURE=YES unsigned and badly signed builds are not imported; verified ones are."""
    from kernels import verify

    monkeypatch.setenv(SIGNATURE_VARIABLE, "YES")
    assert "was not verified (SignatureBundleMissing)" in loads(trusted=True)
    local_hub.push("stranger/signed", build({**ACTIVATION, "metadata.json.sigstore": "no bundle"}))
    assert "was not verified (SignatureBundleInvalid" in loads("stranger/signed", trusted=True)
    assert not mark.exists()
    asked: list[Path] = []

    def accept(path: Path) -> object:
        asked.append(path)
        return verify.VerificationResult.Success()

    monkeypatch.setattr(verify, "verify_variant", accept)
    use(monkeypatch, local_hub, tmp_path / "cache")
    assert loads(trusted=True) == ""
    assert mark.exists()
    assert [path.name for path in asked] == ["torch-universal"]
