"""Exported files in a process that has no twinkle_tune, with the real clients and a Hub on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.export.made import REPO, hub, mlps, norms, profile
from tests.hub.repos import ACTIVATION, build
from tests.hub.server import LocalHub
from twinkle_tune.cli.app import run
from twinkle_tune.slot import ORIGINAL

pytestmark = pytest.mark.slow
START = """
import importlib.util, json, sys
sys.path[:0] = json.loads(sys.argv[1])
assert importlib.util.find_spec("twinkle_tune") is None
import torch
from transformers import LlamaConfig, LlamaForCausalLM
torch.manual_seed(0)
config = LlamaConfig(vocab_size=32, hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
                     num_key_value_heads=2)
model = LlamaForCausalLM(config).eval()
ids = torch.arange(12).view(2, 6)
before = model(ids).logits

def ran():
    layers = [m for name, m in sys.modules.items() if name.endswith(".layers") and hasattr(m, "calls")]
    found = [call for module in layers for call in module.calls]
    for module in layers:
        module.calls.clear()
    return found
"""
HF_KERNELS = """
import kernels, p_hf_kernels
p_hf_kernels.register()
kernels.kernelize(model, mode=kernels.Mode.INFERENCE, device="cpu")
torch.testing.assert_close(model(ids).logits, before)
assert (found := ran()) == ["RMSNorm"] * 5, found
"""
TRANSFORMERS = """
import p_transformers
assert p_transformers.apply(model) is model
torch.testing.assert_close(model(ids).logits, before)
assert (found := ran()) == ["RMSNorm"] * 5, found
model.train()
model(ids)
assert ran() == []  # the kernels were measured for inference alone
model.eval()
torch.testing.assert_close(model(ids).logits, before)
assert (found := ran()) == ["RMSNorm"] * 5, found
"""
REFUSED = """
import p_transformers
try:
    p_transformers.apply(model)
except ValueError as error:
    assert "trust" in str(error).lower(), error
else:
    raise SystemExit("not refused")
"""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that is installed, but for twinkle_tune."""
    folder = tmp_path_factory.mktemp("packages")
    for place in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for entry in Path(place).iterdir():
            if "twinkle_tune" not in entry.name:
                (folder / entry.name).symlink_to(entry)
    return folder


@pytest.fixture
def local_hub() -> Iterator[LocalHub]:
    """A Hub with the repo whose RMSNorm won."""
    with LocalHub() as found:
        yield found


def _exported(hub_: LocalHub, folder: Path) -> None:
    # The client downloads one build variant, and offline it misses whatever else a repo has: a README, other variants.
    files = {path: content for path, content in build(ACTIVATION).items() if path.startswith("build/")}
    commit = hub_.push(REPO, files)
    hub_.push(REPO, build({**ACTIVATION, "layers.py": "raise RuntimeError('the branch has moved')\n"}))
    made = profile(norms(hub(commit=commit)), mlps(ORIGINAL)).save(folder / "p.json")
    for form in ("hf-kernels", "transformers"):
        assert run(["export", str(made), "--to", form, "--out", str(folder)]) == 0


def _run(code: str, packages: Path, folder: Path, variables: dict[str, str]) -> None:
    # -I and -S: neither the folder, nor PYTHONPATH, nor what installs itself in site-packages (an editable install).
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", START + code, f'["{packages}", "{folder}"]'],
        env={**os.environ, **variables},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("code", [HF_KERNELS, TRANSFORMERS], ids=["hf-kernels", "transformers"])
def test_hub_winners_run_without_us(local_hub: LocalHub, packages: Path, tmp_path: Path, code: str) -> None:
    """A model of transformers runs the winner at its commit, though the branch moved on, and offline from the cache."""
    _exported(local_hub, tmp_path)
    cache = tmp_path / "cache"
    _run(code, packages, tmp_path, local_hub.environment(cache))
    _run(code, packages, tmp_path, local_hub.environment(cache, offline=True))


def test_an_untrusted_publisher_is_refused_there_too(local_hub: LocalHub, packages: Path, tmp_path: Path) -> None:
    """The exported files trust nobody whom the Hub does not trust."""
    _exported(local_hub, tmp_path)
    local_hub.trusted.clear()
    _run(REFUSED, packages, tmp_path, local_hub.environment(tmp_path / "cache"))
