"""The version of the profile's format.

History (the number is :data:`SCHEMA`):

1. The first: environment, steps, contests with every trial, selections. Since then, all of them optional: ``status``
   and ``visible_gain`` of a selection, trials that are ``untimed``, ``alone_us`` and
   ``left_out`` of a step, ``unlooked`` of a
   model, ``run``, and ``in_model`` of what was seen.
"""

from __future__ import annotations

SCHEMA = 1
