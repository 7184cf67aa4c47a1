"""Real Chromium, and what tests ask of every page."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, Literal, cast

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, sync_playwright

from tests.conftest import find_program

PICTURES: Final = Path(__file__).parents[2] / "build" / "pages"
"""Where each page is kept as it looked, for people."""

Scheme = Literal["light", "dark"]
SCHEMES: Final[tuple[Scheme, ...]] = ("light", "dark")
WIDTHS: Final = {"wide": 1100, "phone": 390}

_AXE: Final = (files("axe_playwright_python") / "axe.min.js").read_text()
_RUN_AXE: Final = """
axe.run().then(found => found.violations.map(each => each.id + ": " + each.nodes.map(node => node.target).join(", ")))
"""


@contextlib.contextmanager
def run_browser() -> Generator[Browser]:
    """Debian's Chromium, without a screen."""
    program = find_program("chromium")
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=arguments)
        yield browser
        browser.close()


@contextlib.contextmanager
def open_context(browser: Browser, **options: Any) -> Generator[BrowserContext]:  # noqa: ANN401  as Playwright's own
    """A browser of its own, without cookies. What the policy of a page forbids, or a script throws, fails the test."""
    faults: list[str] = []

    def note(message: ConsoleMessage) -> None:
        if message.type == "error" and "the server responded with a status of" not in message.text:
            faults.append(message.text)

    def note_failure(request: Request) -> None:
        if request.failure != "net::ERR_ABORTED":  # what a page still loads when somebody goes on to the next one
            faults.append(f"{request.url}: {request.failure}")

    context = browser.new_context(**options)
    context.on("console", note)
    context.on("weberror", lambda error: faults.append(str(error.error)))
    context.on("requestfailed", note_failure)
    try:
        yield context
    finally:
        context.close()
    assert faults == [], faults


def violations_of(page: Page) -> list[str]:
    """What axe finds wrong with a page: the rule, and where."""
    page.evaluate(_AXE)
    return cast("list[str]", page.evaluate(_RUN_AXE))


def check_page(browser: Browser, url: str, name: str, **options: Any) -> None:  # noqa: ANN401  as Playwright's own
    """Look at a page in light and dark, wide and narrow: nothing that axe finds, nothing beyond the edge."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    for scheme in SCHEMES:
        with open_context(browser, color_scheme=scheme, **options) as context:
            page = context.new_page()
            page.goto(url)
            for width_name, width in WIDTHS.items():
                page.set_viewport_size({"width": width, "height": 900})
                page.screenshot(path=PICTURES / f"{name}-{scheme}-{width_name}.png", full_page=True)
                assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{name} at {width}"
            assert violations_of(page) == [], f"{name} in {scheme}"
