"""What an export holds, and what it lists as left out."""

from __future__ import annotations

import ast
import itertools
import json
from dataclasses import replace
from typing import Any

import pytest
from kernels import CUDAProperties, Device, LayerRepository, Mode

from tests.export.made import COMMIT, REPO, hub, mlps, norms, on_h100, profile
from tests.report import fabricate
from tests.versions import NEEDS_MARKED_CLASSES
from twinkle_tune.export.form import Form
from twinkle_tune.export.mapping import Exported, export
from twinkle_tune.mode import parse_mode
from twinkle_tune.profile.schema import Profile
from twinkle_tune.slot import ORIGINAL

LLAMA = "transformers.models.llama.modeling_llama"
REPOSITORY = LayerRepository(REPO, layer_name="RMSNorm", revision=COMMIT)


def _native(found: Exported) -> dict[str, dict[Device, dict[Mode, object]]]:
    names: dict[str, Any] = {}
    exec(compile(found.module, "exported", "exec"), names)
    mapping: dict[str, dict[Device, dict[Mode, object]]] = names["mapping"]()
    return mapping


def _reasons(found: Exported) -> list[str]:
    return [each.reason for each in found.choice.left_out]


@pytest.mark.parametrize("form", [Form.HF_KERNELS, Form.TRANSFORMERS])
def test_a_hub_winner_stands_at_its_commit_and_capability(form: Form) -> None:
    """The winner is mapped for the capability that was profiled, at the commit; where the original won, no mode is."""
    found = export(on_h100(norms(hub()), mlps(ORIGINAL)), form, "profile.json")
    device = Device(type="cuda", properties=CUDAProperties(min_capability=90, max_capability=90))
    assert _native(found) == {"RMSNorm": {device: {Mode.INFERENCE: REPOSITORY}}, "GatedMLP": {device: {}}}
    assert not found.choice.left_out


@pytest.mark.parametrize(
    ("mode", "mapped"),
    [
        ("train", Mode.TRAINING),
        ("compile", Mode.INFERENCE | Mode.TORCH_COMPILE),
        ("train+compile", Mode.TRAINING | Mode.TORCH_COMPILE),
    ],
)
def test_modes(mode: str, mapped: Mode) -> None:
    """Each mode is the flag of the kernels package."""
    found = export(profile(norms(hub()), mode=parse_mode(mode)), Form.HF_KERNELS, "p")
    assert _native(found) == {"RMSNorm": {Device(type="cpu"): {mapped: REPOSITORY}}}


def test_the_json_says_the_same() -> None:
    """The JSON holds what the module holds, and which classes are meant."""
    data = json.loads(export(on_h100(norms(hub()), mlps(ORIGINAL)), Form.HF_KERNELS, "p.json").json)
    device = {"type": "cuda", "min_capability": 90, "max_capability": 90}
    repository = {"repo_id": REPO, "layer_name": "RMSNorm", "revision": COMMIT}
    assert data["mapping"] == {
        "RMSNorm": [{"device": device, "modes": {"INFERENCE": repository}}],
        "GatedMLP": [{"device": device, "modes": {}}],
    }
    assert data["classes"] == {"RMSNorm": [f"{LLAMA}:LlamaRMSNorm"], "GatedMLP": [f"{LLAMA}:LlamaMLP"]}
    assert data["left_out"] == []


SOURCES = ("impl", "repo", "local", "torch", "compile", "triton", "liger", "new")


# Twinkle has a mapping of Liger's kernels (tests/export/test_twinkle.py).
@pytest.mark.parametrize(
    ("form", "source"), [p for p in itertools.product(Form, SOURCES) if p != (Form.TWINKLE, "liger")]
)
def test_what_no_repo_holds_is_listed(source: str, form: Form) -> None:
    """A winner of any other source is left out with a reason, in both files, and the original stays."""
    found = export(profile(norms("mine", source=source)), form, "p")
    (left_out,) = found.choice.left_out
    assert left_out.where == f"RMSNorm ({LLAMA}:LlamaRMSNorm) at float32[12,8]"
    assert left_out.reason in str(ast.get_docstring(ast.parse(found.module)))
    assert json.loads(found.json)["left_out"][0]["reason"] == left_out.reason
    assert [entry.kernel for entry in found.choice.entries] == [None]


def test_winners_that_disagree_are_listed() -> None:
    """One name has one kernel: where shapes have different winners the original stays, and each winner is listed."""
    for other in (norms(ORIGINAL, rows=1), norms(hub("Other"), rows=1), norms("torch.x", rows=1, source="torch")):
        found = export(profile(norms(hub()), other), Form.HF_KERNELS, "p")
        assert _native(found) == {"RMSNorm": {Device(type="cpu"): {}}}
        won = [each.winner for each in found.choice.left_out]
        assert won == [c.selection.winner for c in (norms(hub()), other) if c.selection.winner != ORIGINAL]
        assert "did not win every contest" in _reasons(found)[0]
    agreed = export(profile(norms(hub()), norms(hub(), rows=1)), Form.HF_KERNELS, "p")
    assert _native(agreed) == {"RMSNorm": {Device(type="cpu"): {Mode.INFERENCE: REPOSITORY}}}


def test_a_winner_without_a_commit_is_listed() -> None:
    """A branch may move: without a commit nothing is exported."""
    found = export(profile(norms(f"hub:{REPO}:RMSNorm@main")), Form.TWINKLE, "p")
    assert "at which commit" in _reasons(found)[0]


def test_functions_are_listed() -> None:
    """A winner that replaces a function is left out; a function whose original won is not mentioned."""
    won = replace(fabricate.kept(), selection=replace(fabricate.kept().selection, winner="liger"))
    found = export(fabricate.profile(won, fabricate.kept()), Form.HF_KERNELS, "p")
    assert _reasons(found) == ["it replaces a function, and the mapping names layers"]
    assert not found.choice.entries


@NEEDS_MARKED_CLASSES
def test_the_name_is_the_class_s() -> None:
    """A class that carries another kernel name than its slot is mapped by its own."""
    contest = norms(hub())
    slot = replace(contest.slot, name="Activation", target="transformers.activations:SiLUActivation")
    (entry,) = export(profile(replace(contest, slot=slot)), Form.HF_KERNELS, "p").choice.entries
    assert entry.name == "SiLU"


@pytest.mark.parametrize("form", list(Form))
def test_texts_of_a_profile_stay_texts(form: Form) -> None:
    """Names of a profile cannot end the docstring or a string: the module compiles, and says nothing else."""
    hostile = '"""\nimport os\nos.abort()\n"""\\'
    made = norms(f"hub:{REPO}:RMSNorm@{COMMIT}")
    strange = replace(made, slot=replace(made.slot, name=hostile, target=f"pkg{hostile}:Class{hostile}"))
    for each in (strange, replace(norms(hostile, source="impl"), slot=strange.slot)):
        broken: Profile = replace(profile(each), model=replace(profile().model, name=hostile))
        tree = ast.parse(export(broken, form, hostile).module)
        imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        assert imported <= {"importlib"}
