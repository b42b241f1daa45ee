"""``twinkle-tune push``, ``pull`` and ``index``: profiles in a collection on the Hub."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from twinkle_tune.cli.device import device_name, use_device
from twinkle_tune.cli.options import MODEL_HELP, parse_count, profile_path
from twinkle_tune.cli.register import register_files
from twinkle_tune.cli.say import say, show, tell
from twinkle_tune.cli.write import check_writable
from twinkle_tune.errors import TuneError

COLLECTION_VARIABLE = "TWINKLE_COLLECTION"
"""Environment variable: the collection on the Hub ("owner/name") that is meant where none is named."""
_REPO_HELP = f"The collection: owner/name, or owner/name@revision.  [default: {COLLECTION_VARIABLE}]"


def push(
    profile: Annotated[Path, typer.Argument(metavar="PROFILE", help="Written by 'twinkle-tune profile'.")],
    repo: Annotated[str | None, typer.Argument(metavar="[REPO]", help=_REPO_HELP)] = None,
) -> None:
    """Add a profile to a collection on the Hub.

    It is for others with the same model and machine. The repo is made if there is none, as a repo of data. A profile of
    the same model on the same machine is replaced. Everything in the file becomes public if the repo is: the command
    line and the machine's names too.
    """
    from twinkle_tune.profile.hub import parse_place
    from twinkle_tune.profile.hub import push as pushed
    from twinkle_tune.profile.io import load_profile

    place = parse_place(_named(repo))
    path, commit = pushed(profile, load_profile(profile), place)
    say(f"pushed to {place.repo_id}: {path}, at commit {commit}")


def pull(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)],
    repo: Annotated[str | None, typer.Argument(metavar="[REPO]", help=_REPO_HELP)] = None,
    mode: Annotated[str, typer.Option(help="inference, train, compile or train+compile.")] = "inference",
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...  [default: cuda if present]")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16, ...  [default: by the device]")] = None,
    layers: Annotated[str | None, typer.Option(metavar="N", help="Keep only the first N layers.")] = None,
    register: Annotated[list[Path] | None, typer.Option(metavar="FILE", help="Your kernels: .py or .toml.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where the profile goes.  [default: profiles/<device>/<model>-<mode>.json]")
    ] = None,
) -> None:
    """Take the profile of MODEL from a collection on the Hub.

    It is the one that was made on such a machine as this one, if there is one.

    Else it is the nearest, and it is said what differs. The file says so as well: kernelize_model binds none of its
    winners before each was tried here.
    """
    from twinkle_tune.mode import parse_mode
    from twinkle_tune.models import load_model
    from twinkle_tune.profile.hub import fetch, parse_place

    place, parsed = parse_place(_named(repo)), parse_mode(mode)
    depth, (asked, kind) = parse_count("--layers", layers), use_device(device)
    check_writable([out or profile_path(device_name(kind), model, parsed)])
    register_files(register or [])
    loaded = load_model(model, asked, dtype, depth, None, None, parsed)

    from twinkle_tune.kernel.shared import nearest

    shelf, match = nearest(place, loaded.model, parsed, kind)
    path = out or profile_path(match.listed.environment.device_name, model, parsed)
    check_writable([path])
    if match.differs and _is_of_here(path, kind):
        raise TuneError(
            f"{shelf}: its nearest profile was made elsewhere ({'; '.join(match.differs)}), and {path} was made on "
            "this machine; nothing was written: name another place with --out"
        )
    found = fetch(shelf, match.listed)
    found.save(path)
    if match.differs:
        tell(f"{shelf}: its nearest profile was made elsewhere:")
        for line in match.differs:
            tell(f"  {line}")
        tell("its winners are bound only where they were tried here before; either way does that:")
        tell(f"  twinkle-tune profile {model} --from-hub {place.repo_id}")
        tell(f"  kernelize_model(model, profile={str(path)!r}, example_inputs=...)")
    say(f"{shelf}, published by {place.publisher}: {found.verdict}")
    say(f"wrote {path}")


def _is_of_here(path: Path, device: str) -> bool:
    """Whether a file is a profile that was made on such a machine as this one."""
    from twinkle_tune.environment import changes, current_environment
    from twinkle_tune.errors import ProfileError
    from twinkle_tune.profile.io import load_profile

    try:
        return path.is_file() and not changes(load_profile(path).environment, current_environment(device))
    except ProfileError:
        return False


def index(
    repo: Annotated[str | None, typer.Argument(metavar="[REPO]", help=_REPO_HELP)] = None,
    to_hub: Annotated[bool, typer.Option("--push", help="Make it the README of the collection.")] = False,
) -> None:
    """Print a page of a collection, as Markdown.

    It says which model gains what on which device.
    """
    from twinkle_tune.profile.hub import open_shelf, parse_place, push_page
    from twinkle_tune.report.collection import page

    place = parse_place(_named(repo))
    text = page(place.repo_id, open_shelf(place).collection)
    if to_hub:
        say(f"pushed to {place.repo_id}: README.md, at commit {push_page(text, place)}")
    else:
        show(text)


def _named(repo: str | None) -> str:
    found = repo or os.environ.get(COLLECTION_VARIABLE, "").strip()
    if not found:
        raise TuneError(f"got no collection, expected owner/name; name it, or set {COLLECTION_VARIABLE}")
    return found
