"""Asking the Hub: within a time, one caller at a time, and with one error for whatever goes wrong."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twinkle_tune.environment import package_version
from twinkle_tune.errors import SourceError, in_a_line

if TYPE_CHECKING:
    from huggingface_hub import HfApi

SUPPORTED = ">=0.17.2,<0.18"
"""The versions of the ``kernels`` package that Hub kernels are loaded with."""
_HAS = {
    "kernel repo": "expected build/<variant>/ with metadata.json",
    "collection of profiles": "expected what 'twinkle-tune push' writes",
}
_ONE_AT_A_TIME = threading.RLock()


def is_offline() -> bool:
    """Whether the Hub must not be asked (HF_HUB_OFFLINE)."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def says_yes(variable: str) -> bool:
    """Whether an environment variable is set to YES (or TRUE, 1, ON)."""
    return os.environ.get(variable, "NO").strip().upper() in ("YES", "TRUE", "1", "ON")


def repo_folder(repo_id: str, cache: Path) -> Path:
    """Where the cache has a kernel repo, as the Hub's client lays it out."""
    return cache / ("kernels--" + repo_id.replace("/", "--"))


def unfit_client() -> str:
    """Why the ``kernels`` package that is installed cannot be used; "" if it can."""
    from packaging.specifiers import SpecifierSet

    found = package_version("kernels")
    if not found or found in SpecifierSet(SUPPORTED):
        return ""
    return (
        f"got kernels {found}, expected {SUPPORTED}; pip install 'kernels{SUPPORTED}', and 'transformers<5.23', which "
        "goes with it"
    )


@contextmanager
def asking(what: str, kind: str = "kernel repo") -> Iterator[HfApi]:
    """The Hub's client, whose requests may wait no longer for the next byte than HF_HUB_DOWNLOAD_TIMEOUT says.

    By itself the client asks for some things without any limit, and for others with one of a minute, several times.

    Raises:
        SourceError: whatever the client, or a library below it, raised; ``what`` begins the message, and ``kind`` is
            what the repo should be.
    """
    from huggingface_hub import HfApi, constants, get_session

    def limit(request: Any) -> None:
        longest = max(constants.HF_HUB_ETAG_TIMEOUT, constants.HF_HUB_DOWNLOAD_TIMEOUT)
        given = request.extensions.get("timeout") or {}
        request.extensions["timeout"] = {
            part: min(given.get(part) or longest, longest) for part in ("connect", "read", "write", "pool")
        }

    with _ONE_AT_A_TIME:
        hooks = get_session().event_hooks["request"]
        hooks.append(limit)
        # The client and the libraries below it raise errors of many kinds.
        try:
            yield HfApi(library_name="twinkle_tune")
        except SourceError:
            raise
        except Exception as error:
            raise SourceError(f"{what}: {_told(error, kind)}") from error
        finally:
            hooks.remove(limit)


def is_missing(error: BaseException | None) -> bool:
    """Whether an error of the Hub says that what was asked for is not there."""
    from huggingface_hub.errors import HfHubHTTPError

    return isinstance(error, HfHubHTTPError) and error.response.status_code == 404


def _told(error: Exception, wanted: str) -> str:
    """What went wrong and what to do about it."""
    from huggingface_hub import constants, errors

    known: tuple[tuple[type[BaseException], str, str], ...] = (
        (errors.GatedRepoError, "its owner must let you in", "ask there, and sign in with HF_TOKEN"),
        (
            errors.RepositoryNotFoundError,
            f"the Hub has no such {wanted}, or it is private",
            "check the name, or sign in with HF_TOKEN",
        ),
        (errors.RevisionNotFoundError, "the repo has no such revision", "check it"),
        (errors.RemoteEntryNotFoundError, f"the repo is no {wanted}", _HAS.get(wanted, "check the name")),
    )
    cause: BaseException | None = error
    while cause is not None:
        for kind, problem, advice in known:
            if isinstance(cause, kind):
                return f"{problem} ({in_a_line(cause, 200)}); {advice}"
        if isinstance(cause, errors.HfHubHTTPError):
            status = cause.response.status_code
            return f"the Hub answered with HTTP status {status} ({in_a_line(cause, 200)}); try again, or check HF_TOKEN"
        if type(cause).__module__.partition(".")[0] in ("httpx", "httpx2"):
            return (
                f"the Hub at {constants.ENDPOINT} did not answer, or not to the end ({in_a_line(cause, 200)}); check "
                "the network and HF_ENDPOINT, or set HF_HUB_OFFLINE=1 to use what the cache holds"
            )
        cause = cause.__cause__ or cause.__context__
    return f"it cannot be had from the Hub ({in_a_line(error, 300)}); check the network, the name and the version"
