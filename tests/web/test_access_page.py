"""A cache's page "Access", and the page of all tokens."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.http.running import RunningServer, run_server
from tests.web.browser import check_page, open_context, run_browser
from tests.web.client import Client

ACCESS = "/ui/caches/team/access"
RULE = {"ci": "github", "permissions": "push", "lifetime": "900"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with run_server(tmp_path_factory.mktemp("server") / "data") as running:
        for name in ("team", "other"):
            running.create_cache(name)
        yield running


@pytest.fixture(scope="module")
def admin(server: RunningServer) -> Client:
    client = Client(server)
    client.log_in()
    client.get(ACCESS)
    return client


def keys(server: RunningServer) -> dict[str, str]:
    listed = server.ask("GET", "/api/v1/caches/team/keys").json()
    return {key["name"].rpartition("-")[2]: key["state"] for key in listed}


def test_key_is_staged_activated_and_the_old_one_retired(server: RunningServer, admin: Client) -> None:
    assert b"It is the only one that signs" in admin.get(ACCESS).body
    assert admin.post(f"{ACCESS}/keys").headers["location"] == f"{ACCESS}#keys"
    assert keys(server) == {"1": "active", "2": "staged"}
    page = admin.get(ACCESS).body.decode()
    for key in server.ask("GET", "/api/v1/caches/team/keys").json():
        assert key["public_key"] in page
    assert admin.post(f"{ACCESS}/keys/activate", {"name": "team.127.0.0.1-2"}).status == 303
    old = {"name": "team.127.0.0.1-1"}
    assert admin.post(f"{ACCESS}/keys/retire", old).status == 400
    assert keys(server) == {"1": "active", "2": "active"}
    assert admin.post(f"{ACCESS}/keys/retire", {**old, "sure": "yes"}).status == 303
    assert keys(server) == {"1": "retired", "2": "active"}
    assert admin.post(f"{ACCESS}/keys/retire", {**old, "sure": "yes", "strip": "yes"}).status == 303
    assert keys(server) == {"1": "stripped", "2": "active"}
    last = admin.post(f"{ACCESS}/keys/retire", {"name": "team.127.0.0.1-2", "sure": "yes"})
    assert last.status == 409
    assert b"activate one" in last.body


def test_demanded_keys_are_set_and_a_faulty_one_changes_nothing(server: RunningServer, admin: Client) -> None:
    key = server.ask("GET", "/api/v1/caches/other").json()["public_keys"][0]
    for typed in (f" {key}\r\n", f"{key}\r\nfarm-1:AAAA"):
        answer = admin.post(f"{ACCESS}/required-keys", {"keys": typed})
        assert answer.status == (400 if "farm" in typed else 303)
        assert (b"farm-1:AAAA" in answer.body) == ("farm" in typed)
        assert server.ask("GET", "/api/v1/caches/team").json()["required_keys"] == [key]
    assert admin.post(f"{ACCESS}/required-keys", {"keys": ""}).status == 303
    assert server.ask("GET", "/api/v1/caches/team").json()["required_keys"] == []


def rules(server: RunningServer) -> list[dict[str, object]]:
    names = ("issuer", "claims", "permissions", "token_seconds", "audience")
    return [{name: rule[name] for name in names} for rule in server.ask("GET", "/api/v1/caches/team/trust").json()]


def test_trust_rule_is_made_of_a_form_and_removed(server: RunningServer, admin: Client) -> None:
    fields = {"claim-repository": "org/app org/lib", "claim-ref": "refs/heads/main", "further": "workflow=ci\r\n"}
    assert admin.post(f"{ACCESS}/trust", RULE | fields).headers["location"] == f"{ACCESS}#trust"
    assert rules(server) == [
        {
            "issuer": "https://token.actions.githubusercontent.com",
            "claims": {"repository": ["org/app", "org/lib"], "ref": ["refs/heads/main"], "workflow": ["ci"]},
            "permissions": ["push"],
            "token_seconds": 900,
            "audience": f"http://127.0.0.1:{server.port}",
        }
    ]
    page = admin.get(ACCESS).body.decode()
    assert "<code>repository=org/app</code> or <code>repository=org/lib</code>" in page
    for path in re.findall(rf'action="({ACCESS}/trust/\d+/remove)"', page):
        assert admin.post(path).status == 303
    assert rules(server) == []


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"claim-repository": "*/app"}, "everybody can have jobs"),
        ({"claim-repository": ""}, "it cannot be empty"),
        ({"claim-repository": "org/app", "permissions": "admin"}, "none that a rule can give"),
        ({"claim-repository": "org/app", "further": "<b>ref</b>"}, "expected CLAIM=VALUE"),
        ({"ci": "gitlab", "claim-project_path": "g/app", "issuer": "http://gitlab.com"}, "expected the https URL"),
        ({"ci": "other", "issuer": "https://ci.example.org"}, "without one all are trusted"),
    ],
)
def test_dangerous_rule_is_refused_and_what_was_typed_stays(
    server: RunningServer, admin: Client, fields: dict[str, str], told: str
) -> None:
    answer = admin.post(f"{ACCESS}/trust", RULE | {"audience": "kept-audience"} | fields)
    assert answer.status == 400
    assert told in answer.body.decode()
    assert b'value="kept-audience"' in answer.body
    assert b"<b>ref" not in answer.body
    assert rules(server) == []


def test_tokens_that_reach_the_cache_are_shown_to_its_administrator_and_no_wider_ones(server: RunningServer) -> None:
    made = {pattern: server.create_token("push", pattern=pattern) for pattern in ("team", "te*", "other")}
    client = Client(server)
    client.post("/login", {"token": server.create_token("admin", pattern="team")})
    page = client.get(ACCESS).body.decode()
    assert page.count("<code>team</code>") == 2
    assert "<code>te*</code>" not in page
    everything = Client(server)
    everything.log_in()
    page = everything.get(ACCESS).body.decode()
    assert "<code>te*</code>" in page
    assert "<code>other</code>" not in page
    assert not [token for token in made.values() if token in page]


def test_all_tokens_are_listed_a_page_at_a_time_searched_and_revoked(server: RunningServer, admin: Client) -> None:
    bodies = [{"description": f"bulk {n}", "permissions": ["pull"], "cache_pattern": "other"} for n in range(51)]
    token = [server.ask("POST", "/api/v1/tokens", body).json()["token"] for body in bodies][-1]
    page = admin.get("/ui/tokens/all?search=BULK").body.decode()
    assert page.count("bulk ") == 2 * 50
    older = re.search(r'href="([^"]*)" rel="next"', page)
    assert older
    assert re.findall(r"<th scope=\"row\">(bulk \d+) ", admin.get(older[1].replace("&amp;", "&")).body.decode()) == [
        "bulk 0"
    ]
    number = server.ask("GET", "/api/v1/tokens/self", token=token).json()["id"]
    answer = admin.post(f"/ui/tokens/{number}/revoke", {"back": "/ui/tokens/all?state=revoked"})
    assert answer.headers["location"] == "/ui/tokens/all?state=revoked"
    assert server.ask("GET", "/api/v1/tokens/self", token=token).status == 401
    assert "bulk 50" in admin.get("/ui/tokens/all?state=revoked&cache=other").body.decode()
    assert "bulk 50" not in admin.get("/ui/tokens/all?state=valid").body.decode()
    assert admin.post(f"/ui/tokens/{number}/revoke", {"back": "//evil.example"}).headers["location"] == "/"
    fault = admin.get("/ui/tokens/all?cache=A")
    assert fault.status == 400
    assert b"cache name" in fault.body


def test_api_searches_tokens_as_the_page_does(server: RunningServer) -> None:
    for number in range(3):
        body = {"description": f"found {number}", "permissions": ["pull"], "cache_pattern": "other"}
        server.ask("POST", "/api/v1/tokens", body)
    path = "/api/v1/tokens/search?search=FOUND&cache=other&state=valid&limit=2"
    first = server.ask("GET", path).json()
    assert ([token["description"] for token in first["tokens"]], first["has_more"]) == (["found 2", "found 1"], True)
    rest = server.ask("GET", f"{path}&before={first['tokens'][-1]['id']}").json()
    assert ([token["description"] for token in rest["tokens"]], rest["has_more"]) == (["found 0"], False)
    assert server.ask("GET", "/api/v1/tokens/search?search=found&cache=team").json()["tokens"] == []
    assert server.ask("GET", "/api/v1/tokens/search?state=dead").status == 400


@pytest.mark.end_to_end
def test_pages_are_accessible_and_fit(server: RunningServer) -> None:
    origin = f"http://127.0.0.1:{server.port}"
    with run_browser() as browser, open_context(browser) as context:
        page = context.new_page()
        page.goto(f"{origin}/login?next={ACCESS}")
        page.get_by_label("Token").fill(server.token)
        page.get_by_role("button", name="Log in").click()
        page.get_by_text("Stage a new key", exact=True).click()
        page.get_by_role("button", name="Make the key").click()
        page.get_by_role("link", name="New trust rule").click()
        page.get_by_label("Repository").fill("org/app")
        page.get_by_label("push", exact=True).check()
        page.get_by_role("button", name="Trust them").click()
        page.get_by_text("repository=org/app").wait_for()
        page.get_by_text("Retire", exact=False).first.click()
        options = {"storage_state": context.storage_state()}
        for path, name in (
            (ACCESS, "access"),
            (f"{ACCESS}/trust/new", "new-trust-rule"),
            (f"{ACCESS}/trust/new?ci=other", "new-trust-rule-of-another"),
            ("/ui/tokens/all?search=e", "all-tokens"),
        ):
            check_page(browser, f"{origin}{path}", name, **options)
