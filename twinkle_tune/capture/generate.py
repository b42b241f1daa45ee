"""A language model's own generation of text, greedy, on the cache that it makes longer: a step of the whole model."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from twinkle_tune.capture.look import Look, look_at
from twinkle_tune.capture.point import Point, unwrapped
from twinkle_tune.capture.untouched import Untouched

TOKENS = 32
"""New tokens of a step."""


def generates(model: nn.Module) -> bool:
    """Whether the model has a ``generate`` with a configuration, as those of transformers."""
    inner = unwrapped(model)
    return callable(getattr(inner, "generate", None)) and getattr(inner, "generation_config", None) is not None


class Generate:
    """``model.generate`` of a fixed number of new tokens: always the likeliest, and no end before the last one."""

    def __init__(self, point: Point, tokens: int = TOKENS) -> None:
        """``point`` has the prompt: ``input_ids`` (B, S), integers, and what belongs to it."""
        self._point, self._tokens = point, tokens
        self._untouched = Untouched(gradients=False)
        self._said: Tensor | None = None

    def __call__(self, model: nn.Module) -> object:
        """The tokens (B, S + new)."""
        return self._generate(model)

    def look(self, model: nn.Module) -> Look:
        """The logits of each new token. What is said is what was said at the first look, so that runs can be compared:
        where two tokens are as likely, a rounding decides, and all that follows is another text.
        """
        forced = [] if self._said is None else [_Says(self._said)]
        found: Any = self._generate(model, forced, output_logits=True, return_dict_in_generate=True)
        if self._said is None:
            self._said = found.sequences.clone()
        return look_at({"logits": torch.stack(tuple(found.logits))})

    def _generate(self, model: nn.Module, processors: Sequence[object] = (), **more: Any) -> Any:
        inner: Any = unwrapped(model)
        settings = copy.deepcopy(inner.generation_config)
        settings.update(
            do_sample=False, num_beams=1, temperature=None, top_k=None, top_p=None, use_cache=True,
            max_new_tokens=self._tokens, min_new_tokens=self._tokens, max_length=None, min_length=None,
            pad_token_id=settings.pad_token_id or 0, **more,
        )  # fmt: skip
        kwargs = dict(self._point.fresh().kwargs)
        with self._untouched.around(model), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of settings that only matter when tokens are drawn
            return inner.generate(**kwargs, generation_config=settings, logits_processor=list(processors))


class _Says:
    """A processor of logits (B, V) after which the next token of a text (B, S + new) is the only one left."""

    def __init__(self, text: Tensor) -> None:
        self._text = text

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        only = torch.full_like(scores, -torch.inf)
        return only.scatter_(1, self._text[:, input_ids.shape[1], None], 0.0)
