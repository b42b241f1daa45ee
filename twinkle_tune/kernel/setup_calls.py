"""Which calls of a model a way of running it is for: those that were shown, and sizes between them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from twinkle_tune.kernel.forward import signature_of_forward
from twinkle_tune.kernel.measured import Accepts, State, accepts_of
from twinkle_tune.profile.setup import ModelCall
from twinkle_tune.workload import Node, TensorSpec, observe, target_of

CACHE = "past_key_values"
_CACHES = ("self_attention_cache", "cross_attention_cache")
_undivided: set[type] = set()
"""Kinds of arguments that were seen to have nothing inside that counts by itself: every call of a model asks."""
_FREE = frozenset({"use_cache"})
"""What a call may ask for that nobody compares: a cache is made longer, or is not."""
_DEFAULTS: Mapping[str, object] = {"return_dict": True, "logits_to_keep": 0}
"""What is as if it were not given."""


def call_of(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> ModelCall:
    """Describe a call of the model that is about to happen; positional arguments by their names, without None."""
    given = named(names_of(model), args, kwargs)
    workload = replace(observe(target_of(type(model)), (), given, model), settings=())
    return ModelCall(workload=workload, cached=cached_tokens(given))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Form:
    """Calls that look alike but for their sizes.

    Attributes:
        accepts: by name what each argument may be.
        sizes: by name of a tensor the sizes that its first dimension may have, and the least and largest of the others.
        cached: the least and largest number of tokens in the cache; None for no cache.
        state: of the process.
        training: the model's own flag.
    """

    accepts: Mapping[str, Accepts]
    sizes: Mapping[str, tuple[frozenset[int], tuple[tuple[int, int], ...]]]
    cached: tuple[int, int] | None
    state: State
    training: bool

    def fits(self, model: nn.Module, asked: Asked) -> bool:
        """Whether a call is of this form; what is soonest told comes first, since every call of the model is asked."""
        given, cached = asked.given, asked.cached
        if cached is not None and self.cached is not None and not self.cached[0] <= cached <= self.cached[1]:
            return False
        if not self._accepts(model, asked):
            return False
        for name, (firsts, others) in self.sizes.items():
            value = given[name]
            if value.is_nested or value.layout is not torch.strided:
                return False
            shape = value.shape
            if shape and (shape[0] not in firsts or not _within(shape[1:], others)):
                return False
        return self._is_now(model, given)

    def is_alike(self, model: nn.Module, asked: Asked) -> bool:
        """Whether a call is of this form but for its sizes, and for how much its cache holds."""
        return self._accepts(model, asked) and self._is_now(model, asked.given)

    def _accepts(self, model: nn.Module, asked: Asked) -> bool:
        if model.training is not self.training or asked.names != self.accepts.keys():
            return False
        if (asked.cached is None) is not (self.cached is None):
            return False
        return all(accepts(asked.given[name]) for name, accepts in self.accepts.items())

    def _is_now(self, model: nn.Module, given: Mapping[str, Any]) -> bool:
        tensors = [value for value in given.values() if isinstance(value, Tensor)]
        device = tensors[0].device.type if tensors else "cpu"
        return device != "meta" and self.state.is_now(model, tensors, device)


class Asked:
    """A call of a model, as all forms are asked about it.

    Attributes:
        given: its arguments by name, without those that are as if they were not given.
        names: of those that a form tells of.
        cached: how many tokens are in its cache; None where it has none that tells.
    """

    __slots__ = ("cached", "given", "names")

    def __init__(self, names: tuple[str, ...], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self.given = named(names, args, kwargs)
        self.names = self.given.keys() - _FREE
        self.cached = cached_tokens(self.given)

    def state(self) -> tuple[object, ...]:
        """What is another after a call that has written into its cache or a tensor that it was given."""
        return self._state(cached_tokens(self.given))

    def now(self) -> tuple[object, ...]:
        """The :meth:`state` at once after it was asked, when the cache holds what it was asked with."""
        return self._state(self.cached)

    def _state(self, cached: int | None) -> tuple[object, ...]:
        return cached, *versions_of(self.given.values())


def versions_of(values: Iterable[Any]) -> list[int]:
    """What counts the writes to each tensor; one of inference mode has no such count."""
    return [v._version for v in values if isinstance(v, Tensor) and not v.is_inference()]


def _within(shape: Sequence[int], bounds: Sequence[tuple[int, int]]) -> bool:
    return all(low <= size <= high for size, (low, high) in zip(shape, bounds, strict=True))


def forms_of(calls: Iterable[ModelCall]) -> Iterator[Form]:
    """The forms of a setup's calls: those that are alike but for sizes are one, and stand for all sizes between."""
    alike: dict[object, list[ModelCall]] = {}
    for call in calls:
        alike.setdefault(_form_key(call), []).append(call)
    for same in alike.values():
        workloads = [call.workload for call in same]
        nodes = {name: node for name, node in workloads[0].kwargs if name not in _FREE}
        specs = {n: [s for w in workloads if isinstance(s := dict(w.kwargs)[n], TensorSpec)] for n in nodes}
        lengths = [call.cached for call in same if call.cached is not None]
        yield Form(
            accepts={name: accepts_of(node) for name, node in nodes.items()},
            sizes={name: _sizes(found) for name, found in specs.items() if found},
            cached=(min(lengths), max(lengths)) if lengths else None,
            state=State.of(workloads[0].context),
            training=workloads[0].context.training,
        )


