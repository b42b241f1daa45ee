"""``python -m tests.gpu_ready``: whether the GPU targets of the Makefile can run with this Python, before they begin.

They install nothing. What a run needs is imported, with what that needs in its turn; what it would only use is named.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.util import find_spec

NEEDED = ("torch", "triton", "transformers", "pandas", "typer", "rich", "jinja2", "optuna", "pydantic")
USED = ("liger_kernel", "kernels", "pynvml", "pytest", "xdist")
_ON_PYPI = {"liger_kernel": "liger-kernel", "pynvml": "nvidia-ml-py", "xdist": "pytest-xdist"}


def main() -> int:
    """1 where something is missing that a run needs, or there is no device."""
    unused = [name for name in USED if find_spec(name) is None]
    if unused:
        print(f"without {', '.join(unused)}, which would be used: {_how_to_get(unused)}")
    missing = [gone for name in NEEDED if (gone := missing_for(name))]
    if missing:
        print(f"{sys.executable} lacks {', '.join(dict.fromkeys(missing))}: {_how_to_get(missing)}", file=sys.stderr)
        return 1
    import torch

    if not torch.cuda.is_available():
        here = f"torch {torch.__version__} of {sys.executable}"
        print(f"no CUDA device for {here}; make profile runs on the CPU", file=sys.stderr)
        return 1
    return 0


def missing_for(name: str) -> str:
    """The package that cannot be imported, which may be another one that ``name`` needs; "" where it can be."""
    try:
        importlib.import_module(name)
    except ImportError as error:
        return error.name or name
    return ""


def _how_to_get(names: Sequence[str]) -> str:
    packages = " ".join(dict.fromkeys(_ON_PYPI.get(name.partition(".")[0], name.partition(".")[0]) for name in names))
    return (
        f"where there is a network 'pip download --dest wheels {packages}', here 'pip install --no-index --find-links "
        f"wheels --target packages {packages}', then PYTHONPATH=packages make gpu"
    )


if __name__ == "__main__":
    sys.exit(main())
