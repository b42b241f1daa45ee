"""The documentation is true: links lead somewhere, Python runs, commands exist, the schema is the code's."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import twinkle_tune

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SCHEMA_FILE = DOCS / "profile.schema.json"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# A block that begins with a comment that names a file is that file; all other Python is run.
_FILE = re.compile(r"# ([\w/.-]+\.(?:py|toml))\n")


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(page: Path) -> str:
    """A page's text without its code blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of each code block of a page, in order."""
    return _BLOCK.findall(page.read_text(encoding="utf-8"))


def commands(page: Path) -> list[list[str]]:
    """The words of each command of a page: lines of console blocks that begin with a prompt."""
    lines = [line for language, text in blocks(page) if language == "console" for line in text.splitlines()]
    return [shlex.split(line[2:], comments=True) for line in lines if line.startswith("$ ")]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as forges make them."""
    headings = re.findall(r"^#+\s+(.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_lead_somewhere(page: Path) -> None:
    """Each relative link of a page names a file of the repository, and each anchor a heading."""
    dead = []
    for link in _LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            dead.append(link)
    assert not dead


def test_the_overview_links_to_every_page() -> None:
    """From docs/index.md one gets to each page, and from the README to docs/index.md."""
    linked = {(DOCS / link.partition("#")[0]).resolve() for link in _LINK.findall(prose(DOCS / "index.md"))}
    assert not {page for page in DOCS.rglob("*.md") if page != DOCS / "index.md"} - linked
    assert "docs/index.md" in _LINK.findall(prose(ROOT / "README.md"))


def test_the_layout_lists_every_room() -> None:
    """The listing of the package in docs/layout.md names each room, and none that is not there."""
    listing = next(text for _, text in blocks(DOCS / "layout.md") if text.startswith("twinkle_tune/\n"))
    listed = set(re.findall(r"^[├└]── (\S+)", listing, re.MULTILINE))
    package = ROOT / "twinkle_tune"
    rooms = {f"{each.parent.name}/" for each in package.glob("*/__init__.py")}
    assert listed == rooms | {each.name for each in package.glob("*.py") if each.name != "__init__.py"}


def test_the_layout_names_files_that_are_there() -> None:
    """Each file or folder that docs/layout.md sends a change to is one of the package, or of the repository."""
    named = set(re.findall(r"`((?:\w+/)+(?:\w+\.\w+)?)`", prose(DOCS / "layout.md")))
    assert named
    assert not {each for each in named if not (ROOT / "twinkle_tune" / each).exists() and not (ROOT / each).exists()}


@pytest.mark.parametrize("name", twinkle_tune.__all__)
def test_every_public_name_is_explained(name: str) -> None:
    """Each public name stands in a page under docs/ outside of the list of public names."""
    assert any(re.search(rf"\b{name}\b", prose(page)) for page in DOCS.rglob("*.md"))


# Running the pages


@pytest.mark.parametrize("page", [p for p in PAGES if "```python" in p.read_text()], ids=_name)
def test_the_python_of_a_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Python blocks run one after another, and between them the commands that need no other machine."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    with _apart(tmp_path):
        names: dict[str, Any] = {"__name__": "page"}
        for number, (language, text) in enumerate(blocks(page), start=1):
            named = _FILE.match(text)
            if named:
                file = tmp_path / named[1]
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text, encoding="utf-8")
            elif language == "python":
                exec(compile(text, f"{_name(page)}, block {number}", "exec"), names)
            elif language == "console":
                _run_commands(text)
    capsys.readouterr()


def _run_commands(text: str) -> None:
    from twinkle_tune.cli.app import run

    for line in text.splitlines():
        words = shlex.split(line[2:], comments=True) if line.startswith("$ twinkle-tune ") else []
        if words[1:2] == ["run"]:  # it becomes the script, so not in this process
            fast = ["--budget", "3s"]  # its own minutes are for a real script
            command = [sys.executable, "-m", "twinkle_tune.cli", "run", *fast, *words[2:]]
            # "python" is the one that runs this.
            path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
            env = os.environ | {"PYTHONPATH": str(ROOT), "PATH": path}
            subprocess.run(command, check=True, capture_output=True, env=env)
        elif words and _runs_here(words):
            # A process for each profile's candidates is tests/tune/test_isolated's, and takes seconds to start.
            apart = ["--in-process"] if words[1] in ("profile", "verify") else []
            apart += ["--no-ways"] if words[1] == "profile" else []  # real compiling is tests/kernel's
            assert run([*words[1:], *apart]) == 0, line


def _runs_here(words: list[str]) -> bool:
    """Whether a command needs neither a GPU nor a minute; of profiles those that an earlier block wrote."""
    if "cuda" in words or words[1] == "tune":
        return False
    if words[1] == "profile":
        return ":" in words[2]
    return words[1] not in ("report", "verify", "diff", "export") or any(Path(word).exists() for word in words[2:3])


@contextmanager
def _apart(folder: Path) -> Iterator[None]:
    """What a page imports, registers and binds is gone after it; one thread, as others share the cores."""
    import torch

    from twinkle_tune.kernel import restore_model
    from twinkle_tune.kernel.registry import default_registry

    threads, modules = torch.get_num_threads(), set(sys.modules)
    torch.set_num_threads(1)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        restore_model(None)
        default_registry.clear()
        torch.set_num_threads(threads)
        sys.path.remove(str(folder))
        for name in set(sys.modules) - modules:
            if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(folder)):
                del sys.modules[name]


# Commands and examples that are not run


@pytest.mark.parametrize("page", [p for p in PAGES if commands(p)], ids=_name)
def test_commands_exist(page: Path) -> None:
    """The command line takes each command with these options, and the Makefile has each target."""
    import typer

    from twinkle_tune.cli.app import app

    known: Any = typer.main.get_command(app)
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for words in commands(page):
        if words[0] == "make":
            assert {word for word in words[1:] if "=" not in word} <= targets, words
        elif words[0] == "twinkle-tune":
            # Parses as the command line itself would, and calls nothing.
            known.commands[words[1]].make_context(words[1], words[2:])


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_options_in_the_prose_exist(page: Path) -> None:
    """Each ``--option`` that a page's prose names is one of some command."""
    import typer

    from twinkle_tune.cli.app import app

    group: Any = typer.main.get_command(app)
    options = [option for each in (group, *group.commands.values()) for option in each.params]
    known = {text for option in options for text in (*option.opts, *option.secondary_opts)}
    # Without the programs that are not ours.
    own = re.sub(r"`(?:git|pip|pytest)[^`]*`", "", prose(page))
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", own)) <= known


