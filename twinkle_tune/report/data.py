"""A profile's figures for other programs: CSV, Parquet and JSON, exact and complete, nothing rounded or shortened."""

from __future__ import annotations

import io
import json
from dataclasses import asdict

from twinkle_tune.errors import TuneError
from twinkle_tune.profile.schema import Profile
from twinkle_tune.report import frames
from twinkle_tune.report.frames import Table


def csv_text(profile: Profile, table: Table = "samples") -> str:
    """A table as CSV, columns as in :data:`twinkle_tune.report.frames.COLUMNS`.

    Names and reasons stand there exactly as they are in the profile: a spreadsheet should read them as text.
    Read it back with ``pandas.read_csv(path, dtype=dict(COLUMNS[table]), keep_default_na=False,
    na_values=[""])``.
    """
    return frames.table(profile, table).to_csv(index=False, lineterminator="\n")


def parquet_bytes(profile: Profile, table: Table = "samples") -> bytes:
    """A table as a Parquet file; ``pandas.read_parquet`` gives the same table back.

    Raises:
        TuneError: pyarrow is not installed.
    """
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise TuneError(
            "parquet: pyarrow is not installed, expected it for this format; pip install 'twinkle_tune[parquet]', "
            "or take csv"
        ) from error
    made = io.BytesIO()
    frames.table(profile, table).to_parquet(made, engine="pyarrow", index=False)
    return made.getvalue()


def json_text(profile: Profile) -> str:
    """The profile as tidy records: its head, then the tables of :data:`twinkle_tune.report.frames.COLUMNS`.

    A record's fields are a table's columns; a missing figure is null. Raw samples are the one table left out: they
    are the bulk, and stand in the profile itself.
    """
    data = {
        "tool": profile.tool,
        "created": profile.created,
        "complete": profile.complete,
        "verdict": profile.verdict,
        "model": asdict(profile.model),
        "mode": str(profile.mode),
        "objective": str(profile.objective),
        "slowdown": profile.slowdown,
        "device": profile.device,
        "environment": {**asdict(profile.environment), "fingerprint": profile.environment.fingerprint},
        "steps": frames.records(frames.steps(profile)),
        "selections": frames.records(frames.selections(profile)),
        "trials": frames.records(frames.trials(profile)),
        "parity": _finite(frames.records(frames.parity(profile))),
        "conditions": frames.records(frames.conditions(profile)),
        "timings": frames.records(frames.timings(profile)),
        "uncalled": list(profile.uncalled),
    }
    return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _finite(rows: list[frames.Row]) -> list[frames.Row]:
    """The rows with null for an infinite margin (an error over a limit of zero), which JSON lacks."""
    return [
        {
            name: None if isinstance(value, float) and value in (float("inf"), float("-inf")) else value
            for name, value in row.items()
        }
        for row in rows
    ]
