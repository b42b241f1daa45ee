"""Whose code from the Hub may run: decided before any of it is fetched."""

from __future__ import annotations

import os

from twinkle_tune.errors import SourceError
from twinkle_tune.source.hub_client import asking, is_missing, is_offline, says_yes

TRUST_VARIABLE = "TWINKLE_TRUST_REMOTE_CODE"
"""Environment variable: YES lets repos of every publisher run. Default NO."""
PUBLISHERS_VARIABLE = "TWINKLE_TRUSTED_PUBLISHERS"
"""Environment variable: publishers ("organisation") and repos ("organisation/name") that may run, with commas."""
BUILT_IN = "kernels-community"
"""The publisher that needs no asking: Hugging Face's own, who also answers for the others."""


def check_trust(repo_id: str) -> None:
    """Refuse a repo whose publisher nobody vouches for.

    Trusted are, in this order: everybody under TWINKLE_TRUST_REMOTE_CODE=YES, what TWINKLE_TRUSTED_PUBLISHERS lists,
    ``kernels-community``, and publishers that the Hub lists as trusted kernel publishers. Offline the Hub cannot be
    asked, so that the last are refused then unless they are listed.

    Raises:
        SourceError: nobody vouches for it, or the Hub cannot be asked.
    """
    publisher = repo_id.partition("/")[0]
    if trusts_everybody() or {publisher, repo_id} & {BUILT_IN, *_listed()}:
        return
    if is_offline():
        why = f"offline nobody can be asked whether {publisher!r} is a trusted publisher"
    elif not _vouched_for(publisher, repo_id):
        why = f"the Hub does not list {publisher!r} as a trusted kernel publisher"
    else:
        return
    raise SourceError(
        f"{repo_id}: refused before any of its code was fetched or imported: {why}; if you trust its code, add "
        f"{publisher!r} or {repo_id!r} to {PUBLISHERS_VARIABLE}, or set {TRUST_VARIABLE}=YES"
    )


def trusts_everybody() -> bool:
    """Whether the environment says to trust remote code."""
    return says_yes(TRUST_VARIABLE)


def _listed() -> set[str]:
    return {name.strip() for name in os.environ.get(PUBLISHERS_VARIABLE, "").split(",") if name.strip()}


def _vouched_for(publisher: str, repo_id: str) -> bool:
    try:
        with asking(f"{repo_id}: asking whether {publisher!r} is a trusted publisher") as api:
            return getattr(api.get_organization_overview(publisher), "trustedKernelPublisher", False) is True
    except SourceError as error:
        if is_missing(error.__cause__):
            return False  # a person, or nobody: no organisation of that name
        raise
