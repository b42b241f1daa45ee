"""What reports for people say, and that nothing in a profile can make them misbehave."""

from __future__ import annotations

import base64
import gc
import hashlib
import io
import json
import re
import tracemalloc
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from markupsafe import Markup
from rich.console import Console

from tests.report import fabricate, scenes
from twinkle_tune.cli.write import write_report
from twinkle_tune.contest.selected import interpreted
from twinkle_tune.kernel.unlooked import YOURS
from twinkle_tune.profile.schema import Profile
from twinkle_tune.report import charts, html
from twinkle_tune.report.lines import FURTHER
from twinkle_tune.report.markdown import code, escape, fenced
from twinkle_tune.report.plots import plots
from twinkle_tune.report.render import pieces, render
from twinkle_tune.report.terminal import print_report, terminal_text
from twinkle_tune.report.view import contest_parts, view

_VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """A parsed page: tags, attributes and text; fails on a tag that is closed out of turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.scripts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["script"]:
            self.scripts.append(data)
        else:
            self.text += data


def everything(profile: Profile) -> dict[str, str]:
    """The reports for people, as a reader sees their text."""
    return {
        "html": Page(render(profile, "html")).text,
        "md": render(profile, "md"),
        "terminal": terminal_text(profile),
    }


@pytest.mark.parametrize("profile", fabricate.ALL.values(), ids=fabricate.ALL)
def test_html_is_whole_and_needs_nothing_else(profile: Profile) -> None:
    """The page nests properly, refers to nothing outside itself and has no handlers in attributes."""
    text = render(profile, "html")
    page = Page(text)
    assert page.open == []
    assert not {"img", "link", "iframe", "object", "embed", "form", "base"} & set(page.tags)
    refers = {"href", "src", "srcset", "action", "data", "xlink:href"}
    places = ("#contest-", "#samples-")
    assert all(value.startswith(places) for _, name, value in page.attributes if name in refers)
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


@pytest.mark.parametrize("profile", fabricate.ALL.values(), ids=fabricate.ALL)
def test_html_runs_its_own_scripts_alone(profile: Profile) -> None:
    """The page's policy names each of its scripts by hash, allows no other, and allows nothing to be loaded."""
    page = Page(render(profile, "html"))
    (policy,) = [v for tag, name, v in page.attributes if tag == "meta" and name == "content" and "script-src" in v]
    data, *scripts = page.scripts
    hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(each.encode()).digest()).decode()}'" for each in scripts]
    assert f"script-src {' '.join(hashes)};" in policy
    assert policy.startswith("default-src 'none';")
    assert json.loads(data).keys() == {"forms", "plots", "samples"}
    assert "<" not in data


@pytest.mark.parametrize("profile", fabricate.ALL.values(), ids=fabricate.ALL)
def test_html_in_pieces_is_the_page(profile: Profile) -> None:
    """Its pieces are those of the template rendered at once, and its data is what JSON's own encoder writes."""
    page = "".join(pieces(profile, "html", "p.json"))
    (data,) = re.findall(r'id="data">(.*)</script>', page)
    at_once = html._json(json.loads(data))
    assert data == at_once
    drawn = {plot.name: plot for plot in plots(profile)} if charts.available() else {}
    scripts = [html._library(), html._file("page.js")] if drawn else [html._file("page.js")]
    assert page == html._template("report.html.j2").render(
        report=view(profile, "p.json"),
        contests=list(contest_parts(profile)),
        plots=drawn,
        data=[Markup(at_once)],
        scripts=[Markup(script) for script in scripts],
        style=Markup(html._file("style.css")),
        policy=html._policy(scripts),
        further=FURTHER,
        yours=YOURS,
        unfold=len(profile.contests) <= html.FOLDED_BEYOND,
        missing="" if charts.available() else charts.MISSING,
    )


def test_a_page_is_written_without_being_held(tmp_path: Path) -> None:
    """Writing a page of 240 contests takes, beyond that of 80, less than half of the memory that the page is larger."""
    path = tmp_path / "page.html"
    write_report(scenes.large(2), path, "html", path)  # what is made on the first use
    sizes, peaks = [], []
    tracemalloc.start()
    try:
        for profile in (scenes.large(80), scenes.large(240)):
            gc.collect()
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            write_report(profile, path, "html", path)
            peaks.append(tracemalloc.get_traced_memory()[1] - before)
            sizes.append(path.stat().st_size)
    finally:
        tracemalloc.stop()
    assert gc.isenabled()
    assert path.read_text(encoding="utf-8") == render(profile, "html", str(path))
    assert peaks[1] - peaks[0] < (sizes[1] - sizes[0]) / 2


