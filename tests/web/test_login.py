"""Logging in and out, as browsers and those who attack them do it."""

from __future__ import annotations

import re
from urllib.parse import urlencode

import pytest

from tests.http.running import RunningServer, run_server
from tests.web.client import FORM, Client


def test_login_shows_what_the_token_may_see_until_logout(server: RunningServer) -> None:
    client = Client(server)
    assert client.get("/secret").status == 401
    answer = client.log_in(next="/secret")
    assert (answer.status, answer.headers["location"]) == (303, "/secret")
    assert client.get("/secret").status == 200
    assert b'href="/secret"' in client.get("/").body
    assert client.get("/absent").status == 404
    old = client.cookies.copy()
    assert client.post("/logout").status == 303
    assert client.cookie == '""'
    client.cookies = old
    assert client.get("/secret").status == 401


def test_cookie_is_kept_from_scripts_and_other_sites(server: RunningServer) -> None:
    cookie = Client(server).log_in().headers["set-cookie"]
    assert re.fullmatch(r"icehouse=[\w-]{43}; HttpOnly; Max-Age=604800; Path=/; SameSite=lax", cookie), cookie


def test_wrong_token_is_told_without_repeating_it(server: RunningServer) -> None:
    answer = Client(server).post("/login", {"token": "ice_wrong", "next": "/team"})
    assert answer.status == 401
    assert b"ice_wrong" not in answer.body
    assert b'role="alert"' in answer.body
    assert b'name="next" value="/team"' in answer.body
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("target", ["//evil.example", "/\\evil.example", "https://evil.example", "/a\r\nX: y"])
def test_login_never_leads_to_another_site(server: RunningServer, target: str) -> None:
    assert Client(server).log_in(next=target).headers["location"] == "/"
    page = Client(server).get(f"/login?{urlencode({'next': target})}")
    assert b'name="next" value="/"' in page.body


def test_planted_cookie_is_replaced_at_login(server: RunningServer) -> None:
    client = Client(server, {"icehouse": "A" * 43})
    client.log_in()
    assert client.cookie != "A" * 43
    assert Client(server, {"icehouse": "A" * 43}).get("/secret").status == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ],
)
def test_forms_of_other_sites_are_refused(server: RunningServer, headers: dict[str, str]) -> None:
    client = Client(server)
    assert client.post("/login", {"token": server.token}, **headers).status == 403
    client.log_in()
    client.get("/")
    assert client.post("/logout", None, **headers).status == 403
    assert client.get("/secret").status == 200


def test_form_from_here_is_taken(server: RunningServer) -> None:
    client = Client(server, headers={"Origin": f"http://127.0.0.1:{server.port}", "Sec-Fetch-Site": "same-origin"})
    assert client.log_in().status == 303


@pytest.mark.parametrize("key", ["", "x", "A" * 43, "é"])
def test_form_without_the_key_of_the_session_is_refused(server: RunningServer, key: str) -> None:
    client = Client(server)
    client.log_in()
    assert client.post("/logout", {"form_key": key}).status == 403
    other = Client(server)
    other.log_in()
    other.get("/")
    client.form_key = other.form_key
    assert client.post("/logout").status == 403
    assert client.get("/secret").status == 200


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"token=x", "application/json", 415),
        (b"token=%ff", FORM, 400),
        (b"&".join(b"a=b" for _ in range(1_000)), FORM, 400),
        (b"token=" + b"x" * 100_000, FORM, 413),
    ],
)
def test_what_is_no_form_is_refused(server: RunningServer, body: bytes, kind: str, status: int) -> None:
    assert Client(server).send("POST", "/login", body, Content_Type=kind).status == status


def test_session_ends_with_its_token_at_once_in_every_worker(server: RunningServer) -> None:
    token = server.create_token("pull", pattern="secret")
    client = Client(server)
    client.post("/login", {"token": token})
    assert client.get("/secret").status == 200
    newest = server.ask("GET", "/api/v1/tokens").json()[-1]["id"]
    server.ask("DELETE", f"/api/v1/tokens/{newest}")
    assert client.get("/secret").status == 401


def test_description_of_a_token_is_shown_and_not_run(server: RunningServer) -> None:
    evil = "<script>alert(1)</script>\"'><img src=x>"
    body = {"description": evil, "permissions": ["pull"], "cache_pattern": "*"}
    client = Client(server)
    client.post("/login", {"token": server.ask("POST", "/api/v1/tokens", body).json()["token"]})
    page = client.get("/").body.decode()
    assert "<script>alert" not in page
    assert "<img" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_failed_logins_are_slowed_with_a_page(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("limited") / "data"
    with run_server(folder, "--failed-logins-per-minute", "2") as server:
        client = Client(server)
        assert [client.post("/login", {"token": "ice_x"}).status for _ in range(3)] == [401, 401, 429]
        answer = client.log_in()
        assert answer.status == 429
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.headers["content-type"].startswith("text/html")
        assert client.get("/").status == 200


def test_https_server_has_a_cookie_for_this_host_alone_which_no_log_holds(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("https") / "data"
    url = "https://cache.example.org"
    with run_server(folder, "--public-url", url, "--workers", "2", "--log-level", "debug") as server:
        server.create_cache("secret", is_public=False)
        client = Client(server, headers={"Origin": url})
        cookie = client.log_in().headers["set-cookie"]
        assert cookie.startswith("__Host-icehouse=")
        assert {"Secure", "HttpOnly", "Path=/", "SameSite=lax"} <= set(cookie.split("; "))
        assert "Domain" not in cookie
        assert [client.get("/secret").status for _ in range(8)] == [200] * 8
        secret = client.cookies["__Host-icehouse"]
        client.post("/logout")
        client.cookies["__Host-icehouse"] = secret
        assert [client.get("/secret").status for _ in range(8)] == [401] * 8  # in both workers
        log = server.log.read_text()
        assert secret not in log
        assert client.form_key not in log
        assert "session.login" in log
