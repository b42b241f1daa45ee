"""The export for Twinkle: a mapping by class. Twinkle is not installed here, so a stand-in takes its place."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from tests.export.made import COMMIT, REPO, hub, mlps, norms, profile
from twinkle_tune.cli.app import run
from twinkle_tune.slot import ORIGINAL

NORM = "transformers.models.llama.modeling_llama.LlamaRMSNorm"


def test_the_mapping_is_by_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The class is mapped to hub("repo:layer", revision=commit); one whose original won is not in the mapping."""
    given: list[Any] = []
    stand_in = ModuleType("twinkle.kernel")
    stand_in.__dict__.update(
        hub=lambda ref, *, revision: (ref, revision), kernelize=lambda model, mapping: given.append((model, mapping))
    )
    monkeypatch.setitem(sys.modules, "twinkle", ModuleType("twinkle"))
    monkeypatch.setitem(sys.modules, "twinkle.kernel", stand_in)
    monkeypatch.syspath_prepend(str(tmp_path))
    made = profile(norms(hub()), mlps(ORIGINAL)).save(tmp_path / "some profile-1.json")
    assert run(["export", str(made), "--to", "twinkle", "--out", str(tmp_path)]) == 0
    module = importlib.import_module("some_profile_1_twinkle")
    module.apply("a model")
    assert given == [("a model", {LlamaRMSNorm: (f"{REPO}:RMSNorm", COMMIT)})]
    data = json.loads((tmp_path / "some_profile_1_twinkle.json").read_text())
    assert data["mapping"] == {NORM: {"hub": f"{REPO}:RMSNorm", "revision": COMMIT}}
