"""``twinkle-tune list``: the slots of a model and who would compete."""

from __future__ import annotations

import json

import pytest

from twinkle_tune.cli.app import run


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
