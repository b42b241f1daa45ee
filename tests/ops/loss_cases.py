"""``python -m tests.ops.loss_cases``: what is particular to the two cross entropies, in Triton's interpreter."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from tests.ops.interpreter import Case, main
from twinkle_tune.ops.cross_entropy.op import cross_entropy
from twinkle_tune.ops.fused_linear_cross_entropy.op import fused_linear_cross_entropy

Loss = Callable[..., Tensor]


def cases() -> Iterator[Case]:
    """The claims."""
    for loss in (cross_entropy, _identity_linear):
        name = loss.__name__
        yield f"{name} with all rows ignored", partial(all_ignored_as_in_torch, loss)
        yield f"{name} of a target that is no class", partial(no_class_is_nan, loss)
        yield f"{name} twice backward", partial(twice_backward_is_the_same, loss)
        yield f"{name} of large logits", partial(large_logits_keep_their_digits, loss)
        yield f"{name} of nothing", partial(of_nothing_as_in_torch, loss)
    yield "cross_entropy with ruled out classes", ruled_out_classes_get_nothing
    yield "cross_entropy leaves logits alone", logits_are_left_alone
    yield "the linear layer's logits of a chunk alone", never_all_logits
    yield "the linear layer without one of the gradients", one_gradient_alone
    yield "the linear layer without gradients", no_gradients_no_products
    yield "small shares in float16", small_gradients_survive_in_float16
    for scale in (1.0, 2.0**15, 2.0**20, 2.0**-10):
        yield f"the linear layer under a loss scale of {scale:g}", partial(scaled_as_the_original, scale)
    yield "the linear layer with large weights in float16", large_weights_stay_finite
    yield "the linear layer under autocast", under_autocast_as_torchs_linear
    for loss in (cross_entropy, _identity_linear):
        yield f"{loss.__name__} twice differentiated", partial(second_order_is_refused, loss)


def _identity_linear(logits: Tensor, target: Tensor, **settings: Any) -> Tensor:
    """The loss with a linear layer that changes nothing: the same formula by the other kernels."""
    return fused_linear_cross_entropy(logits, torch.eye(logits.shape[1], dtype=logits.dtype), target, **settings)


def made(rows: int = 5, classes: int = 9) -> tuple[Tensor, Tensor]:
    """Logits and targets, the second row ignored."""
    target = torch.randint(classes, (rows,))
    target[1] = -100
    return torch.randn(rows, classes, requires_grad=True), target


def agrees(loss: Loss, logits: Tensor, target: Tensor, **settings: Any) -> None:
    """The loss and its gradient are torch's."""
    results = (loss(logits, target, **settings), F.cross_entropy(logits, target, **settings))
    gradients = [torch.autograd.grad(result, logits)[0] for result in results]
    torch.testing.assert_close(*results, equal_nan=True)
    torch.testing.assert_close(*gradients, equal_nan=True)


def all_ignored_as_in_torch(loss: Loss) -> None:
    """The mean is nan and the sum 0, the gradient 0."""
    logits, target = made()
    target[:] = 3
    for reduction in ("mean", "sum"):
        agrees(loss, logits, target, ignore_index=3, reduction=reduction)


def ruled_out_classes_get_nothing() -> None:
    """Classes with the logit -inf, a whole block of them at first, and a target among them."""
    logits, target = made(4, 1100)
    with torch.no_grad():
        logits[:, :600] = float("-inf")
    target[0], target[2], target[3] = 700, 1099, 600
    config = {"block": 512, "splits": 2, "warps": 2, "back_block": 512, "back_warps": 2}
    agrees(partial(cross_entropy, config=config), logits, target)
    target[0] = 5
    assert torch.isposinf(cross_entropy(logits, target))


def no_class_is_nan(loss: Loss) -> None:
    """Nothing is read from beside the logits."""
    logits, target = made()
    for wrong in (9, -1, 2**40):
        target[0] = wrong
        assert loss(logits, target).isnan()


