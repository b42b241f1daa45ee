"""One run of an original or a candidate: outputs, gradients, and what it changed on the way."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from twinkle_tune.call.arguments import Call, fresh, named_tensors
from twinkle_tune.parity.form import same_bits
from twinkle_tune.parity.sent import ROOM, SCALES, STEP, gradients_to_send


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What came of a call.

    Attributes:
        form: the nesting of the outputs in words, plain values included: equal for equal forms.
        outputs: each output tensor by its name, detached.
        graded: names of the outputs that carry a gradient.
        gradients: of each floating argument and parameter that requires one; None where it gets none.
        incoming: the gradients that were sent into the graded outputs.
        scale: of those into outputs of one element.
        changed: arguments, parameters, buffers and incoming gradients that the call changed, as it left them.
        aliases: pairs of an output and an argument, parameter or buffer in the same memory.
    """

    form: str
    outputs: Mapping[str, Tensor]
    graded: frozenset[str] = frozenset()
    gradients: Mapping[str, Tensor | None] = field(default_factory=dict)
    incoming: Mapping[str, Tensor] = field(default_factory=dict)
    scale: float = 1.0
    changed: Mapping[str, Tensor] = field(default_factory=dict)
    aliases: frozenset[tuple[str, str]] = frozenset()

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Everything that can be compared, by name."""
        gradients = {name: tensor for name, tensor in self.gradients.items() if tensor is not None}
        return {**self.outputs, **gradients, **self.changed}


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A layer that is run on a copy, so that no candidate ever touches the model.

    ``pristine`` is what the parameters and buffers of ``module`` are compared with, bit by bit, and restored
    from after every run.
    """

    module: nn.Module
    pristine: Mapping[str, Tensor]

    @classmethod
    def of(cls, copied: nn.Module, like: nn.Module) -> Subject:
        """Run on ``copied``, a copy of ``like``; where both hold the same bits, no third copy is made."""
        source = dict(_state(like))
        return cls(
            module=copied,
            pristine={n: source[n] if same_bits(t, source[n]) else t.detach().clone() for n, t in _state(copied)},
        )

    def restore(self) -> dict[str, Tensor]:
        """Undo what the last run did to parameters and buffers; returns what it had left there."""
        changed = {}
        for name, tensor in _state(self.module):
            if name in self.pristine and not same_bits(tensor, self.pristine[name]):
                changed[f"{name} after the call"] = tensor.detach().clone()
                tensor.data = self.pristine[name].detach().clone()
        return changed


def execute(
    function: Callable[..., Any],
    call: Call,
    *,
    subject: Subject | None,
    trains: bool,
    seed: int,
    incoming: Mapping[str, Tensor] | None = None,
    poison: Run | None = None,
    scale: float = 1.0,
) -> Run:
    """Run ``function`` on a fresh copy of ``call``, with gradients if ``trains``.

    Args:
        function: takes the subject's module first where there is a subject.
        call: the arguments; left as they are.
        subject: the layer to run on.
        trains: with gradients; else under ``torch.no_grad()``.
        seed: of torch's generators during the run; their state is put back afterwards.
        incoming: gradients to send into the outputs; drawn from ``seed`` where none are given.
        scale: of the gradients that are drawn for outputs of one element, see :mod:`twinkle_tune.parity.sent`.
        poison: an earlier run whose sizes of memory are filled with NaN and freed right before the call.
    """
    given = fresh(call)
    lead = () if subject is None else (subject.module,)
    names = dict(named_tensors(given))
    devices = [t.device for t in (*names.values(), *_parameters(subject).values()) if t.device.type != "cpu"]
    device = devices[0] if devices else torch.device("cpu")
    with _seeded(seed, device), torch.set_grad_enabled(trains):
        if poison is not None:
            _leave_nan_behind(poison)
        result = function(*lead, *given.args, **given.kwargs)
        outputs: dict[str, Tensor] = {}
        form = _flatten("output", result, outputs)
        graded = {name: t for name, t in outputs.items() if t.requires_grad} if trains else {}
        at_hand = incoming or {}
        sent = gradients_to_send(graded, seed, at_hand, scale)
        kept = {name: gradient.clone() for name, gradient in sent.items()}
        gradients = _gradients(graded, sent, {**names, **_parameters(subject)}) if trains else {}
    changed = {f"{name} after the call": t.detach() for name, t in _differing(given, call)}
    changed |= {f"gradient sent into {n}, after the call": t for n, t in sent.items() if not same_bits(t, kept[n])}
    state = {} if subject is None else dict(_state(subject.module))
    aliases = frozenset((o, leaf) for o, t in outputs.items() for leaf, s in (names | state).items() if share(t, s))
    # An output may be a buffer of the module itself, which restoring would change under us.
    own = {output for output, leaf in aliases if leaf in state}
    detached = {name: t.detach().clone() if name in own else t.detach() for name, t in outputs.items()}
    changed |= subject.restore() if subject else {}
    return Run(
        form=form,
        outputs=detached,
        graded=frozenset(graded),
        gradients=gradients,
        incoming=kept,
        scale=scale,
        changed=changed,
        aliases=aliases,
    )


