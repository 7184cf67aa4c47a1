"""Pins as clients of a real server see them: by the API, and as files of the cache."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from icehouse.nix.nar_write import Directory, Regular, Symlink, write_nar
from tests.http.running import Answer, RunningServer
from tests.services.publishing import path_body

APP, APP2 = f"{'1' * 32}-app-1.0", f"{'2' * 32}-app-2.0"
TREE = Directory(
    {
        b"bin": Directory({b"app": Regular(b"\x7fELF 1.0", executable=True)}),
        b"doc": Directory(
            {
                b"h\xc3\xb6her \xe9\x9b\xaa": Regular(b"text"),
                b"index.html": Regular(b"<script>alert(1)</script>"),
                b"latest": Symlink(b"index.html"),
            }
        ),
    }
)
NARS = {
    APP: b"".join(write_nar(TREE)),
    APP2: b"".join(write_nar(Directory({b"bin": Directory({b"app": Regular(b"\x7fELF 2.0")})}))),
}


def fill(server: RunningServer, name: str, *, is_public: bool) -> str:
    server.create_cache(name, is_public=is_public)
    nars = [server.upload(name, nar) for nar in NARS.values()]
    answer = server.ask("POST", f"/api/v1/caches/{name}/nars", msgspec.json.encode({"nars": nars}))
    assert [nar["state"] for nar in answer.json()["results"]] == ["stored"] * len(nars)
    paths = [path_body(base_name, nar) for base_name, nar in NARS.items()]
    answer = server.ask("POST", f"/api/v1/caches/{name}/paths", msgspec.json.encode({"paths": paths}))
    assert answer.status == 200, answer.body
    return name


@pytest.fixture(scope="module")
def public(server: RunningServer) -> str:
    return fill(server, "public", is_public=True)


@pytest.fixture(scope="module")
def private(server: RunningServer) -> str:
    return fill(server, "private", is_public=False)


def api(server: RunningServer, method: str, path: str, body: object = None, *, token: str | None = None) -> Answer:
    return server.ask(method, f"/api/v1/caches/{path}", body, token=token)


def put(server: RunningServer, cache: str, name: str, store_path: str, **options: object) -> Any:  # noqa: ANN401  JSON
    answer = api(server, "PUT", f"{cache}/pins/{name}", {"store_path": store_path, **options})
    assert answer.status in {200, 201}, answer.body
    return answer.json()


def get(server: RunningServer, path: str, *, method: str = "GET", token: str = "", **headers: str) -> Answer:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return server.ask(method, path, token=token, headers=sent)


def test_pin_is_put_shown_listed_and_removed(server: RunningServer, public: str) -> None:
    url = f"{public}/pins/life"
    first = api(server, "PUT", url, {"store_path": APP, "artifacts": ["bin"], "keep_days": 3})
    again = api(server, "PUT", url, {"store_path": APP, "artifacts": ["bin"], "keep_days": 3})
    second = api(server, "PUT", url, {"store_path": APP2})
    assert [answer.status for answer in (first, again, second)] == [201, 200, 201]
    assert [answer.json()["is_new_revision"] for answer in (first, again, second)] == [True, False, True]
    assert first.json()["pin"]["newest"]["created_by"] == "first administrator"
    shown = api(server, "GET", url, token="").json()
    assert (shown["full_path"], shown["keep_days"]) == (f"/nix/store/{APP2}", 3)
    assert [(each["number"], each["store_path"]) for each in shown["revisions"]] == [(2, APP2), (1, APP)]
    assert api(server, "GET", f"{url}?before=2", token="").json()["revisions"] == shown["revisions"][1:]
    listed = api(server, "GET", f"{public}/pins", token="").json()
    assert [pin for pin in listed if pin["name"] == "life"] == [second.json()["pin"]]
    assert api(server, "DELETE", url).status == 204
    assert [api(server, method, url).status for method in ("GET", "DELETE")] == [404, 404]


@pytest.mark.parametrize(
    ("name", "body", "status", "complaint"),
    [
        ("a", {"store_path": f"{'9' * 32}-absent"}, 404, "push it first"),
        ("a", {"store_path": APP, "artifacts": ["bin/none"]}, 404, "has no artifact 'bin/none'"),
        ("a", {"store_path": "x"}, 400, "store path 'x'"),
        ("a", {"store_path": APP, "keep": 1}, 400, "keep"),
        ("a", {"store_path": APP, "keep_days": 1, "keep_revisions": 1}, 400, "name one of these"),
        ("a", {"store_path": APP, "artifacts": ["/x"]}, 400, "artifact '/x'"),
        ("a", {"store_path": APP, "artifacts": ["x"] * 101}, 413, "at most 100"),
        (".a", {"store_path": APP}, 400, "pin name '.a'"),
        ("a%20b", {"store_path": APP}, 400, "pin name 'a b'"),
    ],
)
def test_pin_that_cannot_be_is_refused(
    server: RunningServer, public: str, name: str, body: object, status: int, complaint: str
) -> None:
    answer = api(server, "PUT", f"{public}/pins/{name}", body)
    assert answer.status == status, answer.body
    assert complaint in answer.json()["detail"]


@pytest.mark.parametrize("before", ["0", "x", "9" * 30])
def test_revisions_before_no_number_are_refused(server: RunningServer, public: str, before: str) -> None:
    put(server, public, "app", APP)
    assert api(server, "GET", f"{public}/pins/app?before={before}").status == 400


def test_putting_and_removing_need_the_permission_pin(server: RunningServer, public: str, private: str) -> None:
    for token, status in ((server.create_token("push"), 403), (server.create_token("pin"), 201), ("", 401)):
        body = {"store_path": APP}
        assert api(server, "PUT", f"{public}/pins/rights", body, token=token).status == status
    for token, status in ((server.create_token("push"), 403), (server.create_token("pin"), 204), ("", 401)):
        assert api(server, "DELETE", f"{public}/pins/rights", token=token).status == status
    stranger = server.create_token("pin", pattern="public")
    for method, path in (("PUT", "pins/x"), ("DELETE", "pins/x"), ("GET", "pins"), ("GET", "pins/x")):
        body = {"store_path": APP} if method == "PUT" else None
        assert api(server, method, f"{private}/{path}", body, token=stranger).status == 404
        assert api(server, method, f"{private}/{path}", body, token="").status == 401


# As files of the cache


def test_pin_is_a_line_of_text_that_is_asked_for_again(server: RunningServer, public: str) -> None:
    put(server, public, "text", APP)
    url = f"/{public}/pin/text"
    answer = get(server, url)
    assert (answer.status, answer.body) == (200, f"/nix/store/{APP}\n".encode())
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["cache-control"] == "public, no-cache"
    head = get(server, url, method="HEAD")
    assert (head.body, head.headers["content-length"]) == (b"", str(len(answer.body)))
    put(server, public, "text", APP2)
    assert get(server, url).body == f"/nix/store/{APP2}\n".encode()


def test_artifact_is_a_file_out_of_the_newest_path(server: RunningServer, public: str) -> None:
    url = f"/{public}/pin/artifact/bin/app"
    put(server, public, "artifact", APP, artifacts=["bin/app"])
    first = get(server, url)
    assert (first.status, first.body, first.headers["cache-control"]) == (200, b"\x7fELF 1.0", "public, no-cache")
    assert get(server, url, If_None_Match=first.headers["etag"]).status == 304
    part = get(server, url, Range="bytes=1-3")
    assert (part.status, part.body) == (206, b"ELF")
    head = get(server, url, method="HEAD")
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", "8")
    put(server, public, "artifact", APP2, artifacts=["bin/app"])
    assert get(server, url, If_None_Match=first.headers["etag"]).body == b"\x7fELF 2.0"


def test_folder_that_is_an_artifact_is_a_page_and_all_in_it_are_files(server: RunningServer, public: str) -> None:
    put(server, public, "folder", APP, artifacts=["doc"])
    for url in (f"/{public}/pin/folder/doc", f"/{public}/pin/folder/doc/"):
        page = get(server, url)
        assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert f'href="/{public}/serve/{APP[:32]}/doc/index.html"'.encode() in page.body
    file = get(server, f"/{public}/pin/folder/doc/latest")
    assert file.body == b"<script>alert(1)</script>"
    assert file.headers["content-security-policy"].startswith("sandbox; default-src 'none'")
    assert file.headers["x-content-type-options"] == "nosniff"
    assert get(server, f"/{public}/pin/folder/doc/h%C3%B6her%20%E9%9B%AA").body == b"text"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("pin/one/doc/index.html", 404),
        ("pin/one/bin", 404),
        ("pin/one/bin/app/x", 404),
        ("pin/one/", 404),
        ("pin/none", 404),
        ("pin/none/bin/app", 404),
        ("pin/.one", 404),
        ("pin/", 404),
        ("pin/one/bin/../bin/app", 404),
        ("pin/one/bin%2Fapp", 404),
        ("pin/one/%FF", 404),
    ],
)
def test_nothing_else_is_there(server: RunningServer, public: str, path: str, status: int) -> None:
    put(server, public, "one", APP, artifacts=["bin/app"])
    answer = get(server, f"/{public}/{path}")
    assert (answer.status, answer.headers["cache-control"]) == (status, "no-store")


def test_files_of_pins_cannot_be_uploaded(server: RunningServer, public: str) -> None:
    for path in ("pin/one", "pin/one/bin/app"):
        answer = server.ask("PUT", f"/{public}/{path}", b"x")
        assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


def test_pins_of_a_private_cache_are_for_those_who_may_pull(server: RunningServer, private: str) -> None:
    put(server, private, "app", APP, artifacts=["bin"])
    token, stranger = server.create_token("pull", pattern="priv*"), server.create_token("pull", pattern="public")
    for path in ("pin/app", "pin/app/bin/app", "pin/absent"):
        url = f"/{private}/{path}"
        answer = get(server, url, token=token)
        assert answer.status == (404 if "absent" in path else 200)
        assert answer.headers["cache-control"] == ("no-store" if "absent" in path else "private, no-store")
        assert (get(server, url).status, get(server, url, token=stranger).status) == (401, 404)


def test_cache_with_pins_can_be_deleted(server: RunningServer) -> None:
    cache = fill(server, "short-lived", is_public=False)
    put(server, cache, "app", APP)
    put(server, cache, "app", APP2)
    assert api(server, "DELETE", cache).status == 204
    assert get(server, f"/{cache}/pin/app", token=server.token).status == 404
