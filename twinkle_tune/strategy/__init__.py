"""Ways of running a whole model, one file each. :data:`STRATEGIES` are those that compete, in this order."""

from twinkle_tune.strategy.base import Running, Strategy
from twinkle_tune.strategy.compile_blocks import CompileBlocks
from twinkle_tune.strategy.compile_model import CompileModel

STRATEGIES: tuple[Strategy, ...] = (
    CompileModel(),
    CompileModel(name="compile dynamic", dynamic=True),
    CompileBlocks(),
)

__all__ = ["STRATEGIES", "Running", "Strategy"]
