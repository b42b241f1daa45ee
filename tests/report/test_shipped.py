"""The reports that ship are those of the profiles that ship."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.report import fabricate
from tests.report.shipped import shipped, stale, write

pytest.importorskip("altair", reason="shipped pages have plots")
pytest.importorskip("vl_convert", reason="shipped pages have plots")


def test_shipped_reports_are_up_to_date() -> None:
    """Each profile under profiles/ has its reports under reports/, and they are what is made of it today."""
    assert stale() == [], "run 'make reports' and commit what it writes"


def test_without_profiles_there_is_nothing_to_write(tmp_path: Path) -> None:
    """No profiles/ folder is no error."""
    assert write(tmp_path) == 0
    assert stale(tmp_path) == []


def test_every_way_to_be_out_of_date_is_told(tmp_path: Path) -> None:
    """A missing, an edited and an orphaned report are each named, and writing puts all three right."""
    for name in ("one", "two"):
        fabricate.normal().save(tmp_path / "profiles" / "cpu" / f"{name}.json")
    assert write(tmp_path) == 4
    assert stale(tmp_path) == []
    reports = tmp_path / "reports" / "cpu"
    (reports / "one.html").unlink()
    (reports / "two.md").write_text("edited by hand", encoding="utf-8")
    (reports / "gone.md").write_text("of a profile that is gone", encoding="utf-8")
    assert stale(tmp_path) == [
        "reports/cpu/gone.md: no profile has this report",
        "reports/cpu/one.html: is missing",
        "reports/cpu/two.md: differs from its profile",
    ]
    write(tmp_path)
    assert stale(tmp_path) == []


def test_rendering_is_repeatable(tmp_path: Path) -> None:
    """The same profile gives the same bytes, whenever."""
    fabricate.normal().save(tmp_path / "profiles" / "cpu" / "one.json")
    assert dict(shipped(tmp_path)) == dict(shipped(tmp_path))


def test_a_page_of_another_command_is_left_alone(tmp_path: Path) -> None:
    """A page whose figures lie beside it as JSON (``make families``) is no report without a profile."""
    folder = tmp_path / "reports" / "a-device"
    folder.mkdir(parents=True)
    for name in ("models.md", "models.json", "gone.md"):
        (folder / name).write_text("{}", encoding="utf-8")
    assert stale(tmp_path) == ["reports/a-device/gone.md: no profile has this report"]
    write(tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["models.json", "models.md"]
