"""``assert_parity``: right kernels pass silently, and a failure shows where, by how much, and what to look at."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.parity.zoo.ops import gelu_erf, gelu_tanh, normal, softmax
from tests.parity.zoo.right import softmax_by_hand
from twinkle_tune.errors import ModeError, SignatureError
from twinkle_tune.testing import assert_parity

ROOT = Path(__file__).parents[2]
X = normal(12, 64, dtype=torch.float32)


class Norm(nn.Module):
    """What a candidate layer is held against."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to (..., width)."""
        return self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps))


class ForwardAlone(nn.Module):
    """As it is registered: without a constructor, run with the original as self."""

    weight: Tensor
    eps: float

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


class ForInference(nn.Module):
    """One that says it has no backward."""

    has_backward = False
    weight: Tensor
    eps: float

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


class FusedNorm(Norm):
    """A right one, with another initial weight."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        nn.init.constant_(self.weight, 3.0)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to (..., width)."""
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


class ForgetfulAlone(nn.Module):
    """A wrong one as it is registered."""

    eps: float

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to (..., width)."""
        return F.rms_norm(x, (x.shape[-1],), None, self.eps)


class ForgetfulNorm(Norm):
    """A wrong one."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to (..., width)."""
        return F.rms_norm(x, (x.shape[-1],), None, self.eps)


def fused(self: Any, x: Tensor) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


def forgetful(self: Any, x: Tensor) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), None, self.eps)


def failure(*args: Any, **kwargs: Any) -> str:
    with pytest.raises(AssertionError) as caught:
        assert_parity(*args, **kwargs)
    return str(caught.value)


@pytest.mark.parametrize("mode", ["inference", "train"])
def test_right_functions_and_layers_pass(mode: str) -> None:
    """Functions, a class, an instance with weights of its own and a function of the module are all taken."""
    assert_parity(softmax_by_hand, softmax, X, mode=mode)
    for right in (fused, ForwardAlone, FusedNorm(64)):
        assert_parity(right, Norm(64), X, mode=mode)
    assert_parity(fused, Norm, X, module=Norm(64), mode=mode)
    assert_parity(fused, Norm.forward, X, module=Norm(64), mode=mode)


@pytest.mark.parametrize("wrong", [forgetful, ForgetfulAlone, ForgetfulNorm(64)], ids=lambda w: type(w).__name__)
def test_wrong_layers_fail(wrong: Callable[..., Any]) -> None:
    """A layer that forgets its weight fails, although the weight of a new layer is one."""
    assert "refused by point 2" in failure(wrong, Norm(64), X)


def test_the_message_shows_where_and_by_how_much() -> None:
    """Point, tensor, place, error, limit and a hint each stand on a line."""

    def last_row_lost(x: Tensor) -> Tensor:
        return torch.cat([softmax(x[:-1]), softmax(x[-1:]) * 1.0001])

    text = failure(last_row_lost, softmax, normal(400, 64, dtype=torch.float32))
    assert "last_row_lost against softmax (mode inference, normal): refused by point" in text.splitlines()[0]
    assert "  tensor: output" in text
    assert "399" in text
    assert "  error:  " in text
    assert ", limit " in text
    assert "  hint:   " in text


def test_gradients_are_compared_when_training() -> None:
    """Wrong gradients pass in inference and fail in train, also if no input asked for a gradient."""

    def half(x: Tensor) -> Tensor:
        y = softmax(x)
        return (y + y.detach()) / 2

    assert_parity(half, softmax, X)
    assert "tensor: gradient of args[0]" in failure(half, softmax, X, mode="train")


def test_what_is_off_where_it_is_small_is_refused() -> None:
    """A tanh GELU for an erf GELU in bfloat16: normally because the errors lean, under strict for the band alone."""
    x = normal(64, 256, dtype=torch.bfloat16)
    text = failure(gelu_tanh, gelu_erf, x)
    assert "refused by point 5" in text
    assert "the errors lean to one side: where r is about -2^-" in text
    text = failure(gelu_tanh, gelu_erf, x, strictness="strict")
    assert "refused by point 5" in text
    assert "where |r| is from 2^" in text


