"""Profiles that travel through the Hub: pushed by one, bound by another, with the real client and a local Hub."""

from __future__ import annotations

import json
import re
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.hub import faults
from tests.hub.client import use
from tests.hub.server import LocalHub
from tests.kernel.toys import Model, added, layer_contest, plus_one, profile, registry
from tests.source.test_hub_faults import KINDS
from twinkle_tune.environment import Environment, current_environment
from twinkle_tune.errors import ProfileError, SourceError, StaleProfileError
from twinkle_tune.kernel import kernelize_model, kernelize_report, restore_model
from twinkle_tune.profile.collection import LIST
from twinkle_tune.profile.hub import fetch, open_shelf, parse_place, push
from twinkle_tune.profile.io import load_profile
from twinkle_tune.profile.schema import ModelFacts, Profile
from twinkle_tune.workload import target_of

REPO = "friends/profiles"
PLACE = parse_place(REPO)
NARROW = ("layers.0.narrow", "layers.1.narrow")


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client waits before it tries again; what it does then is not changed by that. It has a token to push with."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")


def facts(model: nn.Module) -> ModelFacts:
    """What a profile says of a model."""
    parameters = sum(p.numel() for p in model.parameters())
    return ModelFacts(name="toy", target=target_of(type(model)), parameters=parameters, dtype="float32")


def made(folder: Path, model: nn.Module | None = None, **changes: Any) -> tuple[Path, Profile]:
    """A profile, and its file, in which a kernel that adds one won the narrow norms."""
    model = Model() if model is None else model
    contest = layer_contest(model, NARROW, 4, "impl:plus_one", registry(plus_one))
    file = profile([contest], **{"model": facts(model), **changes}).save(folder / "profile.json")
    return file, load_profile(file)


def pushed(hub: LocalHub, folder: Path, **changes: Any) -> str:
    """Push such a profile; the commit."""
    file, found = made(folder, **changes)
    return push(file, found, PLACE)[1]


def bound(model: Any = None, **arguments: Any) -> float:
    """What the narrow norms add with the Hub's profile; nothing but what is planned is said."""
    model = Model() if model is None else model
    kernelize_model(model, profile=f"hub:{REPO}", registry=registry(plus_one), **arguments)
    shown = added(model.layers[0].narrow, 4)
    restore_model(model)
    return shown


def refused(message: str, model: nn.Module | None = None, **arguments: Any) -> None:
    """Nothing is bound, one warning says why, and without fallback it is an error; nothing is imported."""
    before, modules = (Model() if model is None else model), set(sys.modules)
    with pytest.warns(UserWarning, match=message) as caught:
        assert bound(before, **arguments) == 0.0
    assert len(caught) == 1
    assert not kernelize_report(before).bound
    with pytest.raises((StaleProfileError, ProfileError), match=message):
        kernelize_model(before, profile=f"hub:{REPO}", registry=registry(plus_one), use_fallback=False, **arguments)
    assert not {name for name in set(sys.modules) - modules if not name.startswith(("huggingface_hub", "twinkle_tune"))}


