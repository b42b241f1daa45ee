"""Digests of code: what changes them, and what does not."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MethodType
from typing import Any

import pytest
from torch import nn

from tests.source.repos import module_at
from twinkle_tune.errors import SourceError
from twinkle_tune.source.digest import digest_code, digest_folder

NAME = "twinkle_digest_case"
FILES = {
    "__init__.py": "",
    "kernel.py": '''
import functools
import math

import twinkle_digest_case.deep.low
from . import helpers
from .helpers import shifted

SCALE = 2.0
SHIFT = 3.0
NAMES = frozenset({"alpha", "beta", "gamma", "delta", "epsilon"})
PAIRS = (("a", 1), ("b", 2))


def kernel(x, *, eps=1e-6):
    """Scale and shift."""
    # The order matters.
    if x in NAMES or x in {"one", "two", "three", "four"}:
        return PAIRS
    return helpers.scaled(x, SCALE) + shifted(x) + SHIFT + eps + twinkle_digest_case.deep.low.lowest(x)


class Kernel:
    def forward(self, x):
        return kernel(x)


def twice(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function(*args) * 2

    return wrapper


@twice
def decorated(x):
    return shifted(x)


def made(factor):
    def inner(x):
        return x * factor

    return inner


made_once = made(3)


def defaulted(x, limit=SCALE * 2):
    return min(x, limit)


with_bound = functools.partial(shifted, 1)
''',
    "helpers.py": """
STEP = 1


def scaled(x, by):
    return x * by


def shifted(x):
    return x + STEP


def unrelated(x):
    return x
""",
    "deep/__init__.py": "",
    "deep/low.py": """
def lowest(x):
    return x - 1
""",
}
SOURCES = {"kernel": "kernel.py", "helpers": "helpers.py", "low": "deep/low.py"}


@pytest.fixture
def digest(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """The digest of an attribute of the package above, as it is or with one text in one file replaced."""
    versions: list[Path] = []

    def of(attribute: str, old: str = "", new: str = "", file: str = "kernel.py") -> str:
        folder = tmp_path / f"version{len(versions)}" / NAME
        versions.append(folder)
        for path, text in FILES.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            changed = text.replace(old, new) if old and path == file else text
            assert not old or path != file or changed != text
            (folder / path).write_text(changed, encoding="utf-8")
        module_at(folder, NAME)
        __import__(f"{NAME}.kernel")
        return digest_code(getattr(sys.modules[f"{NAME}.kernel"], attribute))

    yield of
    for name in [name for name in sys.modules if name.split(".")[0] == NAME]:
        del sys.modules[name]


CHANGES = {
    "its own code": ("kernel", "+ SHIFT +", "- SHIFT +", "kernel.py"),
    "a function that it imports": ("kernel", "return x + STEP", "return x - STEP", "helpers.py"),
    "a function of a module that it imports": ("kernel", "return x * by", "return by * x", "helpers.py"),
    "a function two packages down": ("kernel", "return x - 1", "return x - 2", "deep/low.py"),
    "a constant": ("kernel", "SCALE = 2.0", "SCALE = 2.5", "kernel.py"),
    "two constants that change places": (
        "kernel",
        "SCALE = 2.0\nSHIFT = 3.0",
        "SCALE = 3.0\nSHIFT = 2.0",
        "kernel.py",
    ),
    "a constant of a helper": ("kernel", "STEP = 1", "STEP = 2", "helpers.py"),
    "a member of a set": ("kernel", '"gamma"', '"zeta"', "kernel.py"),
    "a default": ("kernel", "eps=1e-6", "eps=1e-5", "kernel.py"),
    "a default that is computed": ("defaulted", "SCALE = 2.0", "SCALE = 4.0", "kernel.py"),
    "what a class's method calls": ("Kernel", "+ SHIFT +", "- SHIFT +", "kernel.py"),
    "what a decorator wraps": ("decorated", "return shifted(x)", "return shifted(x) + 1", "kernel.py"),
    "what a decorated function calls": ("decorated", "return x + STEP", "return x - STEP", "helpers.py"),
    "what a decorator does": ("decorated", "(*args) * 2", "(*args) * 3", "kernel.py"),
    "what a closure holds": ("made_once", "made(3)", "made(4)", "kernel.py"),
    "what a partial binds": ("with_bound", "partial(shifted, 1)", "partial(shifted, 2)", "kernel.py"),
    "what a partial calls": ("with_bound", "return x + STEP", "return x - STEP", "helpers.py"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changes_with_the_code(digest: Callable[..., str], change: str) -> None:
    """A digest changes when the code, or anything of its own package that it uses, changes."""
    attribute, old, new, file = CHANGES[change]
    assert digest(attribute) != digest(attribute, old, new, file)


INDIFFERENT = {
    "a comment": ("kernel", "# The order matters.", "# It does not.", "kernel.py"),
    "a docstring": ("kernel", "Scale and shift.", "Shift and scale.", "kernel.py"),
    "formatting": ("kernel", "return x * by", "return (x\n        *   by)", "helpers.py"),
    "a function that it does not use": ("kernel", "def unrelated(x):\n    return x", "x = 1", "helpers.py"),
    "another function's constant": ("decorated", "SHIFT = 3.0", "SHIFT = 4.0", "kernel.py"),
}


@pytest.mark.parametrize("change", INDIFFERENT)
def test_stays_with_the_code(digest: Callable[..., str], change: str) -> None:
    """A digest does not change with comments, docstrings, formatting or code that is not used."""
    attribute, old, new, file = INDIFFERENT[change]
    assert digest(attribute) == digest(attribute, old, new, file)


def test_equal_in_every_process(digest: Callable[..., str], tmp_path: Path) -> None:
    """Processes with other hash seeds, with and without compiled files, come to the same digests."""
    names = ("kernel", "Kernel", "decorated", "made_once", "defaulted", "with_bound")
    here = " ".join(digest(name) for name in names)
    code = (
        f"import {NAME}.kernel as k; from twinkle_tune.source.digest import digest_code; "
        f"print(' '.join(digest_code(getattr(k, n)) for n in {names}))"
    )
    paths = os.pathsep.join((str(tmp_path / "version0"), str(Path(__file__).parents[2])))
    for seed in ("0", "1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": paths},
        )
        assert done.stdout.strip() == here


def _typed(text: str, name: str) -> Any:
    space: dict[str, Any] = {"__name__": "typed_at_a_prompt", "nn": nn}
    exec(text, space)
    return space[name]


@pytest.mark.parametrize(
    "text",
    [
        "def f(x): return x in {'a', 'b', 'c'} or x + 1",
        "class f(nn.Module):\n    def forward(self, x): return x + 1",
    ],
)
def test_code_without_source(text: str) -> None:
    """Code typed at a prompt counts by what it does: equal while equal, different when changed."""
    assert digest_code(_typed(text, "f")) == digest_code(_typed(text, "f"))
    assert digest_code(_typed(text, "f")) != digest_code(_typed(text.replace("x + 1", "x + 2"), "f"))


def test_lambdas() -> None:
    """Two lambdas inside expressions are told apart by what they do."""
    made: dict[str, Callable[..., Any]] = {
        "plus": lambda x, y: x + y + 1,
        "minus": lambda x, y: x - y + 1,
        "plus again": lambda x, y: x + y + 1,
    }
    assert digest_code(made["plus"]) != digest_code(made["minus"])
    assert digest_code(made["plus"]) == digest_code(made["plus again"])


def test_counters_do_not_count() -> None:
    """What code writes to its module while it runs does not change its digest."""
    count = _typed("calls = 0\ndef count(x):\n    global calls\n    calls += 1\n    return x", "count")
    before = digest_code(count)
    count(1)
    assert count.__globals__["calls"] == 1
    assert digest_code(count) == before


def test_methods_and_caches_count_by_their_function() -> None:
    """A bound method and a cached function have the digest of the function behind them."""

    def double(x: Any) -> Any:
        return x * 2

    bound = MethodType(double, 1)
    assert digest_code(bound) == digest_code(double) == digest_code(functools.cache(double))


def test_folder(tmp_path: Path) -> None:
    """A folder's digest changes with a file's content, name and presence, and not with caches."""
    package = tmp_path / "package"
    package.mkdir()
    (package / "a.py").write_text("a = 1\n")
    first = digest_folder(package)
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "a.pyc").write_bytes(b"compiled")
    assert digest_folder(package) == first
    (package / "data.bin").write_bytes(b"1")
    second = digest_folder(package)
    (package / "data.bin").rename(package / "other.bin")
    third = digest_folder(package)
    (package / "a.py").write_text("a = 2\n")
    assert len({first, second, third, digest_folder(package)}) == 4


def test_folder_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that cannot be read is one clear error that names the folder."""
    (tmp_path / "a.py").write_text("a = 1\n")

    def refuse(self: Path) -> bytes:
        raise PermissionError("not yours")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(SourceError, match=rf"{tmp_path}: cannot be read \(not yours\); check the path"):
        digest_folder(tmp_path)


