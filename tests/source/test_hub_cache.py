"""The cache: what a load leaves there serves offline, and what is not as it was fetched is not used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.hub.client import use
from tests.hub.marks import torch_for_the_cpu
from tests.hub.repos import ACTIVATION, build, scaled
from tests.hub.server import LocalHub
from tests.source.repos import FUNCTION_SLOT, identity
from twinkle_tune.errors import SourceError
from twinkle_tune.source.hub import HubSource

REPO = "kernels-community/activation"


def source(name: str = "scaled", **pin: Any) -> HubSource:
    """A source of the repo."""
    return HubSource(repo_id=REPO, name=name, **pin)


def build_folder(cache: Path, commit: str) -> Path:
    """Where a build lies."""
    (folder,) = cache.glob(f"*/snapshots/{commit}/build/torch-universal")
    return folder


@torch_for_the_cpu
def test_names_serve_offline(local_hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each name that was resolved online means the same commit offline; one that was not is an error that says so."""
    files = scaled(2) | {f"build/torch-cuda/{name}": b"" for name in ("__init__.py", "metadata.json")}
    commit = local_hub.push(REPO, files, branches=("main", "v1", "a/b"), tags=("v0.0.5",))
    names: list[dict[str, Any]] = [{"revision": "main"}, {"revision": "a/b"}, {"version": 1}, {"version": "<0.1"}]
    digests = {source(**pin).digest(FUNCTION_SLOT, identity) for pin in names}
    use(monkeypatch, local_hub, tmp_path / "cache", offline=True)
    asked = len(local_hub.asked)
    assert {source(**pin).commit() for pin in [*names, {"revision": commit}]} == {commit}
    assert {source(**pin).digest(FUNCTION_SLOT, identity) for pin in names} == digests
    assert source(version="0.0.5").load(FUNCTION_SLOT, identity).call(3) == 6
    assert len(local_hub.asked) == asked
    for pin, message in (
        ({"revision": "other"}, r"offline, and the cache \(.*\) does not know the revision 'other'; load it once"),
        ({"revision": "0" * 40}, r"offline, and the cache \(.*\) does not have commit 0000"),
        ({"version": 2}, r"no version fits '2'; the cache has \(and nothing else can be had offline\) v0.0.5, v1"),
    ):
        with pytest.raises(SourceError, match=message):
            source(**pin).commit()


def test_the_client_s_own_cache_serves(local_hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of plain files that another tool filled (refs, snapshots, no blobs, no list of files) serves offline."""
    local_hub.push(REPO, build(ACTIVATION), branches=("v1",))
    commit, folder = "0123456789" * 4, tmp_path / "plain" / "kernels--kernels-community--activation"
    for path, content in scaled(4).items():
        file = folder / "snapshots" / commit / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    (folder / "refs").mkdir()
    (folder / "refs" / "v1").write_text(commit + "\n")
    use(monkeypatch, local_hub, tmp_path / "plain", offline=True)
    assert source(version=1).load(FUNCTION_SLOT, identity).call(1) == 4


def test_cache_behind_a_link(local_hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that is a link is one cache: what the kernels client has loaded from it is not loaded twice."""
    from kernels import get_kernel

    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    use(monkeypatch, local_hub, tmp_path / "link")
    commit = local_hub.push(REPO, scaled(2))
    theirs = get_kernel(REPO, revision=commit)
    assert source(revision="main").load(FUNCTION_SLOT, identity).call is theirs.scaled


def test_metadata_that_goes_away(local_hub: LocalHub, tmp_path: Path) -> None:
    """A build whose metadata vanishes after it was looked up is one error."""
    found = source(revision=local_hub.push(REPO, scaled(2)))
    (build_folder(tmp_path / "cache", found.commit()) / "metadata.json").unlink()
    with pytest.raises(SourceError, match=r"torch-universal cannot be read \(.*; fetch it again"):
        found.load(FUNCTION_SLOT, identity)


@pytest.mark.parametrize("damage", ["gone", "cut short"])
@pytest.mark.parametrize("name", ["__init__.py", "layers.py", "metadata.json"])
def test_files_that_are_not_whole(
    local_hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str, name: str
) -> None:
    """A build that lacks a file, or the end of one, is refused offline; online it is fetched again where it is gone."""
    commit = local_hub.push(REPO, scaled(2))
    source(revision=commit).digest(FUNCTION_SLOT, identity)
    file = build_folder(tmp_path / "cache", commit) / name
    if damage == "gone":
        file.unlink()
    else:
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2])
    use(monkeypatch, local_hub, tmp_path / "cache", offline=True)
    with pytest.raises(SourceError, match=rf"{REPO}: .*(is not whole|metadata.json cannot be read|no build of)"):
        source(revision=commit).load(FUNCTION_SLOT, identity)
    use(monkeypatch, local_hub, tmp_path / "cache")
    if damage == "gone":
        assert source(revision=commit).load(FUNCTION_SLOT, identity).call(1) == 2
    else:
        with pytest.raises(SourceError, match=rf"{REPO}.* (is not as long as|cannot be had).*; (delete|check)"):
            source(revision=commit).load(FUNCTION_SLOT, identity)


def test_digest_in_the_metadata(local_hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a publisher describes the files of a build by digests, files that differ are refused before an import."""
    from kernels._rust import Digest, DigestAlgorithm

    plain = tmp_path / "plain"
    plain.mkdir()
    for name, text in ACTIVATION.items():
        (plain / name).write_text(text)
    described = Digest.hash_variant(DigestAlgorithm.SHA256, plain).files
    for branch, files in (("good", ACTIVATION), ("bad", ACTIVATION | {"__init__.py": "raise SystemExit('it ran')"})):
        local_hub.push(REPO, build(files, digest={"algorithm": "sha256", "files": described}), branches=(branch,))
    assert source("relu", revision="good").load(FUNCTION_SLOT, identity)
    with pytest.raises(SourceError, match=r"torch-universal is refused: .*delete that folder to fetch it again"):
        source("relu", revision="bad").load(FUNCTION_SLOT, identity)


def test_cache_that_cannot_be_written(local_hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that another filled and nobody may write loads; a lock file in it, or none, does no harm."""
    commit = local_hub.push(REPO, scaled(2))
    source(revision=commit).commit()
    (refs,) = [folder / "refs" for folder in (tmp_path / "cache").glob("kernels--*")]
    shutil.rmtree(refs, ignore_errors=True)
    refs.write_text(json.dumps("not a folder"))
    assert source(revision="main").load(FUNCTION_SLOT, identity).call(1) == 2