@pytest.mark.parametrize("page", [p for p in PAGES if "```python" in p.read_text()], ids=_name)
def test_imports_of_a_page_exist(page: Path) -> None:
    """What a page imports from the package is there, also in blocks that are not run."""
    for language, text in blocks(page):
        nodes = ast.walk(ast.parse(text)) if language == "python" else ()
        for node in nodes:
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("twinkle_tune"):
                module = importlib.import_module(str(node.module))
                assert not [alias.name for alias in node.names if not hasattr(module, alias.name)]


def test_toml_blocks_are_toml() -> None:
    """Each TOML block of a page can be read as TOML."""
    texts = [text for page in PAGES for language, text in blocks(page) if language == "toml"]
    assert texts
    assert all(tomllib.loads(text) for text in texts)


# The profile format


def test_the_published_schema_is_the_code_s() -> None:
    """docs/profile.schema.json is what the command in docs/profile-format.md writes."""
    from twinkle_tune.profile.io import json_schema

    schema, text = json_schema(), SCHEMA_FILE.read_text(encoding="utf-8")
    if "description" not in schema:  # which pydantic 2.12 does not write of a dataclass
        published = json.loads(text)
        for each in (schema, published):
            for table in (each, *each["$defs"].values()):
                table.pop("description", None)
        assert schema == published
        return
    assert text == json.dumps(schema, indent=2) + "\n", "run the command of that page"


def test_the_example_of_the_format_is_a_profile() -> None:
    """docs/example-profile.json is read as a profile, and the contest shown in the page is its first."""
    from twinkle_tune.profile.io import load_profile

    example = DOCS / "example-profile.json"
    (text,) = [text for language, text in blocks(DOCS / "profile-format.md") if language == "json"]
    assert load_profile(example).winners
    assert json.loads(text) == json.loads(example.read_text(encoding="utf-8"))["contests"][0]


def test_every_field_of_the_format_is_explained() -> None:
    """docs/profile-format.md names each field that the schema has."""
    schema = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    fields = {name for part in (schema, *schema["$defs"].values()) for name in part.get("properties", {})}
    text = prose(DOCS / "profile-format.md")
    assert not {name for name in fields if f"`{name}`" not in text}
