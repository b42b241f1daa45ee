"""The site of the documentation: built strictly, whole, and without a network."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mkdocs", reason="builds the site; it is in the docs extra")
pytest.importorskip("mkdocstrings", reason="builds the site; it is in the docs extra")
pytest.importorskip("material", reason="builds the site; it is in the docs extra")

ROOT = Path(__file__).parents[2]
_FETCHED = re.compile(
    r"<(?:script|img|iframe)\b[^>]*\bsrc=\"?https?:[^>]*>|<link\b[^>]*\brel=\"?stylesheet[^>]*https?:[^>]*>"
)
_CODE = re.compile(r"<pre\b.*?</pre>", re.DOTALL)
_LIST = re.compile(r"<p>[^<]*\n\s*(?:[-*]|\d+\.) ")


def build(site: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run mkdocs as `make docs` does, into another folder. Never with --quiet: it drops warnings before they count."""
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site), *options],
        cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    folder = tmp_path_factory.mktemp("site")
    done = build(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_it_has_every_page_and_report(site: Path) -> None:
    """Each page of docs/ and of reports/ is a page of the site, which is built without a warning."""
    pages = {path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")}
    reports = {Path("repository") / path.relative_to(ROOT) for path in (ROOT / "reports").rglob("*.md")}
    assert not [page for page in pages | reports if not (site / page.with_suffix(".html")).exists()]


def test_the_navigation_lists_every_page(site: Path) -> None:
    """From the first page one gets to each page of docs/ and reports/ by the navigation alone."""
    navigation = (site / "index.html").read_text(encoding="utf-8").split('<nav class="md-nav md-nav--primary')[1]
    linked = set(re.findall(r'href="([^"#]+)', navigation.split("<article")[0])) | {"index.html"}
    built = {path.relative_to(site).as_posix() for path in site.rglob("*.html")} - {"404.html"}
    whole_pages = {path.relative_to(ROOT).as_posix() for path in (ROOT / "reports").rglob("*.html")}
    assert not built - {f"repository/{page}" for page in whole_pages} - {link.removeprefix("./") for link in linked}


def test_links_to_reports_lead_into_the_site(site: Path) -> None:
    """A link from docs/ to reports/ leads to the report's page there."""
    link = re.search(
        r'href="(repository/reports/bench\.html)"', (site / "how-we-measure.html").read_text(encoding="utf-8")
    )
    assert link is not None
    assert (site / link[1]).exists()


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    """No page asks another host for a script, a style sheet, a font or an image."""
    for path in site.rglob("*.html"):
        assert not _FETCHED.findall(path.read_text(encoding="utf-8")), path
    for path in site.rglob("*.css"):
        assert not re.findall(r"(?:url\(|@import)\s*[\"']?https?:", path.read_text(encoding="utf-8")), path


def test_the_markdown_is_read_as_it_was_meant(site: Path) -> None:
    """Every list is a list, every block of code one, and the reference shows descriptions, not markup."""
    for path in site.rglob("*.html"):
        text = _CODE.sub("", path.read_text(encoding="utf-8"))
        assert not _LIST.findall(text), path
        assert "```" not in text, path
        assert not re.search(r":::|:(?:data|func|class|mod|meth):", text), path


def test_the_reference_has_every_public_name_and_column(site: Path) -> None:
    """Each public name has a signature or a description of its own in the reference; each column its comment."""
    import twinkle_tune
    from twinkle_tune.report.columns import COLUMNS

    text = "".join(path.read_text(encoding="utf-8") for path in (site / "reference").glob("*.html"))
    assert not [name for name in twinkle_tune.__all__ if not re.search(rf'id="twinkle_tune\.[\w.]*\b{name}"', text)]
    assert not [column for table in COLUMNS.values() for column in table if column not in text]
    assert "compilation included" in text  # what a column's comment says


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("dead-link", "[nowhere](nowhere.md)"),
        ("dead-anchor", "[nowhere](index.md#nowhere)"),
        ("dead-report", "[nowhere](../reports/nowhere.md)"),
        ("dead-reference", "::: twinkle_tune.nowhere"),
    ],
)
def test_a_mistake_fails_the_build(tmp_path: Path, name: str, text: str) -> None:
    """A link to a page, an anchor or a report that is not there is an error, and so is a name that the code lacks."""
    done = build(tmp_path / "site", "--config-file", str(_project(tmp_path, text)))
    assert done.returncode != 0
    assert "nowhere" in done.stdout + done.stderr


def test_without_a_mistake_such_a_build_succeeds(tmp_path: Path) -> None:
    """It is the mistake that failed the builds above; a page that is not listed fails one as well."""
    config = _project(tmp_path, "[somewhere](../reports/bench.md)")
    assert build(tmp_path / "site", "--config-file", str(config)).returncode == 0
    (tmp_path / "docs" / "unlisted.md").write_text("# A page\n", encoding="utf-8")
    done = build(tmp_path / "site", "--config-file", str(config))
    assert done.returncode != 0
    assert "unlisted.md" in done.stdout + done.stderr


def _project(folder: Path, text: str) -> Path:
    """The configuration of a site of one page, with the settings and the hook of ours."""
    for name in ("docs", "tests/docs", "reports"):
        (folder / name).mkdir(parents=True)
    (folder / "docs" / "index.md").write_text(f"# A page\n\n{text}\n", encoding="utf-8")
    (folder / "docs" / "site.css").write_text("", encoding="utf-8")
    (folder / "reports" / "bench.md").write_text("# A report\n", encoding="utf-8")
    shutil.copy(ROOT / "tests" / "docs" / "hook.py", folder / "tests" / "docs")
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[0]
    settings = settings.replace("paths: [.]", f"paths: [{ROOT}]")
    nav = "\nnav:\n  - Overview: index.md\n  - Measured results: []\n"
    (folder / "mkdocs.yml").write_text(settings + nav, encoding="utf-8")
    return folder / "mkdocs.yml"
