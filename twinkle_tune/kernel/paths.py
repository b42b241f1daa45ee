"""Which contests of a profile speak of which instance of a model: by its path."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from twinkle_tune.profile.schema import Contest

_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")
_WRAPPERS = re.compile(r"(^|\.)(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)(?=\.|$)")


def contests_at(
    path: str, contests: Sequence[Contest], place: Callable[[str], str] = lambda instance: instance
) -> list[Contest]:
    """The contests of an instance, out of those of its class.

    Those that name its path; else those that name it with other numbers, since a profile of a stack that was
    shortened speaks for the layers that were left out; else those whose path it ends with, or that end with it,
    since a model may have been wrapped (or unwrapped) after it was profiled. The names that torch.compile, FSDP and
    checkpointing put into paths do not count.

    Args:
        path: "model.layers.3.mlp".
        contests: of the instance's class.
        place: of a contest's instance the path that counts.
    """
    plain = _plain(path)
    named = [c for c in contests if any(_plain(place(instance)) == plain for instance in c.instances)]
    pattern = _NUMBER.sub("*", plain)
    numbered = named or [c for c in contests if any(_pattern(place(instance)) == pattern for instance in c.instances)]
    return numbered or [c for c in contests if any(_ends_alike(_pattern(place(i)), pattern) for i in c.instances)]


def _plain(path: str) -> str:
    return _WRAPPERS.sub("", path).lstrip(".")


def _pattern(path: str) -> str:
    return _NUMBER.sub("*", _plain(path))


def _ends_alike(one: str, other: str) -> bool:
    shorter, longer = sorted((one, other), key=len)
    return bool(shorter) and longer.endswith(f".{shorter}")
