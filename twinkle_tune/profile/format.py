"""The version of the profile's format.

History (the number is :data:`SCHEMA`):

1. The first: environment, steps, contests with every trial, selections. Since then, all of them optional: ``status``
   and ``visible_gain`` of a selection, trials that are ``untimed``, ``alone_us`` and
   ``left_out`` of a step, ``unlooked`` of a model, ``run``, and ``in_model`` of what was seen.
2. What decides is a word, no longer a sentence: ``cause`` of a rejection, ``status`` of every selection, and
   ``config_cut_short``, ``repo`` and ``layer`` of a trial. Files of schema 1 are read (profile/upgrade.py).
   Since then, and optional: ``torch_needs_s`` of ``run``, ``cause`` and ``way`` of a compiled step, ``setups``, later
   ``kernels`` of one, peaks of memory of a compiled step, ``calls``, ``recalled_whole`` and ``spans`` of
   ``run``, ``measured`` of a step and of a compiled step, ``most_saved`` of a selection, and ``environment`` of a
   contest.
"""

from __future__ import annotations

SCHEMA = 2
