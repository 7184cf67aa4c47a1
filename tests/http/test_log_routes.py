"""Build logs over a running server."""

import http.client
import os
import signal
import socket
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import pytest
from backports.zstd import compress, decompress

from icehouse.http.log_routes import prefers_zstd
from icehouse.services.logs import MAX_LOG_BYTES
from tests.http.asgi_client import make_scope
from tests.http.running import Pieces, RunningServer, run_server

DERIVATION = f"{'a' * 32}-hello+1?=.drv"
TEXT = b"".join(b"compiling part %d\n" % number for number in range(100_000))


def log_path(cache: str, derivation: str = DERIVATION) -> str:
    return f"/{cache}/log/{quote(derivation)}"


@pytest.fixture(scope="module")
def caches(server: RunningServer) -> RunningServer:
    """The server with a public cache and a private one, each with a log."""
    for name, is_public in (("open", True), ("secret", False)):
        server.create_cache(name, is_public=is_public)
        assert server.ask("PUT", log_path(name), TEXT).status == 200
    return server


@pytest.mark.parametrize("cache", ["open", "secret"])
def test_a_log_is_read_as_text(caches: RunningServer, cache: str) -> None:
    answer = caches.ask("GET", log_path(cache))
    assert (answer.status, answer.body) == (200, TEXT)
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-length"] == str(len(TEXT))
    assert "content-encoding" not in answer.headers
    assert "accept-encoding" in answer.headers["vary"]


@pytest.mark.parametrize("cache", ["open", "secret"])
def test_who_reads_zstd_gets_the_log_as_it_is_stored(caches: RunningServer, cache: str) -> None:
    answer = caches.ask("GET", log_path(cache), headers={"Accept-Encoding": "zstd, br, gzip, deflate, bzip2, xz"})
    assert answer.headers["content-encoding"] == "zstd"
    assert len(answer.body) < len(TEXT) // 4
    assert decompress(answer.body) == TEXT
    assert answer.headers["etag"] != caches.ask("GET", log_path(cache)).headers["etag"]


def test_only_logs_of_public_caches_may_be_kept_by_caches_between(caches: RunningServer) -> None:
    assert caches.ask("GET", log_path("open")).headers["cache-control"] == "public, max-age=3600"
    answer = caches.ask("GET", log_path("secret"))
    assert answer.headers["cache-control"] == "private, no-store"
    assert answer.headers["vary"] == "authorization, accept-encoding"


@pytest.mark.parametrize("encoding", ["identity", "zstd"])
def test_head_tells_what_get_tells(caches: RunningServer, encoding: str) -> None:
    headers = {"Accept-Encoding": encoding}
    head = caches.ask("HEAD", log_path("open"), headers=headers)
    get = caches.ask("GET", log_path("open"), headers=headers)
    assert (head.status, head.body) == (200, b"")
    for each in (head.headers, get.headers):
        for changing in ("x-request-id", "date"):
            each.pop(changing, None)
    assert head.headers == get.headers


def test_a_part_of_the_text_and_an_unchanged_log(caches: RunningServer) -> None:
    part = caches.ask("GET", log_path("open"), headers={"Range": "bytes=1100000-"})
    assert (part.status, part.body) == (206, TEXT[1_100_000:])
    unchanged = caches.ask("GET", log_path("open"), headers={"If-None-Match": part.headers["etag"]})
    assert (unchanged.status, unchanged.body) == (304, b"")


def test_who_may_do_what(caches: RunningServer) -> None:
    reader, writer = caches.create_token("pull"), caches.create_token("push", "pull")
    stranger = caches.create_token("pull", "push", pattern="other")
    secret, public = log_path("secret"), log_path("open")
    for method in ("GET", "HEAD"):
        statuses = [caches.ask(method, secret, token=token).status for token in ("", "wrong", stranger, reader)]
        assert statuses == [401, 401, 404, 200]
        assert [caches.ask(method, public, token=token).status for token in ("", "wrong", stranger)] == [200] * 3
    for path, of_strangers in ((secret, 404), (public, 403)):
        tokens = ("", "wrong", stranger, reader, writer)
        statuses = [caches.ask("PUT", path, TEXT, token=token).status for token in tokens]
        assert statuses == [401, 401, of_strangers, 403, 200]


