"""What the route of a file answers when something goes wrong, and which URLs it answers at all."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
from structlog.testing import capture_logs

from icehouse.errors import (
    Conflict,
    Corrupt,
    Denied,
    InvalidFormat,
    NotFound,
    OverQuota,
    RateLimited,
    TooLarge,
    Unauthenticated,
    Unavailable,
    Unsupported,
)
from icehouse.http.cache_files import PLAIN_TEXT, CacheFiles, FileRequest, FileRoute
from icehouse.http.parts import ServerParts
from icehouse.http.streaming import ClientLeft
from tests.http.asgi_client import Answer, Connection, ask, make_scope
from tests.http.running import RunningServer, run_server
from tests.services.publishing import nar_of
from tests.services.uploading import NarUpload

FATAL = {400, 401, 403, 404, 405, 409, 413, 415}
"""After these, no Nix sends a PUT again."""


def make_app(error: Exception | None, *, is_started: bool = False) -> CacheFiles:
    """Two routes, of which one raises *error* or tells what its pattern matched."""

    async def handle(request: FileRequest) -> None:
        if is_started:
            await request.send({"type": "http.response.start", "status": 200, "headers": []})
        if error is not None:
            raise error
        await request.answer(200, [PLAIN_TEXT], f"{request.cache_name} {request.names}".encode())

    routes = [
        FileRoute("/{cache}/x/{name}", re.compile(rb"x/([^/]+)"), handle, handle),
        FileRoute("/{cache}/read", re.compile(rb"read"), handle),
        FileRoute("/{cache}/write", re.compile(rb"write"), None, handle),
    ]
    return CacheFiles(cast("ServerParts", None), routes)


async def answer_to(error: Exception, method: str) -> Answer:
    with capture_logs():
        return await ask(make_app(error), "/main/x/y", method)


ERRORS: list[tuple[Exception, int, int, str]] = [
    (InvalidFormat("line 1: wrong"), 400, 400, "line 1: wrong"),
    (Unauthenticated("who are you"), 401, 401, "who are you"),
    (Denied("not you"), 403, 403, "not you"),
    (NotFound("not here"), 404, 404, "not here"),
    (NotFound(), 404, 404, "There is no such file in this binary cache."),
    (Conflict("not now"), 409, 409, "not now"),
    (TooLarge("too much"), 413, 413, "too much"),
    (Unsupported("not so"), 415, 415, "not so"),
    (RateLimited("too often", retry_after_seconds=7), 429, 409, "too often"),
    (OverQuota("the disk is full"), 507, 413, "the disk is full"),
    (Unavailable("secret"), 503, 409, "does not answer for now"),
    (Corrupt("secret"), 500, 409, "Something is wrong on the server"),
    (RuntimeError("secret"), 500, 409, "Something is wrong on the server"),
    (TimeoutError("secret"), 500, 409, "Something is wrong on the server"),
    (sqlite3.OperationalError("secret"), 500, 409, "Something is wrong on the server"),
]


@pytest.mark.parametrize(("error", "status", "put_status", "text"), ERRORS, ids=lambda value: repr(value)[:40])
async def test_each_error_is_a_line_under_its_status_and_final_for_an_upload(
    error: Exception, status: int, put_status: int, text: str
) -> None:
    for method, expected in (("GET", status), ("HEAD", status), ("PUT", put_status)):
        answer = await answer_to(error, method)
        assert answer.status == expected
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        body = answer.body.decode()
        assert (text in body, body.count("\n")) == ((False, 0) if method == "HEAD" else (True, 1))
        assert "secret" not in body
        assert ("retry-after" in answer.headers) is (expected in {429, 503})
        assert ("www-authenticate" in answer.headers) is (expected == 401)
    assert put_status in FATAL


async def test_only_our_own_faults_are_logged_as_errors_and_name_the_request() -> None:
    for error, status, _, _ in ERRORS:
        with capture_logs() as logs:
            answer = await ask(make_app(error), "/main/x/y", "PUT")
        is_ours = status >= 500 and not isinstance(error, OverQuota)
        assert [event["log_level"] for event in logs] == (["error"] if is_ours else [])
        assert (b"(request " in answer.body) is is_ours


async def test_upload_that_breaks_off_is_final_and_no_fault_of_ours() -> None:
    """Where nothing was answered, the server said 500, after which Nix sends again."""
    with capture_logs() as logs:
        answer = await ask(make_app(ClientLeft()), "/main/x/y", "PUT")
    assert (answer.status, answer.body) == (400, b"the body broke off before its end\n")
    assert [event["log_level"] for event in logs] == ["info"]


async def test_error_after_the_start_of_an_answer_ends_the_connection() -> None:
    connection = Connection()
    app = make_app(Corrupt("damaged"), is_started=True)
    with pytest.raises(Corrupt), capture_logs():
        await app(make_scope("GET", b"/main/x/y", {}), connection.receive, connection.send)
    assert [message["type"] for message in connection.sent] == ["http.response.start"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [("/main/x/y", "main ('y',)"), ("/a-1/x/%C3%B6", "a-1 ('%C3%B6',)"), ("/main/read", "main ()")],
)
async def test_route_is_found_by_the_path_as_it_was_sent(path: str, expected: str) -> None:
    answer = await ask(make_app(None), path)
    assert (answer.status, answer.body.decode()) == (200, expected)


@pytest.mark.parametrize(
    "path", ["/", "/main", "/main/", "/main/x", "/main/x/", "/main/x/y/z", "/Main/x/y", "/-a/x/y", f"/{'a' * 51}/x/y"]
)
async def test_what_is_no_file_is_not_found_and_takes_no_upload(path: str) -> None:
    for method, status in (("GET", 404), ("HEAD", 404), ("PUT", 405), ("DELETE", 405)):
        answer = await ask(make_app(None), path, method)
        assert answer.status == status
        assert (b"" if method == "HEAD" else b"\n") == answer.body[-1:]


@pytest.mark.parametrize(
    ("path", "method", "status", "allowed"),
    [
        ("/main/x/y", "DELETE", 405, "GET, HEAD, PUT"),
        ("/main/read", "PUT", 405, "GET, HEAD"),
        ("/main/write", "POST", 405, "GET, HEAD, PUT"),
        ("/main/write", "GET", 404, None),
    ],
)
async def test_method_that_a_file_does_not_have_is_refused(
    path: str, method: str, status: int, allowed: str | None
) -> None:
    answer = await ask(make_app(None), path, method)
    assert (answer.status, answer.headers.get("allow")) == (status, allowed)


# A real server whose database does not answer


@pytest.fixture
def failing(tmp_path: Path) -> Iterator[tuple[RunningServer, NarUpload]]:
    """A server whose database refuses every new upload and path."""
    folder = tmp_path / "data"
    with run_server(folder) as server:
        server.create_cache("main")
        with sqlite3.connect(folder / "icehouse.db") as connection:
            for table in ("upload", "path", "waiting_path"):
                connection.execute(f"ALTER TABLE {table} RENAME TO {table}_gone")
        connection.close()
        yield server, NarUpload.make(nar_of(b"contents"))


def test_upload_to_a_server_that_fails_is_final(failing: tuple[RunningServer, NarUpload]) -> None:
    server, file = failing
    for _ in range(2):
        answer = server.ask("PUT", f"/main/nar/{file.name}", file.data)
        assert answer.status == 409
        assert b"its log has the rest under the request id. (request " in answer.body
        assert b"upload" not in answer.body
    assert server.ask("HEAD", f"/main/nar/{file.name}").status == 500
