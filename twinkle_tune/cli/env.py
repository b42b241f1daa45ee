"""``twinkle-tune env``: what is here, and what is missing for what."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, dataclass
from typing import Annotated

import typer

from twinkle_tune.cli.say import say, show_json

_VARIABLES = (
    "TWINKLE_USE_KERNELS",
    "TWINKLE_TRUST_REMOTE_CODE",
    "TWINKLE_TRUSTED_PUBLISHERS",
    "TWINKLE_REQUIRE_SIGNATURE",
    "LOCAL_KERNELS",
    "HF_ENDPOINT",
    "HF_HUB_OFFLINE",
    "TRITON_DEFAULT_FP_FUSION",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ability:
    """Something the package can do here, or what it lacks for it ("" where it lacks nothing)."""

    what: str
    lacks: str


def env(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Show the machine, the libraries, and what is missing."""
    from twinkle_tune.device import DEVICES, is_available
    from twinkle_tune.environment import ENVIRONMENT_PACKAGES, current_environment, package_version

    here = tuple(name for name in DEVICES if is_available(name))
    environments = [current_environment(name) for name in here]
    packages = {name: package_version(name) for name in ENVIRONMENT_PACKAGES}
    variables = {name: os.environ.get(name, "") for name in _VARIABLES}
    has_compiler = any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++"))
    can = abilities(packages, here, has_compiler=has_compiler)
    if as_json:
        data = {
            "devices": [asdict(each) | {"fingerprint": each.fingerprint} for each in environments],
            "packages": packages,
            "variables": variables,
            "abilities": [asdict(each) for each in can],
        }
        show_json(data)
        return
    say(f"python      {environments[0].python} on {environments[0].system}")
    for each in environments:
        capability = f", capability {each.capability}" if each.capability else ""
        say(f"{each.device:<11} {each.device_name}{capability} (fingerprint {each.fingerprint})")
    say()
    say("packages")
    for name, version in packages.items():
        say(f"  {name:<25} {version or 'not installed'}")
    say()
    say("environment variables")
    for name, value in variables.items():
        say(f"  {name:<25} {value or 'not set'}")
    say()
    say("what works here")
    for ability in can:
        lacks = f": needs {ability.lacks}" if ability.lacks else ""
        say(f"  {'no ' if lacks else 'yes'} {ability.what}{lacks}")


def abilities(packages: dict[str, str], devices: tuple[str, ...], *, has_compiler: bool) -> tuple[Ability, ...]:
    """What works with these packages (name to version, "" where not installed) on these devices. Pure."""
    gpu = "" if {"cuda", "rocm"} & set(devices) else "a CUDA or ROCm device"

    def needs(*names: str, also: str = "") -> str:
        gone = [f"pip install {_INSTALL.get(name, name)}" for name in names if not packages.get(name)]
        return " and ".join([*gone, *([also] if also else [])])

    return (
        Ability(what="profiling on the CPU", lacks=""),
        Ability(what="profiling on a GPU", lacks=gpu),
        Ability(what="presets, Hub models and local checkpoints", lacks=needs("transformers")),
        Ability(what="kernels from the Hub and local kernel repositories", lacks=needs("kernels")),
        Ability(
            what="torch.compile candidates on the CPU",
            lacks="" if has_compiler else "a C++ compiler (g++ or clang++)",
        ),
        Ability(what="Triton candidates", lacks=needs("triton", also=gpu)),
        Ability(what="Liger candidates", lacks=needs("liger-kernel", "triton", also=gpu)),
    )


_INSTALL = {"transformers": "'twinkle_tune[transformers]'", "liger-kernel": "'twinkle_tune[liger]'"}
