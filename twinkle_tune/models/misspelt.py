"""What looks like a model's name and is none: a file, or a folder that is not there. Each says what was meant."""

from __future__ import annotations

import ast
from pathlib import Path

from twinkle_tune.errors import ModelError
from twinkle_tune.words import did_you_mean

_SHOWN = 3


def refuse_misspelt(spec: str) -> None:
    """Refuse a Python file, and a path to a folder that is not there.

    Raises:
        ModelError: with what was meant, as far as that can be seen.
    """
    file, _, function = spec.partition(":")
    for name in (file, f"{file}.py"):
        refuse_file(name, function)
    folder = Path(spec)
    try:
        is_path = spec.startswith((".", "/", "~")) or (len(folder.parts) > 1 and folder.parent.is_dir())
        if not is_path or folder.is_dir():
            return
        beside = [path.name for path in folder.parent.iterdir() if path.is_dir()] if folder.parent.is_dir() else []
    except (OSError, ValueError):  # a name that is too long, or a folder that cannot be read
        return
    hint = did_you_mean(folder.name, beside)
    named = hint.replace("did you mean ", f"did you mean {spec[: len(spec) - len(folder.name)]}")
    raise ModelError(f"{spec}: got no such directory, expected one with a transformers checkpoint{named}")


def refuse_file(name: str, function: str) -> None:
    """Refuse a Python file in the place of its module: "own.py" or "own.py:make" in that of "own:make".

    Raises:
        ModelError: with the functions of the file that can be called without arguments.
    """
    if not name.endswith(".py") or not is_file(name):
        return
    path = Path(name)
    module = path.stem if path.is_absolute() or ".." in path.parts else ".".join(path.with_suffix("").parts)
    names = [function] if function else functions_of(path)
    hint = f"; did you mean {' or '.join(f'{module}:{each}' for each in names[:_SHOWN])}?" if names else ""
    raise ModelError(
        f"{name}: got a file, expected module:function, whose function returns a module or (module, inputs){hint}"
    )


def is_file(name: str) -> bool:
    """Whether there is a file of that name."""
    try:
        return Path(name).is_file()
    except (OSError, ValueError):  # a name that is too long, or none
        return False


def functions_of(path: Path) -> list[str]:
    """The functions of a file that can be called without arguments, without running it; none where it is no Python."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError):
        return []
    return [
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
        and not node.name.startswith("_")
        and len(node.args.posonlyargs) + len(node.args.args) == len(node.args.defaults)
        and all(default is not None for default in node.args.kw_defaults)
    ]
