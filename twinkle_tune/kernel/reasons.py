"""Why the original stays, and for which row counts, where the reasons differ. Pure."""

from __future__ import annotations

from collections.abc import Iterable


def reasons_text(reasons: Iterable[tuple[int, str]]) -> str:
    """ "128 rows: too noisy to tell; 1 and 16 rows: all refused"; the reason alone where it is the same for all.

    Args:
        reasons: rows of a call and why the original stays for it.
    """
    by_reason: dict[str, dict[int, None]] = {}
    for rows, reason in reasons:
        by_reason.setdefault(reason, {})[rows] = None
    if len(by_reason) < 2:
        return "".join(by_reason)
    return "; ".join(f"{_rows_text(sorted(rows))}: {reason}" for reason, rows in by_reason.items())


def _rows_text(rows: list[int]) -> str:
    if rows == [1]:
        return "1 row"
    head = ", ".join(map(str, rows[:-1]))
    return f"{head} and {rows[-1]} rows" if head else f"{rows[-1]} rows"