@pytest.mark.parametrize("profile", fabricate.ALL.values(), ids=fabricate.ALL)
def test_html_links_lead_somewhere(profile: Profile) -> None:
    """Each row of what won links to its contest, and to its raw samples where there are any; all of that is there."""
    page = Page(render(profile, "html"))
    ids = {value for _, name, value in page.attributes if name == "id"}
    links = {value.removeprefix("#") for _, name, value in page.attributes if name == "href"}
    assert links <= ids
    assert {f"contest-{number}" for number, _ in enumerate(profile.contests, 1)} <= links
    samples = json.loads(page.scripts[0])["samples"]
    assert {f"samples-{key}" for key in samples} <= links


def test_html_without_the_plot_packages_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the packages that draw are missing, the page has its tables and a line that says what to install."""
    monkeypatch.setattr(charts, "available", lambda: False)
    page = Page(render(fabricate.normal(), "html"))
    assert "pip install altair vl-convert-python" in page.text
    assert "RuntimeError: no compiler found" in page.text
    assert not [value for _, name, value in page.attributes if name == "data-plot"]


@pytest.mark.parametrize("profile", fabricate.ALL.values(), ids=fabricate.ALL)
def test_markdown_tables_are_rectangular(profile: Profile) -> None:
    """All rows of a Markdown table have as many cells as its head."""
    blocks = [block.splitlines() for block in render(profile, "md").split("\n\n") if block.startswith("|")]
    for block in blocks:
        assert all(line.startswith("| ") and line.endswith(" |") for line in block)
        assert {line.count("|") for line in block} == {block[0].count("|")}
    assert bool(blocks) == bool(profile.steps or profile.contests)


def test_markdown_shows_hostile_text_and_does_nothing_else() -> None:
    """No raw HTML, no heading of someone else's, no link: but the text can be read."""
    text = render(fabricate.hostile(), "md")
    outside = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.S)
    outside = re.sub(r"^<details>\n<summary>[\w, ]+</summary>$|^</details>$", "", outside, flags=re.M)
    assert "<" not in outside
    assert "http://" not in outside
    heads = [line for line in outside.splitlines() if line.startswith("#")]
    assert all(re.match(r"#+ (&lt;script|The whole|What won|By row|\d+\. |Apply|Measure)", head) for head in heads)
    assert "&lt;script&gt;alert" in outside


@pytest.mark.parametrize("profile", fabricate.ALL.values(), ids=fabricate.ALL)
def test_markdown_is_read_as_tables_and_folds(profile: Profile) -> None:
    """A Markdown reader finds the tables, and no HTML but that of the folds."""
    read = MarkdownIt("commonmark", {"html": True}).enable("table").parse(render(profile, "md"))
    html = [token.content.strip() for token in read if token.type == "html_block"]
    assert all(re.fullmatch(r"<details>\n<summary>[\w, ]+</summary>|</details>", each) for each in html)
    inline = [child for token in read for child in token.children or () if child.type in ("html_inline", "link_open")]
    assert inline == []
    won = any(contest.selection.winner != "original" for contest in profile.contests)
    heads = [token.content for token in read if token.type == "inline"]
    assert ("Speed-up" in heads) == won


@pytest.mark.parametrize("format", ["html", "md", "terminal"])
def test_who_was_not_timed_is_told(format: str) -> None:
    """A right kernel that could not be timed stands with its contest, with the reason, and is not among the refused."""
    kept = replace(
        fabricate.kept(), trials=(*fabricate.kept().trials, fabricate.trial("impl:F", interpreted(), "impl"))
    )
    text = "".join(everything(fabricate.profile(kept))[format].replace("\\", "").replace("&#39;", "'").split())
    assert (
        "".join(["impl:F", "(impl):", "right", "(interpreter);", "not", "timed:", "the", "interpreter's", "speed"])
        in text
    )
    assert "refusedimpl:F" not in text


def test_markdown_begins_with_the_verdict() -> None:
    """Title, what to do and why, how and what then, the contests, then the facts; the long parts are folded."""
    lines = render(fabricate.normal(), "md").split("\n\n")
    told = "**Apply it.** Checked and timed on the whole model. Prefill 1x128: 8.0% faster (7.0% to 9.0% in 2 rounds)."
    assert lines[1] == told
    assert lines[2].startswith("```python\nfrom twinkle_tune import kernelize_model\nmodel = kernelize_model(")
    assert lines[3] == "After an update of torch, or on another machine:"
    assert lines[4] == "```sh\ntwinkle-tune verify profile.json qwen3-tiny\n```"
    assert lines[5].startswith("2 contests (one slot, a layer or function, at one input shape):")
    assert lines[6] == "qwen3-tiny · float32 · inference · Fabricated CPU &#64; 2.00GHz (cpu) · 2025-01-02"
    assert "| `slow` |" not in "".join(lines[: next(i for i, each in enumerate(lines) if "<details>" in each)])


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a|b", "a&#124;b"),
        ("a\\|b", "a\\\\&#124;b"),
        ("# head", "\\# head"),
        ("1. point", "1\\. point"),
        ("- point", "\\- point"),
        ("0.812", "0.812"),
        ("a\nb", "a b"),
        ("&lt;", "&amp;lt;"),
        ("see www.example.org", "see www&#46;example.org"),
    ],
)
def test_markdown_escape(text: str, escaped: str) -> None:
    """Each letter that Markdown would act on is made a plain letter."""
    assert escape(text) == escaped


