"""``twinkle-tune export``: what it prints, where it writes, what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.export.made import COMMIT, REPO, hub, mlps, norms, profile
from twinkle_tune.cli.app import run


def test_what_is_exported_and_what_is_left_out_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The terminal lists each entry and each winner that is left out; the files go to the folder, which is made."""
    made = profile(norms(hub()), mlps("impl:mine", source="impl")).save(tmp_path / "1-p.json")
    assert run(["export", str(made), "--to", "hf-kernels", "-o", str(tmp_path / "new" / "folder")]) == 0
    told = capsys.readouterr()
    assert told.out.splitlines() == [
        "GatedMLP: the original",
        f"RMSNorm: {REPO}:RMSNorm at {COMMIT}",
        "left out: GatedMLP (transformers.models.llama.modeling_llama:LlamaMLP) at float32[12,8]: impl:mine: it was "
        "given in Python, and no kernel repo holds it",
    ]
    names = sorted(path.name for path in (tmp_path / "new" / "folder").iterdir())
    assert names == ["_1_p_hf_kernels.json", "_1_p_hf_kernels.py"]


def test_without_a_hub_winner_nothing_is_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No Hub kernel won: one line says so, the exit code is 1, and no file is written."""
    made = profile(mlps("impl:mine", source="impl")).save(tmp_path / "p.json")
    for form in ("hf-kernels", "transformers", "twinkle"):
        assert run(["export", str(made), "--to", form, "-o", str(tmp_path / "out")]) == 1
        told = capsys.readouterr()
        assert told.err == "Nothing to export: no Hub kernel won\n"
        assert "impl:mine: it was given in Python" in told.out
    assert not (tmp_path / "out").exists()


def test_bad_arguments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing profile, an unknown target or a folder that cannot be written is one error, and nothing is written."""
    made = profile(norms(hub())).save(tmp_path / "p.json")
    assert run(["export", str(tmp_path / "none.json"), "--to", "twinkle"]) == 2
    assert "none.json: cannot be read as a profile" in capsys.readouterr().err
    assert run(["export", str(made), "--to", "onnx"]) == 2
    assert run(["export", str(made)]) == 2
    (tmp_path / "p_twinkle.json").mkdir()
    assert run(["export", str(made), "--to", "twinkle", "--out", str(tmp_path)]) == 2
    assert "p_twinkle.json is a folder, expected the path of a file" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.json", "p_twinkle.json"]
