"""A module that has what is looked for in a language model: an embedding, and layers that a test may exchange."""

from __future__ import annotations

from torch import nn

ROWS = 64


class Embedded(nn.Module):
    """With an embedding of :data:`ROWS` rows and three layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(ROWS, 4)
        own = type("Own", (nn.Linear,), {})  # whose forward a test may exchange
        self.layers = nn.ModuleList(own(4, 4) for _ in range(3))

    def get_input_embeddings(self) -> nn.Module:
        """As a model of transformers has it."""
        return self.embed
