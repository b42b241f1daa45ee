"""The figures of device graphs: its code runs on a stand-in, which shows no speed."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from tests.bench import graphs
from tests.fake_cuda import FakeDevice, install
from twinkle_tune.models.load import load
from twinkle_tune.strategy import on_cuda


@pytest.fixture
def on_a_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few tokens on the CPU, whose replays compute."""
    install(monkeypatch, FakeDevice(replays=True))
    monkeypatch.setattr(on_cuda, "KIND", "cpu")
    monkeypatch.setattr(graphs, "SHORT", 2)
    monkeypatch.setattr(graphs, "LONG", 3)
    monkeypatch.setattr(graphs, "_TIMES", 1)


@pytest.mark.usefixtures("on_a_stand_in")
def test_what_device_graphs_answer_is_eagers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A generation and an encoder; what fails has its reason, and costs no other way its figure."""
    from transformers import BertConfig, BertModel

    small = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    monkeypatch.setattr(
        graphs,
        "cases",
        lambda device: [
            ("generate", lambda: load("qwen3-tiny", device="cpu"), graphs.generation),
            ("encoder", lambda: BertModel(small).eval(), graphs.encoder),
        ],
    )

    def refuses(model: Any) -> Any:
        raise RuntimeError("no compiler found")

    monkeypatch.setitem(graphs.WAYS, "reduce-overhead", refuses)
    told: list[graphs.Row] = []
    rows = graphs.measured("cpu", math.inf, told.append)
    assert told == rows
    assert [row.problem for row in rows] == ["", "", "RuntimeError: no compiler found"] * 2
    assert all(row.apart == 0 for row in rows)
    assert all(row.first_s > 0 for row in rows if not row.problem)
    assert "first call" in rows[1].line(rows[0].step_us)
    assert torch.is_grad_enabled()


def test_no_way_is_begun_without_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The part of the run on a device has a limit."""
    monkeypatch.setattr(graphs, "cases", lambda device: [("none", lambda: None, None)])
    rows = graphs.measured("cpu", 0.0, lambda row: None)
    assert {row.problem for row in rows} == {"no time was left"}
