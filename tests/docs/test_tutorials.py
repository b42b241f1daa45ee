"""The tutorials' kernels are right in Triton's interpreter, as the pages say, and compile for GPUs."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="the tutorials' kernels are written in it")

from torch._subclasses.fake_tensor import FakeTensorMode

from tests.docs.tutorials import PAGES, Tutorial
from tests.ops.interpreter import run_interpreted
from tests.today import by_day
from twinkle_tune.ops.resources import read_resources
from twinkle_tune.ops.static import _compiling_launches, _pretending, _require

CALLED = {"a-tiled-product": ("tiled", "product", 2), "an-online-softmax": ("online", "softmax", 1)}
"""Of each page the module, its public function, and how many matrices that takes."""


@pytest.mark.parametrize("name", by_day(PAGES, 2))
def test_a_tutorial_prints_what_it_says(name: str) -> None:
    """Its check and its contest run, in order, and their output is the page's, to the letter."""
    assert list(Tutorial.read(name).printed) == ["check.py", "compete.py"]
    run_interpreted("tests.docs.tutorials", name)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("name", PAGES)
def test_a_tutorials_kernels_compile(
    name: str, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For an A100 and an H100, without spilling a register; nothing of it ran there."""
    module, function, count = CALLED[name]
    Tutorial.read(name).write(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, module, raising=False)
    call: Any = getattr(importlib.import_module(module), function)
    _require()
    for architecture in (80, 90):
        found: list[Any] = []
        with _pretending(architecture), _compiling_launches(found), FakeTensorMode():
            call(*(torch.empty(256, 256, dtype=dtype) for _ in range(count)))
        assert found
        assert all(read_resources(each, architecture).spilled_bytes == 0 for each in found)
    monkeypatch.delitem(sys.modules, module)
