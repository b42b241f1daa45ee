"""A language model's last layer and its loss as one slot, so that the logits of a training step need not exist at once.

The logits of a step, (batch, sequence, classes), are the largest tensor of many models, and nobody reads them but the
loss. So the slot is the whole model, and what competes are its forwards with another way from the last hidden states to
the loss. Whatever has a slot inside is not touched by that, and is chosen by itself. Who asks for the logits gets them.
"""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from twinkle_tune.catalog import liger, op_calls, triton
from twinkle_tune.catalog.late_logits import with_late_logits
from twinkle_tune.catalog.pieces import in_pieces
from twinkle_tune.catalog.probe import generator, holds, random_like, same
from twinkle_tune.mode import Mode
from twinkle_tune.ops.fused_linear_cross_entropy.held import under_autocast
from twinkle_tune.ops.space import Config
from twinkle_tune.slot import Candidate
from twinkle_tune.source.direct import ImplSource

LossOf = Callable[[Tensor, Tensor, Tensor, int, str], Tensor]
"""Of hidden states (rows, width), weight (classes, width), class indices (rows), the index that does not count, and
"mean" or "sum": the cross entropy of the logits."""

_MODES = frozenset({Mode.TRAIN})
_IGNORED = -100
_HEEDED = frozenset({"labels", "shift_labels", "num_items_in_batch", "output_attentions", "output_hidden_states"})
_WEIGHTS = frozenset({"Parameter", "Tensor", "DTensor", "FakeTensor", "FunctionalTensor"})
"""Classes of weights that compute as plain ones do: a sharded one is gathered before its layer is called."""
_known_losses: weakref.WeakSet[Callable[..., Any]] = weakref.WeakSet()
"""Loss functions that a probe found to be the cross entropy of the next token."""


def head_place(model: nn.Module) -> tuple[str, nn.Module] | None:
    """Path and module of the language model whose head and loss can be one; None where there is none."""
    return next(((path, module) for path, module in model.named_modules() if _has_head(module)), None)


def head_contestants(module: nn.Module, device: str) -> tuple[Candidate, ...]:
    """Candidates for the head and loss of such a model, without the original: in training alone."""
    source = ImplSource(kind="torch", impl=with_loss(in_pieces))
    found = [Candidate(name="torch.chunked", source=source, modes=_MODES)]
    if liger.offered(device):
        found.append(liger.candidate(with_loss(by_liger)))
    if triton.offered(device):
        found.append(triton.candidate(_ours, "fused_linear_cross_entropy", "cross_entropy", call_of=op_calls.of_head))
    return tuple(candidate for candidate in found if candidate.competes(device, Mode.TRAIN))


def with_loss(loss_of: LossOf) -> Callable[..., Any]:
    """A forward of such a model that takes its loss from the last hidden states.

    Only for a training step as trainers make it: with gradients, labels, and keyword arguments that say nothing else of
    the loss. Everything else is the original's, and so is every call while the head was replaced or has hooks (an
    adapter), or while the loss is another function than a cross entropy that was looked at.
    """

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        labels = kwargs.get("labels")
        if args or not isinstance(labels, Tensor) or not torch.is_grad_enabled() or not _is_usual(self, kwargs):
            return type(self).forward(self, *args, **kwargs)
        given = {name: value for name, value in kwargs.items() if name not in ("labels", "logits_to_keep")}
        outputs = getattr(self, self.base_model_prefix)(**given)
        hidden = outputs.last_hidden_state
        target = kwargs.get("shift_labels")
        if target is None:
            target = F.pad(labels, (0, 1), value=_IGNORED)[..., 1:]
        loss = _loss(loss_of, self.lm_head, hidden, target.to(hidden.device), kwargs.get("num_items_in_batch"))
        return with_late_logits(loss, self.lm_head, hidden, outputs)

    return forward


def by_liger(x: Tensor, weight: Tensor, target: Tensor, ignore_index: int, reduction: str) -> Any:
    """Liger's kernel, adding up the weight's gradient in float32 as the other candidates do."""
    return liger.fused_linear_cross_entropy(x, weight, target, ignore_index, reduction)