def test_inconclusive_is_a_failure_that_says_why() -> None:
    """Inputs that cannot tell right from wrong do not pass."""
    text = failure(lambda x: x.sign(), torch.sign, X)
    assert "inconclusive, which is no pass" in text
    assert "precision lower as outputs would pass" in text


def test_compile_modes_judge_the_compiled_candidate() -> None:
    """What the candidate does under torch.compile is what counts."""

    def otherwise_when_compiled(x: Tensor) -> Tensor:
        return softmax(x) * (1.01 if torch.compiler.is_compiling() else 1.0)

    assert_parity(otherwise_when_compiled, softmax, X)
    assert "refused by point 2" in failure(otherwise_when_compiled, softmax, X, mode="compile", seeds=1)


def test_nothing_that_is_passed_in_is_changed() -> None:
    """Inputs, their requires_grad, gradients and the layer's weights stay as they were."""
    layer, x = Norm(64), X.clone()
    assert_parity(fused, layer, x, mode="train")
    assert torch.equal(x, X)
    assert not x.requires_grad
    assert layer.weight.grad is None
    assert torch.equal(layer.weight, torch.ones(64))


@pytest.mark.parametrize(
    ("args", "kwargs", "error", "text"),
    [
        ((fused, Norm, X), {}, TypeError, r"pass Norm\(\.\.\.\) or give the instance"),
        ((Norm, softmax, X), {}, TypeError, "expected a function"),
        ((nn.LayerNorm(64), Norm(64), X), {}, ValueError, "name them alike"),
        ((fused, Norm(64), X), {"module": Norm(64)}, ValueError, "a second layer"),
        ((softmax, softmax), {}, ValueError, "got no tensor"),
        ((softmax, softmax, X), {"seeds": 0}, ValueError, "got 0, expected at least 1"),
        ((softmax, softmax, X), {"mode": "fast"}, ModeError, "got 'fast'"),
        ((softmax, softmax, X), {"strictness": "lax"}, ValueError, "got 'lax'"),
    ],
)
def test_arguments_that_make_no_call_have_one_clear_error(
    args: tuple[Any, ...], kwargs: dict[str, Any], error: type[Exception], text: str
) -> None:
    """A mistake in the test is told apart from a mistake in the kernel."""
    with pytest.raises(error, match=text):
        assert_parity(*args, **kwargs)


def test_the_plugin_gives_the_fixture_and_loads_no_torch(tmp_path: Path) -> None:
    """A test session that does not use the fixture does not pay for torch; one that does gets it."""
    (tmp_path / "test_it.py").write_text(
        "import sys\n"
        "def test_light():\n    assert 'torch' not in sys.modules\n"
        "def test_fixture(assert_parity):\n"
        "    import torch\n"
        "    assert_parity(lambda x: x.exp(), torch.exp, torch.randn(8, 32))\n",
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "twinkle_tune.testing.plugin", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "--rootdir", str(tmp_path), str(tmp_path)],
        cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert "2 passed" in done.stdout, done.stdout + done.stderr


