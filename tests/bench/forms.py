"""Families of candidates that compute the same in several ways, for contests with a real winner."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

_EPS = 1e-6
Form = Callable[..., object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """The original and its candidates by name, the sizes at which they race, and what makes their inputs.

    At every other size the ``library`` form, the usual good one, is the original, so that less is to be gained.
    """

    forms: Mapping[str, Form]
    library: str
    sizes: tuple[tuple[int, int], ...]
    inputs: Callable[[int, int, str], tuple[Tensor, ...]]

    def contests(self) -> Iterator[tuple[tuple[int, int], Mapping[str, Form]]]:
        """Each size with its forms by name, "original" among them."""
        for number, size in enumerate(self.sizes):
            other = {"original": self.forms[self.library], "as written": self.forms["original"]}
            rest = {name: form for name, form in self.forms.items() if name not in ("original", self.library)}
            yield size, {**other, **rest} if number % 2 else self.forms


def _rows(count: int) -> Callable[[int, int, str], tuple[Tensor, ...]]:
    # So many tensors of shape (rows, columns), and a weight and a bias of shape (columns,).
    def inputs(rows: int, columns: int, device: str) -> tuple[Tensor, ...]:
        made = [torch.randn(rows, columns, device=device) for _ in range(count)]
        return (*made, torch.randn(columns, device=device), torch.randn(columns, device=device))

    return inputs


def _rms_as_written(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    wide = x.to(torch.float32)
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + _EPS)
    return weight * wide.to(x.dtype)


RMS_NORM: Mapping[str, Form] = {
    "original": _rms_as_written,
    "rms_norm": lambda x, w, b: functional.rms_norm(x, (x.shape[-1],), w, _EPS),
    "square": lambda x, w, b: x * torch.rsqrt(x.square().mean(-1, keepdim=True) + _EPS) * w,
    "dot": lambda x, w, b: x * torch.rsqrt(torch.linalg.vecdot(x, x).unsqueeze(-1) / x.shape[-1] + _EPS) * w,
    "norm": lambda x, w, b: x * (w * x.shape[-1] ** 0.5) / torch.linalg.vector_norm(x, dim=-1, keepdim=True),
    "root": lambda x, w, b: x / torch.sqrt((x * x).mean(-1, keepdim=True) + _EPS) * w,
}


def _variance(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    variance, mean = torch.var_mean(x, -1, correction=0, keepdim=True)
    return (x - mean) * torch.rsqrt(variance + _EPS) * w + b


def _two_means(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + _EPS) * w + b


LAYER_NORM: Mapping[str, Form] = {
    "original": _two_means,
    "layer_norm": lambda x, w, b: functional.layer_norm(x, (x.shape[-1],), w, b, _EPS),
    "variance": _variance,
    "addcmul": lambda x, w, b: torch.addcmul(b, functional.layer_norm(x, (x.shape[-1],), None, None, _EPS), w),
}


def _exponentials(x: Tensor) -> Tensor:
    powers = torch.exp(x - x.amax(-1, keepdim=True))
    return powers / powers.sum(-1, keepdim=True)


def _in_place(x: Tensor) -> Tensor:
    powers = (x - x.amax(-1, keepdim=True)).exp_()
    return powers.div_(powers.sum(-1, keepdim=True))


SOFTMAX: Mapping[str, Form] = {
    "original": lambda x, w, b: _exponentials(x),
    "softmax": lambda x, w, b: torch.softmax(x, -1),
    "in place": lambda x, w, b: _in_place(x),
    "log": lambda x, w, b: torch.log_softmax(x, -1).exp_(),
    "logsumexp": lambda x, w, b: torch.exp(x - torch.logsumexp(x, -1, keepdim=True)),
}

GATED: Mapping[str, Form] = {
    "original": lambda gate, up, w, b: functional.silu(gate) * up,
    "sigmoid": lambda gate, up, w, b: gate * torch.sigmoid(gate) * up,
    "in place": lambda gate, up, w, b: functional.silu(gate).mul_(up),
    "exponential": lambda gate, up, w, b: gate * up / (1 + torch.exp(-gate)),
    "sigmoid in place": lambda gate, up, w, b: torch.sigmoid(gate).mul_(gate).mul_(up),
}

_ROOT = (2 / torch.pi) ** 0.5
GELU: Mapping[str, Form] = {
    "original": lambda x, w, b: 0.5 * x * (1 + torch.tanh(_ROOT * (x + 0.044715 * torch.pow(x, 3)))),
    "gelu": lambda x, w, b: functional.gelu(x, approximate="tanh"),
    "products": lambda x, w, b: 0.5 * x * (1 + torch.tanh(_ROOT * x * (1 + 0.044715 * x * x))),
    "sigmoid": lambda x, w, b: x * torch.sigmoid(2 * _ROOT * x * (1 + 0.044715 * x * x)),
}

ADD_NORM: Mapping[str, Form] = {
    "original": lambda x, y, w, b: _rms_as_written(x + y, w, b),
    **{name: functools.partial(lambda form, x, y, w, b: form(x + y, w, b), form) for name, form in RMS_NORM.items()
       if name in ("rms_norm", "square", "dot", "root")},
}  # fmt: skip


def _rotary_inputs(rows: int, heads: int, device: str) -> tuple[Tensor, ...]:
    angles = torch.randn(1, 1, rows, 32, device=device).repeat(1, 1, 1, 2)
    return torch.randn(1, heads, rows, 64, device=device), angles.cos(), angles.sin()


def _halves(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., :32], x[..., 32:]


def _rotated(x: Tensor) -> Tensor:
    low, high = _halves(x)
    return torch.cat((-high, low), -1)


def _by_halves(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    (low, high), c, s = _halves(x), cos[..., :32], sin[..., :32]
    return torch.cat((low * c - high * s, high * c + low * s), -1)


def _written(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    (low, high), c, s, out = _halves(x), cos[..., :32], sin[..., :32], torch.empty_like(x)
    torch.sub(low * c, high * s, out=out[..., :32])
    torch.add(high * c, low * s, out=out[..., 32:])
    return out


ROTARY: Mapping[str, Form] = {
    "original": lambda x, cos, sin: x * cos + _rotated(x) * sin,
    "addcmul": lambda x, cos, sin: torch.addcmul(x * cos, _rotated(x), sin),
    "halves": _by_halves,
    "written": _written,
    "roll": lambda x, cos, sin: torch.addcmul(x * cos, x.roll(32, -1), torch.cat((-sin[..., :32], sin[..., 32:]), -1)),
}


def _loss_inputs(rows: int, classes: int, device: str) -> tuple[Tensor, ...]:
    return torch.randn(rows, classes, device=device), torch.randint(0, classes, (rows,), device=device)


CROSS_ENTROPY: Mapping[str, Form] = {
    "original": lambda x, at: -torch.log(torch.softmax(x, -1)).gather(1, at[:, None]).mean(),
    "cross_entropy": lambda x, at: functional.cross_entropy(x, at),
    "nll": lambda x, at: functional.nll_loss(torch.log_softmax(x, -1), at),
    "logsumexp": lambda x, at: (torch.logsumexp(x, -1) - x.gather(1, at[:, None])[:, 0]).mean(),
    "gather": lambda x, at: -torch.log_softmax(x, -1).gather(1, at[:, None]).mean(),
}


def _linear_inputs(rows: int, columns: int, device: str) -> tuple[Tensor, ...]:
    weight = torch.randn(columns, columns, device=device) / columns**0.5
    return torch.randn(rows, columns, device=device), weight, torch.randn(columns, device=device)


LINEAR: Mapping[str, Form] = {
    "original": lambda x, w, b: torch.matmul(x, w.t()) + b,
    "linear": lambda x, w, b: functional.linear(x, w, b),
    "in place": lambda x, w, b: torch.matmul(x, w.t()).add_(b),
    "einsum": lambda x, w, b: torch.einsum("rc,oc->ro", x, w) + b,
    "other way": lambda x, w, b: torch.matmul(w, x.t()).t() + b,
}

_SIZES = ((1, 1024), (16, 512), (64, 1024), (256, 512), (128, 4096))
FAMILIES: Mapping[str, Family] = {
    "RMSNorm": Family(forms=RMS_NORM, library="rms_norm", sizes=_SIZES, inputs=_rows(1)),
    "LayerNorm": Family(forms=LAYER_NORM, library="layer_norm", sizes=_SIZES, inputs=_rows(1)),
    "softmax": Family(forms=SOFTMAX, library="softmax", sizes=_SIZES, inputs=_rows(1)),
    "gated SiLU": Family(forms=GATED, library="in place", sizes=_SIZES, inputs=_rows(2)),
    "GELU": Family(forms=GELU, library="gelu", sizes=_SIZES, inputs=_rows(1)),
    "residual and norm": Family(forms=ADD_NORM, library="rms_norm", sizes=_SIZES, inputs=_rows(2)),
    "rotary": Family(
        forms=ROTARY, library="halves", sizes=((1, 4), (16, 8), (128, 4), (128, 16), (512, 8)), inputs=_rotary_inputs
    ),
    "cross-entropy": Family(
        forms=CROSS_ENTROPY,
        library="cross_entropy",
        sizes=((1, 4096), (16, 1024), (32, 8192), (128, 4096)),
        inputs=_loss_inputs,
    ),
    "linear with bias": Family(
        forms=LINEAR, library="linear", sizes=((1, 512), (16, 256), (64, 512), (128, 1024)), inputs=_linear_inputs
    ),
}
