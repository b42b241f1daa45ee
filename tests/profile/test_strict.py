"""JSON is read strictly, and a long list in it item by item."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from twinkle_tune.profile.strict import apart, json_value, top_of

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)
_TABLES = st.dictionaries(st.sampled_from(["schema", "list", "more", ""]), _VALUES)


def _is_read(text: str) -> bool:
    try:
        json_value(text)
    except ValueError:
        return False
    return True


@settings(suppress_health_check=[HealthCheck.too_slow])  # which a busy machine alone brings about
@given(table=_TABLES, items=st.lists(_VALUES, max_size=5), indent=st.sampled_from([None, 0, 2]))
def test_the_parts_are_the_whole(table: dict[str, Any], items: list[Any], indent: int | None) -> None:
    """The items, put back into the empty place in the rest, are what the whole text stands for."""
    table["list"] = items
    parts = apart(json.dumps(table, indent=indent), "list")
    rest = json_value(parts.rest)
    if parts.spans:
        assert rest["list"] == []
        rest["list"] = [json_value(item) for item in parts.items]
    assert rest == table
    schema = table.get("schema")
    assert top_of(parts, "schema") == (None if isinstance(schema, (list, dict)) else schema)


@given(
    table=_TABLES,
    items=st.lists(_VALUES, min_size=1, max_size=3),
    cut=st.integers(0, 200),
    length=st.integers(0, 3),
    put=st.sampled_from(["", ",", "]", "[", "}", '"', ":", " ", "0", "NaN", ',"list":[1]', ',"schema":1']),
)
def test_what_is_refused_whole_is_refused_in_parts(
    table: dict[str, Any], items: list[Any], cut: int, length: int, put: str
) -> None:
    """Whatever is changed in a text: it is refused in parts exactly where it is refused whole, in the same words."""
    text = json.dumps({**table, "list": items})
    text = text[:cut] + put + text[cut + length :]
    parts = apart(text, "list")
    if _is_read(text):
        top_of(parts, "schema")
        assert all(map(_is_read, parts.items))
        return
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the words are compared below
        top_of(parts, "schema")
    with pytest.raises(ValueError) as whole:  # noqa: PT011
        json_value(text)
    assert str(caught.value) == str(whole.value)