def _ours(config: Config | None) -> Callable[..., Any]:
    from twinkle_tune.ops.fused_linear_cross_entropy.op import fused_linear_cross_entropy

    def loss_of(x: Tensor, weight: Tensor, target: Tensor, ignore_index: int, reduction: str) -> Tensor:
        return fused_linear_cross_entropy(
            x, weight, target.long(), ignore_index=ignore_index, reduction=reduction, config=config
        )

    return with_loss(loss_of)


def _loss(loss_of: LossOf, head: nn.Linear, hidden: Tensor, target: Tensor, items: Any) -> Tensor:
    weight, rows = head.weight, hidden.reshape(-1, hidden.shape[-1])
    rows, weight = under_autocast(rows, weight)
    with torch.autocast(hidden.device.type, enabled=False):
        loss = loss_of(rows, weight, target.reshape(-1), _IGNORED, "mean" if items is None else "sum").float()
    if items is None:
        return loss
    return loss / (items.to(loss.device) if isinstance(items, Tensor) else items)


def why_aside(model: Any) -> str:
    """Why a model, as it is, takes its loss the original way whatever is bound; "" where it does not."""
    head: Any = model._modules.get("lm_head")
    if type(head) is not nn.Linear or "forward" in vars(head):
        return f"its lm_head is a {type(head).__name__} or was replaced, no plain Linear: the original runs"
    if head._parameters.get("bias") is not None or type(head.weight).__name__ not in _WEIGHTS:
        return f"its lm_head has a bias, or its weight is a {type(head.weight).__name__}: the original runs"
    if head._forward_hooks or head._forward_pre_hooks or head._backward_hooks or head._backward_pre_hooks:
        return "its lm_head has hooks: the original runs"
    if not _is_known_loss(model.loss_function):
        return "its loss function is not the one that was measured: the original runs"
    return ""


def _is_usual(model: Any, kwargs: Mapping[str, Any]) -> bool:
    wants_tuple = kwargs.get("return_dict", getattr(model.config, "return_dict", True)) is False
    keeps = kwargs.get("logits_to_keep", 0)
    return (
        not why_aside(model)
        and not wants_tuple
        and not isinstance(keeps, Tensor)
        and keeps == 0
        and kwargs.get("labels") is not None
        and kwargs.keys() <= _known_names(type(model).forward, type(getattr(model, model.base_model_prefix)).forward)
    )


@functools.cache
def _known_names(*forwards: Callable[..., Any]) -> frozenset[str]:
    """What may be given by name: arguments of the model and of the one below the head; of the loss those we heed."""
    named: set[str] = set()
    for forward in forwards:
        parameters = inspect.signature(forward).parameters.values()
        named |= {p.name for p in parameters if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD}
    return frozenset(named | _HEEDED) - {"self", "ignore_index"}


def _is_known_loss(function: Any) -> bool:
    """Whether a loss function was looked at. One of transformers' own is, here; another one never in a user's step."""
    if function in _known_losses:
        return True
    is_theirs = str(getattr(function, "__module__", "")).startswith("transformers.")
    return is_theirs and holds(lambda: _is_shifted_cross_entropy(function))


def _has_head(module: nn.Module) -> bool:
    """By its parts and by what its loss function computes, never by its class's name."""
    model: Any = module
    head = module._modules.get("lm_head")
    inside = module._modules.get(getattr(type(module), "base_model_prefix", None) or "")
    is_bare = type(head) is nn.Linear and [name for name, _ in head.named_parameters()] == ["weight"]
    if not is_bare or inside is None or not hasattr(module, "config"):
        return False
    parameters = inspect.signature(type(module).forward).parameters
    takes_more = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    if not takes_more or not {"labels", "logits_to_keep"} <= parameters.keys():
        return False
    return holds(lambda: _is_shifted_cross_entropy(model.loss_function))


def _is_shifted_cross_entropy(function: Callable[..., Any]) -> bool:
    """On logits (1, 5, 7): whether each position's loss is that of the next one's label, mean or sum over items."""
    logits, labels = random_like((1, 5, 7), generator()), torch.tensor([[1, 0, 6, -100, 3]], device="cpu")
    shifted = logits[0, :-1], labels[0, 1:]
    mean, total = (F.cross_entropy(*shifted, reduction=reduction) for reduction in ("mean", "sum"))
    is_it = same(function(logits=logits, labels=labels, vocab_size=7), mean) and same(
        function(logits=logits, labels=labels, vocab_size=7, num_items_in_batch=3), total / 3
    )
    if is_it:
        _known_losses.add(function)
    return is_it
