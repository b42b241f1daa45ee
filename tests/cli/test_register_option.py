"""``--register``: Python files are run, TOML files are data, and each bad one says what is wrong with it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from twinkle_tune.cli.register import register_files
from twinkle_tune.errors import RegistrationError


@pytest.fixture(autouse=True)
def _clean_imports(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", sys.path[:])
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("twinkle_tune_registered_"):
            del sys.modules[name]


def written(path: Path, text: str) -> Path:
    """A file with that text."""
    path.write_text(text, encoding="utf-8")
    return path


def test_a_python_file_is_run(tmp_path: Path) -> None:
    """A file is run as a module: it finds its neighbours, and the source of what it defines can be had."""
    written(tmp_path / "neighbour_of_kernels.py", "WIDTH = 3")
    file = written(
        tmp_path / "kernels_here.py",
        "from neighbour_of_kernels import WIDTH\nclass Fast:\n    width = WIDTH\n",
    )
    register_files([file])
    fast = sys.modules["twinkle_tune_registered_kernels_here"].Fast
    assert fast.width == 3
    assert "width = WIDTH" in inspect.getsource(fast)


def test_a_toml_file_is_registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tables of a TOML file are the arguments of register_kernels."""
    seen: list[object] = []
    monkeypatch.setattr("twinkle_tune.kernel.register_kernels", seen.append)
    register_files([written(tmp_path / "k.toml", '[layers.norm]\nlayer_name = "Fast"\n[functions.add]\n')])
    assert seen == [{"layers": {"norm": {"layer_name": "Fast"}}, "functions": {"add": {}}}]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "k.py",
            "raise KeyError('no kernel')",
            "raised KeyError: 'no kernel'; expected a file that calls register_*",
        ),
        ("k.py", "def (", "raised SyntaxError"),
        ("k.toml", "[layers", "cannot be read as TOML"),
        ("k.toml", "", "got an empty file, expected tables"),
        ("k.toml", "[kernels.a]\nx = 1", "got kernels, expected tables [layers.NAME]"),
        ("k.toml", "[layers]\nnorm = 1", "got layers.norm"),
        ("k.toml", "layers = 1", "[layers] is no table"),
        (
            "k.toml",
            '[layers.n]\nlayer_impl = "os:system"',
            "[layers.n]: got layer_impl = 'os:system', which is an object",
        ),
        ("k.toml", '[functions.n]\nfunc_impl = "os:system"', "[functions.n]: got func_impl = 'os:system'"),
        ("k.toml", '[layers.n]\nrepo = "a/b"', "[layers.n]: got repo = 'a/b', which is an object of Python"),
        (
            "k.toml",
            '[layers.n]\npackage_name = "../x"',
            "got package_name = '../x', expected the name of a package inside",
        ),
        ("k.yaml", "a: 1", "(.yaml), expected FILE.py or FILE.toml"),
    ],
)
def test_a_bad_file_says_what_is_wrong(tmp_path: Path, name: str, text: str, message: str) -> None:
    """A file that cannot be used is one error that names it."""
    file = written(tmp_path / name, text)
    with pytest.raises(RegistrationError) as caught:
        register_files([file])
    assert message in str(caught.value)
    assert str(file) in str(caught.value)
    assert "twinkle_tune_registered_k" not in sys.modules


def test_a_missing_file(tmp_path: Path) -> None:
    """A path without a file says that."""
    with pytest.raises(RegistrationError, match=r"gone.py is no file, expected FILE.py or FILE.toml"):
        register_files([tmp_path / "gone.py"])


def test_an_error_of_our_own_passes_unchanged(tmp_path: Path) -> None:
    """What register_* says of its arguments is not wrapped again."""
    file = written(
        tmp_path / "k.py",
        "from twinkle_tune.errors import RegistrationError\nraise RegistrationError('kernel: bad')",
    )
    with pytest.raises(RegistrationError, match=r"^kernel: bad$"):
        register_files([file])


def test_two_files_of_one_name_clash(tmp_path: Path) -> None:
    """Two files of one name would be one module, and are refused."""
    (tmp_path / "other").mkdir()
    first, second = written(tmp_path / "k.py", ""), written(tmp_path / "other" / "k.py", "")
    with pytest.raises(RegistrationError, match="was given already"):
        register_files([first, second])