def test_a_private_cache_looks_like_none(caches: RunningServer) -> None:
    stranger = caches.create_token("pull", "push", pattern="other")
    for method in ("GET", "PUT"):
        for token in ("", stranger):
            there = caches.ask(method, log_path("secret"), token=token)
            absent = caches.ask(method, log_path("absent"), token=token)
            assert (there.status, there.body) == (absent.status, absent.body.replace(b"absent", b"secret"))


@pytest.mark.parametrize(
    "name",
    [
        "x.drv",
        f"{'a' * 32}-hello",
        f"{'e' * 32}-hello.drv",
        f"{'a' * 32}-h%C3%B6.drv",
        f"{'a' * 32}-x%FF.drv",
        f"{'a' * 32}-x%0A.drv",
        f"{'a' * 32}-{'x' * 300}.drv",
        f"{'a' * 32}-%2568ello.drv",
    ],
)
def test_what_is_no_derivation_is_refused(caches: RunningServer, name: str) -> None:
    assert caches.ask("GET", f"/open/log/{name}").status == 404
    assert caches.ask("PUT", f"/open/log/{name}", b"x").status == 400


@pytest.mark.parametrize("name", ["", "a/b.drv", "..", "%2e%2e", f"..%2f{'a' * 32}-hello.drv", "a%00.drv"])
def test_hostile_paths_are_no_files(caches: RunningServer, name: str) -> None:
    assert caches.ask("GET", f"/open/log/{name}").status == 404
    assert caches.ask("PUT", f"/open/log/{name}", b"x").status == 405


def test_a_log_that_is_not_there_is_told_in_a_line(caches: RunningServer) -> None:
    answer = caches.ask("GET", log_path("open", f"{'b' * 32}-other.drv"))
    assert (answer.status, answer.body) == (404, f"there is no log of {'b' * 32}-other.drv in this cache\n".encode())
    assert answer.headers["cache-control"] == "no-store"


def test_logs_are_not_deleted_over_http(caches: RunningServer) -> None:
    answer = caches.ask("DELETE", log_path("open"))
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD, PUT")


def test_another_log_takes_the_place_of_the_first(caches: RunningServer) -> None:
    path = log_path("open", f"{'c' * 32}-changing.drv")
    for text in (b"", b"first", TEXT, b"last"):
        assert caches.ask("PUT", path, Pieces([text, text]) if text else b"").status == 200
        assert caches.ask("GET", path).body == text * 2


def test_uploads_of_one_log_at_once_all_succeed(caches: RunningServer) -> None:
    path = log_path("open", f"{'d' * 32}-at-once.drv")
    with ThreadPoolExecutor(12) as threads:
        uploads = [threads.submit(caches.ask, "PUT", path, TEXT) for _ in range(24)]
    assert {upload.result().status for upload in uploads} == {200}
    assert caches.ask("GET", path).body == TEXT


@pytest.mark.parametrize(
    ("encoding", "body"),
    [("zstd", compress(TEXT)), ("gzip", zlib.compress(TEXT, wbits=31)), ("identity", TEXT), ("ZSTD ", compress(TEXT))],
)
def test_a_log_may_come_with_a_content_encoding(caches: RunningServer, encoding: str, body: bytes) -> None:
    path = log_path("open", f"{'f' * 32}-encoded.drv")
    assert caches.ask("PUT", path, body, headers={"Content-Encoding": encoding}).status == 200
    assert caches.ask("GET", path).body == TEXT


