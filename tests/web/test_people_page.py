"""People who logged in by a provider: the page, the API and the command."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.test_commands import icehouse
from tests.http.running import RunningServer, run_server
from tests.web.browser import check_page, open_context, run_browser
from tests.web.client import Client
from tests.web.local_provider import Provider, run_provider
from tests.web.test_provider_login import log_in, make_token, options, shown_token


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with run_provider() as provider:
        yield provider


@pytest.fixture(scope="module")
def server(provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("server")
    with run_server(folder / "data", *options(provider, folder)) as running:
        running.create_cache("team-a", is_public=False)
        yield running


@pytest.fixture(scope="module")
def admin(server: RunningServer) -> Client:
    client = Client(server)
    client.log_in()
    client.get("/ui/people")
    return client


def enter(server: RunningServer, provider: Provider, name: str) -> tuple[Client, str, int]:
    """Somebody who logs in twice and makes a token; with their number."""
    provider.person = {"sub": name, "name": name, "email": f"{name}@example.org", "groups": ["dev"]}
    client = Client(server)
    log_in(Client(server))
    log_in(client)
    token = shown_token(make_token(client, "push"))
    person = server.ask("GET", f"/api/v1/people?search={name.upper()}@").json()["people"][0]
    return client, token, person["id"]


def can_enter(server: RunningServer, client: Client, token: str) -> tuple[bool, bool]:
    """Whether the browser is logged in, and whether the token is valid."""
    is_valid = server.ask("GET", "/api/v1/tokens/self", token=token).status == 200
    return client.get("/team-a").status == 200, is_valid


def test_person_is_told_with_roles_sessions_and_tokens(server: RunningServer, provider: Provider) -> None:
    _, _, number = enter(server, provider, "emmy")
    person = server.ask("GET", "/api/v1/people?search=emmy").json()["people"][0]
    assert {name: person[name] for name in ("id", "name", "email", "issuer", "sessions", "tokens", "roles")} == {
        "id": number,
        "name": "emmy",
        "email": "emmy@example.org",
        "issuer": provider.url,
        "sessions": 2,
        "tokens": 1,
        "roles": [
            {"permissions": ["push"], "cache_pattern": "team-*"},
            {"permissions": ["pull"], "cache_pattern": "secret"},
        ],
    }


def test_sessions_end_and_tokens_stay_if_they_are_to(server: RunningServer, provider: Provider, admin: Client) -> None:
    client, token, number = enter(server, provider, "grace")
    other, other_token, _ = enter(server, provider, "ada")
    assert can_enter(server, client, token) == (True, True)
    assert admin.post(f"/ui/people/{number}/revoke", {"keep_tokens": "yes"}).status == 303
    assert can_enter(server, client, token) == (False, True)
    answer = admin.post(f"/ui/people/{number}/revoke", {"back": "/ui/people?search=grace"})
    assert answer.headers["location"] == "/ui/people?search=grace"
    assert can_enter(server, client, token) == (False, False)
    assert can_enter(server, other, other_token) == (True, True)


def test_revoking_is_in_the_audit_log_once(server: RunningServer, provider: Provider) -> None:
    _, _, number = enter(server, provider, "hedy")
    path = f"/api/v1/people/{number}/revoke"
    assert server.ask("POST", path, {}).json() == {"sessions": 2, "tokens": 1}
    assert server.ask("POST", path, {}).json() == {"sessions": 0, "tokens": 0}
    newest, before = server.ask("GET", "/api/v1/audit?limit=2").json()["entries"]
    assert (newest["action"], newest["subject"], newest["cache_pattern"]) == ("person.revoke", str(number), "*")
    assert newest["old"] == {"name": "hedy", "email": "hedy@example.org", "issuer": provider.url}
    assert newest["new"] == {"sessions": 2, "tokens": 1}
    assert (before["action"], before["old"]["description"]) == ("token.revoke", "hedy: laptop")


def test_people_are_for_administrators_of_everything_alone(server: RunningServer, admin: Client) -> None:
    client = Client(server)
    client.post("/login", {"token": server.create_token("admin", pattern="team-*")})
    assert b"/ui/people" not in client.get("/").body
    assert client.get("/ui/people").status == 403
    assert b"/ui/people" in admin.get("/").body
    assert server.ask("POST", "/api/v1/people/9999/revoke", {}).status == 404


def test_people_are_listed_a_page_at_a_time(server: RunningServer, provider: Provider) -> None:
    for name in ("page-1", "page-2", "page-3"):
        enter(server, provider, name)
    first = server.ask("GET", "/api/v1/people?search=page-&limit=2").json()
    rest = server.ask("GET", f"/api/v1/people?search=page-&limit=2&before={first['people'][-1]['id']}").json()
    assert [[person["name"] for person in page["people"]] for page in (first, rest)] == [
        ["page-3", "page-2"],
        ["page-1"],
    ]
    assert (first["has_more"], rest["has_more"]) == (True, False)


def test_command_lists_and_revokes(server: RunningServer, provider: Provider, tmp_path: Path) -> None:
    client, token, number = enter(server, provider, "radia")
    login = {"ICEHOUSE_URL": f"http://127.0.0.1:{server.port}", "ICEHOUSE_TOKEN": server.token}
    listed = icehouse(tmp_path, "person", "list", "radia", **login)
    assert listed.stdout.splitlines()[0].split() == [
        "ID",
        "NAME",
        "E-MAIL",
        "ROLES",
        "LAST",
        "LOGIN",
        "SESSIONS",
        "TOKENS",
    ]
    assert listed.stdout.splitlines()[1].split()[:5] == [
        str(number),
        "radia",
        "radia@example.org",
        "push:team-*",
        "pull:secret",
    ]
    assert json.loads(icehouse(tmp_path, "person", "list", "nobody-at-all", "--json", **login).stdout) == []
    ended = icehouse(tmp_path, "person", "revoke", str(number), "--keep-tokens", **login)
    assert ended.stdout == f"Ended 2 sessions and 0 tokens of person {number}.\n"
    assert can_enter(server, client, token) == (False, True)


@pytest.mark.end_to_end
def test_page_is_accessible_and_fits(server: RunningServer, provider: Provider) -> None:
    enter(server, provider, "<b>mallory</b>")
    origin = f"http://127.0.0.1:{server.port}"
    with run_browser() as browser, open_context(browser) as context:
        page = context.new_page()
        page.goto(f"{origin}/login?next=/ui/people")
        page.get_by_label("Token").fill(server.token)
        page.get_by_role("button", name="Log in with a token").click()
        check_page(browser, f"{origin}/ui/people", "people", storage_state=context.storage_state())
        page.locator(".ask summary").first.click()
        page.get_by_role("button", name="Revoke for good").first.click()
        page.get_by_text("logged out", exact=True).first.wait_for()
