"""Ways of running a whole model, one file each.

:data:`STRATEGIES` are those that compete, what takes least time to compile first: a budget may end before the last.
"""

from twinkle_tune.strategy.base import Running, Strategy
from twinkle_tune.strategy.compile_blocks import CompileBlocks
from twinkle_tune.strategy.compile_mode import MAX_AUTOTUNE, REDUCE_OVERHEAD
from twinkle_tune.strategy.compile_model import CompileModel
from twinkle_tune.strategy.device_graphs import DeviceGraphs

STRATEGIES: tuple[Strategy, ...] = (
    DeviceGraphs(),
    CompileModel(),
    CompileBlocks(),
    REDUCE_OVERHEAD,
    MAX_AUTOTUNE,
    # Code for all sizes is never faster than code for one: it is for models whose other code is made again and again.
    CompileModel(name="compile dynamic", instead_of="compile", dynamic=True),
)

__all__ = ["STRATEGIES", "Running", "Strategy"]
