"""``python -m tests.gpu_part MODULE ARGUMENTS``: as ``python -m MODULE ARGUMENTS``, where there is a CUDA device.

Where there is none it ends with 64. Else pytest would skip all tests and pass, and each command would fail in its way.
"""

from __future__ import annotations

import runpy
import sys

NO_DEVICE_CODE = 64


def main() -> int:
    """Run the module as the main one; it ends the process itself if it has an exit code."""
    import torch

    if not torch.cuda.is_available():
        print(f"no CUDA device: torch {torch.__version__} finds none")
        return NO_DEVICE_CODE
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
