"""The form for a new cache."""

from __future__ import annotations

from tests.http.running import RunningServer
from tests.web.client import Client


def administrator(server: RunningServer) -> Client:
    client = Client(server)
    client.log_in()
    client.get("/")
    return client


def test_administrator_makes_a_cache_by_a_form(server: RunningServer) -> None:
    client = administrator(server)
    assert b'href="/ui/new-cache"' in client.get("/").body
    assert b'value="/nix/store"' in client.get("/ui/new-cache").body
    made = client.post("/ui/caches", {"name": "made", "audience": "public", "store_dir": "/gnu/store"})
    assert (made.status, made.headers["location"]) == (303, "/made")
    shown = server.ask("GET", "/api/v1/caches/made", token="").json()
    assert (shown["is_public"], shown["store_dir"], shown["upstreams"]) == (True, "/gnu/store", [])
    client.post("/ui/caches", {"name": "made-too", "audience": "", "store_dir": "/nix/store", "upstream": "yes"})
    shown = server.ask("GET", "/api/v1/caches/made-too").json()
    assert (shown["is_public"], [each["url"] for each in shown["upstreams"]]) == (False, ["https://cache.nixos.org"])


def test_form_that_is_wrong_is_shown_again_with_what_was_typed(server: RunningServer) -> None:
    client = administrator(server)
    for name, status, text in (("Not a name", 400, "cache name"), ("team", 409, "team")):
        answer = client.post("/ui/caches", {"name": name, "audience": "public", "store_dir": "/gnu/store"})
        body = answer.body.decode()
        assert answer.status == status
        assert text in body
        assert 'value="public" checked' in body
        assert 'value="/gnu/store"' in body


def test_who_administers_nothing_makes_no_cache(server: RunningServer) -> None:
    client = Client(server)
    client.log_in(token=server.create_token("pull", "push"))
    assert b"New cache" not in client.get("/").body
    assert client.get("/ui/new-cache").status == 403
    assert client.post("/ui/caches", {"name": "made-three", "store_dir": "/nix/store"}).status == 403
    assert Client(server).get("/ui/new-cache").status == 401