def twice_backward_is_the_same(loss: Loss) -> None:
    """What is kept for the backward is not written over."""
    logits, target = made()
    result = loss(logits, target, label_smoothing=0.1)
    first, second = (torch.autograd.grad(result, logits, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)
    torch.testing.assert_close(torch.autograd.grad(result, logits, torch.tensor(-3.0))[0], -3 * first)


def large_logits_keep_their_digits(loss: Loss) -> None:
    """Beside a logit of 1e4 the loss of a row is as exact as torch's."""
    logits, target = made()
    with torch.no_grad():
        logits += 1e4
    exact = F.cross_entropy(logits.double(), target)
    assert abs(loss(logits, target).double() - exact) <= 1e-6


def of_nothing_as_in_torch(loss: Loss) -> None:
    """No rows: nan, or 0."""
    logits, target = torch.zeros(0, 9, requires_grad=True), torch.zeros(0, dtype=torch.int64)
    for reduction in ("mean", "sum"):
        agrees(loss, logits, target, reduction=reduction)


def logits_are_left_alone() -> None:
    """Forward and backward write nothing into the logits or the target."""
    logits, target = made()
    kept = logits.detach().clone(), target.clone()
    torch.autograd.backward(cross_entropy(logits, target))
    assert torch.equal(logits.detach(), kept[0])
    assert torch.equal(target, kept[1])


class _Sizes(TorchDispatchMode):
    """Counts matrix products, and the elements of the largest floating result (the interpreter copies bytes)."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = self.products = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.products += "mm" in str(func)
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.is_floating_point():
            self.most = max(self.most, result.numel())
        return result


def never_all_logits() -> None:
    """Of 150 rows the largest tensor ever made is the logits of 64."""
    target = torch.randint(100, (150,))
    x, weight = torch.randn(150, 4, requires_grad=True), torch.randn(100, 4, requires_grad=True)
    with _Sizes() as sizes:
        loss = fused_linear_cross_entropy(x, weight, target, config={"chunk": 64, "block": 512, "warps": 2})
        torch.autograd.backward(loss)
    assert sizes.most == 64 * 100
    torch.testing.assert_close(loss, F.cross_entropy(x @ weight.T, target))


def one_gradient_alone() -> None:
    """A frozen weight, or hidden states that nobody trains."""
    x, weight, target = torch.randn(5, 4), torch.randn(9, 4), torch.randint(9, (5,))
    for wanted in (x, weight):
        wanted.requires_grad_()
        ours, theirs = fused_linear_cross_entropy(x, weight, target), F.cross_entropy(x @ weight.T, target)
        torch.testing.assert_close(torch.autograd.grad(ours, wanted), torch.autograd.grad(theirs, wanted))
        wanted.requires_grad_(False)


def no_gradients_no_products() -> None:
    """Without gradients a chunk costs one matrix product, not three."""
    x, weight, target = torch.randn(5, 4), torch.randn(9, 4, requires_grad=True), torch.randint(9, (5,))
    with torch.no_grad(), _Sizes() as sizes:
        fused_linear_cross_entropy(x, weight, target)
    assert sizes.products == 1


def small_gradients_survive_in_float16() -> None:
    """Gradients of the logits that are below float16 once divided by the rows, and not before."""
    rows, classes = 256, 512
    x = torch.randn(rows, 4).half()
    weight = (torch.randn(classes, 4) / 2).half().requires_grad_()
    target = torch.zeros(rows, dtype=torch.int64)
    scale = torch.tensor(65536.0)  # as a gradient scaler
    exact = weight.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(F.cross_entropy(x.double() @ exact.T, target), exact, scale.double())
    loss = fused_linear_cross_entropy(x, weight, target)
    (got,) = torch.autograd.grad(loss, weight, scale)
    assert (got - expected).square().mean().sqrt() <= 1e-3 * expected.square().mean().sqrt()


def scaled_as_the_original(scale: float) -> None:
    """Whatever the loss is multiplied with, the gradients are about as exact as those of the plain formula."""
    rows, classes, width = 48, 3000, 16
    x, weight = torch.randn(rows, width).half(), (torch.randn(classes, width) * 0.05).half()
    target = torch.randint(classes, (rows,))

    def plain(x: Tensor, weight: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy((x @ weight.T).to(torch.promote_types(x.dtype, torch.float32)), target)

    def gradients(loss: Loss, dtype: torch.dtype) -> list[Tensor]:
        given = [t.to(dtype, copy=True).requires_grad_() for t in (x, weight)]
        found = loss(*given, target)
        return [t.double() for t in torch.autograd.grad(found, given, torch.tensor(scale, dtype=found.dtype))]

    trials = zip(
        gradients(plain, torch.float64),
        gradients(plain, torch.float16),
        gradients(fused_linear_cross_entropy, torch.float16),
        strict=True,
    )
    for right, theirs, ours in trials:
        assert (ours - right).norm() <= 2 * (theirs - right).norm()


def large_weights_stay_finite() -> None:
    """Where a slope times the weight is far beyond one, what is held on the way forward does not overflow."""
    x, target = torch.randn(8, 4).half() / 1000, torch.randint(50, (8,))
    weight = (300 * torch.randn(50, 4)).half().requires_grad_()
    x.requires_grad_()
    (ours,) = torch.autograd.grad(fused_linear_cross_entropy(x, weight, target), x)
    (right,) = torch.autograd.grad(F.cross_entropy(x.double() @ weight.double().T, target), x)
    assert (ours - right).double().norm() <= 2e-3 * right.double().norm()


def under_autocast_as_torchs_linear() -> None:
    """Inputs of any floating dtype are taken in autocast's; the gradients come in the inputs' own; float64 stays."""
    target = torch.randint(9, (5,))
    for dtypes in ((torch.float32,) * 2, (torch.bfloat16, torch.float32), (torch.float64,) * 2):
        x, weight = (torch.randn(n, 4).to(dtype).requires_grad_() for n, dtype in zip((5, 9), dtypes, strict=True))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            ours = fused_linear_cross_entropy(x, weight, target)
            theirs = F.cross_entropy(F.linear(x, weight), target)
        torch.testing.assert_close(ours, theirs)
        pairs = zip(torch.autograd.grad(ours, (x, weight)), torch.autograd.grad(theirs, (x, weight)), strict=True)
        for mine, right in pairs:
            assert mine.dtype == right.dtype
            torch.testing.assert_close(mine, right, atol=1e-2, rtol=1e-2)


def second_order_is_refused(loss: Loss) -> None:
    """Gradients of gradients are an error, never missing."""
    logits, target = made()
    (slope,) = torch.autograd.grad(loss(logits, target), logits, create_graph=True)
    try:
        torch.autograd.backward(slope.square().sum())
    except RuntimeError as error:
        assert "gradient of gradients" in str(error)  # noqa: PT017
    else:
        raise AssertionError("no error")


if __name__ == "__main__":
    torch.manual_seed(0)
    sys.exit(main(cases()))