def _sizes(specs: Sequence[TensorSpec]) -> tuple[frozenset[int], tuple[tuple[int, int], ...]]:
    firsts = frozenset(spec.shape[0] for spec in specs if spec.shape)
    others = zip(*(spec.shape[1:] for spec in specs), strict=True)
    return firsts, tuple((min(sizes), max(sizes)) for sizes in others)


def _form_key(call: ModelCall) -> object:
    def key(node: Node) -> object:
        return (node.dtype, len(node.shape)) if isinstance(node, TensorSpec) else node

    kwargs = ((name, key(node)) for name, node in call.workload.kwargs if name not in _FREE)
    # A call that goes on with a cache is another one than that which begins it.
    return tuple(kwargs), call.workload.context, None if call.cached is None else call.cached > 0


def names_of(model: nn.Module) -> tuple[str, ...]:
    """The names of the parameters of a model's forward."""
    signature = signature_of_forward(type(model).forward)
    return () if signature is None else tuple(signature.parameters)[1:]


def named(names: tuple[str, ...], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """A call's arguments by name, without those that are as if they were not given.

    What is inside of a table, as an encoder's states are, has the table's name before its own
    ("encoder_outputs.last_hidden_state"). So have an encoder-decoder's two caches, which stand beside their holder.
    """
    found = dict(kwargs)
    if args:
        found |= zip((*names, *map(str, range(len(names), len(args)))), args, strict=False)
    for name, usual in _DEFAULTS.items():
        value = found.get(name)
        if type(value) is type(usual) and value == usual:
            del found[name]
    given = {name: value for name, value in found.items() if value is not None}
    if _undivided.issuperset(map(type, given.values())):
        return given
    return {name: value for each in given.items() for name, value in _apart(*each) if value is not None}


def _apart(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    is_table = isinstance(value, dict)
    if not is_table:
        yield name, value
    inside = value if is_table else {part: getattr(value, part) for part in _CACHES if hasattr(value, part)}
    if not is_table and not inside:
        _undivided.add(type(value))
    yield from ((f"{name}.{inner}", held) for inner, held in inside.items())


_IDS = ("input_ids", "decoder_input_ids", "labels")


def rows_of(model: nn.Module) -> int | None:
    """How many rows of an embedding any index may name; None where the model has no embedding.

    Of a transformers model its vocabulary; of another the fewest of its embeddings' rows.
    """
    found = getattr(model, "get_input_embeddings", lambda: None)()
    if isinstance(found, nn.Embedding):
        return found.num_embeddings
    return min((m.num_embeddings for m in model.modules() if isinstance(m, nn.Embedding)), default=None)


def are_rows(given: Mapping[str, Any], rows: int | None) -> bool:
    """Whether indices on a CPU are within an embedding: from compiled code one beyond it ends the process."""
    if rows is None:
        return True
    return all(are_between(given[name], least, rows) for name, least in indices_of(given))


def indices_of(given: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Names of the arguments of a call that are indices of an embedding on a CPU, and the least index that is right."""
    for name in [name for name in _IDS if name in given] if "input_ids" in given else given:
        value = given[name]
        if isinstance(value, Tensor) and value.device.type == "cpu" and value.dtype in (torch.int64, torch.int32):
            yield name, -100 if name == "labels" else 0


_FEW = 512
"""So many indices are sooner looked at one by one than by operations of torch's, when the caches are cold."""


def are_between(indices: Tensor, low: int, end: int) -> bool:
    """Whether all indices are at least ``low`` and below ``end``."""
    count = indices.numel()
    if count == 1:
        return low <= int(indices) < end
    if not count:
        return True
    if count <= _FEW and indices.dim() == 2 and type(indices) is Tensor:
        return all(low <= min(row) and max(row) < end for row in indices.tolist())
    least, most = indices.aminmax()
    return low <= int(least) and int(most) < end


def cached_tokens(given: Mapping[str, Any]) -> int | None:
    """Tokens in the cache of a call; None where it has none that tells."""
    cache = given.get(CACHE)
    length = getattr(cache, "get_seq_length", None)
    return None if length is None else int(length())
