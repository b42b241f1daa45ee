"""A language model's output whose logits are computed when somebody asks for them."""

from __future__ import annotations

from functools import cache
from typing import Any

from torch import Tensor, nn

from twinkle_tune.errors import BindError


def with_late_logits(loss: Tensor, head: nn.Module, hidden: Tensor, outputs: Any) -> Any:
    """The output of a training step of transformers' causal language models.

    Args:
        loss: a scalar.
        head: gives the logits of ``hidden`` (batch, sequence, width), when they are asked for: as an attribute or a
            key, by iteration, as a tuple, by pickling or copying. They carry gradients as the loss does. Once weights
            were changed they cannot be had any more: asking is a BindError then.
        outputs: of the model below the head; its cache, hidden states and attentions are handed on.
    """
    made = _output_class()(
        loss=loss,
        past_key_values=getattr(outputs, "past_key_values", None),
        hidden_states=getattr(outputs, "hidden_states", None),
        attentions=getattr(outputs, "attentions", None),
    )
    made.__dict__["_later"] = head, hidden, _versions(head, hidden)
    return made


def _versions(head: nn.Module, hidden: Tensor) -> tuple[int, ...]:
    """Counts up with each change in place, such as an optimizer's step."""
    return tuple(tensor._version for tensor in (hidden, *head.parameters()))


@cache
def _output_class() -> Any:
    """Made when it is first needed: transformers is not imported before."""
    from collections import OrderedDict

    from transformers.modeling_outputs import CausalLMOutputWithPast as Plain

    class CausalLMOutputWithPast(Plain):  # type: ignore[misc]
        """As transformers' own, under the same name: who compares the forms of outputs finds no difference."""

        @property
        def logits(self) -> Any:
            later = self.__dict__.get("_later")
            if later is not None:
                head, hidden, versions = later
                if _versions(head, hidden) != versions:
                    raise BindError(
                        "logits: asked for after the model's weights were changed, when they would be other logits; "
                        "read them before the optimizer's step, or restore_model(model)"
                    )
                OrderedDict.__setitem__(self, "logits", head(hidden))
                for name in ("past_key_values", "hidden_states", "attentions"):
                    if OrderedDict.__contains__(self, name):
                        OrderedDict.move_to_end(self, name)
                del self.__dict__["_later"]
            return OrderedDict.get(self, "logits")

        @logits.setter
        def logits(self, value: Any) -> None:
            self.__dict__.pop("_later", None)
            if value is not None:
                OrderedDict.__setitem__(self, "logits", value)

        def __getitem__(self, key: Any) -> Any:
            if key in ("loss", 0) and self.loss is not None:
                return self.loss
            _ = self.logits
            return super().__getitem__(key)

        def get(self, key: Any, default: Any = None) -> Any:
            return self[key] if key == "loss" or key in self else default

        def __reduce__(self) -> Any:
            return Plain, tuple(getattr(self, name) for name in Plain.__dataclass_fields__)

    def asking(name: str) -> Any:
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            _ = self.logits
            return getattr(super(CausalLMOutputWithPast, self), name)(*args, **kwargs)

        method.__name__ = name
        return method

    for name in ("keys", "values", "items", "to_tuple", "__iter__", "__len__", "__contains__", "__eq__", "__repr__"):
        setattr(CausalLMOutputWithPast, name, asking(name))
    CausalLMOutputWithPast.__qualname__ = Plain.__qualname__
    return CausalLMOutputWithPast
