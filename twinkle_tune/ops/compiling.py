"""Compile configs in worker processes, so that processor cores work while the GPU measures.

In threads of this process the compiler would keep the interpreter from launching kernels and so slow down what is
being timed. What a worker compiled is in Triton's cache on disk, where the launch finds it. A config that takes down
two workers is refused, and no other is lost.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict

import torch

from twinkle_tune.ops.resources import Compiled, Resources, Unfit
from twinkle_tune.ops.space import Config, Dims
from twinkle_tune.ops.static import compile_op, usable_cores

_MOST_WORKERS = 4
_TRIES = 2
Checked = Compiled | Unfit


class Compilers:
    """A few processes that compile the configs of one call. To be closed; also a context manager."""

    def __init__(self, op: str, dims: Dims, dtype: torch.dtype, architecture: int, variant: str = "") -> None:
        """For a call of a built-in op, by name; processes are started when they are needed."""
        self._call = {"op": op, "dims": dict(dims), "dtype": str(dtype), "variant": variant}
        self._architecture = architecture
        # One core is left to the process that launches and measures.
        self._threads = ThreadPoolExecutor(max(1, min(_MOST_WORKERS, usable_cores() - 1)))
        self._own = threading.local()
        self._workers: list[subprocess.Popen[str]] = []
        self._found: dict[str, Future[Checked]] = {}

    def __enter__(self) -> Compilers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def prepare(self, configs: Sequence[Config]) -> None:
        """Begin to compile these, each once. Returns at once."""
        for config in configs:
            key = json.dumps(dict(config), sort_keys=True)
            if key not in self._found:
                self._found[key] = self._threads.submit(self._compile, dict(config))

    def checked(self, config: Config) -> Checked:
        """What this config's kernels need, or why they cannot be compiled; waits until that is known."""
        self.prepare([config])
        return self._found[json.dumps(dict(config), sort_keys=True)].result()

    def close(self) -> None:
        """End the processes; what was not begun is dropped."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers:
            worker.kill()
            worker.wait()
        self._threads.shutdown(wait=True)

    def _compile(self, config: dict[str, int]) -> Checked:
        # A process also ends where the machine is short of memory for a moment: only the second time it is the config.
        for _ in range(_TRIES):
            found = self._asked(config)
            if found is not None:
                return found
        return Unfit(reason=f"cannot be compiled: the compiler ended its process, {_TRIES} times")

    def _asked(self, config: dict[str, int]) -> Checked | None:
        """What a worker says of a config; None where its process ended over it."""
        job = {**self._call, "config": config, "architecture": self._architecture}
        try:
            worker = self._worker()
        except OSError:  # no process, or no memory for one, just then
            return None
        assert worker.stdin is not None
        assert worker.stdout is not None
        try:
            worker.stdin.write(json.dumps(job) + "\n")
            worker.stdin.flush()
            answer = worker.stdout.readline()
        except OSError:
            answer = ""
        if not answer:
            worker.wait()
            return None
        return _from_data(json.loads(answer))

    def _worker(self) -> subprocess.Popen[str]:
        """This thread's own process."""
        worker: subprocess.Popen[str] | None = getattr(self._own, "worker", None)
        if worker is None or worker.poll() is not None:
            # Without a GPU: it would take memory there, and compiling needs none.
            environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": os.pathsep.join(sys.path)}
            worker = subprocess.Popen(
                [sys.executable, "-m", "twinkle_tune.ops.compiling"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment,
            )
            self._own.worker = worker
            self._workers.append(worker)
        return worker


def _from_data(data: dict[str, object]) -> Checked:
    if "reason" in data:
        return Unfit(reason=str(data["reason"]))
    kernels = data["kernels"]
    assert isinstance(kernels, list)
    return Compiled(kernels=tuple(Resources(**each) for each in kernels))


def _serve() -> None:
    """A worker: a job a line in, an answer a line out, until the input ends."""
    from twinkle_tune.ops.all import op_named

    # Whatever the compiler prints must not get between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        job = json.loads(line)
        dtype = getattr(torch, job["dtype"].removeprefix("torch."))
        found = compile_op(
            op_named(job["op"]), job["dims"], dtype, job["config"],
            architecture=job["architecture"], variant=job["variant"],
        )  # fmt: skip
        print(json.dumps(asdict(found)), file=answers, flush=True)


if __name__ == "__main__":
    _serve()
