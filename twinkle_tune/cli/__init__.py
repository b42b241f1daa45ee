"""The command line: one file for each command, which parses, calls and prints.

Nothing here imports torch before a command runs, so that ``twinkle-tune --help`` answers at once.
"""

from __future__ import annotations

from twinkle_tune.cli.app import main

__all__ = ["main"]