def baseline_of(run: Callable[[float], Run], number: int) -> Run:
    """The original's run on a call, by the scale whose turn it is, or the next smaller one that it can take.

    Where its gradients overflow or nearly do, right rivals need not overflow in the same places: nothing could be told.
    A layer without an output of one element is run once.
    """
    scale = SCALES[number % len(SCALES)]
    made = run(scale)
    while scale > 1.0 and any(t.numel() == 1 for t in made.incoming.values()) and _overflows(made):
        scale = max(1.0, scale / STEP)
        made = run(scale)
    return made


def _overflows(run: Run) -> bool:
    return any(
        t.is_floating_point() and t.numel() and not float(t.abs().amax()) < torch.finfo(t.dtype).max / ROOM
        for t in run.gradients.values()
        if t is not None
    )


def share(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors lie in the same piece of memory, wherever in it."""
    if a.layout is not torch.strided or b.layout is not torch.strided or a.device != b.device:
        return False
    # Tensors that hold no memory of their own (subclasses) have no address to be compared.
    mine, other = (t.untyped_storage().data_ptr() if t.numel() else 0 for t in (a, b))
    return mine == other != 0


def _flatten(name: str, value: Any, found: dict[str, Tensor]) -> str:
    """Put the tensors of ``value`` into ``found`` and describe what is around them."""
    if isinstance(value, Tensor):
        found[name] = value
        return "tensor"
    if isinstance(value, Mapping):
        items = [f"{key!r}: {_flatten(f'{name}[{key!r}]', item, found)}" for key, item in value.items()]
    elif isinstance(value, (tuple, list)):
        items = [_flatten(f"{name}[{index}]", item, found) for index, item in enumerate(value)]
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = [(part.name, getattr(value, part.name)) for part in dataclasses.fields(value)]
        items = [f"{key}={_flatten(f'{name}.{key}', item, found)}" for key, item in parts]
    elif value is None or isinstance(value, (bool, int, float, str)):
        return repr(value)
    else:
        return type(value).__name__
    return f"{type(value).__name__}({', '.join(items)})"


def _parameters(subject: Subject | None) -> dict[str, Tensor]:
    return {} if subject is None else dict(subject.module.named_parameters())


def _state(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _gradients(
    graded: Mapping[str, Tensor], sent: Mapping[str, Tensor], leaves: Mapping[str, Tensor]
) -> dict[str, Tensor | None]:
    wanted: dict[str, Tensor] = {}
    for name, leaf in leaves.items():
        if leaf.requires_grad and not any(leaf is other for other in wanted.values()):
            wanted[name] = leaf
    if not wanted or not graded:
        return {f"gradient of {name}": None for name in wanted}
    found = torch.autograd.grad(list(graded.values()), list(wanted.values()), list(sent.values()), allow_unused=True)
    return {f"gradient of {name}": g for name, g in zip(wanted, found, strict=True)}


def _differing(given: Call, call: Call) -> Iterator[tuple[str, Tensor]]:
    before = dict(named_tensors(call))
    for name, tensor in named_tensors(given):
        if name not in before or not same_bits(tensor, before[name]):
            yield name, tensor


def _leave_nan_behind(run: Run) -> None:
    """Make it likely that memory which the next call does not write holds NaN; allocators differ."""
    blocks = [
        torch.full_like(t, float("nan"), memory_format=torch.contiguous_format)
        for t in (*run.tensors.values(), *run.tensors.values())
        if t.is_floating_point()
    ]
    del blocks


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """torch's generators of the CPU and ``device`` start from ``seed`` inside and are put back outside."""
    if device.type == "cpu":
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            yield
        return
    backend = torch.get_device_module(device)
    index = device.index if device.index is not None else backend.current_device()
    with torch.random.fork_rng(devices=[index], device_type=device.type), backend.device(index):
        torch.default_generator.manual_seed(seed)
        backend.manual_seed(seed)
        yield