def test_the_entry_point_names_the_plugin() -> None:
    """pytest finds the plugin by the name that pyproject.toml gives it."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["pytest11"] == {"twinkle_tune": "twinkle_tune.testing.plugin"}


def test_what_a_run_refuses_by_its_form_is_refused_here() -> None:
    """A class with a constructor, other parameters, a kernel that says it is not for training."""
    with pytest.raises(SignatureError, match="has its own constructor, expected none"):
        assert_parity(FusedNorm, Norm(64), X)
    with pytest.raises(SignatureError, match="take the same parameters in the same order"):
        assert_parity(lambda x, y: x, softmax, X)
    assert_parity(ForInference, Norm(64), X)
    with pytest.raises(ValueError, match=r"has_backward=False and the mode is train, where a run leaves it out"):
        assert_parity(ForInference, Norm(64), X, mode="train")


def test_a_kernel_without_backward_is_told_so() -> None:
    """In training; what to do about it stands there, and no hint at another mistake beside it."""
    with pytest.raises(AssertionError, match="your kernel has no backward; wrap it in ") as told:
        assert_parity(lambda x: softmax(x.detach()), softmax, X, mode="train")
    assert "hint" not in str(told.value)


def test_there_is_no_tolerance() -> None:
    """Asked for one it says what is looked at in its place."""
    with pytest.raises(TypeError, match="rtol: there is no tolerance to choose"):
        assert_parity(softmax, softmax, X, rtol=1e-2)


def test_without_a_gpu_the_interpreter_is_named() -> None:
    """What Triton says there is followed by what to do."""

    def kernel(x: Tensor) -> Tensor:
        raise RuntimeError("0 active drivers ([]). There should only be one.")

    with pytest.raises(RuntimeError, match=r"no GPU driver here .* set TRITON_INTERPRET=1"):
        assert_parity(kernel, softmax, X)


def test_an_interpreter_that_numpy_is_too_new_for() -> None:
    """The error stays what it is, and a note says which version to install."""

    def kernel(x: Tensor) -> Tensor:
        raise TypeError("only 0-dimensional arrays can be converted to Python scalars")

    with pytest.raises(TypeError) as raised:
        assert_parity(kernel, softmax, X)
    assert any("pip install 'numpy<2.4'" in note for note in raised.value.__notes__)


_BFLOAT16 = """
import torch
import triton
import triton.language as tl
from twinkle_tune.testing import assert_parity


@triton.jit
def kernel(x, out, n, SIZE: tl.constexpr):
    at = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    value = tl.load(x + at, mask=at < n).to(tl.float32)
    tl.store(out + at, (value * 1.37 + 0.11).to(tl.bfloat16), mask=at < n)


def launched(x):
    x = x.contiguous()
    out = torch.empty_like(x)
    kernel[(triton.cdiv(x.numel(), 64),)](x, out, x.numel(), SIZE=64)
    return out


def original(x):
    return (x.float() * 1.37 + 0.11).to(torch.bfloat16)


assert_parity(launched, original, torch.randn(32, 64).to(torch.bfloat16))
x = torch.randn(64).to(torch.bfloat16)
print("passed; outside the check", "rounded" if torch.equal(launched(x), original(x)) else "cut off")
"""


_PRODUCT = """
import torch
import triton
import triton.language as tl
from twinkle_tune.testing import assert_parity


@triton.jit
def product(A, B, C, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)[:, None] * SIZE + tl.arange(0, SIZE)[None, :]
    tl.store(C + at, tl.dot(tl.load(A + at), tl.load(B + at)).to(C.dtype.element_ty))


def launched(a, b):
    c = torch.empty(a.shape, dtype=a.dtype)
    product[(1,)](a.contiguous(), b.contiguous(), c, a.shape[0])
    return c


assert_parity(launched, torch.mm, *(torch.randn(32, 32).to(torch.bfloat16) for _ in range(2)))
print("passed")
"""


def test_a_product_in_bfloat16_passes_in_the_interpreter(tmp_path: Path) -> None:
    """By itself the interpreter multiplies the bits of bfloat16 as integers; inside the check, the numbers."""
    pytest.importorskip("triton")
    assert _interpreted(tmp_path, _PRODUCT) == "passed\n"


def test_a_right_kernel_in_bfloat16_passes_in_the_interpreter(tmp_path: Path) -> None:
    """The interpreter cuts bits off where devices round; inside the check it rounds, so a right kernel is right."""
    pytest.importorskip("triton")
    assert _interpreted(tmp_path, _BFLOAT16) == "passed; outside the check cut off\n"


def _interpreted(folder: Path, code: str) -> str:
    """What a script prints under TRITON_INTERPRET=1."""
    script = folder / "script.py"  # Triton reads the source of a kernel from its file
    script.write_text(code, encoding="utf-8")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
