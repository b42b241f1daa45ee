"""``python -m twinkle_tune.cli``, for where the console script is not installed."""

from __future__ import annotations

from twinkle_tune.cli.app import main

main()
