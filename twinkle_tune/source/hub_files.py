"""The files of a kernel repo at a commit: found in the cache or fetched whole, and checked before they are imported."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from twinkle_tune.errors import SourceError, in_a_line
from twinkle_tune.source.hub_client import asking, is_offline, repo_folder

SIGNATURE_VARIABLE = "TWINKLE_REQUIRE_SIGNATURE"
"""Environment variable: YES refuses builds without a signature that the ``kernels`` package accepts. Default NO."""

_REPO = "kernel"  # the Hub's name for this kind of repo


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """One build variant of a kernel repo on this machine's disk, checked.

    Attributes:
        folder: of the variant: ``.../build/torch-universal``.
        commit: that it is of; "" for a folder that LOCAL_KERNELS names.
    """

    folder: Path
    commit: str


def cache_folder() -> Path:
    """Where the client keeps kernels: KERNELS_CACHE, else the Hub's cache, as set when it was imported."""
    from huggingface_hub import constants
    from kernels.hf_hub import CACHE_DIR

    return Path(CACHE_DIR or constants.HF_HUB_CACHE).expanduser()


def local_build(repo_id: str) -> Build | None:
    """The build of the folder that LOCAL_KERNELS ("id=path:id=path") names for a repo; None if it names none.

    Raises:
        SourceError: LOCAL_KERNELS is of another form, or no build of the folder fits this machine.
    """
    text = os.environ.get("LOCAL_KERNELS", "")
    entries = [entry.partition("=") for entry in text.split(":") if entry]
    if any(not (name and path) for name, _, path in entries):
        raise SourceError(f"LOCAL_KERNELS: got {text!r:.200}, expected 'organisation/name=/path', several with ':'")
    for name, _, path in entries:
        if name == repo_id:
            folder, metadata = _fitting(repo_id, Path(path).expanduser(), f"{path} (LOCAL_KERNELS)")
            _check(repo_id, folder, metadata)
            return Build(folder=folder, commit="")
    return None


def build_at(repo_id: str, commit: str, cache: Path) -> Build:
    """The build for this machine of a repo at a commit: the cache's if it is whole there, else the Hub's.

    The caller has decided that the repo's code may run. Nothing of it is imported here.

    Raises:
        SourceError: it cannot be had, none of the builds fits this machine, or what was fetched is not what its
            publisher described.
    """
    folder, metadata = _cached(repo_id, commit, cache) or _fetched(repo_id, commit, cache)
    _check(repo_id, folder, metadata)
    return Build(folder=folder, commit=commit)


def import_build(repo_id: str, build: Build) -> ModuleType:
    """Import a build through the ``kernels`` client, from the files that were checked.

    Raises:
        SourceError: it raises when it is imported, or this process holds another build of the same id.
    """
    from kernels import Metadata, get_local_kernel

    ident = Metadata.read_from_file(build.folder / "metadata.json").id
    there = sys.modules.get(ident)
    if there is not None and build.folder not in Path(str(there.__file__)).parents:
        # Its own modules would be those of the other build, without a word.
        raise SourceError(
            f"{repo_id}: this process has loaded another build of the same id ({ident}, {there.__file__}); "
            "load the two in separate processes"
        )
    # Foreign code: it may raise anything.
    try:
        module: ModuleType = get_local_kernel(build.folder)
    except Exception as error:
        for name in [name for name in sys.modules if name.startswith(f"{ident}.")]:
            del sys.modules[name]
        raise SourceError(
            f"{repo_id}: importing {build.folder} raised {in_a_line(error, 400)}; ask its publisher, or take another "
            "version"
        ) from error
    return module


def _cached(repo_id: str, commit: str, cache: Path) -> tuple[Path, Any] | None:
    """Folder and metadata of the build in the cache; None where it must be fetched."""
    snapshot = repo_folder(repo_id, cache) / "snapshots" / commit
    advice = "load it once with a network"
    if not snapshot.is_dir():
        if is_offline():
            raise SourceError(f"{repo_id}: offline, and the cache ({cache}) does not have commit {commit}; {advice}")
        return None
    try:
        folder, metadata = _fitting(repo_id, snapshot, f"commit {commit} in the cache")
        sizes = _known_sizes(repo_id, commit, cache)
        missing = _missing(folder, metadata, sizes or {})
    except SourceError:
        if is_offline():
            raise
        return None
    if missing and is_offline():
        raise SourceError(f"{repo_id}: offline, and {folder} is not whole: it lacks {missing[0]}; {advice}")
    if sizes is None and not is_offline():
        return None  # nobody has written down what belongs to it
    return None if missing else (folder, metadata)


def _missing(folder: Path, metadata: Any, sizes: Mapping[str, int]) -> list[str]:
    """Files of a build that are not there, or not as long as the repo's list of files says."""
    names = ("__init__.py", f"{metadata.name.python_name}/__init__.py")
    if not any((folder / name).is_file() for name in names):
        return [f"build/{folder.name}/{names[0]}"]
    snapshot, build = folder.parents[1], f"build/{folder.name}/"
    return [
        path
        for path, size in sizes.items()
        if path.startswith(build)
        and not (path.endswith(".pyc") or "__pycache__/" in path)  # never fetched
        and not ((snapshot / path).is_file() and (snapshot / path).stat().st_size == size)
    ]


