"""Collections of profiles on the Hugging Face Hub: read, through the cache, and added to."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from twinkle_tune.errors import ProfileError, SourceError, one_line
from twinkle_tune.profile.collection import LIST, Collection, Listed, listed, path_of, read_list
from twinkle_tune.profile.files import read_file
from twinkle_tune.profile.io import read_profile
from twinkle_tune.profile.json_text import to_data
from twinkle_tune.profile.schema import Profile
from twinkle_tune.source.hub_client import asking, is_missing, is_offline
from twinkle_tune.source.hub_versions import is_commit

PREFIX = "hub:"
"""Begins the name of a collection where a path could stand, too: "hub:owner/name"."""
_KIND = "dataset"
_WHAT = "collection of profiles"
_PLACE = re.compile(r"(?P<repo>[\w][\w.-]{0,95}/[\w][\w.-]{0,95})(?:@(?P<revision>[\w][\w./-]{0,199}))?")
_LONGEST_LIST = 16 << 20
_LONGEST_PROFILE = 256 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A collection on the Hub, and the branch, tag or commit of it."""

    repo_id: str
    revision: str = "main"

    @property
    def publisher(self) -> str:
        """Whose it is."""
        return self.repo_id.partition("/")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelf:
    """A collection as it is at a commit."""

    place: Place
    commit: str
    collection: Collection

    def __str__(self) -> str:
        return f"{self.place.repo_id} at commit {self.commit[:12]}"


def parse_place(text: str) -> Place:
    """What "hub:owner/name", or "hub:owner/name@revision", stands for; the prefix may be left out.

    Raises:
        ProfileError: it is neither.
    """
    found = _PLACE.fullmatch(text.removeprefix(PREFIX))
    if found is None or ".." in text:
        raise ProfileError(
            f"got {text!r:.120}, expected 'hub:owner/name' or 'hub:owner/name@revision'; name a collection of the Hub"
        )
    return Place(repo_id=found["repo"], revision=found["revision"] or "main")


def open_shelf(place: Place) -> Shelf:
    """The list of a collection, at the commit that its revision means now; offline at the one that the cache has.

    Raises:
        SourceError: it cannot be had.
        ProfileError: it is no list of profiles.
    """
    where = f"{place.repo_id}: {LIST}"
    content, commit = _fetched(place.repo_id, LIST, place.revision, _LONGEST_LIST)
    return Shelf(place=place, commit=commit, collection=read_list(content, where))


def fetch(shelf: Shelf, wanted: Listed) -> Profile:
    """A profile of a collection, at the collection's commit: read as data, after its digest was compared.

    Raises:
        SourceError: it cannot be had.
        ProfileError: it is another file than the one that is listed, or no profile.
    """
    repo_id = shelf.place.repo_id
    where = f"{repo_id}: {wanted.path} at commit {shelf.commit[:12]}"
    if wanted.bytes > _LONGEST_PROFILE:
        raise ProfileError(f"{where}: got {wanted.bytes} bytes, expected at most {_LONGEST_PROFILE}; tell {repo_id}")
    content, _ = _fetched(repo_id, wanted.path, shelf.commit, wanted.bytes)
    found = hashlib.sha256(content).hexdigest()
    if found != wanted.sha256:
        raise ProfileError(
            f"{where}: its digest is {found[:16]}…, and the list says {wanted.sha256[:16]}…: the file is not whole or "
            "was changed; delete it from the cache, or tell its publisher"
        )
    profile = read_profile(content, where)
    if listed(profile, content, wanted.path) != wanted:
        raise ProfileError(f"{where}: it is not the profile that the list describes; tell {shelf.place.publisher}")
    return profile


