"""Logging in by a provider."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit
from urllib.request import HTTPErrorProcessor, build_opener

import pytest
from joserfc.jwk import ECKey, OctKey

from tests.http.running import Answer, RunningServer, run_server
from tests.services.local_issuer import SigningKey
from tests.web.client import Client
from tests.web.local_provider import CLIENT_ID, CLIENT_SECRET, Provider, run_provider

ROLES = ("dev=push:team-*", "dev=pull:secret", "ops=admin:*")


class _NoRedirects(HTTPErrorProcessor):
    def http_response(self, request: Any, response: Any) -> Any:  # noqa: ANN401  as in the class above
        del request
        return response


@pytest.fixture(scope="module")
def shared() -> Iterator[Provider]:
    with run_provider() as provider:
        yield provider


@pytest.fixture
def provider(shared: Provider) -> Iterator[Provider]:
    before = {name: getattr(shared, name) for name in ("person", "claims", "key", "algorithm", "error")}
    shared.faults.clear()
    yield shared
    for name, value in before.items():
        setattr(shared, name, value)


@pytest.fixture(scope="module")
def server(shared: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("server")
    with run_server(folder / "data", *options(shared, folder)) as running:
        for name in ("team-a", "secret", "other"):
            running.create_cache(name, is_public=False)
        yield running


def options(provider: Provider, folder: Path) -> list[str]:
    (folder / "client-secret").write_text(f"{CLIENT_SECRET}\n")
    roles = [text for role in ROLES for text in ("--oidc-role", role)]
    return [
        *("--oidc-issuer", provider.url, "--oidc-client-id", CLIENT_ID, "--workers", "1"),
        *("--oidc-client-secret-file", str(folder / "client-secret"), *roles),
    ]


def go_to_provider(client: Client, target: str = "/") -> str:
    """Where the provider sends the browser back to."""
    begun = client.get(f"/login/provider?{urlencode({'next': target})}")
    assert begun.status == 303, begun.body
    response = build_opener(_NoRedirects).open(begun.headers["location"])
    back = urlsplit(str(response.headers["Location"]))
    assert back.path == "/login/callback"
    return f"{back.path}?{back.query}"


def log_in(client: Client, target: str = "/") -> Answer:
    return client.get(go_to_provider(client, target))


def test_person_does_what_the_roles_of_their_groups_allow(server: RunningServer, provider: Provider) -> None:
    client = Client(server)
    assert f"Log in with {urlsplit(provider.url).hostname}".encode() in client.get("/team-a").body
    answer = log_in(client, "/team-a")
    assert (answer.status, answer.headers["location"]) == (303, "/team-a")
    assert provider.faults == []
    assert [client.get(path).status for path in ("/team-a", "/secret", "/other")] == [200, 200, 404]
    assert b"Ada Lovelace" in client.get("/").body
    client.post("/logout")
    assert client.get("/team-a").status == 401


def test_login_of_a_person_is_in_the_audit_log_and_not_among_the_tokens(
    server: RunningServer, provider: Provider
) -> None:
    provider.person = {"sub": "2", "preferred_username": "grace", "email": "g@example.org", "groups": ["ops"]}
    log_in(Client(server))
    entry = server.ask("GET", "/api/v1/audit?action=session.login").json()["entries"][0]
    assert entry["who"] == "grace"
    assert entry["new"] == {"issuer": provider.url, "subject": "2", "email": "g@example.org"}
    assert "grace" not in {token["description"] for token in server.ask("GET", "/api/v1/tokens").json()}


def test_person_without_a_role_gets_no_further_and_loses_the_sessions_of_before(
    server: RunningServer, provider: Provider
) -> None:
    client = Client(server)
    provider.person = {"sub": "3", "name": "Mallory", "groups": ["dev"]}
    log_in(client)
    assert client.get("/secret").status == 200
    provider.person = {"sub": "3", "name": "Mallory", "groups": ["*", "guests", 7, {"dev": "dev"}]}
    assert log_in(Client(server)).status == 403
    assert client.get("/secret").status == 401


def make_token(client: Client, *permissions: str, pattern: str = "team-a", days: str = "7") -> Answer:
    client.get("/ui/tokens/new")
    fields = [("description", "laptop"), ("cache_pattern", pattern), ("days", days)]
    return client.post("/ui/tokens", fields + [("permissions", permission) for permission in permissions])


def shown_token(answer: Answer) -> str:
    found = re.search(r"ice_[0-9A-Za-z]{49}", answer.body.decode())
    assert found, answer.body
    return found[0]


def test_person_makes_tokens_within_their_roles_and_is_named_by_them(server: RunningServer, provider: Provider) -> None:
    provider.person = {"sub": "4", "name": "Emmy", "groups": ["dev"]}
    client = Client(server)
    log_in(client)
    token = shown_token(make_token(client, "push"))
    assert server.ask("GET", "/api/v1/caches/team-a", token=token).status == 200
    assert server.ask("GET", "/api/v1/tokens/self", token=token).json()["description"] == "Emmy: laptop"
    assert token not in client.get("/ui/tokens").body.decode()
    for permissions, pattern in ((["admin"], "team-a"), (["push"], "*"), (["push"], "secret"), (["delete"], "team-a")):
        assert make_token(client, *permissions, pattern=pattern).status == 403
    for fault in (make_token(client), make_token(client, "fly"), make_token(client, "pull", days="999999")):
        assert fault.status == 400


def test_token_that_a_person_made_makes_no_others(server: RunningServer, provider: Provider) -> None:
    provider.person = {"sub": "5", "name": "Eve", "groups": ["dev"]}
    client, thief = Client(server), Client(server)
    log_in(client)
    thief.post("/login", {"token": shown_token(make_token(client, "push"))})
    assert thief.get("/team-a").status == 200
    assert thief.get("/ui/tokens/new").status == 403
    assert make_token(thief, "push").status == 403


def test_tokens_of_a_person_end_with_the_role_and_by_their_own_hand_alone(
    server: RunningServer, provider: Provider
) -> None:
    provider.person = {"sub": "6", "name": "Mary", "groups": ["dev"]}
    client, other = Client(server), Client(server)
    log_in(client)
    token, kept = shown_token(make_token(client, "push")), shown_token(make_token(client, "pull"))
    numbers = re.findall(r"/ui/tokens/(\d+)/revoke", client.get("/ui/tokens").body.decode())
    provider.person = {"sub": "7", "name": "Other", "groups": ["dev"]}
    log_in(other)
    other.get("/ui/tokens")
    assert other.post(f"/ui/tokens/{numbers[0]}/revoke").status == 404
    client.get("/ui/tokens")
    assert client.post(f"/ui/tokens/{numbers[0]}/revoke").status == 303  # the newest is first
    assert server.ask("GET", "/api/v1/caches/team-a", token=kept).status == 401
    assert server.ask("GET", "/api/v1/caches/team-a", token=token).status == 200
    provider.person = {"sub": "6", "name": "Mary", "groups": []}
    assert log_in(Client(server)).status == 403
    assert server.ask("GET", "/api/v1/caches/team-a", token=token).status == 401
    assert client.get("/ui/tokens").status == 401


def test_answer_in_another_browser_begins_nothing(server: RunningServer, provider: Provider) -> None:
    del provider
    attacker, victim = Client(server), Client(server)
    back = go_to_provider(attacker)
    assert victim.get(back).status == 400
    assert victim.get("/secret").status == 401
    go_to_provider(victim)
    assert victim.get(back).status == 400


def test_code_counts_once(server: RunningServer, provider: Provider) -> None:
    client = Client(server)
    back = go_to_provider(client)
    cookies = client.cookies.copy()
    assert client.get(back).status == 303
    client.cookies = cookies
    assert client.get(back).status == 400
    assert provider.faults == ["unknown code"]


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "http://127.0.0.1:9"},
        {"aud": "somebody else"},
        {"aud": [CLIENT_ID, "somebody else"]},
        {"aud": [CLIENT_ID, "somebody else"], "azp": "somebody else"},
        {"azp": "somebody else"},
        {"nonce": "of another login"},
        {"nonce": None},
        {"exp": 1},
        {"iat": 4_000_000_000, "exp": 4_000_000_300},
        {"nbf": 4_000_000_000},
        {"sub": ""},
        {"sub": "x" * 256},
        {"sub": None},
    ],
    ids=str,
)
def test_token_that_is_not_of_this_login_begins_nothing(
    server: RunningServer, provider: Provider, claims: dict[str, Any]
) -> None:
    provider.claims = claims
    client = Client(server)
    assert log_in(client).status == 400
    assert client.get("/secret").status == 401


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (ECKey.generate_key("P-256", {"kid": "rsa"}), "ES256"),
        (OctKey.generate_key(256, {"kid": "rsa"}), "HS256"),
        (OctKey.generate_key(256, {"kid": "rsa"}), "none"),
    ],
    ids=["another key", "a shared secret", "no signature"],
)
def test_token_that_the_provider_did_not_sign_begins_nothing(
    server: RunningServer, provider: Provider, key: SigningKey | OctKey, algorithm: str
) -> None:
    provider.key, provider.algorithm = key, algorithm
    assert log_in(Client(server)).status == 400


def test_refusal_of_the_provider_is_told(server: RunningServer, provider: Provider) -> None:
    provider.error = "access_denied"
    answer = log_in(Client(server))
    assert answer.status == 400
    assert b"The login failed" in answer.body


def test_planted_login_cookie_leads_nowhere_else(server: RunningServer, provider: Provider) -> None:
    del provider
    client = Client(server)
    back = go_to_provider(client)
    secret = client.cookies["icehouse-login"].partition(".")[0]
    client.cookies["icehouse-login"] = f"{secret}.{b'//evil.example'.hex()}"
    assert client.get(back).headers["location"] == "/"


def test_secrets_of_a_login_are_in_no_log(server: RunningServer, provider: Provider) -> None:
    del provider
    client = Client(server)
    back = go_to_provider(client)
    code = back.partition("code=")[2].partition("&")[0]
    secret = client.cookies["icehouse-login"].partition(".")[0]
    client.get(back)
    log = server.log.read_text()
    assert all(text not in log for text in (code, secret, client.cookie, CLIENT_SECRET))


def test_provider_that_takes_the_secret_in_the_form_gets_it_there(
    provider: Provider, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("post")
    provider.methods = ["client_secret_post"]
    try:
        with run_server(folder / "data", *options(provider, folder)) as server:
            assert log_in(Client(server)).status == 303
    finally:
        provider.methods = ["client_secret_basic"]
    assert provider.faults == []