def _write_sizes(repo_id: str, commit: str, cache: Path, sizes: Mapping[str, int]) -> None:
    """Leave the length of each file of a commit in the cache, before any of them is fetched."""
    file = _sizes_file(repo_id, commit, cache)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        new = file.with_name(f"{file.name}.{os.getpid()}")
        new.write_text(json.dumps(sizes), encoding="utf-8")
        new.replace(file)
    except OSError as error:
        raise SourceError(f"{repo_id}: {file} cannot be written ({error}); check the cache and its disk") from error


def _known_sizes(repo_id: str, commit: str, cache: Path) -> dict[str, int] | None:
    """The length of each file of a commit, as an earlier load or the client itself left it; None where nobody did."""
    try:
        return {str(k): int(v) for k, v in json.loads(_sizes_file(repo_id, commit, cache).read_text("utf-8")).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        pass
    try:
        from huggingface_hub import get_cached_repo_tree

        return _sizes(get_cached_repo_tree(repo_id, repo_type=_REPO, revision=commit, cache_dir=cache))
    except Exception:  # an older client, or a cache that another tool has filled
        return None


def _sizes_file(repo_id: str, commit: str, cache: Path) -> Path:
    return repo_folder(repo_id, cache) / "twinkle_tune" / f"{commit}.json"


def _sizes(tree: Iterable[Any]) -> dict[str, int]:
    return {entry.path: entry.size for entry in tree if hasattr(entry, "size")}


def _fetched(repo_id: str, commit: str, cache: Path) -> tuple[Path, Any]:
    from kernels.resolver import resolve_hub_kernel

    with asking(f"{repo_id} at commit {commit}") as api:
        try:
            remote = resolve_hub_kernel(repo_id, api=api, backend=None, revision=commit)
        except FileNotFoundError as error:
            if type(error) is not FileNotFoundError:
                raise  # of the Hub, not of the builds
            raise _no_build(repo_id, f"commit {commit}", error) from error
        # The client takes a Hub that does not tell the list of files for one that has sent them all.
        sizes = _sizes(api.list_repo_tree(repo_id, recursive=True, revision=commit, repo_type=_REPO))
        _write_sizes(repo_id, commit, cache, sizes)
        folder: Path = remote.install(api=api).variant_path
    missing = _missing(folder, remote.metadata, sizes)
    if missing:
        raise SourceError(
            f"{repo_id} at commit {commit}: {missing[0]} is not as long as the Hub says; delete {folder} and try again"
        )
    return folder, remote.metadata


def _fitting(repo_id: str, root: Path, what: str) -> tuple[Path, Any]:
    from kernels.resolver import resolve_local_kernel

    try:
        found = resolve_local_kernel(root, backend=None)
    except FileNotFoundError as error:
        raise _no_build(repo_id, what, error) from error
    except (ValueError, OSError) as error:
        raise SourceError(
            f"{repo_id}: {what}: metadata.json cannot be read ({in_a_line(error)}); fetch it again"
        ) from error
    return found.variant_path, found.metadata


def _no_build(repo_id: str, what: str, error: FileNotFoundError) -> SourceError:
    import torch

    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    there = "; ".join(lines[1:]) or "there is none"
    runtime = f"CUDA {torch.version.cuda}" if torch.version.cuda else torch.version.hip or "no GPU runtime"
    return SourceError(
        f"{repo_id}: no build of {what} fits this machine (torch {torch.__version__}, {runtime}, "
        f"{platform.system().lower()} {platform.machine()}). Its builds: {there}. Take a version that has one"
    )


def _check(repo_id: str, folder: Path, metadata: Any) -> None:
    """What can be told of a build without running it.

    Raises:
        SourceError: it wants other kernel repos, is for another device, or its files are not those described.
    """
    from kernels.validate import ArchValidator

    depends = [dependency.repo_id for dependency in metadata.kernel_depends]
    if depends:
        # They would be loaded at whatever commit their versions mean by then.
        raise SourceError(
            f"{repo_id}: it loads other kernel repos ({', '.join(depends)}), which cannot be pinned; ask its "
            "publisher for a build without them"
        )
    try:
        ArchValidator().validate_metadata(metadata=metadata, variant=folder.name)
        if metadata.digest is not None:
            metadata.digest.validate(type(metadata.digest).hash_variant(metadata.digest.algorithm, folder))
    except Exception as error:
        raise SourceError(
            f"{repo_id}: {folder} is refused: {in_a_line(error, 400)}; delete that folder to fetch it again, or take "
            "another version"
        ) from error
    if os.environ.get(SIGNATURE_VARIABLE, "NO").strip().upper() in ("YES", "TRUE", "1", "ON"):
        _check_signature(repo_id, folder)


def _check_signature(repo_id: str, folder: Path) -> None:
    # Asks sigstore for the keys that are trusted now, which needs a network and may fail in many ways.
    try:
        from kernels.verify import VerificationResult, verify_variant

        result = verify_variant(folder)
        verified = isinstance(result, VerificationResult.Success)
        told = f"{type(result).__name__} {getattr(result, 'reason', '')}".strip()
    except Exception as error:
        verified, told = False, in_a_line(error, 200)
    if not verified:
        raise SourceError(
            f"{repo_id}: {SIGNATURE_VARIABLE} is set and the signature of {folder} was not verified ({told}); take a "
            "signed version, or unset the variable"
        )
