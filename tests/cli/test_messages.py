"""What is said of a command that was written a little wrong: it names what was meant."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from twinkle_tune.cli.app import run
from twinkle_tune.kernel.registry import default_registry
from twinkle_tune.models.load import parse_dtype
from twinkle_tune.words import did_you_mean

_OWN = """
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = torch.nn.LayerNorm(8)
    def forward(self, x):
        return self.norm(x)
class FastNorm(torch.nn.Module):
    def forward(self, x):
        return torch.nn.functional.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
def build2():
    return Net(), torch.ones(2, 8)
def sized(width):
    return Net()
def _hidden():
    return Net()
model = Net()
"""
_REGISTERED = """
from users_own import FastNorm
from twinkle_tune import register_layer_kernel
register_layer_kernel("LayerNorm", layer_impl=FastNorm, device="cpu")
"""


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder with a model's module, a file of kernels and a directory of a model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    Path("users_own.py").write_text(_OWN)
    Path("kernels.py").write_text(_REGISTERED)
    Path("models/my-llama").mkdir(parents=True)
    yield
    default_registry.clear()
    for name in ("users_own", "twinkle_tune_registered_kernels"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["profile", "qwen3-tiny", "--gpu"], "No such option: --gpu; did you mean --device cuda?"),
        (["profile", "qwen3-tiny", "--fp16"], "did you mean --dtype float16?"),
        (["profile", "qwen3-tiny", "--device", "gpu"], "device: got 'gpu', expected one of cpu, cuda, rocm"),
        (["profile", "qwen3-tiny", "--device", "gpu"], "; did you mean cuda?"),
        (["profile", "qwen3-tiny", "--mode", "training"], "kernels.Mode value; did you mean train?"),
        (["profile", "qwen3-tiny", "--mode", "inferenc"], "; did you mean inference?"),
        (["profile", "qwen3-tiny", "--device", "cpu", "--dtype", "half"], "float64; did you mean float16?"),
        (["tune", "rms_norm", "--shape", "8x8", "--mode", "training"], "inference, train; did you mean train?"),
        (["list", "./models/my-lama"], "./models/my-lama: got no such directory"),
        (["list", "./models/my-lama"], "; did you mean ./models/my-llama?"),
        (["list", "models/my-lama"], "; did you mean models/my-llama?"),
        (["list", "users_own.py"], "users_own.py: got a file, expected module:function"),
        (["list", "users_own.py"], "; did you mean users_own:build2?"),
        (["list", "users_own"], "; did you mean users_own:build2?"),
        (["list", "users_own.py:build2"], "; did you mean users_own:build2?"),
        (["list", "./users_own.py:build2"], "; did you mean users_own:build2?"),
        (["list", "users_own:build"], "users_own has no 'build'"),
        (["list", "users_own:build"], "; did you mean build2?"),
        (["list", "users_own:model"], "got a Net, which is a module, expected a function that returns one"),
        (["profile"], "see 'twinkle-tune profile --help'"),
        (["store", "nothing"], "see 'twinkle-tune store --help'"),
        (
            ["profile", "users_own:build2", "--device", "cpu", "--register", "kernels.py", "--candidates", "fastnorm"],
            "in mode inference; did you mean impl:FastNorm?",
        ),
        (
            ["profile", "users_own:build2", "--device", "cpu", "--register", "kernels.py", "--candidates", "zzz"],
            "in mode inference; see the names with 'twinkle-tune list'",
        ),
    ],
)
def test_a_wrong_command_names_what_was_meant(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line on stderr and exit code 2, with the option, name, folder or function that was meant."""
    assert run(arguments) == 2
    err = "".join(line for line in capsys.readouterr().err.splitlines(keepends=True) if not line.startswith("Loading "))
    assert err.startswith("twinkle-tune: error: ")
    assert err.count("\n") == 1
    assert said in err
    assert "pass device=" not in err
    assert "Value error" not in err


def test_an_option_is_named_only_where_there_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    """``env --gpu`` is told of no --device: that command has none."""
    assert run(["env", "--gpu"]) == 2
    assert "--device" not in capsys.readouterr().err


def test_dtypes_may_be_written_short() -> None:
    """bf16, fp16, fp32 and fp64 are accepted, in any case."""
    assert [parse_dtype(name) for name in ("bf16", "FP16", "fp32", "fp64", "float32")] == [
        "bfloat16",
        "float16",
        "float32",
        "float64",
        "float32",
    ]


def test_what_is_like_nothing_has_no_hint() -> None:
    """A text that is spelled like none of the known ones is no guess."""
    assert did_you_mean("zzz", ("cpu", "cuda"), {"gpu": "cuda"}) == ""
    assert did_you_mean("GPU", ("cpu", "cuda"), {"gpu": "cuda"}) == "; did you mean cuda?"
    assert did_you_mean("qwen3-tin", ("qwen3-tiny", "qwen2-tiny", "phi"), most=2) == (
        "; did you mean qwen3-tiny or qwen2-tiny?"
    )


def test_a_long_name_is_no_path(capsys: pytest.CaptureFixture[str]) -> None:
    """A name that no file system takes is an error like another, not a crash."""
    for name in ("x" * 5000, "./" + "x" * 5000, "a\0b"):
        assert run(["list", name]) == 2
        assert "unexpected" not in capsys.readouterr().err
