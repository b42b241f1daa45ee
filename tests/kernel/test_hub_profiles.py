"""Profiles whose winners come from the Hub: the commit that was measured is what runs, or the original."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hub.client import use
from tests.hub.repos import build, marked
from tests.hub.server import LocalHub
from tests.kernel.toys import Model, Norm, added, layer_contest, profile
from twinkle_tune.errors import ProfileError, StaleProfileError
from twinkle_tune.kernel import (
    Registry,
    kernelize_model,
    kernelize_report,
    register_external_layer,
    register_layer_kernel,
    restore_model,
)
from twinkle_tune.profile.io import load_profile
from twinkle_tune.profile.schema import Profile

REPO = "friends/norm"
NARROW = ("layers.0.narrow", "layers.1.narrow")
LAYERS = """
import torch
from torch import nn


class Norm(nn.Module):
    def forward(self, x):
        normed = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)
        return normed * self.weight + ADDED
"""


def adding(number: int, mark: Path | None = None) -> dict[str, bytes]:
    """A repo whose norm adds a number, and shows it when it is imported."""
    files = {"__init__.py": "from . import layers\n", "layers.py": LAYERS.replace("ADDED", str(number))}
    return build(files if mark is None else marked(files, str(mark)))


def registry() -> Registry:
    """The repo's norm at its main branch, registered for the model's norms."""
    made = Registry()
    register_external_layer(Norm, "Norm", registry=made)
    register_layer_kernel("Norm", repo_id=REPO, revision="main", device="cpu", registry=made)
    return made


@pytest.fixture
def made(local_hub: LocalHub, tmp_path: Path) -> Profile:
    """A profile, read from its file, in which the Hub's norm (which adds one) won."""
    local_hub.trusted.add("friends")
    local_hub.push(REPO, adding(1, tmp_path / "mark"))
    contest = layer_contest(Model(), NARROW, 4, f"hub:{REPO}:Norm@main", registry())
    return load_profile(profile([contest]).save(tmp_path / "profile.json"))


def commit_in(made: Profile) -> str:
    """The commit that a profile pins."""
    return made.contests[0].trial(f"hub:{REPO}:Norm@main").commit


def folder(cache: Path, commit: str) -> Path:
    """Where a build lies in a cache."""
    (found,) = cache.glob(f"*/snapshots/{commit}/build/torch-universal")
    return found


def applied(made: Profile) -> float:
    """What the model's norms add with the profile; every one must be as planned."""
    model = Model()
    kernelize_model(model, profile=made, registry=registry(), use_fallback=False)
    assert [binding.path for binding in kernelize_report(model).bound] == list(NARROW)
    shown = added(model.layers[0].narrow, 4)
    restore_model(model)
    assert added(model.layers[0].narrow, 4) == 0.0
    return shown


def refused(made: Profile, message: str) -> None:
    """The profile does not hold: the original and one warning, or without fallback an error."""
    model = Model()
    with pytest.warns(UserWarning, match=message) as caught:
        kernelize_model(model, profile=made, registry=registry())
    assert len(caught) == 1
    assert added(model.layers[0].narrow, 4) == 0.0
    assert not kernelize_report(model).bound
    with pytest.raises(StaleProfileError, match=message):
        kernelize_model(model, profile=made, registry=registry(), use_fallback=False)
    assert added(model.layers[0].narrow, 4) == 0.0


def test_profile_pins_the_commit(local_hub: LocalHub, made: Profile) -> None:
    """The profile holds the commit of the Hub's trial, and none of the original's."""
    assert commit_in(made) == local_hub.repos[REPO].branches["main"]
    assert made.contests[0].trial("original").commit == ""
    assert applied(made) == 1.0


@pytest.mark.parametrize("where", ["cached", "on the Hub", "offline"])
def test_branch_that_moved(
    local_hub: LocalHub, made: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """After the branch moved, the commit that was measured is loaded: from the cache, also offline, or from the Hub."""
    local_hub.push(REPO, adding(2))
    cache = tmp_path / ("new" if where == "on the Hub" else "cache")
    use(monkeypatch, local_hub, cache, offline=where == "offline", trusted="friends" if where == "offline" else "")
    assert applied(made) == 1.0
    assert folder(cache, commit_in(made)).is_dir()


def test_commit_that_is_gone(
    local_hub: LocalHub, made: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the commit is neither in the cache nor on the Hub any more, the original stays, and it is said."""
    del local_hub.repos[REPO].commits[commit_in(made)]
    local_hub.push(REPO, adding(2))
    use(monkeypatch, local_hub, tmp_path / "new")
    refused(made, rf"{REPO} at commit {commit_in(made)}: the repo has no such revision")
    assert not (tmp_path / "new").exists() or not list((tmp_path / "new").glob("*/snapshots/*"))


def _append(build_folder: Path) -> None:
    file = build_folder / "layers.py"
    file.write_text(file.read_text() + "\n")


def _same_length(build_folder: Path) -> None:
    file = build_folder / "layers.py"
    file.write_text(file.read_text().replace("self.weight + 1", "self.weight + 3"))


def _add(build_folder: Path) -> None:
    (build_folder / "more.py").write_text("")


CHANGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "another length": (_append, r"is not as long as the Hub says; delete"),
    "the same length": (_same_length, r"the code of 'hub:friends/norm:Norm@main' changed \(\w{16} then, \w{16} now\)"),
    "one more file": (_add, r"the code of 'hub:friends/norm:Norm@main' changed"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_changed_file_in_the_cache(
    local_hub: LocalHub, made: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    """A file that was changed in the cache is noticed, in the process that had loaded it and in the next one."""
    assert applied(made) == 1.0
    change, message = CHANGES[case]
    change(folder(tmp_path / "cache", commit_in(made)))
    if case != "another length":  # what is wrong with its length is told when it is looked up
        refused(made, message)
    (tmp_path / "mark").unlink()
    use(monkeypatch, local_hub, tmp_path / "cache")
    refused(made, message)
    assert not (tmp_path / "mark").exists()


def test_publisher_that_is_not_trusted_any_more(
    local_hub: LocalHub, made: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A profile trusts nobody: what the cache holds of an untrusted publisher is not imported because it won once."""
    assert not (tmp_path / "mark").exists()  # making it read the files alone
    local_hub.trusted.clear()
    use(monkeypatch, local_hub, tmp_path / "cache")
    refused(made, r"refused before any of its code was fetched or imported: the Hub does not list 'friends'")
    use(monkeypatch, local_hub, tmp_path / "cache", offline=True)
    refused(made, r"offline nobody can be asked whether 'friends' is a trusted publisher")
    assert not (tmp_path / "mark").exists()


def test_hub_that_is_gone(local_hub: LocalHub, made: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where neither cache nor Hub has it, the original stays and the reason is the network's."""
    local_hub.stop()
    use(monkeypatch, local_hub, tmp_path / "new", trusted="friends")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    refused(made, r"did not answer, or not to the end \(ConnectError")


def test_commit_that_is_none(tmp_path: Path, made: Profile) -> None:
    """A profile whose commit is no commit is refused when it is read."""
    file = tmp_path / "profile.json"
    file.write_text(file.read_text().replace(commit_in(made), "refs/pr/1"))
    with pytest.raises(ProfileError, match=r"got the commit 'refs/pr/1', expected 40 hexadecimal digits"):
        load_profile(file)
