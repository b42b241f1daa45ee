"""A kernelized model under DDP and FSDP2: two processes on the CPU, which talk through gloo."""

from __future__ import annotations

import pytest
import torch
from torch.multiprocessing.spawn import spawn

from tests.coexistence.distributed import WORLD, Result, run_all

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    """What each scenario gave."""
    folder = tmp_path_factory.mktemp("distributed")
    spawn(run_all, args=(str(folder),), nprocs=WORLD)  # type: ignore[no-untyped-call]
    found: dict[str, Result] = torch.load(folder / "results.pt")
    return found


def test_the_kernels_show(results: dict[str, Result]) -> None:
    """The scenarios can tell a model with kernels from one without."""
    assert len({results[name]["loss"] for name in ("plain", "bound", "norms_alone")}) == 3


@pytest.mark.parametrize("name", ["ddp_before", "ddp_after"])
def test_ddp(results: dict[str, Result], name: str) -> None:
    """Kernelized before or after it was wrapped: loss and gradients are those of one process."""
    assert results[name] == results["bound"] | {"bound": results[name]["bound"]}


@pytest.mark.parametrize("name", ["fsdp_before", "fsdp_after", "fsdp_of_a_bound_layer"])
def test_fsdp2(results: dict[str, Result], name: str) -> None:
    """Kernelized before or after it was sharded, bound layers sharded by themselves included."""
    assert results[name] == results["bound"]


@pytest.mark.parametrize("name", ["ddp_by_group", "fsdp_by_group"])
def test_ranks_that_agree_train_alike(name: str, results: dict[str, Result]) -> None:
    """Bound by all ranks together, eleven steps are those of one process, whose loss fell."""
    expected = results["bound_ten"]
    assert expected["loss"] < results["bound"]["loss"]
    assert results[name] == pytest.approx(expected | {"bound": results[name]["bound"]}, rel=1e-5)


def test_fsdp2_restored(results: dict[str, Result]) -> None:
    """A sharded model is restored as another."""
    assert results["fsdp_restored"] == results["plain"]


def test_fsdp2_of_a_submodule(results: dict[str, Result]) -> None:
    """A bound layer whose submodules are sharded by themselves runs its original, and the report says so."""
    assert results["fsdp_of_a_submodule"] == results["norms_alone"]


@pytest.mark.parametrize("name", ["callback_ddp", "callback_fsdp"])
def test_callback_of_several_processes(results: dict[str, Result], name: str) -> None:
    """What is kept for the plain model is bound to the wrapped or sharded one."""
    assert results[name] == results["bound"] | {"bound": results[name]["bound"]}


def test_callback_of_several_processes_tunes_nothing(results: dict[str, Result]) -> None:
    """Where nothing is kept, the sharded model stays as it is, and it is said."""
    assert results["callback_fsdp_new"] == results["plain"] | {"told": 1}