@pytest.mark.parametrize(
    ("encoding", "body", "status"), [("zstd", TEXT, 400), ("compress", TEXT, 415), ("gzip, zstd", TEXT, 415)]
)
def test_a_content_encoding_that_does_not_fit_is_refused(
    caches: RunningServer, encoding: str, body: bytes, status: int
) -> None:
    path = log_path("open", f"{'g' * 32}-refused.drv")
    assert caches.ask("PUT", path, body, headers={"Content-Encoding": encoding}).status == status
    assert caches.ask("GET", path).status == 404


def test_a_log_that_is_announced_too_large_is_refused_before_it_is_sent(caches: RunningServer) -> None:
    request = (
        f"PUT {log_path('open')} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {caches.token}\r\n"
        f"Content-Length: {MAX_LOG_BYTES + 1}\r\nConnection: close\r\n\r\n"
    )
    assert caches.send_raw(request.encode()).startswith(b"HTTP/1.1 413")
    assert caches.ask("GET", log_path("open")).body == TEXT


def begin_upload(server: RunningServer, path: str) -> socket.socket:
    """Send half of a log, until the server has begun to write it."""
    connection = server.connect()
    head = f"PUT {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.token}\r\n"
    connection.sendall(f"{head}Content-Length: {2 * len(TEXT)}\r\n\r\n".encode() + TEXT)
    return connection


def wait_for_unfinished(folder: Path, count: int) -> None:
    while len(list((folder / "unfinished").iterdir())) != count:
        os.sched_yield()


def test_a_client_that_leaves_and_a_server_that_is_killed_leave_nothing_visible(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    path = log_path("open")
    with run_server(folder) as server:
        server.create_cache("open")
        with begin_upload(server, path):
            wait_for_unfinished(folder, 1)
        wait_for_unfinished(folder, 0)
        with begin_upload(server, path):
            wait_for_unfinished(folder, 1)
            server.process.send_signal(signal.SIGKILL)
            server.process.wait()
            server.process.returncode = 0  # this end is meant
    with run_server(folder) as server:
        assert server.ask("GET", path).status == 404
        assert not (folder / "logs").exists()
        assert server.ask("PUT", path, TEXT).status == 200
        assert server.ask("GET", path).body == TEXT


def test_a_private_caches_logs_are_deleted_with_it(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with run_server(folder) as server:
        server.create_cache("secret", is_public=False)
        assert server.ask("PUT", log_path("secret"), TEXT).status == 200
        assert [file for file in (folder / "logs").rglob("*") if file.is_file()]
        assert server.ask("DELETE", "/api/v1/caches/secret").status == 204
        assert not [file for file in (folder / "logs").rglob("*") if file.is_file()]


@pytest.mark.parametrize(
    ("header", "is_preferred"),
    [
        (None, False),
        ("", False),
        ("gzip, br", False),
        ("zstd", True),
        ("ZSTD", True),
        ("gzip;q=1.0, zstd;q=0.3", True),
        ("zstd;q=0", False),
        ("zstd;q=0.000", False),
        ("zstd ; q=0.5 , identity;q=0.9", False),
        ("zstd;q=0.9, identity;q=0.5", True),
        ("zstd;q=2", False),
        ("zstd;q=-1", False),
        ("zstd;q=nan", False),
        ("zstd;level=9", False),
        ("*", False),
        ("xzstd", False),
        (",,;,zstd,;q=1", True),
    ],
)
def test_zstd_is_preferred_where_it_is_named_and_not_below_text(header: str | None, is_preferred: bool) -> None:  # noqa: FBT001
    headers = {} if header is None else {"Accept-Encoding": header}
    assert prefers_zstd(make_scope("GET", b"/", headers)) is is_preferred


def test_a_client_that_reads_slowly_and_leaves_harms_nobody(caches: RunningServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", caches.port)
    connection.request("GET", log_path("open"), headers={"Accept-Encoding": "identity"})
    assert connection.getresponse().read(10) == TEXT[:10]
    connection.close()
    assert caches.ask("GET", log_path("open")).body == TEXT
