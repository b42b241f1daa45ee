"""From a branch, tag, version or range of versions to the one commit that it means."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from twinkle_tune.errors import RegistrationError, SourceError
from twinkle_tune.source.hub_client import asking, is_offline, repo_folder

if TYPE_CHECKING:
    from packaging.specifiers import SpecifierSet
    from packaging.version import Version

LOCK_FILE = "kernels.lock"
"""What ``kernels lock`` writes in a project's folder; read from the folder in which the process runs."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_NO_NAME = re.compile(r"(^|/)\.\.?(/|$)|^/|/$|\\|\0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ref:
    """A branch or tag of a repo, and the commit that it points to."""

    name: str
    commit: str
    is_tag: bool = False


def is_commit(text: str) -> bool:
    """Whether it is a whole commit: 40 hexadecimal digits."""
    return _COMMIT.fullmatch(text) is not None


def check_version(repo_id: str, version: int | str) -> None:
    """Refuse what is no version and no range of versions.

    Raises:
        RegistrationError: with what is understood.
    """
    if not str(version).isdecimal():
        specifier_of(repo_id, str(version))


def specifier_of(repo_id: str, version: str) -> SpecifierSet:
    """The versions that a dotted version ("0.1.0") or a specifier (">=0.0.3,<0.1") means.

    Raises:
        RegistrationError: it is neither.
    """
    from packaging.specifiers import InvalidSpecifier, SpecifierSet
    from packaging.version import InvalidVersion
    from packaging.version import Version as parse

    try:
        parse(version)
        version = f"=={version}"
    except InvalidVersion:
        pass
    try:
        found = SpecifierSet(version)
    except InvalidSpecifier as error:
        raise RegistrationError(
            f"{repo_id}: version: got {version!r}, expected a whole number (1), a version ('0.1.0') or a range "
            "('>=0.0.3,<0.1'); for a branch, tag or commit give revision="
        ) from error
    if not len(found):
        raise RegistrationError(f"{repo_id}: version: got '', expected a version or a range; leave it out or give one")
    return found


def resolve(repo_id: str, revision: str | None, version: int | str | None, cache: Path) -> Ref:
    """What a registration's ``revision`` or ``version`` means now; with neither, what the lock file says.

    Online the Hub is asked; offline the names count that earlier loads left in the cache (``refs``).

    Raises:
        SourceError: nothing fits (the message lists what there is), the Hub does not tell, or nothing is given.
    """
    locked = _locked(repo_id, revision, version)
    if locked is not None:
        return Ref(name="", commit=locked)
    if revision is not None:
        return Ref(name="", commit=revision) if is_commit(revision) else _revision(repo_id, revision, cache)
    if version is None:
        raise SourceError(
            f"{repo_id}: got neither revision nor version, expected one of them so that it is known "
            f"which code runs; register it with revision='main' or version=1, or lock it in {LOCK_FILE}"
        )
    return choose(repo_id, str(version), _cached_refs(repo_id, cache) if is_offline() else _refs(repo_id))


def choose(repo_id: str, version: str, refs: Iterable[Ref]) -> Ref:
    """The ref that a version means. Pure.

    A whole number N is the branch ``vN``, as the ``kernels`` client has it. A dotted version or a range means the
    highest of the tags and branches ``v<version>`` that fit; of a tag and a branch of the same version, the tag.

    Raises:
        SourceError: none fits; the message lists those that there are.
    """
    refs = tuple(refs)
    if version.isdecimal():
        found = [ref for ref in refs if ref.name == f"v{int(version)}" and not ref.is_tag]
    else:
        specifier = specifier_of(repo_id, version)
        fitting = [(parsed, ref) for ref in refs if (parsed := _version_of(ref.name)) and parsed in specifier]
        found = [ref for _, ref in sorted(fitting, key=lambda each: (each[0], each[1].is_tag, each[1].name))]
    if not found:
        there = ", ".join(sorted({ref.name for ref in refs if _version_of(ref.name)})) or "none"
        where = "the cache has (and nothing else can be had offline)" if is_offline() else "the repo has"
        raise SourceError(f"{repo_id}: no version fits {version!r}; {where} {there}; register one of them")
    return found[-1]


