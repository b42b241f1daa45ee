"""A torch that was built without torch.distributed: everything but groups works, and a group is refused by name."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import sys


class Without:
    def find_spec(self, name, path=None, target=None):
        if name == "torch.distributed":
            import torch._C

            for made in ("_c10d_init", "_rpc_init", "_faulty_agent_init", "_dist_autograd_init"):
                if hasattr(torch._C, made):
                    delattr(torch._C, made)
        return None


sys.meta_path.insert(0, Without())
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from twinkle_tune import kernelize_model, restore_model, tune_model
from twinkle_tune.errors import BindError
from twinkle_tune.measure.race import RaceSettings

assert not torch.distributed.is_available()
sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 2}
model = LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=1, vocab_size=64)).eval()
ids = torch.ones(1, 8, dtype=torch.long)
profile = tune_model(model, {"input_ids": ids}, candidates=["torch"], settings=RaceSettings(max_rounds=20))
before = model.generate(ids, max_new_tokens=3)
kernelize_model(model, profile=profile)
assert torch.equal(model.generate(ids, max_new_tokens=3), before)
for call in (lambda: kernelize_model(model, profile=profile, group=1), lambda: tune_model(model, ids, group=1)):
    try:
        call()
    except BindError as error:
        print(error)
restore_model(model)
"""


def test_all_but_groups_works() -> None:
    """A model is profiled, bound, generates and is restored; with a group both say what is missing."""
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().splitlines()
    assert (
        lines == ["group: got 1 without torch.distributed having been initialised, " + lines[0].partition(", ")[2]] * 2
    )
