"""``twinkle-tune report``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from tests.report import fabricate
from twinkle_tune.cli.report import report
from twinkle_tune.errors import ProfileError, TuneError

app = typer.Typer()
app.command()(report)
runner = CliRunner()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A profile on disk."""
    return fabricate.normal().save(tmp_path / "one.json")


def test_terminal_is_the_default(saved: Path) -> None:
    """Without options the report is a table that names the winner."""
    result = runner.invoke(app, [str(saved)])
    assert result.exit_code == 0, result.output
    assert "fused" in result.stdout
    assert "0.800 (0.790 to 0.810)" in result.stdout


def test_json_goes_to_stdout_alone(saved: Path) -> None:
    """With --format json the whole of stdout is one JSON document."""
    result = runner.invoke(app, [str(saved), "--format", "json"])
    assert json.loads(result.stdout)["verdict"] == fabricate.normal().verdict


@pytest.mark.parametrize(
    ("format", "start"),
    [("html", "<!doctype html>"), ("md", "# "), ("csv", "contest,"), ("terminal", "qwen3")],
)
def test_out_writes_a_file(saved: Path, tmp_path: Path, format: str, start: str) -> None:
    """--out writes the report there, making the folder, and leaves stdout empty."""
    target = tmp_path / "made" / "report"
    result = runner.invoke(app, [str(saved), "--format", format, "--out", str(target)])
    assert result.exit_code == 0, result.output
    assert target.read_text(encoding="utf-8").startswith(start)
    assert result.stdout == ""


def test_several_profiles_one_after_another(saved: Path, tmp_path: Path) -> None:
    """Several profiles are shown in their order."""
    other = fabricate.empty().save(tmp_path / "two.json")
    result = runner.invoke(app, [str(saved), str(other), "--format", "md"])
    assert result.exit_code == 0, result.output
    assert result.stdout.index("2 of 4 slots") < result.stdout.index("Nothing was finished")


def test_several_profiles_into_a_folder(saved: Path, tmp_path: Path) -> None:
    """With several profiles --out is a folder of one report each, named after the profiles."""
    other = fabricate.empty().save(tmp_path / "two.json")
    result = runner.invoke(app, [str(saved), str(other), "--format", "html", "--out", str(tmp_path / "pages")])
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (tmp_path / "pages").iterdir()) == ["one.html", "two.html"]


def test_several_pages_need_a_folder(saved: Path) -> None:
    """Two HTML pages on stdout would be no page: refused, with what to pass."""
    result = runner.invoke(app, [str(saved), str(saved), "--format", "html"])
    assert isinstance(result.exception, TuneError)
    assert "got 2 profiles and --format html without --out" in str(result.exception)


def test_reports_with_one_name_are_refused(saved: Path, tmp_path: Path) -> None:
    """Two profiles whose reports would be one file are refused before anything is written."""
    twin = fabricate.empty().save(tmp_path / "other" / "one.json")
    result = runner.invoke(app, [str(saved), str(twin), "--out", str(tmp_path / "pages")])
    assert isinstance(result.exception, TuneError)
    assert "would both be written to" in str(result.exception)
    assert not (tmp_path / "pages").exists()


def test_broken_profile_writes_nothing(saved: Path, tmp_path: Path) -> None:
    """A truncated profile among good ones is one error, and no report is written."""
    broken = tmp_path / "broken.json"
    broken.write_text(saved.read_text(encoding="utf-8")[:200], encoding="utf-8")
    result = runner.invoke(app, [str(saved), str(broken), "--out", str(tmp_path / "pages")])
    assert isinstance(result.exception, ProfileError)
    assert "broken.json" in str(result.exception)
    assert not (tmp_path / "pages").exists()


def test_unwritable_out_says_so(saved: Path) -> None:
    """An --out below a file is one error that names it."""
    result = runner.invoke(app, [str(saved), "--out", str(saved / "below")])
    assert isinstance(result.exception, TuneError)
    assert "the report cannot be written" in str(result.exception)


def test_unknown_format_is_a_usage_error(saved: Path) -> None:
    """An unknown format ends with exit code 2 and names the ones there are."""
    result = runner.invoke(app, [str(saved), "--format", "pdf"])
    assert result.exit_code == 2
    assert "terminal" in result.output


def test_command_module_is_light() -> None:
    """Importing the command imports neither torch, pandas nor Jinja2: --help must answer at once."""
    code = "import sys, twinkle_tune.cli.report; print({'torch', 'pandas', 'jinja2'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
