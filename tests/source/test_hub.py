"""Code from the Hub, through the real client and a Hub on loopback."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.hub.client import use
from tests.hub.marks import torch_for_the_cpu
from tests.hub.repos import ACTIVATION, build, scaled
from tests.hub.server import LocalHub
from tests.source.repos import FUNCTION_SLOT, LAYER_SLOT, Identity, identity, write_kernel_repo
from twinkle_tune.errors import RegistrationError, SourceError
from twinkle_tune.source.hub import HubSource, commit_of, forget_builds, pinned, source_of_repository
from twinkle_tune.source.hub_trust import PUBLISHERS_VARIABLE

REPO = "kernels-community/activation"
FAULTY = {"__init__.py": "from . import layers\n1 / 0\n", "layers.py": ""}


def source(name: str = "scaled", repo_id: str = REPO, **pin: Any) -> HubSource:
    """A source of the repo."""
    return HubSource(repo_id=repo_id, name=name, **pin)


def factor_of(found: HubSource) -> int:
    """By what the function that a source loads multiplies."""
    return int(found.load(FUNCTION_SLOT, identity).call(1))


def test_layers_and_functions_of_one_repo(local_hub: LocalHub) -> None:
    """Several layers and functions of one repo load, and it is fetched once."""
    commit = local_hub.push(REPO, build(ACTIVATION))
    x = torch.randn(2, 8)
    layers = [source(name, revision="main") for name in ("SiluAndMul", "RMSNorm")]
    silu, norm = (layer.load(LAYER_SLOT, Identity.forward).call for layer in layers)
    assert torch.equal(silu(Identity(), x), nn.functional.silu(x[:, :4]) * x[:, 4:])
    assert norm is not silu
    relu = source("relu", revision="main").load(FUNCTION_SLOT, identity).call
    assert torch.equal(relu(x), torch.relu(x))
    assert {layer.commit() for layer in layers} == {commit}
    assert len([asked for asked in local_hub.asked if asked.startswith("GET") and asked.endswith("layers.py")]) == 1


VERSIONS: dict[str, tuple[dict[str, Any], int]] = {
    "a branch": ({"revision": "main"}, 9),
    "a tag": ({"revision": "v0.0.3"}, 3),
    "a whole number": ({"version": 1}, 10),
    "a whole number in quotes": ({"version": "1"}, 10),
    "a dotted version": ({"version": "0.0.5"}, 5),
    "the dots of a branch": ({"version": "1.0.0"}, 10),
    "a range": ({"version": ">=0.0.3,<0.1"}, 5),
    "a range whose end is in it": ({"version": "<=0.1"}, 7),
    "a compatible version": ({"version": "~=0.0.3"}, 5),
    "a range up to branches": ({"version": ">=0.0.3"}, 10),
    "a range that names a release candidate": ({"version": "==0.2rc1"}, 8),
}


@pytest.mark.parametrize("case", VERSIONS)
def test_versions(local_hub: LocalHub, case: str) -> None:
    """Branches, tags, whole numbers, dotted versions and ranges each load the commit that they mean."""
    for tag, factor in {"v0.0.3": 3, "v0.0.5": 5, "v0.1.0": 7, "v0.2rc1": 8, "other": 6}.items():
        local_hub.push(REPO, scaled(factor), branches=(), tags=(tag,))
    local_hub.push(REPO, scaled(9))
    local_hub.push(REPO, scaled(10), branches=("v1",))
    pin, factor = VERSIONS[case]
    assert factor_of(source(**pin)) == factor
    commit = source(**pin).commit()
    assert factor_of(source(revision=commit)) == factor


def test_tag_before_branch(local_hub: LocalHub) -> None:
    """Of a tag and a branch of the same version a dotted version is the tag, a whole number the branch."""
    local_hub.push(REPO, scaled(2), branches=("v1",))
    local_hub.push(REPO, scaled(3), branches=(), tags=("v1",))
    assert [factor_of(source(version=version)) for version in ("1.0", 1)] == [3, 2]


@pytest.mark.parametrize("version", [7, "0.9", ">=2,<3"])
def test_version_that_is_not_there(local_hub: LocalHub, version: int | str) -> None:
    """A version that nothing fits is an error that lists what there is."""
    local_hub.push(REPO, scaled(2), branches=("main", "v1"), tags=("v0.0.3",))
    with pytest.raises(SourceError, match=rf"no version fits '{version}'; the repo has v0.0.3, v1; register one"):
        source(version=version).commit()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"revision": "main", "version": 1}, r"got both revision='main' and version=1, expected one of them"),
        ({"version": "newest"}, r"version: got 'newest', expected a whole number \(1\), a version .* give revision="),
        ({"version": ""}, r"version: got '', expected a version or a range"),
        ({"repo_id": "activation"}, r"repo_id: got 'activation', expected 'organisation/name'"),
        ({"repo_id": "../../x/y"}, r"repo_id: got .*, expected 'organisation/name'"),
    ],
)
def test_arguments_that_say_nothing(arguments: dict[str, Any], message: str) -> None:
    """What no Hub can resolve is refused at once."""
    with pytest.raises(RegistrationError, match=message):
        source(**arguments)


def test_neither_revision_nor_version(local_hub: LocalHub) -> None:
    """Without a pin nothing is asked of the Hub, and the error says what to give."""
    with pytest.raises(
        SourceError, match=r"got neither revision nor version.*revision='main' or version=1, or lock it"
    ):
        source().commit()
    assert not local_hub.asked


def test_a_name_is_resolved_once(local_hub: LocalHub) -> None:
    """A branch that moves while a process runs does not change what the process runs; a new process follows it."""
    first = local_hub.push(REPO, scaled(2))
    found = source(revision="main")
    assert factor_of(found) == 2
    second = local_hub.push(REPO, scaled(3))
    assert (factor_of(found), found.commit()) == (2, first)
    forget_builds()
    assert (factor_of(found), found.commit()) == (3, second)
    assert factor_of(found.at(first)) == 2


def test_digest_is_of_the_files(local_hub: LocalHub, tmp_path: Path) -> None:
    """The digest is that of the build's files and the name, whatever they were asked for by; a changed file shows."""
    commit = local_hub.push(REPO, scaled(2), branches=("main", "v1"))
    local_hub.push(REPO, {**scaled(2), "README.md": b"Another commit, the same build."}, branches=("next",))
    digests = [source(**pin).digest(FUNCTION_SLOT, identity) for pin in ({"revision": "main"}, {"revision": "next"})]
    assert digests[0] == digests[1] == source(version=1).digest(FUNCTION_SLOT, identity)
    assert source("Scaled", revision="main").digest(LAYER_SLOT, identity) != digests[0]
    (file,) = tmp_path.glob(f"cache/*/snapshots/{commit}/build/*/layers.py")
    file.write_text(file.read_text() + "\n# changed\n")
    assert source(revision="main").digest(FUNCTION_SLOT, identity) not in digests