def push(file: Path, profile: Profile, place: Place) -> tuple[str, str]:
    """Add a profile's file to a collection, in one commit with its list; the repo is made if there is none.

    Returns:
        The path in the repo, and the commit.

    Raises:
        ProfileError: the file cannot be read, or the collection's list is none.
        SourceError: the Hub does not take it, or somebody else added to the collection meanwhile.
    """
    try:
        content = read_file(file, _LONGEST_PROFILE)
    except OSError as error:
        raise ProfileError(f"{file}: cannot be read ({error}); check the path") from error
    if is_offline():
        raise SourceError(f"{place.repo_id}: HF_HUB_OFFLINE is set, and pushing needs the Hub; unset it")
    path = path_of(profile)
    entry = listed(profile, content, path)
    with asking(f"{place.repo_id}: pushing {file.name}", _WHAT) as api:
        api.create_repo(place.repo_id, repo_type=_KIND, exist_ok=True)
        parent = str(api.dataset_info(place.repo_id, revision=place.revision).sha)
    text = json.dumps(to_data(_list_to_add_to(place, parent).with_profile(entry)), indent=1) + "\n"
    title = f"{profile.model.name}, {profile.mode} on {profile.environment.device_name}"
    return path, _committed(place, {path: content, LIST: text.encode()}, title, parent, f"pushing {file.name}")


def push_page(text: str, place: Place) -> str:
    """Make a text the page that the Hub shows of a collection; the commit.

    Raises:
        SourceError: the Hub does not take it, or there is no such collection.
    """
    with asking(f"{place.repo_id}: pushing its page", _WHAT) as api:
        parent = str(api.dataset_info(place.repo_id, revision=place.revision).sha)
    return _committed(place, {"README.md": text.encode()}, "Page of the profiles", parent, "pushing its page")


def _committed(place: Place, files: Mapping[str, bytes], title: str, parent: str, doing: str) -> str:
    """Commit files onto a commit that must still be the last; the new commit."""
    with asking(f"{place.repo_id}: {doing}", _WHAT) as api:
        from huggingface_hub import CommitOperationAdd

        added = [CommitOperationAdd(path_in_repo=path, path_or_fileobj=content) for path, content in files.items()]
        done = api.create_commit(
            place.repo_id,
            added,
            commit_message=one_line(title, 200),
            repo_type=_KIND,
            revision=place.revision,
            parent_commit=parent,
        )
    return str(done.oid)


def _list_to_add_to(place: Place, commit: str) -> Collection:
    try:
        content, _ = _fetched(place.repo_id, LIST, commit, _LONGEST_LIST)
    except SourceError as error:
        if is_missing(error.__cause__):
            return Collection()  # a repo that is new
        raise
    return read_list(content, f"{place.repo_id}: {LIST}")


def _fetched(repo_id: str, name: str, revision: str, most_bytes: int) -> tuple[bytes, str]:
    """A file's content and the commit that it is of: from the cache offline, or where it is there at that commit."""
    from huggingface_hub import hf_hub_download, hf_hub_url, try_to_load_from_cache

    cached: Any = None
    if is_offline() or is_commit(revision):
        cached = try_to_load_from_cache(repo_id, name, revision=revision, repo_type=_KIND)
    if not isinstance(cached, str):
        if is_offline():
            raise SourceError(
                f"{repo_id}: {name}: offline, and the cache does not have it at {revision!r}; get it once online"
            )
        with asking(f"{repo_id}: {name}", _WHAT) as api:
            # Its length first: what is too long is not fetched.
            found = api.get_hf_file_metadata(url=hf_hub_url(repo_id, name, repo_type=_KIND, revision=revision))
            if found.size is None or found.size > most_bytes:
                raise SourceError(
                    f"{repo_id}: {name}: got {found.size} bytes, expected at most {most_bytes}; tell its owner"
                )
            cached = hf_hub_download(repo_id, name, repo_type=_KIND, revision=revision)
    path = Path(cached)
    try:
        content = read_file(path, most_bytes)
    except OSError as error:
        raise SourceError(f"{repo_id}: {name}: {path} cannot be read ({error}); delete it and try again") from error
    return content, _commit_in(path)


def _commit_in(path: Path) -> str:
    """The commit of a file of the cache: the folder below "snapshots" that holds it."""
    return next((name for before, name in pairwise(path.parts) if before == "snapshots" and is_commit(name)), "")
