"""A profile's figures for other programs: CSV and JSON, exact and complete, nothing rounded or shortened."""

from __future__ import annotations

import json
from dataclasses import asdict

from twinkle_tune.profile.schema import Profile
from twinkle_tune.report import frames


def csv_text(profile: Profile) -> str:
    """Every trial as a line of CSV, columns as in :data:`twinkle_tune.report.frames.TRIAL_COLUMNS`.

    Names and reasons stand there exactly as they are in the profile: a spreadsheet should read them as text.
    Read it back with ``pandas.read_csv(path, dtype=dict(TRIAL_COLUMNS), keep_default_na=False,
    na_values=[""])``.
    """
    return frames.trials(profile).to_csv(index=False, lineterminator="\n")


def json_text(profile: Profile) -> str:
    """The profile as tidy records: its head, then the tables ``steps``, ``selections`` and ``trials``.

    A record's fields are the columns of :mod:`twinkle_tune.report.frames`; a missing figure is null.
    """
    data = {
        "tool": profile.tool,
        "created": profile.created,
        "complete": profile.complete,
        "verdict": profile.verdict,
        "model": asdict(profile.model),
        "mode": str(profile.mode),
        "device": profile.device,
        "environment": {**asdict(profile.environment), "fingerprint": profile.environment.fingerprint},
        "steps": frames.records(frames.steps(profile)),
        "selections": frames.records(frames.selections(profile)),
        "trials": frames.records(frames.trials(profile)),
        "uncalled": list(profile.uncalled),
    }
    return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
