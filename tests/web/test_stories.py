"""What people come for, from the first page to the end: clicks of real Chromium, the real command line and real Nix."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.client.private_nix import CONFIGURATION, PrivateNix, store_settings
from tests.end_to_end.conftest import User
from tests.http.running import RunningServer
from tests.web.browser import open_context, run_browser

pytestmark = pytest.mark.end_to_end

EXPRESSION = """
let
  make = name: script: derivation {
    inherit name; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" script ]; PATH = "/usr/bin:/bin";
  };
  library = text: make "library-3.1" "echo ${text} > $out";
in {
  first = make "greeter-1.0" "mkdir $out; echo ${library "calm"} > $out/greeting";
  second = make "greeter-1.1" "mkdir $out; echo ${library "excited"} > $out/greeting; echo more > $out/more";
}
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with run_browser() as browser:
        yield browser


@pytest.fixture
def nix(tmp_path: Path, require: Callable[[str], str]) -> PrivateNix:
    """Of somebody who never used the server."""
    require("nix-store")
    home = tmp_path / "home"
    (home / ".config/nix").mkdir(parents=True)
    (home / ".config/nix/nix.conf").write_text(CONFIGURATION)
    root = tmp_path / "root"
    return PrivateNix(root, {"HOME": str(home), "PATH": os.environ["PATH"], **store_settings(root)})


def log_in(page: Page, server: RunningServer) -> None:
    page.goto(f"http://127.0.0.1:{server.port}/")
    page.get_by_role("link", name="Log in").click()
    page.get_by_label("Token").fill(server.token)
    page.get_by_role("button", name="Log in").click()


def go_to(page: Page, tab: str) -> None:
    page.get_by_role("navigation", name="greetings").get_by_role("link", name=tab, exact=True).click()


def test_private_cache_from_its_making_to_the_trash_and_back(
    browser: Browser, server: RunningServer, nix: PrivateNix, tmp_path: Path
) -> None:
    user = User(tmp_path / "home", nix.environment)
    first, second = (nix.build(EXPRESSION, attribute) for attribute in ("first", "second"))
    with open_context(browser) as context:
        page = context.new_page()
        log_in(page, server)

        # Create a private cache.
        page.get_by_role("link", name="New cache").click()
        page.get_by_label("Name").fill("greetings")
        page.get_by_label("private").check()
        page.get_by_label("Store directory").fill(nix.environment["NIX_STORE_DIR"])
        page.get_by_label("cache.nixos.org").uncheck()
        page.get_by_role("button", name="Make the cache").click()
        expect(page.get_by_role("heading", name="greetings")).to_be_visible()

        # Make a token, and push with it.
        page.get_by_role("link", name="Tokens", exact=True).click()
        page.get_by_role("link", name="New token").click()
        page.get_by_label("Description").fill("laptop")
        page.get_by_label("push").check()
        page.get_by_label("On the caches").fill("greetings")
        page.get_by_role("button", name="Make the token").click()
        token = page.get_by_label("the token", exact=True).inner_text()
        user.icehouse("login", f"http://127.0.0.1:{server.port}", "--token", token)
        user.icehouse("push", "greetings", first)

        # Find the path.
        page.get_by_role("link", name="Caches", exact=True).click()
        page.get_by_role("link", name="greetings").click()
        go_to(page, "Paths")
        page.get_by_label("Name, hash or store path").fill("greeter")
        page.get_by_role("button", name="Search").click()
        page.get_by_role("link", name="greeter-1.0").click()
        expect(page.get_by_role("heading", name="greeter-1.0")).to_be_visible()

        # Pin it.
        go_to(page, "Pins")
        page.get_by_role("link", name="New pin").click()
        page.get_by_label("Name").fill("release")
        page.get_by_label("Path").fill(first)
        page.get_by_role("button", name="Pin it").click()
        expect(page.get_by_role("heading", name="release")).to_be_visible()
        assert user.icehouse("resolve", "greetings", "release").out == f"{first}\n"

        # Push a changed one, and move the pin.
        user.icehouse("push", "greetings", second)
        page.get_by_role("link", name="Move or change").click()
        page.get_by_label("Path").fill(second)
        page.get_by_label("the last", exact=True).check()
        page.get_by_label("How many revisions").fill("2")
        page.get_by_role("button", name="Change it").click()
        expect(page.locator(".facts")).to_contain_text("the last 2 revisions")
        assert user.icehouse("resolve", "greetings", "release").out == f"{second}\n"

        # See the difference.
        page.get_by_role("link", name="to the one before revision 2").click()
        rows = page.get_by_label("Packages that differ").locator("tbody tr")
        expect(rows).to_have_count(2)
        expect(rows.filter(has_text="greeter")).to_contain_text("1.0 → 1.1")
        expect(rows.filter(has_text="library")).to_contain_text(re.compile("contents.*3.1", re.DOTALL))
