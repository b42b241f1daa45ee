"""What is said of a command that was written in a way that it does not have."""

from __future__ import annotations

_MEANT = {
    "--gpu": "--device cuda",
    "--cuda": "--device cuda",
    "--cpu": "--device cpu",
    "--train": "--mode train",
    "--training": "--mode train",
    "--inference": "--mode inference",
    "--compile": "--mode compile",
    "--bf16": "--dtype bfloat16",
    "--fp16": "--dtype float16",
    "--fp32": "--dtype float32",
    "--output": "--out",
    "--time": "--budget",
    "--timeout": "--budget",
    "--html": "--format html",
}
"""Options that people expect, and what there is for them."""


def usage_text(error: Exception, message: str) -> str:
    """The message of a usage error, without the parser's own words, and with the option that was meant."""
    told = message.replace("Value error, ", "").rstrip(".")
    option = str(getattr(error, "option_name", None) or "")
    meant = _MEANT.get(option, "")
    if meant and meant.split()[0] in _options_of(error):
        return f"No such option: {option}; did you mean {meant}?"
    return told


def _options_of(error: Exception) -> set[str]:
    command = getattr(getattr(error, "ctx", None), "command", None)
    return {name for parameter in getattr(command, "params", ()) for name in getattr(parameter, "opts", ())}