def remember(repo_id: str, name: str, commit: str, cache: Path) -> None:
    """Write down in the cache, as the Hub's own client does for branches, what a name meant: for use offline."""
    file = repo_folder(repo_id, cache) / "refs" / name
    if not name or _NO_NAME.search(name):
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.is_file() or file.read_text(encoding="utf-8") != commit:
            new = file.with_name(f"{file.name}.twinkle_tune")
            new.write_text(commit, encoding="utf-8")
            new.replace(file)
    except OSError:
        # A cache that cannot be written serves online all the same.
        return


def lock_state() -> str:
    """A text that is another one when the lock file was written since."""
    try:
        found = Path(LOCK_FILE).stat()
    except OSError:
        return ""
    return f"{found.st_mtime_ns} {found.st_size}"


def _revision(repo_id: str, revision: str, cache: Path) -> Ref:
    if not is_offline():
        with asking(f"{repo_id} at {revision!r}") as api:
            from huggingface_hub import constants

            return Ref(
                name=revision,
                commit=_sha(
                    api.kernel_info(repo_id, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT).sha, repo_id
                ),
            )
    for ref in _cached_refs(repo_id, cache):
        if ref.name == revision:
            return ref
    raise SourceError(
        f"{repo_id}: offline, and the cache ({cache}) does not know the revision {revision!r}; load it once with a "
        "network, or give revision=<commit>"
    )


def _refs(repo_id: str) -> tuple[Ref, ...]:
    with asking(f"{repo_id}: its versions") as api:
        refs = api.list_repo_refs(repo_id, repo_type="kernel")
    return tuple(
        Ref(name=each.name, commit=_sha(each.target_commit, repo_id), is_tag=is_tag)
        for is_tag, found in ((False, refs.branches), (True, refs.tags))
        for each in found
    )


def _cached_refs(repo_id: str, cache: Path) -> tuple[Ref, ...]:
    folder = repo_folder(repo_id, cache) / "refs"
    try:
        found = {
            p.relative_to(folder).as_posix(): p.read_text("utf-8").strip() for p in folder.rglob("*") if p.is_file()
        }
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{folder}: cannot be read ({error}); check its permissions, or delete it") from error
    return tuple(Ref(name=name, commit=commit) for name, commit in found.items() if is_commit(commit))


def _locked(repo_id: str, revision: str | None, version: int | str | None) -> str | None:
    """The commit that the lock file has for it; None where it speaks of something else, or there is no file."""
    file = Path(LOCK_FILE)
    if not file.is_file():
        return None
    try:
        for entry in json.loads(file.read_text(encoding="utf-8")):
            wanted, commit = entry["dependency"], entry["lock"]["commit"]
            asked = (revision, None if version is None else str(version))
            there = (wanted.get("revision"), None if wanted.get("version") is None else str(wanted["version"]))
            if wanted["repo-id"] == repo_id and asked in ((None, None), there):
                return _sha(commit, repo_id)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SourceError(
            f"{file.resolve()}: cannot be read as a lock file ({type(error).__name__}: {error}); write it again with "
            "'kernels lock', or delete it"
        ) from error
    return None


def _sha(commit: object, repo_id: str) -> str:
    if not is_commit(str(commit)):
        raise SourceError(
            f"{repo_id}: got {commit!r:.80} for a commit, expected 40 hexadecimal digits; report it there"
        )
    return str(commit)


def _version_of(name: str) -> Version | None:
    from packaging.version import InvalidVersion
    from packaging.version import Version as parse

    try:
        return parse(name[1:]) if name.startswith("v") else None
    except InvalidVersion:
        return None
