"""A profile that is made on another machine of a cluster: the command runs there, and the profile comes back."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from twinkle_tune.fleet.ray_devices import RayError, connect, device_of
from twinkle_tune.profile.folders import cache_folder
from twinkle_tune.source.digest import digest_text
from twinkle_tune.tune.journal import journal_path

_WORDS = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeThere:
    """What came of it: the profile as it was written, "" where there is none; and the end of what was said."""

    code: int
    said: str
    profile: str = ""


def made_there(address: str | None, resource: str, words: Sequence[str], *, fresh: bool) -> MadeThere:
    """Run a command that makes a profile on the machine of a device, with its contests on all devices of that kind.

    Args:
        address: of the cluster, as of :func:`twinkle_tune.fleet.ray_devices.connect`.
        resource: the device, by the name of its resource.
        words: the command as Python takes it, without device, executor and ``--out``.
        fresh: whether an unfinished run there is dropped; else it goes on.

    Raises:
        RayError: the cluster has no such device, or its machine was lost three times.
    """
    ray = connect(address, {})
    nodes = [node for node in ray.nodes() if node["Alive"] and resource in node["Resources"]]
    if not nodes:
        raise RayError(f"{resource}: the cluster has no such device now, expected the name of a resource of one node")
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    where = NodeAffinitySchedulingStrategy(nodes[0]["NodeID"], soft=False)
    executor = f"ray://{ray.get_runtime_context().gcs_address}"
    command = [*words, "--device", device_of(resource), "--executor", executor]
    task: Any = ray.remote(run_here).options(num_cpus=0, max_retries=2, scheduling_strategy=where)
    try:
        made: MadeThere = ray.get(task.remote(command, fresh=fresh))
    except ray.exceptions.RayError as error:
        raise RayError(f"{resource}: its machine was lost ({type(error).__name__}); start it and try again") from error
    return made


def run_here(words: Sequence[str], *, fresh: bool) -> MadeThere:
    """Run the command in a process of its own; its journal stays here, so that a run that was stopped goes on."""
    folder = cache_folder() / "fleet"
    folder.mkdir(parents=True, exist_ok=True)
    out = folder / f"{digest_text(*words)}.json"
    on = ["--fresh"] if fresh else ["--resume"] if journal_path(out).exists() else []
    command = [sys.executable, *words, "--out", str(out), "--force", *on]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    profile = out.read_text(encoding="utf-8") if done.returncode == 0 else ""
    return MadeThere(code=done.returncode, said=done.stderr[-_WORDS:], profile=profile)
