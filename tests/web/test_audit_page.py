"""The page of the audit log."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

import pytest

from icehouse.api.audit import AuditEntry
from icehouse.rules.audit import Action
from icehouse.web.audit_sentences import Value, find_values, tell
from tests.http.running import RunningServer, run_server
from tests.web.browser import check_page, open_context, run_browser
from tests.web.client import Client

HELLO = f"{'1' * 32}-hello"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with run_server(tmp_path_factory.mktemp("server") / "data") as running:
        for name in ("team", "other"):
            running.create_cache(name)
        running.ask("PATCH", "/api/v1/caches/team", {"priority": 30})
        running.ask("POST", "/api/v1/caches/team/keys", {})
        claims = {"repository": ["org/<b>app</b>"]}
        issuer = "https://token.actions.githubusercontent.com"
        rule = {"issuer": issuer, "claims": claims, "permissions": ["push"]}
        assert running.ask("POST", "/api/v1/caches/team/trust", rule).status == 201
        running.create_token("push", pattern="team")
        yield running


def log_in(server: RunningServer, token: str | None = None) -> Client:
    client = Client(server)
    client.post("/login", {"token": server.token if token is None else token})
    return client


def sentences(page: bytes) -> list[str]:
    found = re.findall(r'<p class="what">(.*?)</p>', page.decode(), re.DOTALL)
    return [" ".join(html.unescape(re.sub(r"<[^>]*>", "", text)).split()) for text in found]


def test_each_change_is_told_as_a_sentence(server: RunningServer) -> None:
    page = log_in(server).get("/ui/audit?cache=team&by=1").body
    assert b"<b>app</b>" not in page
    assert sentences(page)[::-1][:6] == [
        "first administrator created the public cache team.",
        "first administrator changed priority of team.",
        "first administrator staged the key team.127.0.0.1-2 of team.",
        "first administrator made trust rule 1 for jobs with repository=org/<b>app</b> at team.",
        "first administrator made the token test: push on team.",
        "first administrator logged in.",
    ]


def test_links_lead_to_pages_that_there_are(server: RunningServer) -> None:
    client = log_in(server)
    page = client.get("/ui/audit?cache=team").body.decode()
    for target in {html.unescape(each) for each in re.findall(r'href="(/[^"]*)"', page)}:
        assert client.get(target.partition("#")[0]).status == 200, target


def test_filter_narrows_the_log(server: RunningServer) -> None:
    client = log_in(server)
    told = sentences(client.get("/ui/audit?action=cache.&cache=team").body)
    assert told == [
        "first administrator changed priority of team.",
        "first administrator created the public cache team.",
    ]
    assert sentences(client.get("/ui/audit?action=key.add&by=nobody").body) == []
    assert sentences(client.get("/ui/audit?to=1999-01-01").body) == []
    assert b"There is no such entry" in client.get("/ui/audit?from=2999-01-01").body
    for fault in ("from=soon", "to=9999-12-31", "action=cache.fly", "cache=A", "before=7"):
        assert client.get(f"/ui/audit?{fault}").status == 400, fault


def test_older_entries_follow_without_a_gap(server: RunningServer) -> None:
    for _ in range(55):
        server.create_token("pull", pattern="other")
    client = log_in(server)
    seen: list[str] = []
    path = "/ui/audit?action=token.create&cache=other"
    while path:
        page = client.get(path).body.decode()
        seen += re.findall(r"<dt>entry</dt><dd>(\d+)</dd>", page)
        older = re.search(r'href="([^"]*)" rel="next"', page)
        path = html.unescape(older[1]) if older else ""
    listed = server.ask("GET", "/api/v1/audit?action=token.create&cache=other&limit=1000").json()["entries"]
    assert seen == [str(entry["id"]) for entry in listed]
    assert len(seen) > 50


def test_export_is_what_the_api_gives(server: RunningServer) -> None:
    answer = log_in(server).get("/ui/audit/export?action=cache.&from=2020-01-01")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == server.ask("GET", "/api/v1/audit?action=cache.&since=1577836800&limit=1000").json()
    assert answer.json()["entries"]


def test_administrator_of_a_cache_sees_no_others(server: RunningServer) -> None:
    client = log_in(server, server.create_token("admin", pattern="team"))
    for path in ("/ui/audit", "/ui/audit?cache=other", "/ui/audit/export"):
        answer = client.get(path)
        assert answer.status == 200
        assert b"public cache other" not in answer.body
        assert b"first administrator: admin on" not in answer.body
    assert len(sentences(client.get("/ui/audit").body)) > 3
    for path in ("/ui/audit", "/ui/audit/export"):
        assert log_in(server, server.create_token("configure")).get(path).status == 403
    assert b"/ui/audit" not in log_in(server, server.create_token("configure")).get("/").body


@pytest.mark.parametrize("action", list(Action))
@pytest.mark.parametrize("pattern", ["team", "*"])
def test_each_action_has_a_sentence_even_with_no_facts(action: Action, pattern: str) -> None:
    entry = make_entry(action, pattern)
    words = tell(entry)
    assert len("".join(each.text for each in words)) > 5
    assert action.value not in {each.text for each in words}
    assert not [each.page for each in words if each.page and f"/{pattern}" in each.page and pattern == "*"]


def make_entry(action: str, pattern: str, old: object = None, new: object = None) -> AuditEntry:
    return AuditEntry(
        id=1,
        at=1,
        action=action,
        cache_pattern=pattern,
        subject=HELLO,
        who="x",
        token_id=None,
        address=None,
        request_id=None,
        old=old,
        new=new,
    )


def test_values_are_told_for_people() -> None:
    old: dict[str, object] = {"priority": 41, "required_keys": [], "main": None}
    new: dict[str, object] = {"priority": 30, "required_keys": ["a:b", "c:d"], "main": True, "claims": {"ref": ["x"]}}
    assert find_values(make_entry("cache.configure", "team", old, new)) == [
        Value("priority", "41", "30"),
        Value("required_keys", "none", "a:b, c:d"),
        Value("main", "none", "yes"),
        Value("claims", None, "ref=x"),
    ]


@pytest.mark.end_to_end
def test_page_is_accessible_and_fits(server: RunningServer) -> None:
    origin = f"http://127.0.0.1:{server.port}"
    with run_browser() as browser, open_context(browser) as context:
        page = context.new_page()
        page.goto(f"{origin}/login?next=/ui/audit")
        page.get_by_label("Token").fill(server.token)
        page.get_by_role("button", name="Log in").click()
        page.get_by_label("Action").select_option("key.add")
        page.get_by_role("button", name="Show").click()
        page.locator(".log summary").first.click()
        page.get_by_text("public_key").wait_for()
        check_page(browser, f"{origin}/ui/audit?cache=team", "audit", storage_state=context.storage_state())
