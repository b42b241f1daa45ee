"""``twinkle-tune report``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from tests.report import fabricate
from twinkle_tune.cli.report import report
from twinkle_tune.errors import ProfileError, TuneError
from twinkle_tune.mode import Mode

app = typer.Typer()
app.command()(report)
runner = CliRunner()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A profile on disk."""
    return fabricate.normal().save(tmp_path / "one.json")


def test_terminal_is_the_default(saved: Path) -> None:
    """Without options the report is a table that names the winner, where there is room with its interval."""
    result = runner.invoke(app, [str(saved)], env={"COLUMNS": "110"})
    assert result.exit_code == 0, result.output
    assert "fused" in result.stdout
    assert "0.800 (0.790 to 0.810)" in result.stdout


def test_json_goes_to_stdout_alone(saved: Path) -> None:
    """With --format json, or --json, the whole of stdout is one JSON document."""
    result = runner.invoke(app, [str(saved), "--format", "json"])
    assert json.loads(result.stdout)["verdict"] == fabricate.normal().verdict
    assert runner.invoke(app, [str(saved), "--json"]).stdout == result.stdout


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
    assert result.stdout.index("Apply it.") < result.stdout.index("The run was interrupted")


def test_two_profiles_are_compared_in_the_terminal(saved: Path, tmp_path: Path) -> None:
    """Two of one thing are compared as diff does; two of different things stand side by side, not one after another."""
    first, *rest = fabricate.normal().steps
    slower = replace(fabricate.normal(), steps=(replace(first, ratio=1.2, low=1.19, high=1.21), *rest))
    result = runner.invoke(app, [str(saved), str(slower.save(tmp_path / "two.json"))])
    assert result.exit_code == 0, result.output
    assert "prefill 1x128: 8.0% faster, 0.920 (0.910 to 0.930) → 20.0% slower" in result.stdout
    other = replace(slower, mode=Mode.TRAIN).save(tmp_path / "three.json")
    result = runner.invoke(app, [str(saved), str(other)])
    assert result.stdout.startswith("2 profiles compared")
    assert "1.200 (1.190 to 1.210)" in result.stdout


def test_piped_output_is_as_wide_as_columns_says(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """COLUMNS is honoured where stdout is no terminal; --full has every contest, --contest one of them."""
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.chdir(saved.parent)  # a path is one word, and what is to be copied is never cut
    for options in ([], ["--full"], ["--contest", "1"]):
        lines = runner.invoke(app, [saved.name, *options]).stdout.splitlines()
        assert max(map(len, lines)) <= 60
        assert any("25% behind the leader" in line for line in lines) == bool(options)


def test_several_profiles_into_a_folder(saved: Path, tmp_path: Path) -> None:
    """With several profiles --out is a folder of one report each, named after the profiles."""
    other = fabricate.empty().save(tmp_path / "two.json")
    result = runner.invoke(app, [str(saved), str(other), "--format", "md", "--out", str(tmp_path / "pages")])
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (tmp_path / "pages").iterdir()) == ["one.md", "two.md"]


def test_several_profiles_as_html_are_compared(saved: Path, tmp_path: Path) -> None:
    """Several profiles as HTML are one page, also where --out names a folder."""
    other = fabricate.empty().save(tmp_path / "two.json")
    for out in ("both.html", "pages"):
        result = runner.invoke(app, [str(saved), str(other), "-f", "html", "--out", str(tmp_path / out)])
        assert result.exit_code == 0, result.output
    text = (tmp_path / "both.html").read_text(encoding="utf-8")
    assert "2 profiles compared" in text
    assert (tmp_path / "pages" / "comparison.html").read_text(encoding="utf-8") == text


def test_several_documents_need_a_folder(saved: Path) -> None:
    """Two JSON documents on stdout would be no document: refused, with what to pass."""
    result = runner.invoke(app, [str(saved), str(saved), "--format", "json"])
    assert isinstance(result.exception, TuneError)
    assert "got 2 profiles and --format json without --out" in str(result.exception)


@pytest.mark.parametrize(("format", "what"), [("png", "FOLDER"), ("svg", "FOLDER"), ("parquet", "FILE")])
def test_bytes_do_not_go_to_stdout(saved: Path, format: str, what: str) -> None:
    """Images and Parquet ask where to be written."""
    result = runner.invoke(app, [str(saved), "--format", format])
    assert isinstance(result.exception, TuneError)
    assert f"pass --out {what}" in str(result.exception)


def test_each_plot_is_a_file(saved: Path, tmp_path: Path) -> None:
    """--format svg writes every plot of the report into a folder."""
    pytest.importorskip("vl_convert", reason="draws")
    result = runner.invoke(app, [str(saved), "-f", "svg", "-o", str(tmp_path / "plots")])
    assert result.exit_code == 0, result.output
    names = {path.name for path in (tmp_path / "plots").iterdir()}
    assert {"steps.svg", "contest-1.svg", "contest-2.svg", "parts-1.svg"} <= names


def test_without_a_profile_the_latest_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest file under profiles/ and out/ is taken, and stderr says which."""
    monkeypatch.chdir(tmp_path)
    old = fabricate.empty().save(tmp_path / "profiles" / "cpu" / "old.json")
    fabricate.normal().save(tmp_path / "out" / "new.json")
    os.utime(old, (1, 1))
    (tmp_path / "out" / "other.json").write_text('{"verdict": "a report, not a profile"}', encoding="utf-8")
    result = runner.invoke(app, [])
    assert result.exit_code == 0, result.output
    assert "out/new.json" in result.stderr
    assert "Checked and timed on the whole model. Prefill 1x128: 8.0% faster" in result.stdout


def test_without_any_profile_the_error_says_where_it_looked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing to show is one error, with what to do."""
    monkeypatch.chdir(tmp_path)
    result = runner.invoke(app, [])
    assert isinstance(result.exception, TuneError)
    assert "found none in profiles/ or out/" in str(result.exception)


def test_csv_holds_the_table_that_is_asked_for(saved: Path) -> None:
    """--table picks the rows; raw samples without it."""
    samples = runner.invoke(app, [str(saved), "-f", "csv"]).stdout
    assert samples.startswith("contest,slot,call,candidate,race,round,time_us")
    trials = runner.invoke(app, [str(saved), "-f", "csv", "--table", "trials"]).stdout
    assert "RuntimeError: no compiler found" in trials


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
    assert f"{saved}/below cannot be written" in str(result.exception)


def test_unknown_format_is_a_usage_error(saved: Path) -> None:
    """An unknown format ends with exit code 2 and names the ones there are."""
    result = runner.invoke(app, [str(saved), "--format", "pdf"])
    assert result.exit_code == 2
    assert "terminal" in result.output


def test_command_module_is_light() -> None:
    """Importing the command imports neither torch, pandas nor Jinja2: --help must answer at once."""
    code = "import sys, twinkle_tune.cli.report; print({'torch', 'pandas', 'jinja2', 'altair'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
