"""What print(profile) and a notebook show."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser

import pytest

from tests.report import fabricate
from twinkle_tune.profile.run import RunFacts


@pytest.mark.parametrize("name", fabricate.ALL)
def test_a_printed_profile_has_five_lines(name: str) -> None:
    """Whatever is in it, and nothing that a terminal would act on."""
    text = str(fabricate.ALL[name])
    assert len(text.splitlines()) == 5
    assert all(line.isprintable() and len(line) <= 300 for line in text.splitlines())


def test_the_lines_say_what_to_do_and_what_won() -> None:
    """Facts, recommendation, whole model, winners with their ratios, contests with the time."""
    run = RunFacts(took_s=41.0, budget_s=60.0)
    lines = str(replace(fabricate.normal(), run=run)).splitlines()
    assert lines[0].startswith("qwen3-tiny · float32 · inference")
    assert lines[1].startswith("Apply it. Checked and timed on the whole model. ")
    assert lines[2] == "Whole model: prefill 1x128 8.0% faster (1.09x); decode 1x128 not timed with the winners"
    assert lines[3] == "Winners: RMSNorm [1,128,256] 41.2% of prefill 1x128: fused 0.80 (2 refused)"
    assert lines[4] == "Contests: 1 won, 1 kept; took 41 s (budget 1 min)"


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)


def test_a_notebook_shows_a_row_for_each_contest() -> None:
    """Slot, call, who won, by how much and of what share; those that save most come first."""
    html = fabricate.normal()._repr_html_()
    _, _, table = html.rpartition("<tbody>")
    first, second = table.partition("</tbody>")[0].split("</tr>")[:2]
    assert "RMSNorm" in first
    assert "fused 0.80 (2 refused)" in first
    assert "41.2%" in first
    assert "original" in second
    made = replace(fabricate.normal(), contests=fabricate.normal().contests * 8)
    assert made._repr_html_().count("<tr>") < made._repr_html_().count("</th>") + 14
    assert "4 more contests" in made._repr_html_()


@pytest.mark.parametrize("name", fabricate.ALL)
def test_a_notebook_shows_the_head_and_no_code_of_others(name: str) -> None:
    """Names are escaped: no tag but our own."""
    html = fabricate.ALL[name]._repr_html_()
    tags = _Tags()
    tags.feed(html)
    assert tags.seen <= {"div", "h3", "p", "strong", "table", "thead", "tbody", "tr", "th", "td", "br"}
    assert "Apply it" in html or "Measure again" in html or "Do not bother" in html
