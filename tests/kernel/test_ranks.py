"""The ranks of a job bind the same, or none does: four processes that talk through gloo."""

from __future__ import annotations

import os

import pytest
import torch

from tests.kernel.ranks_cases import BOTH, CASES, WORLD, won
from tests.kernel.toys import Model
from tests.ranks import Each, run_cases
from twinkle_tune.errors import BindError
from twinkle_tune.kernel import kernelize_model, kernelize_report

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or not hasattr(os, "fork"), reason="torch.distributed or fork is not there"
)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Each]:
    """What came of each case, rank by rank."""
    return run_cases("tests.kernel.ranks_cases", CASES, WORLD, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize(("name", "adds"), [("alike", 1.0), ("slower", 1.0), ("another_file", 2.0)])
def test_all_bind_the_same(name: str, adds: float, found: dict[str, Each]) -> None:
    """Rank 0's profile, whatever the others were given, and whoever comes late."""
    for told in found[name]:
        assert told == {"added": [adds], "bound": 4, "kept": [], "warned": [], "raised": ""}


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("another_torch", "rank 2: the profile was made in another environment (torch:"),
        ("missing_kernel", "rank 3: Norm (impl:plus_two): no candidate 'impl:plus_two' is registered for it here"),
        ("another_model", "(rank 0: would bind Norm layers.1.narrow: impl:plus_one (rows: all))"),
        ("turned_off", "rank 1: its model is left as it is"),
        ("registered", "rank 3: would bind Norm layers.0.narrow: impl:plus_two (rows: all, code "),
    ],
)
def test_if_one_would_do_another_thing_none_binds(name: str, why: str, found: dict[str, Each]) -> None:
    """Every rank has its originals and its report says why; rank 0 alone warns, once."""
    for rank, told in enumerate(found[name]):
        assert (told["added"], told["bound"], told["raised"]) == ([0.0], 0, "")
        assert any(why in reason for reason in told["kept"])
        assert len(told["warned"]) == (rank == 0)
    assert why in found[name][0]["warned"][0]


def test_without_fallback_it_is_every_rank_s_error(found: dict[str, Each]) -> None:
    """The same words on each, and nothing is bound."""
    assert {told["bound"] for told in found["missing_kernel_strictly"]} == {0}
    (raised,) = {told["raised"] for told in found["missing_kernel_strictly"]}
    assert raised.startswith("BindError: the ranks would not do the same (rank 0: would bind Norm layers.0.narrow")


def test_who_alone_wants_no_fallback_leaves_nobody_waiting(found: dict[str, Each]) -> None:
    """It raises; the others go on with their originals."""
    told = found["strict_alone"]
    assert [bool(each["raised"]) for each in told] == [False, True, False, False]
    assert {each["bound"] for each in told} == {0}
    assert "rank 1: use_fallback=False" in told[0]["warned"][0]


@pytest.mark.parametrize(
    ("name", "guilty", "own", "others"),
    [
        ("mistake", 1, "ModeError: mode: got 'trian'", "BindError: rank 1 of 4: ModeError: mode: got 'trian'"),
        ("unreadable", 0, "ProfileError: /nowhere/profile.json: ", "ProfileError: rank 0 of 4: ProfileError: /now"),
        ("cannot_bind", 2, "BindError: no more", "BindError: rank 2 of 4: BindError: no more; no rank binds anything"),
    ],
)
def test_what_one_meets_all_are_told(name: str, guilty: int, own: str, others: str, found: dict[str, Each]) -> None:
    """An error on one rank is raised there as it is, and on the others with its rank: all have their originals."""
    for rank, told in enumerate(found[name]):
        assert told["raised"].startswith(own if rank == guilty else others)
        assert (told["added"], told["bound"]) == ([0.0], 0)


def test_groups_are_apart(found: dict[str, Each]) -> None:
    """Two groups of one job bind what each agrees on."""
    assert [told["added"] for told in found["half_of_them"]] == [[1.0], [1.0], [2.0], [2.0]]


def test_who_is_not_in_the_group_is_told(found: dict[str, Each]) -> None:
    """It binds nothing; those that are in it do."""
    assert [told["bound"] for told in found["not_in_it"]] == [4, 4, 0, 0]
    raised = found["not_in_it"][3]["raised"]
    assert raised.startswith("BindError: group: got -100, expected a torch.distributed process group that this process")


@pytest.mark.parametrize(
    ("name", "bound", "adds"),
    [("warnings_are_errors", 2, [0.0, 1.0]), ("warnings_are_errors_and_nothing_is_left", 0, [0.0])],
)
def test_a_warning_that_is_an_error_comes_last(
    name: str, bound: int, adds: list[float], found: dict[str, Each]
) -> None:
    """Rank 0 raises it when all have done the same, and nobody waits for it."""
    for rank, told in enumerate(found[name]):
        assert (told["bound"], told["added"]) == (bound, adds)
        assert told["raised"].startswith("UserWarning: original kept: " if rank == 0 else "")
        assert bool(told["raised"]) == (rank == 0)


@pytest.mark.parametrize(
    ("name", "guilty", "why"),
    [("no_profile", 0, "profile: got a BytesIO, expected a path"), ("another_version", 2, "of another schema")],
)
def test_a_profile_that_one_cannot_take_binds_nothing(name: str, guilty: int, why: str, found: dict[str, Each]) -> None:
    """The others are told who it is."""
    for rank, told in enumerate(found[name]):
        assert (told["bound"], told["added"]) == (0, [0.0])
        assert why in told["raised"]
        assert (f"rank {guilty} of 4" in told["raised"]) == (rank != guilty)


def test_other_code_of_the_same_name_is_another_kernel(found: dict[str, Each]) -> None:
    """What is registered is told by its digest, too."""
    assert [(told["bound"], told["added"]) for told in found["other_code"]] == [(0, [0.0])] * WORLD


def test_who_alone_raises_has_originals_as_the_others(found: dict[str, Each]) -> None:
    """Not the kernels that its model had before."""
    told = found["strict_alone_and_bound"]
    assert [(each["bound"], each["added"]) for each in told] == [(0, [0.0])] * WORLD
    assert [bool(each["raised"]) for each in told] == [False, True, False, False]


def test_without_torch_distributed_a_group_is_an_error() -> None:
    """One clear line, and the model is as it was."""
    model = Model()
    with pytest.raises(BindError, match=r"group: got 'all' without torch.distributed having been initialised, exp"):
        kernelize_model(model, profile=won("plus_one"), registry=BOTH, group="all")
    assert kernelize_report(model).bound == ()
