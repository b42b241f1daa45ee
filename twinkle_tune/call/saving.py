"""Whether what autograd saves goes through hooks now, as in a region of gradient checkpointing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

saving_hooks: Callable[[bool], tuple[Any, Any] | None] = getattr(
    torch._C._autograd, "_top_saved_tensors_default_hooks", lambda ignore_is_tracing: None
)
"""The hooks that saved tensors go through now; None where there are none."""
