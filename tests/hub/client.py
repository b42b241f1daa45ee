"""The real client of this process, turned to a local Hub."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.hub.repos import IDENT
from tests.hub.server import LocalHub
from twinkle_tune.source.hub import forget_builds


def use(
    monkeypatch: pytest.MonkeyPatch, hub: LocalHub, cache: Path, *, offline: bool = False, trusted: str = ""
) -> None:
    """Let the Hub's client of this process talk to ``hub``, or to nobody, with its cache in ``cache``.

    The client reads its variables when it is imported: what it made of them is replaced here, and what this process has
    loaded from the Hub is forgotten. ``trusted`` is what TWINKLE_TRUSTED_PUBLISHERS shall be.
    """
    from huggingface_hub import constants
    from kernels import importer

    made = {
        "ENDPOINT": hub.endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(cache),
        "HF_HUB_OFFLINE": offline,
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_ETAG_TIMEOUT": 0.2,
        "HF_HUB_DOWNLOAD_TIMEOUT": 0.2,
    }
    for name, value in made.items():
        monkeypatch.setattr(constants, name, value)
    for module in ("hf_hub", "resolver", "install", "locking"):
        monkeypatch.setattr(f"kernels.{module}.CACHE_DIR", None)
    for variable in ("LOCAL_KERNELS", "KERNELS_CACHE", "TWINKLE_TRUST_REMOTE_CODE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("TWINKLE_TRUSTED_PUBLISHERS", trusted)
    for name in [name for name in sys.modules if name.startswith(IDENT)]:
        del sys.modules[name]
    for path in [path for path, loaded in importer._loaded_kernels.items() if loaded.metadata.id.startswith(IDENT)]:
        del importer._loaded_kernels[path]
    forget_builds()
