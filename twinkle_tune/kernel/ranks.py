"""The processes of a job bind the same kernels, or none does.

Ranks that run different kernels compute a little differently, and where one waits for what another never sends, the
job hangs. So what a rank would do is told to all before anything is bound. Whatever a rank meets instead (an error, a
missing file) is told as well: no rank waits for one that is gone.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from twinkle_tune.errors import BindError, ProfileError, TuneError, in_a_line
from twinkle_tune.kernel.patch import Binding
from twinkle_tune.kernel.plan import Plan
from twinkle_tune.kernel.planned import KEPT, Planned
from twinkle_tune.kernel.shared import opened
from twinkle_tune.profile.hub import Place
from twinkle_tune.profile.io import read_profile
from twinkle_tune.profile.json_text import profile_text
from twinkle_tune.profile.schema import Profile
from twinkle_tune.source.digest import digest_code

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_Found = TypeVar("_Found")
_SHORT, _HEAD = 512, 4
"""Bytes of a short message, and of the length at its head."""
_EXPECTED = (
    "expected a torch.distributed process group that this process is in, such as torch.distributed.group.WORLD after "
    "init_process_group"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """The processes of a group.

    Attributes:
        group: what they talk through.
        rank: this one's number in it.
    """

    group: ProcessGroup
    rank: int

    @classmethod
    def of(cls, group: object) -> Ranks:
        """The processes of a group.

        Raises:
            BindError: it is no group, or this process is not in it.
        """
        distributed = torch.distributed
        if not distributed.is_available() or not distributed.is_initialized():
            raise BindError(f"group: got {group!r} without torch.distributed having been initialised, {_EXPECTED}")
        if not isinstance(group, distributed.ProcessGroup):
            raise BindError(f"group: got {group!r}, {_EXPECTED}")
        try:
            return cls(group=group, rank=distributed.get_rank(group))
        except ValueError as error:  # one that was destroyed
            raise BindError(f"group: got {group!r} ({error}), {_EXPECTED}") from error

    def from_first(self, mine: _Found) -> _Found:
        """What rank 0 says."""
        found: list[Any] = [mine if self.rank == 0 else None]
        first = torch.distributed.get_global_rank(self.group, 0)
        torch.distributed.broadcast_object_list(found, src=first, group=self.group)
        return found[0]  # type: ignore[no-any-return]

    def told(self, mine: _Found) -> list[_Found]:
        """What each rank says, in their order."""
        data = pickle.dumps(mine)
        world, is_short = torch.distributed.get_world_size(self.group), len(data) <= _SHORT - _HEAD
        if torch.distributed.get_backend(self.group) == "nccl":
            device = torch.device("cuda", torch.cuda.current_device())
        else:
            device = torch.device("cpu")
        # In one message, where what each says fits: a race tells its times again and again.
        sent = len(data).to_bytes(_HEAD, "big") + (data if is_short else b"").ljust(_SHORT - _HEAD, b"\0")
        message = torch.frombuffer(bytearray(sent), dtype=torch.uint8).to(device)
        each = [torch.empty_like(message) for _ in range(world)]
        torch.distributed.all_gather(each, message, group=self.group)
        told = [bytes(part.cpu().numpy()) for part in each]
        lengths = [int.from_bytes(part[:_HEAD], "big") for part in told]
        if max(lengths) <= _SHORT - _HEAD:
            return [pickle.loads(part[_HEAD:]) for part in told]
        found: list[Any] = [None] * world
        torch.distributed.all_gather_object(found, mine, group=self.group)
        return found

    def together(self, find: Callable[[], _Found], error: type[TuneError] = BindError) -> _Found:
        """What this rank finds, if none meets an error; else each rank raises, those that met none an ``error``."""
        found: list[_Found] = []
        met: BaseException | None = None
        try:
            found.append(find())
        except BaseException as raised:  # Ctrl-C as well: the others wait
            met = raised
        problems = self.told("" if met is None else in_a_line(met, 400))
        if met is not None:
            raise met
        for rank, problem in enumerate(problems):
            if problem:
                raise error(f"rank {rank} of {len(problems)}: {problem}; no rank binds anything")
        return found[0]


def first_s_profile(ranks: Ranks, profile: str | Path | Profile | None) -> Profile | Place | None:
    """The profile that rank 0 was given, on every rank; what the others were given is not read.

    Raises:
        ProfileError: rank 0 cannot read it.
    """

    def read() -> str | Place | None:
        if ranks.rank != 0 or profile is None:
            return None
        loaded = opened(profile)
        return profile_text(loaded) if isinstance(loaded, Profile) else loaded

    first = ranks.from_first(ranks.together(read, ProfileError))
    if not isinstance(first, str):
        return first
    return ranks.together(lambda: read_profile(first.encode(), "rank 0's profile"), ProfileError)


def agreed(ranks: Ranks, find: Callable[[], Planned], *, strict: bool) -> Planned:
    """What this rank is to do: what it would, if all would do the same; else all keep their originals, and say why.

    Only rank 0 warns.

    Args:
        ranks: the processes.
        find: what this one would do by itself.
        strict: whether an original that must stay is an error: that must be asked for alike, too.

    Raises:
        BindError: another rank met an error; of this rank its own is raised.
    """

    def found() -> tuple[Planned, _Would]:
        planned = find()
        return planned, _Would.of(planned, strict)

    mine, would = ranks.together(found)
    each = ranks.told(would)
    differs = next(((rank, other) for rank, other in enumerate(each) if other != each[0]), None)
    if differs is None:
        return mine if ranks.rank == 0 else replace(mine, warnings=())
    rank, other = differs
    unlike = [text for text in (each[0].unlike(other, "rank 0"), other.unlike(each[0], f"rank {rank}")) if text]
    why = (
        f"the ranks would not do the same ({'; '.join(unlike)}): the originals run on all of them; give each the same "
        "kernels, packages and model"
    )
    return Planned(
        plan=Plan(stale=(why,)),
        where=mine.where,
        warnings=(KEPT + why,) if ranks.rank == 0 else (),
        error=BindError(why),
        is_split=True,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Would:
    """What a rank would do: whether it leaves the model as it is, what it would bind where, and what is wrong."""

    strict: bool
    leaves: bool
    binds: tuple[str, ...]
    problems: tuple[str, ...]

    @classmethod
    def of(cls, found: Planned, strict: bool) -> _Would:
        plan = found.plan or Plan()
        error = () if found.error is None else (str(found.error),)
        told = (warning.removeprefix(KEPT) for warning in found.warnings)
        return cls(
            strict=strict,
            leaves=found.plan is None,
            binds=tuple(_told_of(call, binding) for _, call, binding in (*plan.layers, *plan.functions)),
            problems=(*told, *error) or (("its model is left as it is",) if found.plan is None else ()),
        )

    def unlike(self, other: _Would, whose: str) -> str:
        """What this one says that the other does not, in a few words; "" where there is nothing."""
        alone = [each for each in self.problems if each not in other.problems] or [
            f"would bind {each}" for each in self.binds if each not in other.binds
        ]
        alone += ["use_fallback=False"] if self.strict and not other.strict else []
        return f"{whose}: {alone[0]}" if alone else ""


def _told_of(call: object, binding: Binding) -> str:
    """What is bound where. The code of what a profile names is in it; of what is registered by name it is told."""
    code = "" if binding.is_checked else f", code {digest_code(call)}"
    return f"{binding.slot} {binding.path}: {binding.candidate} (rows: {binding.rows}{code})"
