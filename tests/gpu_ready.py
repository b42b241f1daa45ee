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
WHEELS = {
    "optuna": ("optuna", "colorlog"),
    "pydantic": ("pydantic", "pydantic-core", "annotated-types", "typing-inspection"),
    "pydantic_core": ("pydantic-core",),
    "annotated_types": ("annotated-types",),
    "typing_inspection": ("typing-inspection",),
    "liger_kernel": ("liger-kernel",),
    "pynvml": ("nvidia-ml-py",),
    "xdist": ("pytest-xdist", "execnet"),
}
"""By what is imported: the wheels that bring it where torch and transformers are, a test holds that no more is needed.

Not all that they ask for: with it pip would fetch torch once more.
"""


def main() -> int:
    """1 where something is missing that a run needs, or there is no device."""
    if advice := what_would_be_used():
        print(advice)
    if missing := what_is_missing():
        print(missing, file=sys.stderr)
        return 1
    import torch

    if not torch.cuda.is_available():
        here = f"torch {torch.__version__} of {sys.executable}"
        print(f"no CUDA device for {here}; make profile runs on the CPU", file=sys.stderr)
        return 1
    return 0


def what_would_be_used() -> str:
    """The packages that a run goes without, and how to get them; "" where all are there."""
    unused = [name for name in USED if find_spec(name) is None]
    return f"without {', '.join(unused)}, which would be used: {_how_to_get(unused)}" if unused else ""


def what_is_missing() -> str:
    """The packages without which nothing can run, and how to get them; "" where all are there."""
    missing = list(dict.fromkeys(gone for name in NEEDED if (gone := missing_for(name))))
    return f"{sys.executable} lacks {', '.join(missing)}: {_how_to_get(missing)}" if missing else ""


def missing_for(name: str) -> str:
    """The package that cannot be imported, which may be another one that ``name`` needs; "" where it can be."""
    try:
        importlib.import_module(name)
    except ImportError as error:
        return error.name or name
    return ""


def _how_to_get(names: Sequence[str]) -> str:
    tops = dict.fromkeys(name.partition(".")[0] for name in names)
    wheels = " ".join(dict.fromkeys(wheel for top in tops for wheel in WHEELS.get(top, (top,))))
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return (
        f"where there is a network 'pip download --no-deps --only-binary=:all: --python-version {python} --dest wheels "
        f"{wheels}', here 'pip install --no-index --no-deps --target packages wheels/*.whl', then PYTHONPATH=packages "
        "and the same command"
    )


if __name__ == "__main__":
    sys.exit(main())
