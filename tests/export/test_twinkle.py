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


class FromLiger:
    """What a stand-in for liger_builtin() has for the norms."""


@pytest.mark.parametrize("has_it", [True, False])
def test_liger_winners_are_twinkle_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_it: bool) -> None:
    """A class that Liger won gets what liger_builtin() has for it and nothing else of it; where that has none, it is
    said. One that Liger did not win everywhere is left out."""
    given: list[Any] = []
    bundle: dict[Any, Any] = {LlamaRMSNorm: FromLiger, int: float, "transformers.other.forward": print}
    bundle |= {"transformers.models.llama.modeling_llama.LlamaMLP.forward": print} if has_it else {}
    stand_in = ModuleType("twinkle.kernel")
    stand_in.__dict__.update(
        hub=lambda ref, *, revision: (ref, revision),
        kernelize=lambda model, mapping: given.append(mapping),
        liger_builtin=lambda: bundle,
    )
    monkeypatch.setitem(sys.modules, "twinkle", ModuleType("twinkle"))
    monkeypatch.setitem(sys.modules, "twinkle.kernel", stand_in)
    monkeypatch.syspath_prepend(str(tmp_path))
    contests = norms("liger", source="liger"), mlps("liger", source="liger")
    made = profile(*contests).save(tmp_path / f"liger-{has_it}.json")
    assert run(["export", str(made), "--to", "twinkle", "--out", str(tmp_path)]) == 0
    module = importlib.import_module(f"liger_{has_it}_twinkle")
    if has_it:
        module.apply("a model")
        path = "transformers.models.llama.modeling_llama.LlamaMLP.forward"
        assert given == [{LlamaRMSNorm: FromLiger, path: print}]
    else:
        with pytest.raises(LookupError, match=r"has nothing for transformers.*LlamaMLP; take it out of LIGER"):
            module.apply("a model")
    data = json.loads((tmp_path / f"liger_{has_it}_twinkle.json").read_text())
    assert data["mapping"][NORM] == {"builtin": "liger_builtin"}


def test_liger_that_did_not_win_everywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Beside a contest that the original won, Liger's winner is left out with that reason, and nothing is written."""
    contests = norms("liger", source="liger", rows=12), norms(ORIGINAL, rows=24)
    made = profile(*contests).save(tmp_path / "some.json")
    assert run(["export", str(made), "--to", "twinkle", "--out", str(tmp_path)]) == 1
    assert "it did not win every contest of this name" in capsys.readouterr().out
    assert run(["export", str(made), "--to", "hf-kernels", "--out", str(tmp_path)]) == 1
    assert "it is a kernel of the package liger-kernel, and no kernel repo holds it" in capsys.readouterr().out
