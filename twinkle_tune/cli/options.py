"""What the options' texts mean. No effects, and nothing heavy imported."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from twinkle_tune.errors import TuneError

if TYPE_CHECKING:
    from twinkle_tune.report.render import Format

MODEL_HELP = "A preset, a Hub id, a local directory, or package.module:factory."
IN_PROCESS_HELP = "Try candidates in this process; a crash then ends the run."
STORE_HELP = "Where past results are kept; off for nowhere.  [default: TWINKLE_TUNE_STORE, else a file]"
PARTIAL = ".partial.json"
"""Ends the name of a profile that must not take the place of another one."""
REPORT_FORMATS: tuple[Format, ...] = ("html", "md", "csv", "json")
_LARGEST = 2**31 - 1
_LONGEST_NAME = 150
_UNITS_S = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_sizes(option: str, text: str | None) -> tuple[int, ...] | None:
    """Whole numbers separated by commas ("1,8"); None for no text.

    Raises:
        TuneError: it is something else, or a number is below 1.
    """
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    numbers = [whole_number(part) for part in parts]
    if None in numbers:
        raise TuneError(
            f"{option}: got {text!r:.80}, expected whole numbers of 1 to {_LARGEST}, separated by commas: {option} 1,8"
        )
    return tuple(number for number in numbers if number is not None)


def parse_count(option: str, text: str | None) -> int | None:
    """A whole number; None for no text.

    Raises:
        TuneError: it is something else, or below 1.
    """
    if text is None:
        return None
    # Our own, because what Typer says of a wrong number repeats it in some versions only.
    number = whole_number(text)
    if number is None:
        raise TuneError(f"{option}: got {text!r:.80}, expected a whole number of 1 to {_LARGEST}")
    return number


def whole_number(text: str) -> int | None:
    """A whole number of at least 1 that sizes and counts may have; None for any other text."""
    if not (text.isascii() and text.isdigit()):
        return None
    digits = text.lstrip("0")
    # By its length first: Python refuses to read thousands of digits.
    return int(digits) if 0 < len(digits) <= len(str(_LARGEST)) and int(digits) <= _LARGEST else None


def parse_names(option: str, text: str | None) -> tuple[str, ...] | None:
    """Names separated by commas; None for no text.

    Raises:
        TuneError: a name is empty.
    """
    if text is None:
        return None
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise TuneError(f"{option}: got {text!r}, expected names separated by commas: {option} compile,liger")
    return names


def parse_budget(text: str | None) -> float | None:
    """Seconds of "90", "90s", "5m" or "1.5h"; None for no text.

    Raises:
        TuneError: it is something else, or not above zero.
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip().lower())
    seconds = float(match[1]) * _UNITS_S[match[2]] if match else 0.0
    if not 0 < seconds < math.inf:
        raise TuneError(f"--budget: got {text!r:.80}, expected a time above zero such as 90s, 5m or 1h")
    return seconds


def parse_autocast(text: str | None) -> str:
    """The dtype that autocast is to cast to: "bfloat16" of "bf16"; "" for no text.

    Raises:
        TuneError: it is none that autocast casts to.
    """
    if text is None:
        return ""
    known = {"bf16": "bfloat16", "bfloat16": "bfloat16", "fp16": "float16", "float16": "float16"}
    found = known.get(text.strip().lower())
    if found is None:
        raise TuneError(f"--autocast: got {text!r:.80}, expected bf16 or fp16")
    return found


def parse_age(option: str, text: str | None) -> float | None:
    """Seconds of "90m", "12h" or "30d"; None for no text.

    Raises:
        TuneError: it is something else.
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,6})\s*([smhd])", text.strip().lower())
    if match is None:
        raise TuneError(f"{option}: got {text!r:.80}, expected an age such as 12h or 30d")
    return int(match[1]) * {**_UNITS_S, "d": 86400.0}[match[2]]


def parse_slowdown(text: str | None) -> float | None:
    """A number such as "1.1"; None for no text.

    Raises:
        TuneError: it is something else.
    """
    if text is None:
        return None
    if not re.fullmatch(r"\d+(?:\.\d+)?", text.strip()) or float(text) == math.inf:
        raise TuneError(f"--slowdown: got {text!r:.80}, expected a number of at least 1, such as 1.1 for 10% more time")
    return float(text)


def slug(name: str) -> str:
    """A name as part of a path: "NVIDIA H100 80GB HBM3" → "nvidia-h100-80gb-hbm3"."""
    plain = re.sub(r"\((?:r|tm|c)\)", " ", name.lower())
    return re.sub(r"[^a-z0-9.]+", "-", plain).strip("-.") or "unnamed"


def profile_path(device_name: str, model: str, mode: str, objective: str = "time", autocast: str = "") -> Path:
    """Where a profile goes when ``--out`` is not given; one by memory or under autocast never over another one."""
    named = "".join(f"-{slug(each)}" for each in (autocast, "" if objective == "time" else objective) if each)
    name = slug(model)
    if len(name) > _LONGEST_NAME:
        name = f"{name[:_LONGEST_NAME]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return Path("profiles", slug(device_name), f"{name}-{slug(mode)}{named}.json")


def report_path(target: str, profile: Path) -> tuple[Path, Format]:
    """File and format of one ``--report``: a path whose ending is the format, or a format alone.

    A format alone puts the report under ``reports/``, in the folder and under the name of the profile.

    Raises:
        TuneError: the ending names no format.
    """
    path = Path(target)
    ending = target if target in REPORT_FORMATS else path.suffix.lower().removeprefix(".")
    form = next((each for each in REPORT_FORMATS if each == ending), None)
    if form is None:
        known = ", ".join(REPORT_FORMATS)
        raise TuneError(f"--report: got {target!r}, expected a path that ends in one of {known}, or one of these alone")
    if target == form:
        folder = profile.parent.name if profile.parts[:1] == ("profiles",) else ""
        path = Path("reports", folder, f"{profile.stem}.{form}")
    return path, form


def partial_paths(path: Path) -> Iterator[Path]:
    """Where the profile of a run that was stopped may go, beside ``path``: "p.partial.json", "p.partial-2.json", ..."""
    yield path.with_suffix(PARTIAL)
    for number in count(2):
        yield path.with_suffix(f".partial-{number}.json")
