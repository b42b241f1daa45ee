"""The attention of a transformers model: which implementation its own switch, ``attn_implementation``, chooses.

The masks that a model makes depend on the switch, and it makes them once for all layers. So the slot is the whole
model: what competes are its forwards with the switch set one way or the other. Whatever has a slot inside (norms,
MLPs) is not touched by that, and is chosen by itself.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.torch_version import TorchVersion

from twinkle_tune.mode import Mode
from twinkle_tune.slot import ATTENTION, Candidate
from twinkle_tune.source.switch import SwitchSource
from twinkle_tune.workload import Plain, Workload

_VALUES = ("eager", "sdpa", "flex_attention")
_BACKENDS = {"cpu": ("flash", "math"), "cuda": ("flash", "efficient", "cudnn", "math")}
# Under torch.compile the switch would be part of what is compiled.
_MODES = frozenset({Mode.INFERENCE, Mode.TRAIN})


SEES_SWITCH = TorchVersion(torch.__version__) >= "2.13"
"""Whether compiled code has the attention that was set while it was traced. In torch 2.11 a property of the
configuration, by which models read the switch, gives what stood there before (``findings/``)."""


def attention_place(model: nn.Module) -> tuple[str, nn.Module] | None:
    """Path and module of the outermost transformers model, where its switch can be set; None where it cannot.

    Models of several configurations (vision and text) have several switches, and are left out.
    """
    for path, module in model.named_modules():
        if hasattr(type(module), "set_attn_implementation"):
            return (path, module) if _has_one_switch(module) else None
    return None


def attention_contestants(module: nn.Module, device: str) -> tuple[Candidate, ...]:
    """Candidates for the attention of a model, without the original: what its switch takes, and sdpa's backends."""
    model: Any = module
    now = model.config._attn_implementation
    found = [SwitchSource(knob=ATTENTION, value=value) for value in _VALUES if value != now and _takes(model, value)]
    if _takes(model, "sdpa"):
        found += [SwitchSource(knob=ATTENTION, value="sdpa", backend=backend) for backend in _BACKENDS.get(device, ())]
    return tuple(
        Candidate(
            name=f"attn:{source.value}" + (f".{source.backend}" if source.backend else ""), source=source, modes=_MODES
        )
        for source in found
    )


def other_attentions(model: nn.Module) -> tuple[str, ...]:
    """What else the switch of a whole model may be set to in compiled code; none where the model itself has no switch.

    flex_attention is left out: it compiles by itself.
    """
    place = attention_place(model) if SEES_SWITCH else None
    if place is None or place[0]:
        return ()
    found = attention_contestants(model, "")
    sources = [candidate.source for candidate in found if isinstance(candidate.source, SwitchSource)]
    return tuple(source.value for source in sources if source.value != "flex_attention" and not source.backend)


def continues(workload: Workload) -> bool:
    """Whether a call goes on with what earlier calls left in a cache, which each call makes longer."""
    cache = dict(workload.kwargs).get("past_key_values", Plain(value=None))
    return cache != Plain(value=None)


def _has_one_switch(module: nn.Module) -> bool:
    configs = {id(m.config) for m in module.modules() if hasattr(type(m), "set_attn_implementation")}
    model: Any = module
    known = getattr(getattr(model, "config", None), "_attn_implementation", None) in _VALUES
    return len(configs) == 1 and known and bool(model._can_set_attn_implementation())


def _takes(model: Any, value: str) -> bool:
    try:
        return bool(model.get_correct_attn_implementation(value) == value)
    except (ValueError, ImportError):
        return False  # it says why to whom asks for it by name
