"""Processes of their own: the variables that the client reads when it is imported, and a client that is not there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.hub.repos import ACTIVATION, build
from tests.hub.server import LocalHub
from tests.kernel import documents

ROOT = Path(__file__).parents[2]
REPORT = """
import json, sys
from twinkle_tune import kernelize_report
calls = [m.layers.calls for name, m in sys.modules.items() if name.startswith("_hub_kernel_") and hasattr(m, "layers")]
x = torch.ones(2, 8)
same = torch.allclose(model(x), SiluAndMul.forward(model.activation, x))
bound = [binding.candidate for binding in kernelize_report(model).bound]
print(json.dumps({"bound": bound, "same": same, "calls": calls, "kernels": sys.modules.get("kernels") is not None}))
"""


def example(folder: Path, environment: dict[str, str], *, first: str = "") -> tuple[dict[str, Any], str]:
    """Layer example 2 of the documents at version=1, in a new process; what it reports, and its warnings."""
    text = documents.HUB_LAYER.replace("twinkle.", "twinkle_tune.").replace('"cuda"', '"cpu"')
    text = text.replace('layer_name="SiluAndMul",', 'layer_name="SiluAndMul", version=1,')
    file = folder / "example.py"
    file.write_text(first + text + REPORT)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TWINKLE_"))}
    ran = subprocess.run(
        [sys.executable, str(file)],
        env={**inherited, **environment, "PYTHONPATH": str(ROOT)},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1]), ran.stderr


def test_online_then_offline(tmp_path: Path) -> None:
    """HF_ENDPOINT and KERNELS_CACHE are followed, without telemetry too; then HF_HUB_OFFLINE uses what that left."""
    with LocalHub() as hub:
        hub.push("kernels-community/activation", build(ACTIVATION, ("torch-universal", "torch-cuda")), branches=("v1",))
        variables = hub.environment(tmp_path / "unused") | {
            "KERNELS_CACHE": str(tmp_path / "kernels"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        online, _ = example(tmp_path, variables)
    assert [folder.name for folder in tmp_path.glob("*/kernels--*")] == ["kernels--kernels-community--activation"]
    assert (tmp_path / "kernels").is_dir()
    offline, _ = example(tmp_path, variables | {"HF_HUB_OFFLINE": "1"})
    ran = {"bound": ["hub:kernels-community/activation:SiluAndMul@v1"], "same": True, "calls": [["SiluAndMul"]]}
    assert online == offline == ran | {"kernels": True}


def test_without_the_kernels_package(tmp_path: Path) -> None:
    """Where the kernels package is missing, the model keeps its originals, and the warning says what to install."""
    with LocalHub() as hub:
        variables = hub.environment(tmp_path / "cache")
        told, warnings = example(tmp_path, variables, first="import sys\nsys.modules['kernels'] = None\n")
        assert not hub.asked
    assert told == {"bound": [], "same": True, "calls": [], "kernels": False}
    assert "original kept: kernels-community/activation: Hub kernels need the kernels package" in warnings
    assert "pip install kernels" in warnings
