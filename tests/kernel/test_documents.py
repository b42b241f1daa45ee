"""The Twinkle documents' examples do here what the documents say; test_hub_documents.py has those of the Hub."""

from __future__ import annotations

import importlib
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.kernel import documents
from tests.source.repos import write_package
from twinkle_tune.errors import DeviceError
from twinkle_tune.kernel import kernelize_model, kernelize_report, restore_model
from twinkle_tune.kernel.patch import binding_of

COUNTED = {
    **documents.PACKAGE,
    "layers.py": documents.PACKAGE["layers.py"]
    .replace("class", "calls: list = []\n\nclass")
    .replace("gate = ", "calls.append(1)\n        gate = "),
}
without_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without CUDA; this one has it")


def run(example: str, device: str = "cpu", **changes: str) -> dict[str, Any]:
    """Run an example for a device, with some of its words changed; returns its names."""
    text = example.replace("twinkle.", "twinkle_tune.").replace('"cuda"', f'"{device}"')
    for old, new in changes.items():
        assert changes_apply(old) in text
        text = text.replace(changes_apply(old), new)
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(text, "example.py", "exec"), names)
    return names


def changes_apply(name: str) -> str:
    """The words of the documents that a test changes."""
    return {
        "repo_path": "/path/to/local/repo",
        "package": '"my_kernels"',
        "layer_name": 'layer_name="SiluAndMul",',
        "fallback": "use_fallback=True",
        "strict": "strict=False",
        "revision": 'revision="main"',
    }[name]


def _imported(ending: str) -> Any:
    (name,) = [n for n in sys.modules if n.startswith(("_twinkle_tune_", "_stand_in_")) and n.endswith(ending)]
    return sys.modules[name]


def test_local_layer(tmp_path: Path) -> None:
    """Layer example 1: the package's forward runs in the Qwen2 model, forward and backward as the original's."""
    names = run(documents.LOCAL_LAYER, repo_path=str(write_package(tmp_path, "my_kernels", COUNTED)))
    model, calls = names["model"], _imported(".layers").calls
    tokens = torch.arange(6).unsqueeze(0)

    def step() -> list[torch.Tensor]:
        model.zero_grad()
        output = model(input_ids=tokens, labels=tokens)
        output.loss.backward()
        return [output.logits, *(p.grad for p in model.parameters())]

    tuned = step()
    assert len(calls) == 1
    assert [binding.candidate for binding in kernelize_report(model).bound] == [
        "local:my_kernels.Qwen2MLPTrainingKernel"
    ]
    restore_model(model)
    original = step()
    assert len(calls) == 1
    assert all(torch.equal(a, b) for a, b in zip(tuned, original, strict=True))


def test_local_layer_minimal_package(tmp_path: Path) -> None:
    """The documents' minimal package, word for word, is enough."""
    names = run(documents.LOCAL_LAYER, repo_path=str(write_package(tmp_path, "my_kernels", documents.PACKAGE)))
    assert len(kernelize_report(names["model"]).bound) == 1


def test_hub_layer_as_written() -> None:
    """Layer example 2 names neither revision nor version: the original stays, and a warning says what to give."""
    with pytest.warns(UserWarning, match=r"got neither revision nor version.*revision='main' or version=1") as caught:
        names = run(documents.HUB_LAYER)
    assert len(caught) == 1
    assert binding_of(names["model"].activation) is None
    x = torch.randn(2, 8)
    assert torch.equal(names["model"](x), names["SiluAndMul"]().forward(x))


@pytest.mark.usefixtures("my_pkg")
def test_functions() -> None:
    """Function example 1: add gives one more afterwards, and with model=None restored what it gave before."""
    math_ops = importlib.import_module("my_pkg.math_ops")
    assert math_ops.add(1, 2) == 3
    run(documents.FUNCTIONS)
    assert math_ops.add(1, 2) == 4
    restore_model(None)
    assert math_ops.add(1, 2) == 3


@pytest.mark.usefixtures("my_pkg")
def test_function_of_a_repo_object() -> None:
    """Function example 2's repo object: in its mode, compile, mul is what the object's load() gives."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the Hub repo, which is not there
        names = run(documents.FUNCTION_SOURCES)
    math_ops = importlib.import_module("my_pkg.math_ops")
    restore_model(names["model"])
    kernelize_model(None, mode="compile", device="cpu")
    assert math_ops.mul(2, 3) == 6
    assert math_ops.add(1, 2) == 3


@without_cuda
@pytest.mark.parametrize("name", documents.ALL)
@pytest.mark.usefixtures("my_pkg")
def test_without_cuda(name: str) -> None:
    """Asked for "cuda" on a machine without it, each example keeps the originals, with one warning a call."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        names = run(documents.ALL[name], device="cuda")
    told = [str(w.message) for w in caught if "twinkle_tune" in w.filename or "available" in str(w.message)]
    assert told == ["device 'cuda' is not available here; the originals stay: pass a device that is there"] * (
        2 if name == "function sources" else 1
    )
    assert names.get("applied", []) == []
    assert importlib.import_module("my_pkg.math_ops").add(1, 2) == 3
    model = names.get("model")
    assert model is None or all("forward" not in module.__dict__ for module in model.modules())


@without_cuda
@pytest.mark.parametrize("name", documents.ALL)
@pytest.mark.usefixtures("my_pkg")
def test_without_cuda_and_without_fallback(name: str) -> None:
    """Asked for "cuda" without fallback on a machine without it, each example is a DeviceError."""
    strict = {"strict": "strict=True"} if name == "function sources" else {}
    with pytest.raises(DeviceError, match="device 'cuda' is not available here"):
        run(documents.ALL[name], device="cuda", fallback="use_fallback=False", **strict)
    assert importlib.import_module("my_pkg.math_ops").add(1, 2) == 3
