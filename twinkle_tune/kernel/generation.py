"""A model's own ``generate`` while a way stands that has another cache: it says how long the text may get.

The forward, which is what a way stands for, is not told that. The model's class runs its ``generate``, whatever comes
of it: where a call asks for anything that has to do with caches, or with more than one text a row, it says nothing, and
the forward is then as it is without the way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from twinkle_tune.kernel.forward import dressed

_PLAIN = frozenset(
    {
        "inputs", "input_ids", "attention_mask", "generation_config", "logits_processor", "stopping_criteria",
        "streamer", "max_new_tokens", "min_new_tokens", "max_length", "min_length", "do_sample", "temperature",
        "top_k", "top_p", "min_p", "repetition_penalty", "pad_token_id", "bos_token_id", "eos_token_id",
        "return_dict_in_generate", "output_logits", "output_scores",
    }
)  # fmt: skip
"""What may be asked for with any cache. All else is somebody's own choice, or newer than this."""
_USUAL: Mapping[str, tuple[object, ...]] = {
    "cache_implementation": (None,),
    "cache_config": (None,),
    "max_cache_len": (None,),
    "compile_config": (None,),
    "use_cache": (None, True),
    "num_beams": (None, 1),
    "num_return_sequences": (None, 1),
    "prefill_chunk_size": (None,),
    "prompt_lookup_num_tokens": (None,),
    "penalty_alpha": (None,),
    "guidance_scale": (None, 1, 1.0),
    "dola_layers": (None,),
}
"""What a generation's settings must say."""


@dataclass(slots=True, eq=False)
class Generation:
    """A generation that runs.

    Attributes:
        model: that generates.
        tokens: in each row at most, prompt included.
        gives_cache: whether its answer has the cache.
        has_begun: whether its first call was made.
        at_end: to be called when it is over.
    """

    model: nn.Module
    tokens: int
    gives_cache: bool
    has_begun: bool = False
    at_end: list[Callable[[], None]] = field(default_factory=list)


_now: ContextVar[Generation | None] = ContextVar("twinkle_tune_generation", default=None)


def beginning(model: nn.Module) -> Generation | None:
    """The generation of a model whose first call is to come; None where none is."""
    found = _now.get()
    return None if found is None or found.model is not model or found.has_begun else found


def telling_generate(original: Callable[..., Any]) -> Callable[..., Any]:
    """The class's ``generate`` as a method of a record: it says what runs."""

    def generate(held: Any, /, *args: Any, **kwargs: Any) -> Any:
        model: nn.Module = held.module()
        with _running(generation_of(model, args, kwargs)):
            return original(model, *args, **kwargs)

    made = dressed(generate, original)
    made.__name__ = "generate"
    return made


@contextmanager
def _running(generation: Generation | None) -> Iterator[None]:
    token = _now.set(generation)
    try:
        yield
    finally:
        _now.reset(token)
        for end in () if generation is None else generation.at_end:
            end()


def generation_of(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Generation | None:
    """What a call of ``generate`` will come to; None where it asks for more than a text for each row of a prompt."""
    names = ("inputs", "generation_config")
    given = {name: value for name, value in (*zip(names, args, strict=False), *kwargs.items()) if value is not None}
    prompt = given.get("input_ids", given.get("inputs"))
    if (
        len(args) > len(names)
        or not given.keys() <= _PLAIN
        or not isinstance(prompt, torch.Tensor)
        or prompt.dim() != 2
    ):
        return None
    # What a call's own settings leave open the model's fill in.
    both = [given[name] for name in names[1:] if name in given] + [getattr(model, "generation_config", None)]
    for name, usual in _USUAL.items():
        if any(getattr(each, name, None) not in usual for each in both):
            return None

    def asked(name: str) -> Any:
        return next(
            (v for v in (given.get(name), *(getattr(each, name, None) for each in both)) if v is not None), None
        )

    new, most = asked("max_new_tokens"), asked("max_length")
    if new is None and most is None:
        return None
    tokens = max(prompt.shape[1] + (new or 0), most or 0)
    return Generation(model, tokens, gives_cache=bool(asked("return_dict_in_generate")))