def test_pushed_pulled_and_bound(local_hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pushed here, it is bound with another cache on such a machine, and says whose it is; offline from the cache."""
    commit = pushed(local_hub, tmp_path)
    for offline in (False, True):
        use(monkeypatch, local_hub, tmp_path / "other", offline=offline)
        asked = len(local_hub.asked)
        model = Model()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            kernelize_model(model, profile=f"hub:{REPO}", registry=registry(plus_one), use_fallback=False)
        assert [binding.path for binding in kernelize_report(model).bound] == list(NARROW)
        assert added(model.layers[0].narrow, 4) == 1.0
        assert f"of {REPO} at commit {commit[:12]}, published by friends." in str(kernelize_report(model))
        assert (len(local_hub.asked) == asked) is offline
        restore_model(model)


def test_a_revision_is_kept(local_hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """hub:owner/name@commit is that commit, wherever the branch is by then."""
    first = pushed(local_hub, tmp_path)
    local_hub.push_data(REPO, {LIST: b'{"format": 1, "profiles": []}'})
    use(monkeypatch, local_hub, tmp_path / "other")
    refused(r"friends/profiles at commit \w{12}: it has no profiles; profile the model, and push the profile")
    model = kernelize_model(Model(), profile=f"hub:{REPO}@{first}", registry=registry(plus_one), use_fallback=False)
    assert kernelize_report(model).bound


class Wider(Model):
    """Another class."""


def _elsewhere(**changes: Any) -> Environment:
    return replace(current_environment("cpu"), **changes)


OTHERS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "another torch": (
        {"environment": _elsewhere(torch="2.12.0")},
        {},
        r"nearest profile of this model was made elsewhere \(torch: 2.12.0 then, .* now\).*profile --from-hub",
    ),
    "another processor": (
        {"environment": _elsewhere(device_name="Abacus")},
        {},
        r"made elsewhere \(device_name: Abacus then",
    ),
    "another width": ({}, {"model": Model(3)}, r"none of this number of parameters \(\d+\), only of \d+"),
    "another class": ({}, {"model": Wider()}, r"none of this model class \(.*Wider\), only of .*Model"),
    "another dtype": ({}, {"model": Model().double()}, r"none of this dtype \(float64\), only of float32"),
    "another mode": ({}, {"mode": "train"}, r"none of this mode \(train\), only of inference"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_one_fact_is_another(local_hub: LocalHub, tmp_path: Path, case: str) -> None:
    """With another torch, processor, width, class, dtype or mode nothing is bound, and it is said what differs."""
    changes, arguments, message = OTHERS[case]
    pushed(local_hub, tmp_path, **changes)
    refused(message, **arguments)


def test_of_several_the_one_of_this_machine(local_hub: LocalHub, tmp_path: Path) -> None:
    """Beside profiles of other machines the one of this machine is taken; a newer one of it takes its place."""
    for number, changes in enumerate(({"torch": "2.12.0"}, {}, {"device_name": "Abacus"})):
        pushed(local_hub, tmp_path, environment=_elsewhere(**changes), created=f"2026-11-0{number + 1}T00:00:00+00:00")
    assert len(open_shelf(PLACE).collection.profiles) == 3
    assert bound() == 1.0
    pushed(local_hub, tmp_path, created="2026-11-20T00:00:00+00:00")
    found = open_shelf(PLACE).collection.profiles
    assert len(found) == 3
    assert len({each.path.split("/")[1] for each in found}) == 2
    assert [each.created[:10] for each in found if "abacus" not in each.path].count("2026-11-20") == 1


def test_a_contest_is_held_by_nobody(local_hub: LocalHub, tmp_path: Path) -> None:
    """Binding a profile of the Hub makes no call of the model."""
    pushed(local_hub, tmp_path)
    ran: list[int] = []
    model = Model()
    model.register_forward_hook(lambda *_: ran.append(1))
    kernelize_model(model, profile=f"hub:{REPO}", registry=registry(plus_one), use_fallback=False)
    assert not ran
    with torch.no_grad():
        model(torch.randn(4, 8))
    assert ran == [1]


# What a repo may hold that is hostile, or broken


def _list(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, bytes]], None]:
    def spoil(files: dict[str, bytes]) -> None:
        found = json.loads(files[LIST])
        change(found["profiles"][0])
        files[LIST] = json.dumps(found).encode()

    return spoil


def _profile(old: str, new: str) -> Callable[[dict[str, bytes]], None]:
    """Another text in the profile, with the list's digest of it, and its length, made to fit."""

    def spoil(files: dict[str, bytes]) -> None:
        import hashlib

        (path,) = (path for path in files if path.startswith("profiles/"))
        text = files[path].decode()
        assert old in text
        files[path] = text.replace(old, new).encode()
        found = json.loads(files[LIST])
        found["profiles"][0] |= {"sha256": hashlib.sha256(files[path]).hexdigest(), "bytes": len(files[path])}
        files[LIST] = json.dumps(found).encode()

    return spoil


def _half(files: dict[str, bytes]) -> None:
    (path,) = (path for path in files if path.startswith("profiles/"))
    files[path] = files[path][: len(files[path]) // 2]


def _text(content: bytes) -> Callable[[dict[str, bytes]], None]:
    return lambda files: files.update({LIST: content})


HOSTILE: dict[str, tuple[Callable[[dict[str, bytes]], None], str]] = {
    "a path that leads out": (
        _list(lambda each: each.update(path="profiles/a/../../../etc/passwd.json")),
        r"profiles.json: got the path 'profiles/a/\.\./",
    ),
    "an absolute path": (_list(lambda each: each.update(path="/etc/passwd")), r"got the path '/etc/passwd', expected"),
    "a digest that is none": (_list(lambda each: each.update(sha256="x")), r"got the sha256 'x', expected"),
    "another digest": (
        _list(lambda each: each.update(sha256="0" * 64)),
        r"its digest is \w{16}…, and the list says 0000",
    ),
    "a huge number": (_list(lambda each: each.update(parameters=10**400)), r"at profiles.0.parameters: got"),
    "a negative length": (_list(lambda each: each.update(bytes=-1)), r"got a negative number"),
    "a length of all disks": (_list(lambda each: each.update(bytes=1 << 60)), r"got \d+ bytes, expected at most"),
    "a shorter length": (_list(lambda each: each.update(bytes=10)), r"got \d+ bytes, expected at most 10; tell"),
    "an infinity": (_list(lambda each: each.update(gains={"a": float("inf")})), r"at profiles.0.gains"),
    "an unknown field": (_list(lambda each: each.update(run="rm -rf")), r"got the field .*run"),
    "a newer format": (_text(b'{"format": 2, "profiles": []}'), r"got format 2, expected 1; upgrade twinkle_tune"),
    "no JSON": (_text(b"{"), r"profiles.json: .*Invalid JSON"),
    "no text": (_text(b"\xff\xfe"), r"profiles.json: not UTF-8"),
    "deep nesting": (_text(b"[" * 100_000), r"profiles.json"),
    "half a profile": (_half, r"its digest is \w{16}…, and the list says \w{16}…: the file is not whole"),
    "another model's profile": (_profile('"toy"', '"no toy"'), r"it is not the profile that the list describes"),
    "a module to import": (
        _profile("tests.kernel.toys:Norm", "this:Norm"),
        r"Norm \(impl:plus_one\): the model has no this:Norm",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_repo(local_hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    """Whatever a repo holds, nothing of it is applied or imported, and one message says what is wrong."""
    spoil, message = HOSTILE[case]
    commit = pushed(local_hub, tmp_path)
    files = dict(local_hub.datasets[REPO].commits[commit])
    spoil(files)
    local_hub.push_data(REPO, files)
    use(monkeypatch, local_hub, tmp_path / "other")
    refused(message)
    assert "this" not in sys.modules


def test_a_file_that_was_changed_in_the_cache(
    local_hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cached profile that somebody changed is not bound, offline or not."""
    pushed(local_hub, tmp_path)
    use(monkeypatch, local_hub, tmp_path / "other")
    assert bound() == 1.0
    (file,) = (tmp_path / "other").rglob("snapshots/*/profiles/*/*.json")
    text = file.read_text()
    file.unlink()
    file.write_text(text.replace("faster", "fastes"))
    for offline in (False, True):
        use(monkeypatch, local_hub, tmp_path / "other", offline=offline)
        refused(r"the file is not whole or was changed; delete it from the cache")


def test_a_branch_that_moves_between(local_hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """List and profile are of one commit, also where the branch moves after the list was read."""
    pushed(local_hub, tmp_path)
    use(monkeypatch, local_hub, tmp_path / "other")
    shelf = open_shelf(PLACE)
    local_hub.push_data(REPO, {LIST: b'{"format": 1, "profiles": []}'})
    (entry,) = shelf.collection.profiles
    assert fetch(shelf, entry).model.name == "toy"


# The network


@pytest.mark.parametrize("file", [LIST, ".json"])
@pytest.mark.parametrize("kind", KINDS)
def test_faults(local_hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, file: str) -> None:
    """Whatever breaks wherever is one warning; offline nothing of it is used afterwards; online it is made good."""
    fault, message = KINDS[kind]
    pushed(local_hub, tmp_path)
    use(monkeypatch, local_hub, tmp_path / "other")
    local_hub.fault = lambda handler, asked: (
        asked.endswith(file) and (file == LIST or LIST not in asked) and fault(handler, asked)
    )
    refused(rf"{REPO}: .*{message}")
    use(monkeypatch, local_hub, tmp_path / "other", offline=True)
    refused(r"offline, and the cache does not have it")
    use(monkeypatch, local_hub, tmp_path / "other")
    local_hub.fault = None
    assert bound() == 1.0


def test_nobody_listens(local_hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody listens, or there is no such repo, it is said, to who pushes as well."""
    refused(r"the Hub has no such collection of profiles, or it is private")
    file, found = made(tmp_path)
    local_hub.push_data(REPO, {"README.md": b"none"})
    refused(r"the repo is no collection of profiles .*; expected what 'twinkle-tune push' writes")
    faults.refused(local_hub)
    refused(r"did not answer, or not to the end \(ConnectError")
    with pytest.raises(SourceError, match=r"friends/profiles: pushing profile.json: the Hub .* did not answer"):
        push(file, found, PLACE)
    use(monkeypatch, local_hub, tmp_path / "other", offline=True)
    with pytest.raises(SourceError, match=r"HF_HUB_OFFLINE is set, and pushing needs the Hub"):
        push(file, found, PLACE)


def test_two_push_at_once(local_hub: LocalHub, tmp_path: Path) -> None:
    """Who pushes onto a collection that somebody else has added to meanwhile is told so, and nothing is lost."""
    first = pushed(local_hub, tmp_path)
    file, found = made(tmp_path, environment=_elsewhere(torch="2.12.0"))

    def meanwhile(handler: Any, path: str) -> bool:
        if path.endswith("/commit/main"):
            local_hub.fault = None
            local_hub.push_data(REPO, {**local_hub.datasets[REPO].commits[first], "README.md": b"theirs"})
        return False

    local_hub.fault = meanwhile
    with pytest.raises(SourceError, match=r"pushing profile.json: the Hub answered with HTTP status 412"):
        push(file, found, PLACE)
    push(file, found, PLACE)
    there = local_hub.datasets[REPO].commits[local_hub.datasets[REPO].branches["main"]]
    assert there["README.md"] == b"theirs"
    assert len(open_shelf(PLACE).collection.profiles) == 2


@pytest.mark.parametrize("name", ["hub:", "hub:owner", "hub:a/b/c", "hub:../b", "hub:a/b@", "hub:a/b@../c"])
def test_a_name_that_is_none(name: str) -> None:
    """What is no name of a collection is refused, with the form of one."""
    with pytest.raises(ProfileError, match=rf"got '{re.escape(name)}', expected 'hub:owner/name' or"):
        kernelize_model(Model(), profile=name)