def test_lock_file(local_hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """kernels.lock pins what it speaks of: a version or revision that it locks, and a repo given without either."""
    locked = local_hub.push(REPO, scaled(2), branches=("main", "v1"))
    newer = local_hub.push(REPO, scaled(3), branches=("main", "v1", "v2"))
    dependency = {"repo-id": REPO, "version": 1}
    (tmp_path / "kernels.lock").write_text(json.dumps([{"dependency": dependency, "lock": {"commit": locked}}]))
    monkeypatch.chdir(tmp_path)
    assert [source(**pin).commit() for pin in ({"version": 1}, {"version": "1"}, {})] == [locked] * 3
    assert [source(**pin).commit() for pin in ({"version": 2}, {"revision": "main"})] == [newer] * 2
    (tmp_path / "kernels.lock").write_text('[{"dependency": {}}]')
    forget_builds()
    with pytest.raises(
        SourceError, match=r"kernels.lock: cannot be read as a lock file \(KeyError.*'kernels lock', or"
    ):
        source(version=1).commit()


def test_local_kernels(local_hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LOCAL_KERNELS puts a folder in a repo's place: nothing is asked, and the digest is that of the folder."""
    root = write_kernel_repo(tmp_path / "mine", "_hub_kernel_local")
    monkeypatch.setenv("LOCAL_KERNELS", f"other/repo=/nowhere:stranger/repo={root}")
    found = source("doubled", "stranger/repo", revision="main")
    assert found.load(FUNCTION_SLOT, identity).call(2) == 4
    assert (found.commit(), local_hub.asked) == ("", [])
    before = found.digest(FUNCTION_SLOT, identity)
    (root / "build" / "torch-universal" / "counter.py").write_text("calls: list = [1]\n")
    assert found.digest(FUNCTION_SLOT, identity) != before
    for value, message in (
        ("stranger/repo", "expected 'organisation/name=/path'"),
        ("a/b=/nowhere", "no build of /no"),
    ):
        monkeypatch.setenv("LOCAL_KERNELS", value)
        with pytest.raises(SourceError, match=message):
            source(repo_id="a/b", revision="main").commit()


@torch_for_the_cpu
def test_no_build_fits(local_hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repo without a build for this machine: the error lists its builds, why none fits, and what this machine is."""
    commit = local_hub.push(REPO, build(ACTIVATION, ("torch-cuda", "torch27-cxx11-cu126-aarch64-linux")))
    message = (
        rf"no build of commit {commit} fits this machine \(torch {torch.__version__[:4]}.*linux.*\). Its builds: .*"
        r"torch-cuda: backend \(cuda\) does not match system backend.*Take a version"
    )
    if torch.cuda.is_available():
        pytest.skip("is about a machine without CUDA; this one has it")
    with pytest.raises(SourceError, match=message) as told:
        source(revision="main").commit()
    assert "torch27-cxx11-cu126-aarch64-linux: CPU (aarch64)" in str(told.value)
    local_hub.push(REPO, {"README.md": b"no kernels"}, branches=("empty",))
    with pytest.raises(SourceError, match=r"the repo is no kernel repo .*; expected build/<variant>/"):
        source(revision="empty").commit()


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"kernel_depends": [{"repo-id": "x/y", "version": 1}]}, r"loads other kernel repos \(x/y\), which cannot"),
        ({"python_depends": ["nonesuch"]}, r"raised ValueError: .*unsupported kernel dependency: nonesuch"),
        ({"kernels_minver": "99.0.0"}, r"raised RuntimeError: .* requires kernels>=99"),
        ({"name": "Not A Name"}, r"cannot be had from the Hub \(ValueError"),
    ],
)
def test_metadata_that_asks_too_much(local_hub: LocalHub, metadata: dict[str, Any], message: str) -> None:
    """What a build demands and cannot have here is an error before its code runs."""
    files = {**ACTIVATION, "__init__.py": "raise SystemExit('its code ran')"}
    local_hub.push(REPO, build(files, **metadata))
    if "kernel_depends" in metadata:
        local_hub.push("x/y", build(ACTIVATION), branches=("v1",))
        local_hub.trusted.add("x")
    with pytest.raises(SourceError, match=message):
        source(revision="main").load(FUNCTION_SLOT, identity)


def test_import_that_raises(local_hub: LocalHub) -> None:
    """Code that raises when it is imported is one error, and leaves no module behind."""
    local_hub.push(REPO, build(FAULTY))
    before = set(sys.modules)
    with pytest.raises(SourceError, match=r"importing .* raised ZeroDivisionError.*ask its publisher"):
        source(revision="main").load(FUNCTION_SLOT, identity)
    assert not [name for name in set(sys.modules) - before if name.startswith("_hub_kernel_")]


def test_two_builds_of_one_id(local_hub: LocalHub) -> None:
    """A second build under the first's id would run the first's modules: it is refused, the first goes on."""
    local_hub.push(REPO, build(ACTIVATION, id="_hub_kernel_same"), branches=("v1",))
    local_hub.push(REPO, build(FAULTY, id="_hub_kernel_same"), branches=("v2",))
    first = source("relu", version=1).load(FUNCTION_SLOT, identity).call
    with pytest.raises(SourceError, match=r"this process has loaded another build of the same id \(_hub_kernel_same"):
        source("relu", version=2).load(FUNCTION_SLOT, identity)
    assert source("relu", version=1).load(FUNCTION_SLOT, identity).call is first


def test_name_that_is_not_there(local_hub: LocalHub) -> None:
    """A layer that the repo does not have is an error that lists what it offers."""
    local_hub.push(REPO, build(ACTIVATION))
    with pytest.raises(SourceError, match=r"there is no 'Triple'; it offers Linear, RMSNorm, SiluAndMul, Wrong"):
        source("Triple", revision="main").load(LAYER_SLOT, Identity.forward)


def test_without_the_kernels_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the kernels package the error says what to install."""
    monkeypatch.setitem(sys.modules, "kernels", None)
    with pytest.raises(SourceError, match=r"Hub kernels need the kernels package; pip install kernels"):
        source(revision="main").load(FUNCTION_SLOT, identity)
    assert commit_of(source(revision="main")) == ""


def test_repository_objects(tmp_path: Path) -> None:
    """A LayerRepository of the kernels package, or its locked form, is the Hub source that it speaks of."""
    from kernels import FuncRepository, LayerRepository, LocalLayerRepository, LockedLayerRepository

    commit = "0123456789abcdef" * 2 + "01234567"
    lock = tmp_path / "kernels.lock"
    lock.write_text(json.dumps([{"dependency": {"repo-id": REPO, "version": 1}, "lock": {"commit": commit}}]))
    layer = LayerRepository(REPO, layer_name="SiluAndMul", version=1)
    assert source_of_repository(layer) == source("SiluAndMul", version=1)
    trusted = LayerRepository(REPO, layer_name="SiluAndMul", revision="main", trust_remote_code=[REPO])
    assert source_of_repository(trusted) == source("SiluAndMul", revision="main", trusted=True)
    function = FuncRepository(REPO, func_name="relu", revision="main", trust_remote_code=["x/y"])
    assert source_of_repository(function) == source("relu", revision="main")
    locked = LockedLayerRepository(REPO, lockfile=lock, layer_name="SiluAndMul")
    assert source_of_repository(locked) == source("SiluAndMul", revision=commit)
    assert source_of_repository(LocalLayerRepository(tmp_path, layer_name="SiluAndMul")) is None
    assert pinned(source(version=1), commit) == source(revision=commit)
    assert pinned(source(version=1), "main") == source(version=1)


def test_failures_are_not_asked_for_again_and_again(
    local_hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run's many contests ask once for what cannot be had; what changes the answer is heeded at once."""
    local_hub.push("stranger/activation", scaled(2))
    found = source(repo_id="stranger/activation", revision="main")
    for _ in range(3):
        with pytest.raises(SourceError, match="does not list 'stranger'"):
            found.digest(FUNCTION_SLOT, identity)
    assert local_hub.asked.count("GET /api/organizations/stranger/overview") == 1
    monkeypatch.setenv(PUBLISHERS_VARIABLE, "stranger")
    assert factor_of(found) == 2
    use(monkeypatch, local_hub, tmp_path / "other", offline=True)
    with pytest.raises(SourceError, match="offline nobody can be asked"):
        found.commit()
