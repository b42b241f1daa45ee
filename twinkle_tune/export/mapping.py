"""A profile as a mapping of the kernels package, of transformers or of Twinkle: a Python module, and JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from twinkle_tune.export.choice import Choice, Entry, HubKernel, by_class, by_kernel_name
from twinkle_tune.export.form import Form
from twinkle_tune.export.text import module_text
from twinkle_tune.mode import Mode
from twinkle_tune.profile.schema import Profile

_MODES = {
    Mode.INFERENCE: "INFERENCE",
    Mode.TRAIN: "TRAINING",
    Mode.COMPILE: "INFERENCE | TORCH_COMPILE",
    Mode.TRAIN_COMPILE: "TRAINING | TORCH_COMPILE",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """An export: the text of the Python module and of the JSON file, and what they hold."""

    module: str
    json: str
    choice: Choice


def export(profile: Profile, form: Form, source: str) -> Exported:
    """A profile's winners as a mapping.

    Args:
        source: how the files name the profile that they were made of.
    """
    is_for_twinkle = form is Form.TWINKLE
    choice = by_class(profile) if is_for_twinkle else by_kernel_name(profile)
    device, mode = _device(profile), _MODES[profile.mode]
    facts = {"format": form.value, "profile": source, "model": profile.model.name, "mode": mode, "device": device}
    data = {
        **facts,
        "mapping": _twinkle(choice)
        if form is Form.TWINKLE
        else _native(choice, _device(profile), _MODES[profile.mode]),
        "classes": {entry.name: list(entry.classes) for entry in choice.entries},
        "left_out": [asdict(each) for each in choice.left_out],
    }
    return Exported(module=module_text(facts, choice), json=json.dumps(data, indent=2) + "\n", choice=choice)


def _device(profile: Profile) -> dict[str, object]:
    """The device type and, where it is known, the interval of capabilities: the one that was profiled."""
    found: dict[str, object] = {"type": profile.device}
    major, dot, minor = profile.environment.capability.partition(".")
    if dot and profile.device in ("cuda", "rocm") and major.isdecimal() and minor.isdecimal():
        capability = int(major) * 10 + int(minor)
        found |= {"min_capability": capability, "max_capability": capability}
    return found


def _native(choice: Choice, device: dict[str, object], mode: str) -> dict[str, object]:
    """As the kernels package nests it: name, device, mode, repository; no mode at all where the original won."""
    return {entry.name: [{"device": device, "modes": _modes(entry, mode)}] for entry in choice.entries}


def _modes(entry: Entry, mode: str) -> dict[str, object]:
    kernel = entry.kernel
    if not isinstance(kernel, HubKernel):
        return {}
    return {mode: {"repo_id": kernel.repo_id, "layer_name": kernel.layer, "revision": kernel.commit}}


def _twinkle(choice: Choice) -> dict[str, object]:
    """By the dotted path of the class or function; what is not in it keeps its original."""
    found: dict[str, object] = {}
    for entry in choice.entries:
        kernel, path = entry.kernel, entry.name.replace(":", ".")
        if isinstance(kernel, HubKernel):
            found[path] = {"hub": f"{kernel.repo_id}:{kernel.layer}", "revision": kernel.commit}
        elif kernel is not None:
            found[path] = {"builtin": "liger_builtin"}
    return found
