"""How long a process waits for compiled code that another one has made: ``python -m tests.bench.artifacts``.

The first call of a tiny Qwen3's prefill under ``compile``, each in a process of its own: with nothing kept, with the
folder that ``--artifacts`` fills, with that folder moved, and with what torch.compiler.save_cache_artifacts keeps.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from twinkle_tune.tune.artifacts import PLACE, size_of

_CHILD = """
import sys, time
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM
from twinkle_tune.strategy.backend import Backend, compiled

torch.set_num_threads(1)
torch.manual_seed(0)
given, kept = sys.argv[1:]
sizes = dict(hidden_size=128, intermediate_size=256, num_hidden_layers=2, vocab_size=512, head_dim=32)
model = Qwen3ForCausalLM(Qwen3Config(num_attention_heads=4, num_key_value_heads=2, **sizes)).eval()
run = compiled(type(model).forward, Backend(gives_up=False, stands_in=True), None)
began_s = time.perf_counter()
if given:
    torch.compiler.load_cache_artifacts(open(given, "rb").read())
with torch.no_grad():
    run(model, input_ids=torch.randint(3, 500, (1, 64)), use_cache=True, logits_to_keep=1)
print(time.perf_counter() - began_s)
if kept:
    open(kept, "wb").write(torch.compiler.save_cache_artifacts()[0])
"""


def first_call_s(folder: Path, given: str = "", kept: str = "") -> float:
    """Seconds of the first call in a new process that keeps its code in a folder.

    ``given`` and ``kept`` are files of torch's own artifacts, to load and to save.
    """
    environment = {**os.environ, PLACE: str(folder)}
    environment.pop("TRITON_CACHE_DIR", None)
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, given, kept], env=environment, capture_output=True, text=True, check=True
    )
    return float(done.stdout.split()[-1])


def main() -> int:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as place:
        here, there, file = Path(place, "here"), Path(place, "there"), str(Path(place, "torch"))
        print(f"nothing kept: {first_call_s(here, kept=file):.1f} s", flush=True)
        print(f"the folder, {size_of(here) / 2**20:.1f} MiB: {first_call_s(here):.1f} s", flush=True)
        shutil.move(here, there)
        print(f"the folder, moved: {first_call_s(there):.1f} s", flush=True)
        print(f"torch's artifacts, no folder: {first_call_s(Path(place, 'none'), given=file):.1f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
