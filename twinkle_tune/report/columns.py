"""The columns of the tables in :mod:`twinkle_tune.report.frames`, and their pandas types; the unit is in the name."""

from __future__ import annotations

from collections.abc import Mapping

from twinkle_tune.profile.views import Table

SELECTION_COLUMNS: Mapping[str, str] = {
    "contest": "int64",
    "slot": "string",
    "kind": "string",  # layer or function
    "call": "string",  # "float32[1,128,256]"
    "instances": "int64",  # module instances called like this; 0 for a function
    "calls": "int64",  # over all steps of the profile, one run of each
    "share": "float64",  # of the step's time, 0 to 1: the largest of the steps
    "timed_on": "string",  # class of the block that times and ratios are of; missing for the slot's own call
    "winner": "string",
    "status": "string",  # what became of it: won, kept, no clear winner, all refused, taken back, not tried, ...
    "ratio": "float64",  # the winner's time over the original's; 1.0 for the original; missing where none was measured
    "low": "float64",  # the ratio's interval, at least 95% confidence
    "high": "float64",
    "speedup": "float64",  # 1 / ratio
    "visible_gain": "float64",  # no clear winner: the least share of its time that the race could have been sure of
    "memory_ratio": "float64",  # the winner's peak memory over the original's; missing for the original, or unknown
    "original_us": "float64",  # median; missing where the original was refused
    "winner_us": "float64",  # ratio x original_us; the winner's own median is in the trials
    "reason": "string",
    "workload": "string",
}
"""Columns of :func:`twinkle_tune.report.frames.selections`."""

TRIAL_COLUMNS: Mapping[str, str] = {
    "contest": "int64",
    "slot": "string",
    "call": "string",
    "candidate": "string",
    "source": "string",
    "race": "int64",  # 1 the contest, 2 the winner and the original timed again
    "outcome": "string",  # measured, rejected, or untimed: neither refused nor timed
    "median_us": "float64",  # of all its rounds; over the original's it is the ratio only where both have the same
    "ratio": "float64",  # over the original, median of the rounds that both were timed in
    "low": "float64",
    "high": "float64",
    "rounds": "Int64",
    "first_call_us": "float64",  # compilation included
    "peak_bytes": "Int64",  # beyond what was allocated before; missing where unknown
    "deterministic": "boolean",  # two calls on the same inputs gave the same bits
    "graph_breaks": "Int64",  # of the first call under torch.compile
    "recompilations": "Int64",  # at later calls, all alike
    "stage": "string",  # of a rejection
    "reason": "string",  # of a rejection, or why a measured candidate stopped being timed
    "parity_margin": "float64",  # error / limit of the tensor that came closest to its limit; up to 1 passes
    "parity_tensor": "string",  # that tensor
    "parity_error": "float64",  # in the tensor's unit
    "parity_limit": "float64",
    "parity_notes": "string",  # what the check saw and did not refuse
    "workload": "string",
}
"""Columns of :func:`twinkle_tune.report.frames.trials`."""

SAMPLE_COLUMNS: Mapping[str, str] = {
    "contest": "int64",
    "slot": "string",
    "call": "string",
    "candidate": "string",
    "race": "int64",  # 1 the contest, 2 the winner and the original timed again
    "round": "int64",  # from 1; equal rounds of a race are pairs
    "time_us": "float64",  # of one call
    "workload": "string",
}
"""Columns of :func:`twinkle_tune.report.frames.samples`."""

RACE_COLUMNS: Mapping[str, str] = {
    "contest": "int64",
    "slot": "string",
    "call": "string",
    "race": "int64",  # 1 the contest, 2 the winner and the original timed again
    "clock_before_mhz": "float64",  # of the device; of the fastest processor on a CPU
    "clock_after_mhz": "float64",
    "temperature_before_c": "float64",  # degrees Celsius; of the hottest sensor on a CPU
    "temperature_after_c": "float64",
    "throttling_before": "string",  # why the device ran slower than it could; missing where it did not
    "throttling_after": "string",
    "throttled": "Int64",  # how often processors were throttled in the race
    "repeated": "int64",  # rounds that were timed again because the device was disturbed
    "repeated_reasons": "string",
    "workload": "string",
}
"""Columns of :func:`twinkle_tune.report.frames.conditions`."""

TIMING_COLUMNS: Mapping[str, str] = {
    "contest": "int64",
    "slot": "string",
    "call": "string",
    "candidate": "string",
    "cold_us": "float64",  # median with cold caches
    "cold_ratio": "float64",  # over the original's, median of the paired rounds
    "cold_low": "float64",
    "cold_high": "float64",
    "cold_rounds": "int64",
    "graph_us": "float64",  # median device time in a captured CUDA graph
    "graph_ratio": "float64",
    "graph_low": "float64",
    "graph_high": "float64",
    "graph_rounds": "int64",
    "host_us": "float64",  # what the host needs to launch a call on a CUDA device
    "forward_us": "float64",  # train modes: the forward alone
    "backward_us": "float64",  # what the backward takes beyond it
    "notes": "string",  # why a figure is missing
    "workload": "string",
}
"""Columns of :func:`twinkle_tune.report.frames.timings`."""

STEP_COLUMNS: Mapping[str, str] = {
    "step": "string",
    "original_us": "float64",  # median of the whole step; missing where nothing was compared
    "tuned_us": "float64",  # ratio x original_us; the samples are in the profile
    "ratio": "float64",  # tuned over original, median of the paired rounds
    "low": "float64",
    "high": "float64",
    "original_peak_bytes": "Int64",  # of the whole step, beyond what was allocated before; missing where unknown
    "tuned_peak_bytes": "Int64",
    "memory_ratio": "float64",  # tuned over original
    "rounds": "int64",
    "covered": "float64",  # share of the step in its slots' calls (calls x median time), 0 to 1; nested ones count once
    "promised": "float64",  # share of the step that the winners save by their own ratios
    "optimizer": "string",  # whose step is part of a training step; missing where there is none
    "note": "string",  # what is to be known of how it was timed
}
"""Columns of :func:`twinkle_tune.report.frames.steps`."""

PARITY_COLUMNS: Mapping[str, str] = {
    "contest": "int64",
    "slot": "string",
    "call": "string",
    "candidate": "string",
    "tensor": "string",  # "output", "gradient of weight"
    "point": "int64",  # of the parity rule
    "error": "float64",  # in the tensor's unit
    "limit": "float64",  # up to it the candidate passes
    "margin": "float64",  # error / limit
    "workload": "string",
}
"""Columns of :func:`twinkle_tune.report.frames.parity`."""

COLUMNS: Mapping[Table, Mapping[str, str]] = {
    "samples": SAMPLE_COLUMNS,
    "trials": TRIAL_COLUMNS,
    "selections": SELECTION_COLUMNS,
    "steps": STEP_COLUMNS,
    "parity": PARITY_COLUMNS,
    "conditions": RACE_COLUMNS,
    "timings": TIMING_COLUMNS,
}
"""The columns of each table and their pandas types, by the table's name."""
