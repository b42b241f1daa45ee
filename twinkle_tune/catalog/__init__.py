"""Which places of a model take which candidates: a file a slot, found by what a module holds and computes.

:mod:`mlp`, with :mod:`mlp_parts` (which child is what), :mod:`mlp_forms` (the forwards) and :mod:`recompute` (what
training keeps), has three layer slots; :mod:`loose` is for MLPs whose parts stand in a block.

To add a layer slot: a file with ``flavour_of(module)`` and ``contestants(flavour, module, device)``, and a
line in ``recognise.LAYERS``. To add a function slot: a file with a test of its form and ``contestants``, and
a word in ``functions`` and in ``contestants``.
"""

from twinkle_tune.catalog.contestants import function_contestants, layer_contestants
from twinkle_tune.catalog.recognise import functions_of, layer_name

__all__ = ["function_contestants", "functions_of", "layer_contestants", "layer_name"]
