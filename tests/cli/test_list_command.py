"""``twinkle-tune list``: the slots of a model and who would compete."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.report import fabricate
from twinkle_tune.cli.app import run
from twinkle_tune.cli.list import last_run_text, work_text
from twinkle_tune.cli.options import profile_path
from twinkle_tune.environment import current_environment
from twinkle_tune.mode import Mode
from twinkle_tune.profile.run import RunFacts


def test_every_norm_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    """A model's RMSNorms are one slot with all its instances, and the original competes."""
    assert run(["list", "qwen3-tiny", "--device", "cpu", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["mode"], data["device"]) == ("inference", "cpu")
    norms = next(slot for slot in data["slots"] if slot["target"].endswith(":Qwen3RMSNorm"))
    # Two norms and those of queries and keys in each of two layers, and the last.
    assert len(norms["instances"]) == 9
    assert norms["candidates"][0] == {"name": "original", "source": "original"}
    assert len(norms["candidates"]) > 1


def test_a_device_that_is_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    """Who would compete on a GPU can be listed on a machine without one."""
    assert run(["list", "llama-tiny", "--device", "cuda", "--layers", "1"]) == 0
    out = capsys.readouterr().out
    assert "llama-tiny, inference on cuda" in out
    assert "RMSNorm" in out


OWN = """
import torch
from torch import nn

class MyNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(8))
    def forward(self, x):
        return self.gain * x / (1 + x.abs().sum(-1, keepdim=True))

class Mixer(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(8, 8)
    def forward(self, x):
        return self.inner(x).cumsum(-1)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList(MyNorm() for _ in range(3))
        self.mixer, self.squash, self.last = Mixer(), nn.Linear(8, 8), nn.LayerNorm(8)
    def forward(self, x):
        for norm in self.norms:
            x = norm(x)
        return self.last(self.squash(self.mixer(x)))

def make():
    return Net(), torch.ones(2, 8)
"""


def test_what_is_not_recognised_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Layers that are no slots are listed with their counts, and how to register them; what lies in one is not."""
    (tmp_path / "own_net.py").write_text(OWN, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert run(["list", "own_net:make", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "LayerNorm: 1 instance" in out
    assert (
        "No kernel is offered for: MyNorm (3 layers, looks like a norm), Mixer (1 layer), Linear (1 layer). "
        "To register your own, see Register a kernel in the docs." in out
    )
    assert run(["list", "own_net:make", "--device", "cpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["unlooked"] == [
        "MyNorm (3 layers, looks like a norm)",
        "Mixer (1 layer)",
        "Linear (1 layer)",
    ]


def test_a_registered_layer_is_no_longer_among_them(capsys: pytest.CaptureFixture[str]) -> None:
    """Of a decoder the attention is left, since no slot holds it; what slots hold and the stack are not named."""
    assert run(["list", "qwen3-tiny", "--device", "cpu", "--json"]) == 0
    names = [each.partition(" ")[0] for each in json.loads(capsys.readouterr().out)["unlooked"]]
    assert "Qwen3Attention" in names
    assert not {"Qwen3RMSNorm", "Qwen3MLP", "Qwen3DecoderLayer", "Qwen3Model"} & set(names)


def test_the_work_of_a_run_is_told_in_narrow_terminals_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """How many candidates for how many slots; no line above is wider than the terminal, and no name is broken."""
    monkeypatch.setenv("COLUMNS", "60")
    assert run(["list", "qwen3-tiny", "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    work = next(line for line in lines if line.startswith("A run tries "))
    assert re.match(r"A run tries \d+ candidates for 6 slots, at each size that the model calls\. --budget 5m ", work)
    assert all(len(line) <= 60 for line in lines[: lines.index(work)])
    assert any("torch.vector_norm" in line for line in lines)
    assert work_text([2]).startswith("A run tries 1 candidate for 1 slot, at")
    assert not re.search(r"\d+ (s|min)\b", work_text([2, 40])), "nothing that nobody measured"


def test_the_last_run_says_how_long_it_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the profile that is there of the model, on this device and in this mode; without one nothing is said."""
    monkeypatch.chdir(tmp_path)
    path = profile_path(current_environment("cpu").device_name, "qwen3-tiny", "inference")
    assert last_run_text("qwen3-tiny", "cpu", Mode.INFERENCE) == ""
    fabricate.normal().save(path)
    assert last_run_text("qwen3-tiny", "cpu", Mode.INFERENCE) == "", "one from before it was written down"
    replace(fabricate.normal(), run=RunFacts(took_s=252.0, recalled=0)).save(path)
    assert run(["list", "qwen3-tiny", "--device", "cpu"]) == 0
    assert f"The last run took 4 min 12 s: 2 contests ({path})." in capsys.readouterr().out
    assert last_run_text("qwen3-tiny", "cpu", Mode.TRAIN) == ""
    facts = RunFacts(took_s=30.0, budget_s=30.0, stopped="budget", recalled=1)
    replace(fabricate.normal(), run=facts, complete=False).save(path)
    told = last_run_text("qwen3-tiny", "cpu", Mode.INFERENCE)
    assert told.startswith("The last run took 30 s and was stopped: 2 contests, of which 1 was known before (")
    replace(fabricate.normal(), run=RunFacts(took_s=2.0, recalled=2, recalled_whole=4)).save(path)
    told = last_run_text("qwen3-tiny", "cpu", Mode.INFERENCE)
    assert told.startswith("The last run took 2 s: 2 contests, of which 2 were known before, and what the whole model")
