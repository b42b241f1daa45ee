"""The house keeps its shape: who may import whom, and what an import costs."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "twinkle_tune"

# From the ground up: a room imports only from rooms that stand before it, or from itself.
ROOMS = (
    "errors",
    "peers",
    "server",
    "cause",
    "words",
    "interpreted",
    "version",
    "offered",
    "mode",
    "objective",
    "device",
    "workload",
    "environment",
    "slot",
    "occurrence",
    "outcome",
    "call",
    "parity",
    "measure",
    "terms",
    "source",
    "profile",
    "ops",
    "graph",
    "catalog",
    "strategy",
    "kernel",
    "capture",
    "testing",
    "contest",
    "search",
    "tune",
    "script",
    "integrations",
    "auto",
    "run",
    "export",
    "report",
    "models",
    "fleet",
    "cli",
)

# Packages that take long to import or may be missing, and the rooms that may name them.
HEAVY = {
    "pandas": {"report"},
    "jinja2": {"report"},
    "altair": {"report"},
    "vl_convert": {"report"},
    "pyarrow": {"report"},
    "optuna": {"search"},
    "typer": {"cli"},
    "rich": {"report", "cli"},
    "psycopg": {"server"},
    "pydantic": {"profile"},
    "sqlalchemy": {"server", "profile", "search"},
    "triton": {"ops"},
    "kernels": {"source", "kernel"},
    "liger_kernel": {"source", "catalog"},
    "lightning": {"integrations"},
    "ray": {"fleet"},
    "transformers": {"catalog", "capture", "models", "integrations"},
}

MAX_LINES = 330

MAX_PARAMETERS = 8
MOST_ABOVE = 16
"""Functions with more parameters than that: kernels in Triton, what the public surface promises, and few others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """A module that a file names, and where: in a statement or in a text ("twinkle_tune.report.frames:table")."""

    target: str
    line: int


def module_name(path: Path) -> str:
    """The dotted name of a file of the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


@cache
def imports(module: str) -> list[Import]:
    """Whatever a module imports: at its top, within functions, for annotations alone, or by a module's name as text."""
    return list(_imports(ast.parse(FILES[module].read_text(encoding="utf-8")), module))


def _imports(tree: ast.AST, module: str) -> Iterator[Import]:
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (Import(target=name.name, line=node.lineno) for name in names)
            case ast.ImportFrom(names=names):
                base = _base(node, module)
                for name in names:
                    full = f"{base}.{name.name}"
                    yield Import(target=full if full in FILES else base, line=node.lineno)
            case ast.Constant(value=str(text)) if (named := text.partition(":")[0]) in FILES and "." in named:
                yield Import(target=named, line=node.lineno)


def _base(node: ast.ImportFrom, module: str) -> str:
    if not node.level:
        return node.module or ""
    package = module if FILES[module].name == "__init__.py" else module.rpartition(".")[0]
    parts = package.split(".")[: len(package.split(".")) - node.level + 1]
    return ".".join([*parts, *([node.module] if node.module else [])])


def room(module: str) -> str:
    """The room of a module of the package; "" for the front door, ``twinkle_tune`` itself."""
    return module.partition(".")[2].partition(".")[0]


def test_every_file_stands_in_a_known_room() -> None:
    """A new file or folder at the top has a place in the order of the rooms."""
    assert {room(module) for module in FILES} - {""} <= set(ROOMS)


@pytest.mark.parametrize("module", [module for module in FILES if room(module)])
def test_imports_go_one_way(module: str) -> None:
    """A file imports only from rooms before its own, or from its own; functions and annotations included."""
    own = ROOMS.index(room(module))
    wrong = [
        f"{each.target} (line {each.line})"
        for each in imports(module)
        if each.target.startswith("twinkle_tune.") and ROOMS.index(room(each.target)) > own
    ]
    assert not wrong, f"{module} imports from a later room: {wrong}"


def test_no_import_cycles() -> None:
    """No file needs itself, through whatever chain; imports within functions and for annotations alone count."""
    graph = {module: {each.target for each in imports(module) if each.target in FILES} - {module} for module in FILES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("package", HEAVY)
def test_heavy_packages_stay_in_their_rooms(package: str) -> None:
    """A heavy package is named only in the rooms that are there for it."""
    users = {
        module
        for module in FILES
        for each in imports(module)
        if each.target.partition(".")[0] == package and room(module) not in HEAVY[package]
    }
    assert not users


@pytest.mark.parametrize("module", FILES)
def test_files_stay_short(module: str) -> None:
    """A file that outgrows its limit is two things; kernels written in Triton may be longer."""
    path = FILES[module]
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES or (room(module) == "ops" and path.name == "kernel.py")


@pytest.mark.parametrize("module", [m for m, path in FILES.items() if room(m) == "ops" and path.name == "kernel.py"])
def test_kernels_are_short(module: str) -> None:
    """All kernels of an op together are below 200 lines of code, counted without texts, comments and empty lines."""
    text = FILES[module].read_text(encoding="utf-8")
    told = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    lines = enumerate(text.splitlines(), start=1)
    assert 0 < sum(n not in told and bool(line.strip()) and line.strip()[0] != "#" for n, line in lines) < 200


def test_few_functions_have_many_parameters() -> None:
    """Values travel together: no function more than there are takes over eight parameters, ``self`` not counted.

    Kernels written in Triton are left out: each tensor comes with its sizes and strides, and nothing can carry them.
    """
    above = [
        f"{module}.{node.name}"
        for module, path in FILES.items()
        if not (room(module) == "ops" and path.name == "kernel.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and _parameters(node.args) > MAX_PARAMETERS
    ]
    assert len(above) <= MOST_ABOVE, f"{len(above)} functions, expected at most {MOST_ABOVE}; merge some: {above}"


def _parameters(given: ast.arguments) -> int:
    named = [each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return len(named) - (named[:1] in (["self"], ["cls"])) + (given.vararg is not None) + (given.kwarg is not None)


def test_importing_the_package_imports_nothing_heavy() -> None:
    """``import twinkle_tune`` brings in no heavy package that ``import torch`` does not bring itself."""
    code = (
        "import json, sys, torch; before = set(sys.modules); import twinkle_tune; "
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=300
    )
    added = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert "twinkle_tune" in added
    assert not added & set(HEAVY)
