"""What tests of Hub kernels need."""

from __future__ import annotations

import pytest
import torch

torch_for_the_cpu = pytest.mark.skipif(
    torch.version.cuda is not None,
    reason="the kernels package chooses builds by torch's own, which is one for CUDA here",
)
