"""A plan of many profiles: models × modes × devices, as a TOML file says it. Pure but for reading the file."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twinkle_tune.errors import ModeError, TuneError
from twinkle_tune.fleet.ray_devices import PREFIX
from twinkle_tune.mode import parse_mode

_LISTS = ("models", "modes", "devices")
_TEXTS = ("folder", "executor")
OPTIONS = frozenset(
    [
        "dtype",
        "autocast",
        "batch",
        "seq-len",
        "layers",
        "register",
        "candidates",
        "budget",
        "objective",
        "slowdown",
        "in-process",
        "attention",
        "head",
        "ways",
        "calls",
        "no-optimizer",
        "dynamic",
        "from-hub",
        "store",
    ]
)
"""The options of ``twinkle-tune profile`` that a plan may give; the others are its own."""


class PlanError(TuneError):
    """A plan cannot be read, or does not say what it must."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """One profile of a plan.

    ``device`` is "" for the best of this machine, or the name of a Ray resource: the device of another machine.
    """

    model: str
    mode: str
    device: str

    @property
    def is_elsewhere(self) -> bool:
        """Whether it is made on the machine of a cluster's device."""
        return self.device.startswith(PREFIX)

    @property
    def title(self) -> str:
        """For people: "qwen3-tiny, inference, cpu"."""
        return ", ".join(filter(None, (self.model, self.mode, self.device)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a plan says.

    Attributes:
        path: its file.
        folder: where profiles and the page go.
        models, modes, devices: each with each of the others.
        executor: of every profile, as ``--executor`` takes it; "" for none.
        options: of every profile, as words of a command line.
    """

    path: Path
    folder: Path
    models: tuple[str, ...]
    modes: tuple[str, ...]
    devices: tuple[str, ...]
    executor: str
    options: tuple[str, ...]

    @property
    def profiles(self) -> tuple[Planned, ...]:
        """All of them, those of one device together: what its models have in common is then known."""
        return tuple(
            Planned(model=model, mode=mode, device=device)
            for device in self.devices
            for model in self.models
            for mode in self.modes
        )


def read_plan(path: Path) -> Plan:
    """Read a plan.

    Raises:
        PlanError: there is no such file, it is no TOML, or it does not say what a plan must.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"{path}: cannot be read ({error}), expected a plan in TOML; check the path") from error
    except tomllib.TOMLDecodeError as error:
        raise PlanError(f"{path}: not valid TOML ({error}), expected a plan; correct that line") from error
    unknown = sorted(data.keys() - {*_LISTS, *_TEXTS, "options"})
    if unknown:
        known = ", ".join((*_LISTS, *_TEXTS, "options"))
        raise PlanError(f"{path}: got {', '.join(unknown)}, expected one of {known}; remove or correct it")
    modes = _texts(path, data, "modes", ("inference",))
    for mode in modes:
        try:
            parse_mode(mode)
        except ModeError as error:
            raise PlanError(f"{path}: modes: {error}") from error
    devices, executor = _texts(path, data, "devices", ("",)), _text(path, data, "executor", "")
    there = [device for device in devices if device.startswith(PREFIX)]
    if there and not executor:
        raise PlanError(f'{path}: devices: got {there[0]} without an executor; write executor = "ray://HOST:PORT"')
    return Plan(
        path=path,
        folder=path.parent / _text(path, data, "folder", path.stem),
        models=_texts(path, data, "models", ()),
        modes=modes,
        devices=devices,
        executor=executor,
        options=_options(path, data.get("options", {})),
    )


def _text(path: Path, data: Mapping[str, Any], name: str, default: str) -> str:
    found = data.get(name, default)
    if not isinstance(found, str) or (name in data and not found.strip()):
        raise PlanError(f'{path}: {name}: got {found!r:.80}, expected a text; write {name} = "..."')
    return found


def _texts(path: Path, data: Mapping[str, Any], name: str, default: tuple[str, ...]) -> tuple[str, ...]:
    if name not in data and default:
        return default
    found = data.get(name, [])
    if not isinstance(found, list) or not found or not all(isinstance(each, str) and each.strip() for each in found):
        raise PlanError(f'{path}: {name}: got {found!r:.80}, expected a list of texts; write {name} = ["..."]')
    twice = sorted({each for each in found if found.count(each) > 1})
    if twice:
        raise PlanError(f"{path}: {name}: got {', '.join(twice)} more than once; remove the second one")
    return tuple(found)


def _options(path: Path, found: object) -> tuple[str, ...]:
    """The options of a command line: a text or a number behind its name, true as --name, false as --no-name."""
    if not isinstance(found, dict):
        raise PlanError(f"{path}: options: got {found!r:.80}, expected a table; write [options] above its lines")
    words: list[str] = []
    for name, value in found.items():
        if name not in OPTIONS:
            raise PlanError(
                f"{path}: options: got {name}, expected an option of 'twinkle-tune profile' that a plan may give: "
                f"{', '.join(sorted(OPTIONS))}"
            )
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, bool):
                words.append(f"--{name}" if each else f"--no-{name}")
            elif isinstance(each, str | int | float):
                words += [f"--{name}", str(each)]
            else:
                raise PlanError(f"{path}: options: {name}: got {each!r:.80}, expected a text, a number, true or false")
    return tuple(words)
