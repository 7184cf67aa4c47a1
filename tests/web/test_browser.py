"""The pages in real Chromium."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.http.running import RunningServer
from tests.web.browser import PICTURES, check_page, open_context, run_browser, violations_of

pytestmark = pytest.mark.end_to_end


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with run_browser() as browser:
        yield browser


def address(server: RunningServer, path: str) -> str:
    return f"http://127.0.0.1:{server.port}{path}"


@pytest.mark.parametrize(
    ("path", "name"), [("/", "home"), ("/team", "cache"), ("/secret", "unknown"), ("/login", "login")]
)
def test_page_is_accessible_and_fits(browser: Browser, server: RunningServer, path: str, name: str) -> None:
    check_page(browser, address(server, path), name)


def test_way_from_the_first_page_to_a_copied_command_by_keyboard(browser: Browser, server: RunningServer) -> None:
    with open_context(browser, permissions=["clipboard-read", "clipboard-write"]) as context:
        page = context.new_page()
        page.goto(address(server, "/"))
        page.keyboard.press("Tab")
        assert page.locator(":focus").inner_text() == "Skip to the content"
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        assert page.locator(":focus").inner_text() == "team"
        page.keyboard.press("Enter")
        page.wait_for_url("**/team")
        page.get_by_role("button", name="Copy the command").first.press("Enter")
        page.get_by_role("button", name="Copied the command").wait_for()
        assert page.evaluate("navigator.clipboard.readText()") == f"icehouse use {address(server, '/team')}"


def test_login_leads_to_a_private_cache_and_logout_away_from_it(browser: Browser, server: RunningServer) -> None:
    with open_context(browser) as context:
        page = context.new_page()
        page.goto(address(server, "/secret"))
        page.get_by_label("Token").fill("ice_wrong")
        page.get_by_role("button", name="Log in").click()
        assert "mistyped" in page.get_by_role("alert").inner_text()
        assert violations_of(page) == []
        page.screenshot(path=PICTURES / "login-failed-light-wide.png")
        page.get_by_label("Token").fill(server.token)
        page.get_by_role("button", name="Log in").click()
        page.get_by_role("heading", name="secret").wait_for()
        check_page(browser, page.url, "private-cache", storage_state=context.storage_state())
        page.get_by_role("button", name="Log out").click()
        page.wait_for_url(address(server, "/"))
        assert not page.get_by_text("secret").count()


def test_token_is_made_shown_once_and_revoked(browser: Browser, server: RunningServer) -> None:
    with open_context(browser) as context:
        page = context.new_page()
        page.goto(address(server, "/login?next=/ui/tokens/new"))
        page.get_by_label("Token").fill(server.token)
        page.get_by_role("button", name="Log in").click()
        page.get_by_label("Description").fill("<b>laptop</b>")
        page.get_by_label("push").check()
        page.get_by_role("button", name="Make the token").click()
        token = page.get_by_label("the token", exact=True).inner_text()
        assert server.ask("GET", "/api/v1/tokens/self", token=token).json()["permissions"] == ["pull", "push"]
        assert violations_of(page) == []
        page.screenshot(path=PICTURES / "made-token-light-wide.png", full_page=True)
        page.get_by_role("link", name="Your tokens").click()
        for path, name in (("/ui/tokens", "tokens"), ("/ui/tokens/new", "new-token")):
            check_page(browser, address(server, path), name, storage_state=context.storage_state())
        assert token not in page.content()
        row = page.get_by_role("row").filter(has_text="<b>laptop</b>")
        row.locator("summary").click()
        row.get_by_role("button", name="Revoke for good").click()
        page.get_by_text("revoked").wait_for()
        assert server.ask("GET", "/api/v1/tokens/self", token=token).status == 401


def test_cache_page_works_without_scripts(browser: Browser, server: RunningServer) -> None:
    with open_context(browser, java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(address(server, "/team"))
        assert not page.get_by_role("button").count()
        page.get_by_text("NixOS", exact=True).click()
        assert page.get_by_label("the lines for NixOS").inner_text().startswith("{\n  nix.settings")
