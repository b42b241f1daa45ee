"""``twinkle-tune list``: the slots of a model and who would compete."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from twinkle_tune.cli.app import run
from twinkle_tune.cli.list import length_text


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
        self.mixer, self.last = Mixer(), nn.LayerNorm(8)
    def forward(self, x):
        for norm in self.norms:
            x = norm(x)
        return self.last(self.mixer(x))

def make():
    return Net(), torch.ones(2, 8)
"""


def test_what_is_not_recognised_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Own layers that are no slots are listed with their counts, and with how to register them; torch's are not."""
    (tmp_path / "own_net.py").write_text(OWN, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert run(["list", "own_net:make", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "LayerNorm: 1 instance" in out
    assert "Not replaceable here: MyNorm (3), Mixer (1). MyNorm looks like a norm: register a kernel for it" in out
    assert "Linear" not in out
    assert run(["list", "own_net:make", "--device", "cpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["unlooked"] == ["MyNorm (3)", "Mixer (1)"]


def test_a_registered_layer_is_no_longer_among_them(capsys: pytest.CaptureFixture[str]) -> None:
    """Of a decoder the attention is left, since no slot holds it; what slots hold and the stack are not named."""
    assert run(["list", "qwen3-tiny", "--device", "cpu", "--json"]) == 0
    names = [each.partition(" ")[0] for each in json.loads(capsys.readouterr().out)["unlooked"]]
    assert "Qwen3Attention" in names
    assert not {"Qwen3RMSNorm", "Qwen3MLP", "Qwen3DecoderLayer", "Qwen3Model"} & set(names)


def test_the_length_of_a_run_is_estimated_in_narrow_terminals_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last line but one says about how long; no line is wider than the terminal, and no name is broken."""
    monkeypatch.setenv("COLUMNS", "60")
    assert run(["list", "qwen3-tiny", "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    length = next(line for line in lines if line.startswith("A run tries "))
    assert re.fullmatch(r"A run tries \d+ candidates for 6 slots at each size .*: .* to \d+ min a size\.", length)
    assert all(len(line) <= 60 for line in lines[: lines.index(length)])
    assert any("torch.vector_norm" in line for line in lines)


def test_the_estimate_grows_with_the_candidates() -> None:
    """Seconds where it is short, minutes where it is long."""
    assert length_text([2]).endswith("23 s to 32 s a size.")
    assert length_text([4, 40]).endswith("2 min to 9 min a size.")
