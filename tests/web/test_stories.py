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


def make_cache(page: Page, store_dir: str) -> None:
    page.get_by_role("link", name="New cache").click()
    page.get_by_label("Name").fill("greetings")
    page.get_by_label("private").check()
    page.get_by_label("Store directory").fill(store_dir)
    page.get_by_label("cache.nixos.org").uncheck()
    page.get_by_role("button", name="Make the cache").click()
    expect(page.get_by_role("heading", name="greetings")).to_be_visible()


def make_token(page: Page) -> str:
    page.get_by_role("link", name="Tokens", exact=True).click()
    page.get_by_role("link", name="New token").click()
    page.get_by_label("Description").fill("laptop")
    page.get_by_label("push").check()
    page.get_by_label("On the caches").fill("greetings")
    page.get_by_role("button", name="Make the token").click()
    return page.get_by_label("the token", exact=True).inner_text()


def find_path(page: Page, name: str) -> None:
    page.get_by_role("link", name="Caches", exact=True).first.click()
    page.get_by_role("link", name="greetings").click()
    go_to(page, "Paths")
    page.get_by_label("Name, hash or store path").fill(name.partition("-")[0])
    page.get_by_role("button", name="Search").click()
    page.get_by_role("link", name=name).click()
    expect(page.get_by_role("heading", name=name)).to_be_visible()


def pin_it(page: Page) -> None:
    page.get_by_role("link", name="Pin it").click()
    page.get_by_label("Name").fill("release")
    page.get_by_role("button", name="Pin it").click()
    expect(page.get_by_role("heading", name="release")).to_be_visible()


def move_pin(page: Page, store_path: str) -> None:
    page.get_by_role("link", name="Move or change").click()
    page.get_by_label("Path").fill(store_path)
    page.get_by_label("the last", exact=True).check()
    page.get_by_label("How many revisions").fill("2")
    page.get_by_role("button", name="Change it").click()
    expect(page.locator(".facts")).to_contain_text("the last 2 revisions")


def see_difference(page: Page) -> None:
    page.get_by_role("link", name="to the one before revision 2").click()
    rows = page.get_by_label("Packages that differ").locator("tbody tr")
    expect(rows).to_have_count(2)
    expect(rows.filter(has_text="greeter")).to_contain_text("1.0 → 1.1")
    expect(rows.filter(has_text="library")).to_contain_text(re.compile("contents.*3.1", re.DOTALL))


def remove_pin(page: Page) -> None:
    go_to(page, "Pins")
    page.get_by_role("link", name="release").click()
    page.get_by_role("link", name="Remove", exact=True).click()
    page.get_by_role("button", name="Remove release").click()
    expect(page.get_by_text("Nothing is pinned here yet")).to_be_visible()


def delete_with_what_needs_it(page: Page) -> None:
    page.get_by_role("link", name="Move to the trash").click()
    page.get_by_label("Delete the other one too").check()
    page.get_by_role("button", name="Move to the trash").click()


def restore(page: Page, name: str) -> None:
    go_to(page, "Trash")
    page.get_by_label(f"Restore {name}").check()
    page.get_by_role("button", name="Restore what is ticked").click()
    expect(page.get_by_text("The trash is empty")).to_be_visible()


def test_private_cache_from_its_making_to_the_trash_and_back(
    browser: Browser, server: RunningServer, nix: PrivateNix, tmp_path: Path
) -> None:
    user = User(tmp_path / "home", nix.environment)
    first, second = (nix.build(EXPRESSION, attribute) for attribute in ("first", "second"))
    with open_context(browser) as context:
        page = context.new_page()
        log_in(page, server)
        make_cache(page, nix.environment["NIX_STORE_DIR"])
        user.icehouse("login", f"http://127.0.0.1:{server.port}", "--token", make_token(page))
        user.icehouse("push", "greetings", first)
        find_path(page, "greeter-1.0")
        pin_it(page)
        assert user.icehouse("resolve", "greetings", "release").out == f"{first}\n"

        user.icehouse("push", "greetings", second)
        move_pin(page, second)
        assert user.icehouse("resolve", "greetings", "release").out == f"{second}\n"
        see_difference(page)

        # What a pin keeps is not deleted; without the pin it is, with what needs it, and comes back with what it needs.
        changed = page.get_by_label("Packages that differ").locator("tbody tr").filter(has_text="library")
        changed.get_by_text("library", exact=True).click()
        changed.get_by_role("link", name="library-3.1").last.click()
        library = page.url
        page.get_by_role("link", name="Move to the trash").click()
        expect(page.get_by_text("Remove the pin first")).to_be_visible()
        remove_pin(page)
        page.goto(library)
        delete_with_what_needs_it(page)
        assert user.try_icehouse("path", "info", "greetings", second).code == 4
        restore(page, "greeter-1.1")
        user.icehouse("path", "info", "greetings", second)