def test_markdown_code_and_fences() -> None:
    """Code type is used only where it holds, and a fence is longer than any run of backticks inside it."""
    assert code("float32[1,2]") == "`float32[1,2]`"
    assert "`" not in code("a`b").replace("\\`", "")
    assert "|" not in code("a|b")
    assert fenced("x ```` y", "sh").splitlines()[0] == "`````sh"


@pytest.mark.parametrize("format", ["html", "md", "terminal"])
def test_report_says_what_matters(format: str) -> None:
    """Verdict, machine, versions, date, steps, winners, refusals, unused slots and lines to copy."""
    text = "".join(everything(fabricate.normal())[format].replace("\\", "").split())
    for said in (
        "Prefill 1x128: 8.0% faster (7.0% to 9.0% in 2 rounds).",
        "Measured on a CPU; says nothing about a GPU.",
        "qwen3-tiny",
        "inference",
        "2.13.0",
        "3.9.0",
        "2025-01-02T03:04:05Z",
        "complete",
        "prefill 1x128",
        "0.920 (0.910 to 0.930)",
        "0.800 (0.790 to 0.810)",
        "fused",
        "RuntimeError: no compiler found",
        "25% behind the leader",
        "two calls gave different bits",
        "RMSNorm model.norm",
        "model = kernelize_model(model, mode='inference', device='cpu', profile='profile.json')",
        "twinkle-tune profile qwen3-tiny --mode inference --device cpu --dtype float32 --batch 1",
    ):
        # The terminal breaks lines: compare without any white space.
        assert "".join(said.split()) in text, said


@pytest.mark.parametrize("format", ["html", "md", "terminal"])
def test_interrupted_run_says_so(format: str) -> None:
    """A profile of an interrupted run says that something is missing."""
    text = everything(fabricate.empty())[format]
    assert "The run was interrupted" in text
    assert "No contest was finished" in text


@pytest.mark.parametrize("format", ["html", "md", "terminal"])
def test_gpu_report_has_no_cpu_warning(format: str) -> None:
    """The CPU line is for CPU profiles; a GPU's report names its capability and memory."""
    text = everything(fabricate.profile(fabricate.won(), device="cuda"))[format]
    assert "Measured on a CPU" not in text
    assert "capability 9.0, 80.0 GiB" in text


@pytest.mark.parametrize("format", ["html", "md", "terminal"])
def test_all_rejected_says_why(format: str) -> None:
    """A contest without a single measurement lists every refusal with stage and reason."""
    text = everything(fabricate.all_rejected())[format]
    assert text.count("inconclusive: a control passed") == 2


def test_candidates_are_ordered_by_time() -> None:
    """The timed candidates of a contest stand from the fastest to the slowest."""
    text = render(fabricate.normal(), "md").split("### 2.")[0].split("### 1.")[1]
    places = [text.index(f"| {name}") for name in ("**`fused`**", "`original`", "`slow`")]
    assert places == sorted(places)


def test_terminal_reads_no_markup_and_no_control_codes() -> None:
    """Rich markup in a name is shown as it is, and no escape sequence of a name reaches the terminal."""
    text = terminal_text(fabricate.hostile())
    assert "\x1b" not in text
    assert "[red]*bold*[/red]" in "".join(text.split())
    assert max(len(line) for line in text.splitlines()) <= 110


def test_terminal_short_form_has_the_winner_and_no_contests() -> None:
    """The short form at a run's end has the verdict and the winners, not each candidate."""
    file = io.StringIO()
    print_report(fabricate.normal(), Console(file=file, width=100))
    assert "fused" in file.getvalue()
    assert "25% behind" not in file.getvalue()


def test_path_of_the_profile_is_quoted() -> None:
    """The lines to copy name the profile that was given, quoted for Python."""
    text = render(fabricate.normal(), "md", "my profiles/it's.json")
    assert """profile="my profiles/it's.json")""" in text