def test_classes_that_say_whom_they_equal_are_told_apart() -> None:
    """A metaclass may call two classes equal, or have no hash: each has the text of its own code."""

    class Equal(type):
        def __eq__(cls, other: object) -> bool:
            return isinstance(other, Equal)

        def __hash__(cls) -> int:
            return 0

    class Unhashed(type):
        def __eq__(cls, other: object) -> bool:
            return cls is other

        __hash__ = None  # type: ignore[assignment]

    class One(metaclass=Equal):
        value = 1

    class Two(metaclass=Equal):
        value = 2

    class Three(metaclass=Unhashed):
        value = 3

    assert len({digest_code(kind) for kind in (One, Two, Three)}) == 3
    assert digest_code(One) == digest_code(One)


def test_what_is_kept_of_code_is_its_own(tmp_path: Path) -> None:
    """Equal code of two files has its file's text each; a class without a file is read anew, as its methods change."""

    def made(name: str, text: str) -> Any:
        path = tmp_path / f"{name}.py"
        path.write_text(text, encoding="utf-8")
        space: dict[str, Any] = {"__name__": name}
        exec(compile(text, str(path), "exec"), space)
        return space["kernel"]

    texts = [f"def kernel(x: {kind}):\n    return x\n" for kind in ("int", "str")]
    one, two = (made(name, text) for name, text in zip("ab", texts, strict=True))
    assert one.__code__ == two.__code__
    assert digest_code(one) != digest_code(two)
    space: dict[str, Any] = {"__name__": "typed"}
    exec("class Norm:\n    def forward(self, x): return x * 2", space)
    before = digest_code(space["Norm"])
    exec("def other(self, x): return x * 3", space)
    space["Norm"].forward = space["other"]
    assert digest_code(space["Norm"]) != before
