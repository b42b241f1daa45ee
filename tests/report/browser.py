"""A real Chromium without a network, for tests that drive a page."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

_ARGUMENTS = (
    "--no-sandbox",  # tests may run as root
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
_COUNT_MARKS = """boxes => boxes.filter(box => box.checkVisibility()).map(box => [
    box.dataset.plot, box.dataset.state || "",
    box.querySelectorAll(".mark-symbol path, .mark-rect path, .mark-text text").length])"""
_WIDER = """() => [...document.querySelectorAll("main *, header *")].filter(each => {
    if (each.closest(".scroll") || each.closest("svg")) return false;
    const box = each.getBoundingClientRect();
    return box.width > 0 && box.right > document.documentElement.clientWidth + 1;
}).slice(0, 5).map(each => `${each.tagName} ${each.className} ${each.textContent.slice(0, 60)}`)"""


def chromium() -> str:
    """Where a Chromium is; skips the test where there is none."""
    pytest.importorskip("playwright", reason="drives a browser")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("needs a Chromium (chromium, chromium-browser or google-chrome) on the PATH; found none")
    return found


@dataclass
class Opened:
    """A page that was opened, what it complained about and what it asked the network for."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def scroll_through(self) -> None:
        """Go down the page as a reader does, until every plot that has come near is drawn."""
        self.page.evaluate(
            """async () => {
                for (let y = 0; y < document.documentElement.scrollHeight; y += 700) {
                    scrollTo(0, y);
                    await new Promise(done => setTimeout(done, 40));
                }
                scrollTo(0, 0);
            }"""
        )
        self.page.wait_for_function(
            """() => [...document.querySelectorAll(".plot")].every(
                box => !box.checkVisibility() || ["drawn", "failed"].includes(box.dataset.state))"""
        )

    def marks(self) -> dict[str, int]:
        """How many marks each visible plot has; fails where one was not drawn."""
        found: list[list[Any]] = self.page.eval_on_selector_all(".plot", _COUNT_MARKS)
        assert {state for _, state, _ in found} <= {"drawn"}
        return {name: count for name, _, count in found}

    def too_wide(self) -> list[str]:
        """What reaches beyond the window's right edge."""
        found: list[str] = self.page.evaluate(_WIDER)
        return found

    def violations(self) -> list[str]:
        """What axe-core finds wrong for keyboards, readers and contrast."""
        from axe_playwright_python.sync_playwright import Axe

        result = Axe().run(self.page)
        return [
            f"{each['id']}: {node['html'][:200]}" for each in result.response["violations"] for node in each["nodes"]
        ]


@contextmanager
def browser() -> Iterator[Browser]:
    """A browser; skips where there is none."""
    path = chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        running = started.chromium.launch(executable_path=path, args=list(_ARGUMENTS))
        yield running
        running.close()


@contextmanager
def opened(running: Browser, path: Path, width: int = 1400, scheme: Any = "light") -> Iterator[Opened]:
    """A file in a window of that width, offline; every complaint and request is kept."""
    context = running.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
    context.set_default_timeout(60_000)
    made = Opened(page=context.new_page())
    made.page.on("console", lambda message: made.complaints.append(f"{message.type}: {message.text}"))
    made.page.on("pageerror", lambda error: made.complaints.append(str(error)))
    # One that is left open stops the page, and with it the test.
    made.page.on("dialog", lambda dialog: made.complaints.append(f"dialog: {dialog.message}"))
    made.page.on("request", lambda request: made.requests.append(request.url))
    made.page.goto(path.as_uri())
    yield made
    assert made.complaints == []
    assert made.requests == [path.as_uri()]
    context.close()
