"""What was seen of a script's models: frozen values, which say what each model is called with, and how often."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

from twinkle_tune.call.arguments import Call
from twinkle_tune.mode import Mode
from twinkle_tune.profile.json_text import to_data
from twinkle_tune.workload import Workload, call_text


@dataclass(frozen=True, slots=True, kw_only=True)
class CallsSeen:
    """Calls of a model that look the same.

    Attributes:
        workload: their arguments without values, the train flag of the model, grad mode and autocast, as called. Of
            integers the least and the largest value of all of them is told.
        count: how many were recorded.
        autocast: the dtype that autocast casts to inside of the model, where accelerate opens it; "" for off.
        continues: whether they go on with a cache: a decode step, which no example of its own makes.
        kept: the arguments of the first of them, where they were asked for.
    """

    workload: Workload
    count: int
    autocast: str
    continues: bool
    kept: Call | None = None

    @property
    def trains(self) -> bool:
        """Whether they are steps of a training: gradients are on, and the model is in train mode."""
        return self.workload.context.grad and self.workload.context.training

    @property
    def text(self) -> str:
        """Their form, in short: "int64[2,128], autocast bfloat16"."""
        text = call_text(self.workload)
        return f"{text}, autocast {self.autocast}" if self.autocast and "autocast" not in text else text


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSeen:
    """A model that was called from outside of any module.

    Attributes:
        path: where it stands in what was watched ("unet" of a pipeline); "" for that itself, or where a script was
            watched.
        target: "module:qualified.name" of its class, without wrappers (torch.compile, DDP).
        digest: what tells it from models of another form
            (:func:`~twinkle_tune.kernel.setups.digest_of_model`).
        device: where it was called: a device's name.
        parameters: number of its parameters.
        calls: those that were recorded, alike ones together, in the order of their first.
        total: all calls that were counted, recorded or not.
        optimizer: class of the optimizer that stepped its parameters; "" where none did.
    """

    path: str
    target: str
    digest: str
    device: str
    parameters: int
    calls: tuple[CallsSeen, ...]
    total: int
    optimizer: str = ""

    @property
    def name(self) -> str:
        """Its class's name."""
        return self.target.rpartition(":")[2].rpartition(".")[2]

    @property
    def mode(self) -> Mode:
        """What it is for: train, where any call was a step of a training; else inference."""
        return Mode.TRAIN if any(each.trains for each in self.calls) else Mode.INFERENCE

    @property
    def of_its_mode(self) -> tuple[CallsSeen, ...]:
        """The calls of its mode that can be run by themselves."""
        trains = self.mode.trains
        return tuple(each for each in self.calls if each.trains is trains and not each.continues)

    @property
    def autocast(self) -> str:
        """What autocast casts to in most calls of its mode; "" for off."""
        return max(self.of_its_mode, key=lambda each: each.count).autocast if self.of_its_mode else ""

    @property
    def text(self) -> str:
        """One line: "Net (train, autocast bfloat16, AdamW): 100 calls in 2 forms"."""
        told = [str(self.mode), *([f"autocast {self.autocast}"] if self.autocast else [])]
        told += [self.optimizer] if self.optimizer else []
        count = len(self.calls)
        forms = "1 form" if count == 1 else f"{count} forms"
        where = f"{self.path}, " if self.path else ""
        return f"{where}{self.name} ({', '.join(told)}): {calls_text(self.total)} in {forms}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """What was seen of all models, in the order of their first calls."""

    models: tuple[ModelSeen, ...] = ()

    def data(self) -> dict[str, Any]:
        """It as plain data for JSON, without the kept arguments."""
        return {"models": [to_data(model) for model in _without_kept(self.models)]}

    def _repr_html_(self) -> str:
        """A row for each form of each model's calls, for notebooks."""
        rows = [(model, each) for model in self.models for each in model.calls]
        cells = [(m.path or m.name, each.text, each.count, _told(each).strip(" ()")) for m, each in rows]
        body = "".join(f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in cells)
        heads = "".join(f"<th>{name}</th>" for name in ("Model", "Call", "Count", ""))
        return f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"

    def __str__(self) -> str:
        lines = []
        for model in self.models:
            lines.append(model.text)
            lines += [f"  {calls_text(each.count)}: {each.text}{_told(each)}" for each in model.calls]
        return "\n".join(lines) or "no model was called"


def calls_text(count: int) -> str:
    """ "1 call", "12 calls"."""
    return "1 call" if count == 1 else f"{count} calls"


def _told(calls: CallsSeen) -> str:
    if calls.continues:
        return " (goes on with a cache)"
    return "" if calls.workload.context.grad else " (no gradients)"


def _without_kept(models: Sequence[ModelSeen]) -> list[ModelSeen]:
    return [replace(m, calls=tuple(replace(each, kept=None) for each in m.calls)) for m in models]
