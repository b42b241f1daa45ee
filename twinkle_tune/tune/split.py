"""Weights that are split over ranks (tensor parallelism, FSDP2): a call of theirs alone is no call of this process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor, nn

from twinkle_tune.call.arguments import named_tensors
from twinkle_tune.capture.capture import Observation
from twinkle_tune.contest.selected import INCONCLUSIVE
from twinkle_tune.errors import TuneError
from twinkle_tune.outcome import Selection
from twinkle_tune.profile.schema import Contest, Found
from twinkle_tune.slot import ORIGINAL


def check_not_split(weights: Iterable[Tensor]) -> None:
    """Refuse a model that runs on several ranks at once, and is to be tuned by one of them, by its weights.

    Raises:
        TuneError: they are split over ranks.
    """
    if _is_split(weights):
        raise TuneError(
            "model: its weights are split over several ranks (DTensor), expected group=torch.distributed.group.WORLD, "
            "or the group of these ranks, on each of them: whoever runs it alone waits for the others for ever"
        )


def unheld_if_split(observation: Observation) -> Contest | None:
    """A contest that keeps the original since its weights or arguments are split over ranks; None where they are not.

    Within the model hooks bring the pieces together, or the results; by itself, in copies and in float64 the call
    would wait for the other ranks, and a kernel would get pieces that it takes for the whole.
    """
    module = observation.module
    weights = () if module is None else _weights(module)
    if not (_is_split(weights) or _is_split(tensor for _, tensor in named_tensors(observation.call))):
        return None
    reason = f"{INCONCLUSIVE}: its weights are split over ranks, and its call alone would wait for theirs"
    lost = Selection(winner=ORIGINAL, reason=reason, status="inconclusive")
    return observation.contest(Found(trials=(), selection=lost))


def _weights(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _is_split(tensors: Iterable[Tensor]) -> bool:
    # By its name: a build of torch without distributed has no such class.
    meshes = (getattr(each, "device_mesh", None) for each in tensors if type(each).__name__ == "DTensor")
    return any(mesh is not None and mesh.size() > 1 for mesh in meshes)
