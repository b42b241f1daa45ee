"""What mkdocs does beside building docs/: ``mkdocs.yml`` names this file as its hook.

Pages of docs/ link to files outside of it, as one can on a code host. Such files, and all of reports/, come along into
the site below ``repository/``, and the links are turned there.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
PREFIX = "repository/"
RESULTS = "Measured results"
_LINK = re.compile(r"(\[[^\]]*\]\()([^)\s#]+)(#[^)\s]*)?(\))")
_CODE = re.compile(r"(^(?:```|~~~).*?^(?:```|~~~)|`[^`\n]+`)", re.MULTILINE | re.DOTALL)
# Docstrings name other objects as Sphinx does; here the name is enough.
_ROLE = re.compile(r":(?:data|func|class|mod|meth|attr|exc):<code>~?([\w.]+)</code>")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The pages of reports/ follow the last entry of the navigation."""
    nav: list[dict[str, Any]] = config.nav or []
    section = next(entry for entry in nav if RESULTS in entry)
    section[RESULTS] += [_uri(path) for path in sorted((ROOT / "reports").rglob("*.md"))]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """reports/, and what pages link to outside of docs/, are files of the site."""
    wanted = {path for path in (ROOT / "reports").rglob("*") if path.is_file()}
    for page in files.documentation_pages():
        wanted |= {path for path in _linked(page.content_string, _place(page.src_uri)) if _is_outside(path)}
    for path in sorted(wanted):
        files.append(File.generated(config, _uri(path), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links between docs/ and the rest of the repository lead to where the files lie in the site."""
    place, folder = _place(page.file.src_uri), posixpath.dirname(page.file.src_uri)

    def turned(link: re.Match[str]) -> str:
        target = _target(link[2], place)
        if target is None:
            return link[0]
        return f"{link[1]}{posixpath.relpath(_uri(target), folder or '.')}{link[3] or ''}{link[4]}"

    return _outside_code(markdown, lambda prose: _LINK.sub(turned, prose))


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Names in docstrings stand without the markup of another tool."""
    return _ROLE.sub(r"<code>\1</code>", html)


def _uri(path: Path) -> str:
    """Where a file of the repository lies in the site."""
    docs = ROOT / "docs"
    return (
        path.relative_to(docs).as_posix() if path.is_relative_to(docs) else PREFIX + path.relative_to(ROOT).as_posix()
    )


def _place(uri: str) -> Path:
    """Where a file of the site lies in the repository."""
    return ROOT / uri.removeprefix(PREFIX) if uri.startswith(PREFIX) else ROOT / "docs" / uri


def _is_outside(path: Path) -> bool:
    return not path.is_relative_to(ROOT / "docs")


def _target(link: str, place: Path) -> Path | None:
    """The file of the repository that a page at ``place`` links to; None for all other links."""
    if re.match(r"[a-z]+:|/", link):
        return None
    path = Path(posixpath.normpath(place.parent / link))
    return path if path.is_file() and path.is_relative_to(ROOT) else None


def _linked(markdown: str, place: Path) -> Iterator[Path]:
    for link in _LINK.finditer(_outside_code(markdown, lambda prose: prose)):
        target = _target(link[2], place)
        if target is not None:
            yield target


def _outside_code(markdown: str, change: Callable[[str], str]) -> str:
    """The text with what is no code changed."""
    parts = _CODE.split(markdown)
    return "".join(part if number % 2 else change(part) for number, part in enumerate(parts))
