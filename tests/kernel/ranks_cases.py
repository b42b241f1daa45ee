"""What four ranks do that kernelize a model together: ``python -m tests.kernel.ranks_cases FOLDER`` writes it there."""

from __future__ import annotations

import os
import sys
import time
import warnings
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import torch
import torch.distributed as dist

from tests.kernel.toys import Model, Norm, added, layer_contest, norms, plus_one, plus_two, profile, registry
from tests.ranks import Told, cases_of, forked
from twinkle_tune.environment import current_environment
from twinkle_tune.errors import BindError, ProfileError
from twinkle_tune.kernel import kernelize_model, kernelize_report
from twinkle_tune.kernel.patch import bind_forward
from twinkle_tune.profile.io import read_profile
from twinkle_tune.profile.schema import Profile

WORLD = 4
ONE, BOTH = registry(plus_one), registry(plus_one, plus_two)


def won(winner: str) -> Profile:
    """A profile in which a kernel won at every norm."""
    model = Model()
    narrow = [path for path, norm in norms(model).items() if norm.weight.shape[0] == 8]
    wide = [path for path in norms(model) if path not in narrow]
    return profile([layer_contest(model, paths, 4, f"impl:{winner}", BOTH) for paths in (narrow, wide)])


def together(
    model: Model, made: object = None, *, says: Literal["always", "error"] = "always", **options: Any
) -> Told:  # fmt: skip
    """What comes of a call of all ranks: what its norms add, what is bound and kept, the warnings and the error."""
    chosen: Told = {"profile": won("plus_one") if made is None else made, "registry": BOTH, "group": dist.group.WORLD}
    raised = ""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter(says)
        try:
            kernelize_model(model, **(chosen | options))
        except Exception as error:
            raised = f"{type(error).__name__}: {error}"
    report = kernelize_report(model)
    return {
        "added": sorted({added(norm, 4) for norm in norms(model).values()}),
        "bound": len(report.bound),
        "kept": [kept.reason for kept in report.kept],
        "warned": [str(each.message) for each in heard if each.category is UserWarning],
        "raised": raised,
    }


def alike(rank: int) -> Told:
    """All are the same."""
    return together(Model())


def slower(rank: int) -> Told:
    """One comes late."""
    time.sleep(0.3 * (rank == 1))
    return together(Model())


def another_file(rank: int) -> Told:
    """Each was given another profile, the last one a file that is not there."""
    given = [won("plus_two"), won("plus_one"), won("plus_one"), "/nowhere/profile.json"]
    return together(Model(), given[rank])


def another_torch(rank: int) -> Told:
    """The packages of one are others."""
    here = current_environment("cpu")
    there = replace(here, torch="9.9.9") if rank == 2 else here
    with patch("twinkle_tune.kernel.plan_profile.current_environment", lambda device: there):
        return together(Model())


def missing_kernel(rank: int) -> Told:
    """One has not registered the kernel that won."""
    return together(Model(), won("plus_two"), registry=ONE if rank == 3 else BOTH)


def missing_kernel_strictly(rank: int) -> Told:
    """The same, where an original is an error."""
    return together(Model(), won("plus_two"), registry=ONE if rank == 3 else BOTH, use_fallback=False)


def strict_alone(rank: int) -> Told:
    """An original is an error for one of them alone, and all have a kernel less than was asked for."""
    return together(Model(), won("plus_two"), registry=ONE, use_fallback=rank != 1)


def mistake(rank: int) -> Told:
    """One calls it with an unknown mode."""
    return together(Model(), mode="trian" if rank == 1 else None)


def unreadable(rank: int) -> Told:
    """Rank 0's file is not there."""
    return together(Model(), "/nowhere/profile.json" if rank == 0 else None)


def cannot_bind(rank: int) -> Told:
    """Binding fails in one of them, in the middle; the model had kernels before."""
    model = Model()
    kernelize_model(model, profile=won("plus_two"), registry=BOTH)
    left = [2 if rank == 2 else 100]

    def bind(*args: Any, **options: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise BindError("no more")
        bind_forward(*args, **options)

    with patch("twinkle_tune.kernel.kernelize.bind_forward", bind):
        return together(model)


def another_model(rank: int) -> Told:
    """One has a layer less."""
    return together(Model(1 if rank == 1 else 2))


def turned_off(rank: int) -> Told:
    """The environment of one of them wants no kernels."""
    with patch.dict(os.environ, {"TWINKLE_USE_KERNELS": "NO"} if rank == 1 else {}):
        return together(Model())


def registered(rank: int) -> Told:
    """Without a profile, by what is registered."""
    return together(Model(), profile=None, registry=registry(plus_one if rank < 3 else plus_two))


def half_of_them(rank: int) -> Told:
    """Two groups of two, which bind different kernels."""
    groups = [dist.new_group([0, 1]), dist.new_group([2, 3])]
    return together(Model(), won("plus_one" if rank < 2 else "plus_two"), group=groups[rank // 2])


def not_in_it(rank: int) -> Told:
    """A group that two of them are not in."""
    group = dist.new_group([0, 1])
    return together(Model(), group=group)


def missing_half() -> Profile:
    """A profile whose winner at wide norms is not registered where only one kernel is."""
    model = Model()
    narrow = [path for path, norm in norms(model).items() if norm.weight.shape[0] == 8]
    wide = [path for path in norms(model) if path not in narrow]
    winners = ((narrow, "impl:plus_one"), (wide, "impl:plus_two"))
    return profile([layer_contest(model, paths, 4, winner, BOTH) for paths, winner in winners])


def warnings_are_errors(rank: int) -> Told:
    """A kernel is missing on all of them, and what rank 0 warns of is raised."""
    return together(Model(), missing_half(), registry=ONE, says="error")


def warnings_are_errors_and_nothing_is_left(rank: int) -> Told:
    """The same with a model that was bound before, where nothing can be bound."""
    model = Model()
    kernelize_model(model, profile=won("plus_one"), registry=BOTH)
    return together(model, won("plus_two"), registry=ONE, says="error")


def no_profile(rank: int) -> Told:
    """Rank 0 is given something else."""
    return together(Model(), BytesIO() if rank == 0 else None)


def another_version(rank: int) -> Told:
    """One cannot read what rank 0 reads."""

    def refuses(*args: Any) -> Profile:
        raise ProfileError("of another schema")

    with patch("twinkle_tune.kernel.ranks.read_profile", refuses if rank == 2 else read_profile):
        return together(Model())


def other_code(rank: int) -> Told:
    """Without a profile: a kernel of the same name, with other code on one of them."""
    adds = 2 if rank == 3 else 1

    def plus(self: Norm, x: torch.Tensor) -> torch.Tensor:
        return Norm.forward(self, x) + adds

    return together(Model(), profile=None, registry=registry(plus))


def strict_alone_and_bound(rank: int) -> Told:
    """An original is an error for one of them alone; the model had kernels before."""
    model = Model()
    kernelize_model(model, profile=won("plus_one"), registry=BOTH)
    return together(model, won("plus_two"), registry=ONE, use_fallback=rank != 1)


CASES = cases_of(
    alike, slower, another_file, another_torch, missing_kernel, missing_kernel_strictly, strict_alone, mistake,
    unreadable, cannot_bind, another_model, turned_off, registered, half_of_them, not_in_it,
    warnings_are_errors, warnings_are_errors_and_nothing_is_left, no_profile, another_version, other_code,
    strict_alone_and_bound,
)  # fmt: skip

if __name__ == "__main__":
    sys.exit(forked(CASES, WORLD, Path(sys.argv[1])))
