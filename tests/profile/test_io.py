"""Profiles on disk: what is written is read, what is not a profile is refused, and a file is never half written."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.report import fabricate
from twinkle_tune.errors import ProfileError
from twinkle_tune.objective import BY_TIME
from twinkle_tune.profile.format import SCHEMA
from twinkle_tune.profile.io import json_schema, load_profile
from twinkle_tune.profile.json_text import profile_text, write_profile
from twinkle_tune.profile.schema import Profile
from twinkle_tune.workload import Context, Entries, Items, Named, Node, Plain, TensorSpec

SPEC = TensorSpec(dtype="int64", shape=(2, 3), stride=(3, 1), requires_grad=True, low=-1, high=63)
NODES: tuple[tuple[str, Node], ...] = (
    ("dict", Entries(entries=(("a", SPEC), ("b", Plain(value=None))))),
    ("dtype", Named(kind="name", name="torch.float32")),
    ("false", Plain(value=False)),
    ("float", Plain(value=1.0)),
    ("int", Plain(value=1)),
    ("list", Items(kind="list", items=(Items(kind="tuple", items=()), Plain(value="x")))),
    ("object", Named(kind="object", name="package.Config")),
    ("small", Plain(value=1e-06)),
    ("text", Plain(value="1")),
    ("true", Plain(value=True)),
)


def _rich() -> Profile:
    """A profile that has every kind of description in it."""
    won = fabricate.won()
    context = Context(training=True, grad=True, autocast="bfloat16", deterministic=True)
    workload = replace(won.workload, args=(SPEC, *(node for _, node in NODES)), settings=NODES, context=context)
    return fabricate.profile(replace(won, workload=workload), fabricate.kept(), command="twinkle-tune profile \u96ea")


@pytest.mark.parametrize("name", [*fabricate.ALL, "rich"])
def test_round_trip(tmp_path: Path, name: str) -> None:
    """What was written is read back equal, keys and types of values included."""
    profile = _rich() if name == "rich" else fabricate.ALL[name]
    path = write_profile(profile, tmp_path / "new" / "folder" / "profile.json")
    loaded = load_profile(path)
    assert loaded == profile
    assert repr(loaded) == repr(profile)
    assert [c.workload.key for c in loaded.contests] == [c.workload.key for c in profile.contests]


def test_text_is_stable(tmp_path: Path) -> None:
    """Writing a profile, or what was read of it, gives the same bytes; a line holds one number list at most."""
    path = _rich().save(tmp_path / "profile.json")
    first = path.read_bytes()
    assert load_profile(path).save(path).read_bytes() == first
    lines = first.decode().splitlines()
    assert f'  "schema": {SCHEMA},' in lines
    assert any(line.strip().startswith('"times_us": [100.0, 101.0,') and line.endswith("],") for line in lines)
    assert len(lines) > 40
    assert all(len(line) <= 120 or "times_us" in line or "reason" in line for line in lines)


def test_a_change_is_a_small_diff() -> None:
    """A profile in which one winner differs has the same lines but for those of that selection."""
    before = fabricate.profile(fabricate.won(), fabricate.kept())
    won = fabricate.won()
    after = fabricate.profile(replace(won, selection=replace(won.selection, ratio=0.795)), fabricate.kept())
    old, new = profile_text(before).splitlines(), profile_text(after).splitlines()
    assert len(old) == len(new)
    assert sum(a != b for a, b in zip(old, new, strict=True)) == 1


def _contest(data: dict[str, Any]) -> Any:
    return data["contests"][0]


def _set(*path: str | int, to: Any) -> Callable[[dict[str, Any]], None]:
    def edit(data: Any) -> None:
        for part in path[:-1]:
            data = data[part]
        data[path[-1]] = to

    return edit


def _drop(*path: str | int) -> Callable[[dict[str, Any]], None]:
    def edit(data: Any) -> None:
        for part in path[:-1]:
            data = data[part]
        del data[path[-1]]

    return edit


TIMES = ("contests", 0, "trials", 0, "outcome", "times_us")
TENSOR = ("contests", 0, "workload", "args", 0)
SELECTION = ("contests", 0, "selection")
CONFIG = ("contests", 0, "trials", 1, "config")
NONSENSE = {
    "a config with a text": (_set(*CONFIG, to={"warps": "8"}), r"trials.1.config.*got '8', expected: .*integer"),
    "a config with a fraction": (_set(*CONFIG, to={"warps": 0.5}), r"trials.1.config.*got 0.5, expected: .*integer"),
    "a config that is a list": (_set(*CONFIG, to=[8]), r"trials.1.config.*got \[8\], expected"),
    "a config without values": (_set(*CONFIG, to={}), r"got the config \{\}, expected names and values"),
    "a config with a strange name": (_set(*CONFIG, to={"__x y": 1}), r"got the config .*, expected names and values"),
    "no schema": (_drop("schema"), r"no schema number \(None\), expected schema 2; is this a profile\?"),
    "a schema that is no number": (_set("schema", to="1"), r"no schema number \('1'\), expected schema 2"),
    "schema zero": (_set("schema", to=0), r"no schema number \(0\)"),
    "a newer schema": (_set("schema", to=SCHEMA + 1), rf"got schema {SCHEMA + 1}, expected {SCHEMA}; upgrade twinkle"),
    "an unknown field": (_set("colour", to="red"), r"got the field colour, which schema 2 does not have; remove it"),
    "an unknown field inside": (
        _set("contests", 1, "selection", "luck", to=1),
        r"got the field contests.1.selection.luck, which",
    ),
    "an unknown field of an outcome": (
        _set("contests", 0, "trials", 3, "outcome", "luck", to=1),
        r"got the field contests.0.trials.3.outcome.luck, which",
    ),
    "a missing field": (
        _drop("verdict"),
        r"at verdict: got nothing, expected: Field required; profile",
    ),
    "a number in quotes": (_set("model", "parameters", to="7"), r"at model.parameters: got '7', expected: .*integer"),
    "a list for a table": (_set("environment", to=[]), r"at environment: got \[\], expected: .*object"),
    "an unknown mode": (
        _set("mode", to="fast"),
        r"at mode: got 'fast', expected: Input should be 'inference'",
    ),
    "an unknown device": (_set("device", to="tpu"), r"device: got 'tpu', expected one of cpu, cuda"),
    "another device than measured": (
        _set("device", to="cuda"),
        r"device: got 'cuda', expected the environment's",
    ),
    "a time in words": (
        _set(*TIMES, 0, to="fast"),
        r"at contests.0.trials.0.outcome.*times_us.0: got 'fast'",
    ),
    "a reason that is no text": (
        _set("contests", 0, "trials", 3, "outcome", "reason", to=1),
        r"at contests.0.trials.3.outcome.Rejection.reason: got 1, expected: Input should be a valid string; profile",
    ),
    "an outcome of no kind": (
        _set("contests", 0, "trials", 3, "outcome", "kind", to="luck"),
        r"at contests.0.trials.3.outcome.*kind: got 'luck', expected",
    ),
    "a negative time": (_set(*TIMES, 0, to=-1.0), r"contest 0 of RMSNorm: trial of original: .* not positive"),
    "an endless time": (_set(*TIMES, 0, to=1e999), r"at contests\.0\.trials\.0\..*times_us\.0: .* finite number"),
    "no times": (_set(*TIMES, to=[]), r"contest 0 of RMSNorm: trial of original: got no times"),
    "a negative first call": (
        _set("contests", 0, "trials", 0, "outcome", "first_call_us", to=-1.0),
        r"trial of original: got a first call of -1.0 us",
    ),
    "a winner that was not tried": (
        _set(*SELECTION, "winner", to="nobody"),
        r"contest 0 of RMSNorm: got the winner 'nobody', expected one of its trials \(original, fused",
    ),
    "a winner that was rejected": (
        _set(*SELECTION, "winner", to="wrong"),
        r"got the winner 'wrong', which was",
    ),
    "no original": (_drop("contests", 0, "trials", 0), r"got trials of fused, .* expected the original among them"),
    "one name twice": (
        _set("contests", 0, "trials", 2, "candidate", to="fused"),
        r"got two trials of one name in original, fused, fused",
    ),
    "an interval upside down": (
        _set(*SELECTION, "low", to=0.9),
        r"got ratio 0.8 in 0.9 to 0.81, expected low",
    ),
    "an interval below zero": (_set(*SELECTION, "low", to=-0.5), r"got ratio 0.8 in -0.5 to 0.81"),
    "a share above one": (_set("contests", 0, "seen", 0, "share", to=1.5), r"got a share outside 0 to 1"),
    "times that do not pair": (_set("steps", 0, "tuned_us", to=[1.0]), r"step prefill 1x128: got 2 and 1 times"),
    "a step faster than time": (_set("steps", 0, "tuned_us", to=[0.0, 1.0]), r"step prefill 1x128: got a time that is"),
    "a step's interval": (_set("steps", 0, "high", to=0.1), r"step prefill 1x128: got ratio 0.92 in 0.91 to 0.1"),
    "a step's peak below zero": (
        _set("steps", 0, "tuned_peak_bytes", to=-1),
        r"step prefill 1x128: got a negative peak",
    ),
    "a way's peak below zero": (
        _set("compiled", to=[{"label": "f", "compiled_peak_bytes": -1}]),
        r"compiled step f: got a negative peak",
    ),
    "no calls at all": (_set("run", to={"took_s": 1.0, "calls": 0}), r"run: got 0 calls, expected at least 1"),
    "a memory ratio below zero": (_set(*SELECTION, "memory_ratio", to=-0.5), r"got a memory ratio of -0.5"),
    "an objective that is none": (_set("objective", to="luck"), r"at objective: got 'luck', expected"),
    "a slowdown by time": (_set("slowdown", to=1.2), r"slowdown: got 1.2 with the objective time, expected"),
    "balanced without a slowdown": (
        _set("objective", to="balanced"),
        r"slowdown: got None with the objective balanced",
    ),
    "a dtype that torch lacks": (_set(*TENSOR, "dtype", to="float31"), r"contest 0 of RMSNorm: .* dtype 'float31'"),
    "a shape below zero": (_set(*TENSOR, "shape", to=[1, -2, 3]), r"contest 0 of RMSNorm: got the shape \[1, -2, 3\]"),
    "a shape without strides": (_set(*TENSOR, "stride", to=[1]), r"contest 0 of RMSNorm: got the shape .* stride"),
}


@pytest.mark.parametrize("case", NONSENSE)
def test_nonsense_is_refused(tmp_path: Path, case: str) -> None:
    """A hand-edited profile is one ProfileError that names the file, the place and what was expected."""
    edit, message = NONSENSE[case]
    data = json.loads(profile_text(fabricate.normal()))
    edit(data)
    path = tmp_path / "edited.json"
    path.write_text(json.dumps(data).replace("Infinity", "1e999"))
    with pytest.raises(ProfileError, match=rf"^{path}: .*{message}"):
        load_profile(path)


UNREADABLE = {
    "truncated": (profile_text(fabricate.normal())[:-200], r"not valid JSON \(.*\), expected a whole profile"),
    "empty": ("", "not valid JSON"),
    "not JSON": ("hello", "not valid JSON"),
    "not a number": (
        profile_text(fabricate.normal()).replace('"ratio": 0.8,', '"ratio": NaN,'),
        "NaN is no number",
    ),
    "a list": ("[1, 2]", r"no schema number \(None\)"),
    "a number": ("1", r"no schema number \(None\)"),
    "too deep": ("[" * 100_000, "not valid JSON"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_what_is_no_profile(tmp_path: Path, case: str) -> None:
    """A file that is truncated or no JSON is one ProfileError that names it and says what to do."""
    text, message = UNREADABLE[case]
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(ProfileError, match=rf"^{path}: .*{message}"):
        load_profile(path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """No file, a folder and bytes that are no text are told as such."""
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "none.json", tmp_path, tmp_path / "bytes.json"):
        with pytest.raises(ProfileError, match=rf"^{path}: cannot be read as a profile \(.*\); expected a JSON file"):
            load_profile(path)


def _no_replace(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise OSError(30, "read-only file system")

    monkeypatch.setattr(os, "replace", refuse)


def _full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(28, "no space left on device")

    monkeypatch.setattr(os, "fsync", refuse)


def _interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("trouble", [_no_replace, _full_disk, _interrupted])
def test_writing_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: Callable[[pytest.MonkeyPatch], None], exists: bool
) -> None:
    """Where writing fails an existing file is as it was, and nothing is left beside it."""
    path = tmp_path / "profile.json"
    if exists:
        path.write_text("precious")
    trouble(monkeypatch)
    message = rf"^{path}: the profile cannot be written \(.*\); an existing file is as it was"
    with pytest.raises((ProfileError, KeyboardInterrupt)) as caught:
        write_profile(fabricate.normal(), path)
    if trouble is not _interrupted:
        caught.match(message)
    assert [file.name for file in tmp_path.iterdir()] == (["profile.json"] if exists else [])
    assert not exists or path.read_text() == "precious"


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    """A folder in the place of the file, and a file in the place of a folder, are told as such."""
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "profile.json"):
        with pytest.raises(ProfileError, match=rf"^{path}: the profile cannot be written"):
            write_profile(fabricate.normal(), path)
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\udc80"])
def test_values_that_json_lacks(tmp_path: Path, value: float | str) -> None:
    """A value that JSON cannot hold is a ProfileError before anything is written."""
    won = fabricate.won()
    workload = replace(won.workload, settings=(("scale", Plain(value=value)),))
    profile = fabricate.profile(replace(won, workload=workload))
    with pytest.raises(ProfileError, match=r"the profile cannot be written \(.*\)"):
        write_profile(profile, tmp_path / "profile.json")
    assert not list(tmp_path.iterdir())


def test_readable_by_others(tmp_path: Path) -> None:
    """A profile is written with the permissions of any new file, so that others can read it."""
    (tmp_path / "any").write_text("")
    path = write_profile(fabricate.normal(), tmp_path / "profile.json")
    assert path.stat().st_mode == (tmp_path / "any").stat().st_mode


def _check(data: Any, schema: dict[str, Any], root: dict[str, Any]) -> None:
    """What of JSON Schema the published schema uses: references, unions, types, properties, required ones, items."""
    if "$ref" in schema:
        return _check(data, root["$defs"][schema["$ref"].rsplit("/", 1)[-1]], root)
    for union in ("anyOf", "oneOf"):
        if union in schema:
            assert any(_fits(data, option, root) for option in schema[union]), (data, schema)
            return None
    types: dict[str, Any] = {
        "object": dict,
        "array": list,
        "string": str,
        "integer": int,
        "number": (int, float),
        "boolean": bool,
    }
    if schema.get("type") == "null":
        assert data is None
    elif "type" in schema:
        assert isinstance(data, types[schema["type"]]), (data, schema)
    assert "const" not in schema or data == schema["const"]
    assert "enum" not in schema or data in schema["enum"]
    if isinstance(data, dict) and "properties" in schema:
        assert set(schema.get("required", ())) <= data.keys() <= schema["properties"].keys()
        for name, value in data.items():
            _check(value, schema["properties"][name], root)
    for index, item in enumerate(data if isinstance(data, list) else ()):
        prefix = schema.get("prefixItems", [])
        inner = prefix[index] if index < len(prefix) else schema.get("items", {})
        _check(item, inner if isinstance(inner, dict) else {}, root)
    return None


def _fits(data: Any, schema: dict[str, Any], root: dict[str, Any]) -> bool:
    try:
        _check(data, schema, root)
    except AssertionError:
        return False
    return True


def test_schema_describes_what_is_written() -> None:
    """The published JSON Schema takes every profile that is written, and refuses one that lacks its selection."""
    schema = json_schema()
    assert schema["$schema"].startswith("https://json-schema.org/")
    for profile in (*fabricate.ALL.values(), _rich()):
        _check(json.loads(profile_text(profile)), schema, schema)
    data = json.loads(profile_text(fabricate.normal()))
    del _contest(data)["selection"]
    assert not _fits(data, schema, schema)
    assert "schema" in schema["required"]


def test_a_profile_from_before_there_were_objectives_is_one_by_time(tmp_path: Path) -> None:
    """Without the fields of objectives and of peaks a profile loads, is by time, and knows no memory."""
    data = json.loads(profile_text(fabricate.normal()))
    for name in ("objective", "slowdown"):
        del data[name]
    for step in data["steps"]:
        del step["original_peak_bytes"], step["tuned_peak_bytes"]
    for contest in data["contests"]:
        del contest["selection"]["memory_ratio"]
    path = tmp_path / "older.json"
    path.write_text(json.dumps(data))
    made = load_profile(path)
    assert made == fabricate.normal()
    assert made.aim == BY_TIME
