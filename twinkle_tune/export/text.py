"""The Python module of an export: plain code, for people to read and change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from twinkle_tune.export.choice import Choice, HubKernel, LigerKernel

_FOR = {
    "hf-kernels": (
        "a mapping of the kernels package",
        "register()  # then kernels.kernelize(model, mode=...)",
    ),
    "transformers": ("a kernel configuration of transformers", "apply(model)  # loaded and on its device"),
    "twinkle": ("a mapping of Twinkle", "apply(model)"),
}
_NAMED = '''

def named(target):
    """The class of "module:qualified.name"."""
    module, _, path = target.partition(":")
    found = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    return found
'''
_NAMING = '''

def name_classes():
    """Give the classes above that carry no kernel name theirs, for the whole process."""
    for target, name in CLASSES.items():
        if not hasattr(named(target), "kernel_layer_name"):
            replace_kernel_forward_from_hub(named(target), name)
'''
_REGISTER = '''

def register(trust_remote_code=False):
    """Add the mapping to the process's."""
    name_classes()
    register_kernel_mapping(mapping(trust_remote_code))
'''
_TRANSFORMERS = '''

def apply(model, trust_remote_code=False):
    """Use the kernels in a model of transformers, also after its train() and eval(); returns the model."""
    name_classes()
    # As the constructor's argument the nested form is refused when a model is loaded.
    config = KernelConfig(inherit_mapping=False)
    config.kernel_mapping = mapping(trust_remote_code)
    model.kernel_config = config
    model.set_use_kernels(True)
    return model
'''
_TWINKLE = '''

def apply(model):
    """Use the kernels in a model, in place and for good; returns the model."""
    return kernelize(model, mapping())
'''


_OF_LIGER = '''

def of_liger(targets):
    """What Twinkle's liger_builtin() has for these, and nothing else of it."""
    bundle, found = liger_builtin(), {}
    for target in targets:
        path = target.replace(":", ".")
        keys = [key for key in bundle if key in (path, f"{path}.forward")]
        keys = keys or [key for key in bundle if isinstance(key, type) and key is named(target)]
        if not keys:
            raise LookupError(f"liger_builtin() of this Twinkle has nothing for {path}; take it out of LIGER")
        found.update({key: bundle[key] for key in keys})
    return found
'''


def module_text(facts: Mapping[str, Any], choice: Choice) -> str:
    """The module's text.

    Args:
        facts: "format", "profile", "model", "mode" and "device" of the export.
    """
    head = _docstring(facts, choice)
    if facts["format"] == "twinkle":
        return head + _twinkle_body(choice) + _TWINKLE + (_OF_LIGER if _liger(choice) else "") + _NAMED
    is_for_transformers = facts["format"] == "transformers"
    properties = _properties(facts["device"])
    imported = sorted(
        {"Device", "LayerRepository", "Mode", "replace_kernel_forward_from_hub"}
        | ({properties.partition("(")[0]} if properties else set())
        | (set() if is_for_transformers else {"register_kernel_mapping"})
    )
    lines = ["import importlib", "", f"from kernels import {', '.join(imported)}"]
    lines += ["from transformers import KernelConfig"] if is_for_transformers else []
    body = "\n".join([*lines, *_classes(choice), *_mapping(facts, properties, choice)])
    return head + body + "\n" + _NAMING + (_TRANSFORMERS if is_for_transformers else _REGISTER) + _NAMED


def _docstring(facts: Mapping[str, Any], choice: Choice) -> str:
    what, call = _FOR[facts["format"]]
    lines = [
        f"The kernels that won on {_plain(facts['model'])}, as {what}.",
        "",
        f"Made by twinkle-tune from {_plain(facts['profile'])}.",
        f"Measured in mode {facts['mode']} on {_told(facts['device'])}.",
        "It needs no twinkle_tune. Publishers that the Hub does not trust are refused, unless you trust them.",
        "",
        f"    {call}",
        "",
    ]
    if choice.left_out:
        lines += ["Winners that are left out, since such a mapping cannot express them; the originals stay there:", ""]
        lines += [_plain(f"- {each.where}: {each.winner}: {each.reason}") for each in choice.left_out]
    else:
        lines += ["Nothing is left out."]
    return '"""' + "\n".join(lines) + '\n"""\n\n'


def _classes(choice: Choice) -> Iterator[str]:
    yield from ("", "CLASSES = {")
    yield from (f"    {target!r}: {e.name!r}," for e in choice.entries if e.kernel for target in e.classes)
    yield "}"
    yield '"""Whose forward the kernels replace, with the names that the mapping has for them."""'


def _mapping(facts: Mapping[str, Any], properties: str, choice: Choice) -> Iterator[str]:
    mode = " | ".join(f"Mode.{flag}" for flag in facts["mode"].split(" | "))
    device = f"type={facts['device']['type']!r}" + (f", properties={properties}" if properties else "")
    yield from ("", "", "def mapping(trust_remote_code=False):")
    yield '    """By kernel name, device and mode; an empty mode table keeps the original, against any default."""'
    yield f"    device = Device({device})"
    yield "    return {"
    for entry in choice.entries:
        kernel = entry.kernel
        modes = f"{{{mode}: {_repository(kernel)}}}" if isinstance(kernel, HubKernel) else "{}"
        yield f"        {entry.name!r}: {{device: {modes}}},"
    yield "    }"


def _repository(kernel: HubKernel) -> str:
    return (
        f"LayerRepository({kernel.repo_id!r}, layer_name={kernel.layer!r}, revision={kernel.commit!r}, "
        "trust_remote_code=trust_remote_code)"
    )


def _liger(choice: Choice) -> list[str]:
    return [entry.name for entry in choice.entries if isinstance(entry.kernel, LigerKernel)]


def _twinkle_body(choice: Choice) -> str:
    names = ", ".join(("hub", "kernelize", *(["liger_builtin"] if _liger(choice) else [])))
    lines = ["import importlib", "", f"from twinkle.kernel import {names}", ""]
    if _liger(choice):
        lines += ["LIGER = (", *(f"    {name!r}," for name in _liger(choice)), ")"]
        lines += ['"""Classes and functions whose contests a kernel of Liger won."""', ""]
    lines += ["", "def mapping():"]
    # Older versions of Twinkle take a path for a name to replace in its module, which reaches no model that is there.
    lines += ['    """By class. Twinkle knows no modes: it is for the mode above alone."""', "    return {"]
    for entry in choice.entries:
        if isinstance(entry.kernel, HubKernel):
            ref = f"{entry.kernel.repo_id}:{entry.kernel.layer}"
            lines.append(f"        named({entry.name!r}): hub({ref!r}, revision={entry.kernel.commit!r}),")
    lines += ["        **of_liger(LIGER),"] if _liger(choice) else []
    return "\n".join([*lines, "    }", ""])


def _properties(device: Mapping[str, Any]) -> str:
    """The device's properties as code; "" where no interval of capabilities is known."""
    if "min_capability" not in device:
        return ""
    name = "CUDAProperties" if device["type"] == "cuda" else "ROCMProperties"
    low, high = device["min_capability"], device["max_capability"]
    return f"{name}(min_capability={low}, max_capability={high})"


def _told(device: Mapping[str, Any]) -> str:
    capability = device.get("min_capability")
    return str(device["type"]) + (f" of capability {capability / 10}" if capability is not None else "")


def _plain(text: str) -> str:
    """A text of the profile as part of a docstring: one line, and nothing that would end it."""
    line = "".join(char if char.isprintable() else "?" for char in text)
    return line.replace("\\", "\\\\").replace('"', "'")
