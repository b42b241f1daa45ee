"""``twinkle-tune export``: a profile's winners as a mapping for others, who need not have this package."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from twinkle_tune.cli.say import say, tell
from twinkle_tune.export.form import Form

if TYPE_CHECKING:
    from twinkle_tune.export.choice import Choice, Kernel


def export(
    profile: Annotated[Path, typer.Argument(metavar="PROFILE", help="Written by 'twinkle-tune profile'.")],
    to: Annotated[Form, typer.Option("--to", help="For whom the mapping is.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for the two files.")] = Path(),
) -> None:
    """Write Hub winners as a mapping that needs no twinkle_tune.

    It is a Python module and a JSON file. Both list what such a mapping cannot express, and so does the output. If no
    Hub kernel won (for Twinkle: none of Liger's either), nothing is written and the exit code is 1.
    """
    from twinkle_tune.cli.write import check_writable, write_together
    from twinkle_tune.export.mapping import export as exported_from
    from twinkle_tune.profile.io import load_profile

    stem = out / _module_name(profile.stem, to)
    check_writable([stem.with_suffix(".py"), stem.with_suffix(".json")])
    found = exported_from(load_profile(profile), to, profile.name)
    if not any(entry.kernel for entry in found.choice.entries):
        _tell(found.choice)
        tell("Nothing to export: no Hub kernel won")
        raise typer.Exit(1)
    files = {stem.with_suffix(".py"): found.module, stem.with_suffix(".json"): found.json}
    write_together(files)
    for path in files:
        tell(f"wrote {path}")
    _tell(found.choice)


def _tell(choice: Choice) -> None:
    for entry in choice.entries:
        say(f"{entry.name}: {_told(entry.kernel)}")
    for each in choice.left_out:
        say(f"left out: {each.where}: {each.winner}: {each.reason}")


def _told(kernel: Kernel | None) -> str:
    from twinkle_tune.export.choice import HubKernel

    if isinstance(kernel, HubKernel):
        return f"{kernel.repo_id}:{kernel.layer} at {kernel.commit}"
    return "the original" if kernel is None else "Liger's, by liger_builtin()"


def _module_name(stem: str, to: Form) -> str:
    """A name that Python can import: "qwen3-8b-train" → "qwen3_8b_train_hf_kernels"."""
    name = re.sub(r"\W", "_", f"{stem}_{to}", flags=re.ASCII)
    return name if name.isidentifier() else f"_{name}"
