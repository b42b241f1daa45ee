"""What the processes of test_distributed.py do. Each scenario gives the loss, the logits and the gradients' norm."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from tests.coexistence.tiny import bind, known, profile, tiny_llama, tokens
from twinkle_tune.kernel import kernelize_report, restore_model
from twinkle_tune.kernel.registry import default_registry
from twinkle_tune.mode import Mode
from twinkle_tune.script.training import InTraining
from twinkle_tune.tune.kept import keep, place_of

WORLD = 2
Result = dict[str, float | int]
_folder = [""]
"""Of this process's files."""


def run_all(rank: int, folder: str) -> None:
    """Run every scenario in one of two processes; the first one writes the results."""
    os.environ.update(GLOO_SOCKET_IFNAME="lo")
    _folder[:] = [folder]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORLD)
    try:
        results = {name: scenario() for name, scenario in SCENARIOS.items()}
    finally:
        dist.destroy_process_group()
    if rank == 0:
        torch.save(results, f"{folder}/results.pt")


def _plain() -> Result:
    return _step(tiny_llama())


def _bound() -> Result:
    return _step(bind(tiny_llama(), mlp=True))


def _ddp_after() -> Result:
    return _step(DistributedDataParallel(bind(tiny_llama(), mlp=True)))


def _ddp_before() -> Result:
    return _step(bind(DistributedDataParallel(tiny_llama()), mlp=True))


def _fsdp_after() -> Result:
    return _step(_sharded(bind(tiny_llama(), mlp=True)))


def _fsdp_before() -> Result:
    return _step(bind(_sharded(tiny_llama()), mlp=True))


def _fsdp_restored() -> Result:
    model = bind(_sharded(tiny_llama()), mlp=True)
    restore_model(model)
    return _step(model)


def _fsdp_of_a_bound_layer() -> Result:
    """The norms and MLPs are sharded themselves, so that their classes are FSDP2's."""
    return _step(bind(_sharded(tiny_llama(), also=("LlamaRMSNorm", "LlamaMLP")), mlp=True))


def _fsdp_of_a_submodule() -> Result:
    """A Linear inside a bound MLP is sharded itself: its weight is whole only within its own call."""
    return _step(_sharded(bind(tiny_llama(), mlp=True), also=("Linear",)))


def _norms_alone() -> Result:
    return _step(bind(tiny_llama()))


def _bound_ten() -> Result:
    return _steps(bind(tiny_llama(), mlp=True))


def _ddp_by_group() -> Result:
    return _steps(bind(DistributedDataParallel(tiny_llama()), mlp=True, group=dist.group.WORLD))


def _fsdp_by_group() -> Result:
    return _steps(bind(_sharded(tiny_llama()), mlp=True, group=dist.group.WORLD))


def _callback_ddp() -> Result:
    return _step(_begun(DistributedDataParallel(tiny_llama())))


def _callback_fsdp() -> Result:
    return _step(_begun(_sharded(tiny_llama())))


def _callback_fsdp_new() -> Result:
    told: list[str] = []
    model = _begun(_sharded(tiny_llama()), told.append, kept=False)
    return _step(model) | {"told": len([line for line in told if "nothing is tuned in a run of several" in line])}


def _begun(model: nn.Module, tell: Callable[[str], None] = print, *, kept: bool = True) -> nn.Module:
    """As a callback leaves a training's model after its first step, with a profile of the plain model, or none."""
    os.environ["TWINKLE_TUNE_CACHE"] = os.path.join(_folder[0], f"{kept}-{dist.get_rank()}")
    known(mlp=True, registry=default_registry)
    if kept:
        keep(profile(mlp=True), place_of(tiny_llama(), Mode.TRAIN, "cpu", print), print)
    run = InTraining("auto", "5m", tell)
    run.begin(model.train(), "", may_tune=False)
    _step(model)
    run.step_ended()
    run.end()
    model.zero_grad()
    return model


SCENARIOS: dict[str, Callable[[], Result]] = {
    scenario.__name__.removeprefix("_"): scenario
    for scenario in (
        _plain,
        _bound,
        _ddp_after,
        _ddp_before,
        _fsdp_after,
        _fsdp_before,
        _fsdp_restored,
        _fsdp_of_a_bound_layer,
        _fsdp_of_a_submodule,
        _norms_alone,
        _bound_ten,
        _ddp_by_group,
        _fsdp_by_group,
        _callback_ddp,
        _callback_fsdp,
        _callback_fsdp_new,
    )
}


def _sharded(model: Any, also: tuple[str, ...] = ()) -> nn.Module:
    mesh = init_device_mesh("cpu", (WORLD,))
    for module in [m for m in model.modules() if type(m).__name__ in also]:
        fully_shard(module, mesh=mesh)
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    sharded: nn.Module = model
    return sharded


def _steps(model: nn.Module) -> Result:
    """Ten training steps, by SGD, and then one."""
    optimizer = torch.optim.SGD(model.train().parameters(), lr=0.1)
    for _ in range(10):
        model(input_ids=tokens(), labels=tokens()).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return _step(model)


def _step(model: nn.Module) -> Result:
    """One training step on the same tokens in each process."""
    model.train()
    loss = model(input_ids=tokens(), labels=tokens()).loss
    loss.backward()
    squares = 0.0
    for parameter in model.parameters():
        if parameter.grad is not None:
            whole = parameter.grad.full_tensor() if hasattr(parameter.grad, "full_tensor") else parameter.grad
            squares += float(whole.pow(2).sum())
    return {"loss": round(float(loss), 5), "squares": round(squares, 4), "bound": len(kernelize_report(model).bound)}
