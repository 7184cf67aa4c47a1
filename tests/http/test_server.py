"""The API and the binary cache as clients of a real server see them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import re
import signal
import socket
from contextlib import ExitStack
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import msgspec
import pytest
from backports import zstd

from icehouse.api.publish import NarBody
from icehouse.nix import nix32
from icehouse.nix.narinfo import parse_narinfo
from icehouse.rules.access import make_token
from tests.http.running import Answer, Pieces, RunningServer, run_server
from tests.services.publishing import Upload, cut, path_body

HELLO = f"{'1' * 32}-hello-1.0"
LIBC = f"{'2' * 32}-libc-2.0"
ABSENT = "3" * 32
NAR = random.Random(1).randbytes(2_000_000) + f"/nix/store/{HELLO}/bin".encode() + b"text " * 100_000
SMALL_NAR = b"a small NAR"


@dataclass(frozen=True, slots=True)
class Cache:
    """A cache with two paths, of a server."""

    server: RunningServer
    name: str

    def api(self, method: str, path: str, body: object = None, **options: object) -> Answer:
        return self.server.ask(method, f"/api/v1/caches/{self.name}{path}", body, **options)  # type: ignore[arg-type]

    def get(self, path: str, **options: object) -> Answer:
        return self.server.ask("GET", f"/{self.name}/{path}", **options)  # type: ignore[arg-type]


def letters(nar: bytes) -> str:
    return nix32.encode(hashlib.sha256(nar).digest())


def nars_body(*nars: NarBody) -> bytes:
    return msgspec.json.encode({"nars": nars})


def fill(server: RunningServer, name: str, *, is_public: bool) -> Cache:
    server.create_cache(name, is_public=is_public)
    cache = Cache(server, name)
    nars = [server.upload(name, nar) for nar in (NAR, SMALL_NAR)]
    answer = cache.api("POST", "/nars", nars_body(*nars))
    assert (answer.status, [nar["state"] for nar in answer.json()["results"]]) == (200, ["stored", "stored"])
    paths = [path_body(HELLO, NAR, [LIBC]), path_body(LIBC, SMALL_NAR)]
    answer = cache.api("POST", "/paths", msgspec.json.encode({"paths": paths}))
    assert answer.status == 200, answer.body
    return cache


@pytest.fixture(scope="module")
def cache(server: RunningServer) -> Cache:
    return fill(server, "public", is_public=True)


@pytest.fixture(scope="module")
def private(server: RunningServer) -> Cache:
    return fill(server, "private", is_public=False)


def test_what_was_pushed_is_pulled_byte_for_byte(cache: Cache) -> None:
    answer = cache.get(f"{HELLO[:32]}.narinfo", token="")
    info = parse_narinfo(answer.body)
    assert [reference.base_name for reference in info.references] == [LIBC]
    file = cache.get(info.url, token="")
    assert len(file.body) == info.file_size
    assert zstd.decompress(file.body) == NAR
    assert info.file_hash is not None
    assert hashlib.sha256(file.body).digest() == info.file_hash.digest


def test_pieces_of_a_nar_make_the_whole(cache: Cache) -> None:
    url = f"nar/{letters(NAR)}.nar.zst"
    whole = cache.get(url).body
    middle = len(whole) // 2
    first = cache.get(url, headers={"Range": f"bytes=0-{middle - 1}"})
    second = cache.get(url, headers={"Range": f"bytes={middle}-", "If-Range": first.headers["etag"]})
    assert (first.status, second.status) == (206, 206)
    assert first.body + second.body == whole


def test_head_of_a_nar_says_its_size(cache: Cache) -> None:
    url = f"nar/{letters(NAR)}.nar.zst"
    answer = cache.server.ask("HEAD", f"/{cache.name}/{url}")
    assert answer.body == b""
    assert int(answer.headers["content-length"]) == len(cache.get(url).body)


def test_a_private_cache_is_pulled_with_basic_as_netrc_sends_it(private: Cache) -> None:
    token = private.server.create_token("pull", pattern="priv*")
    for url in ("nix-cache-info", f"{HELLO[:32]}.narinfo", f"nar/{letters(NAR)}.nar.zst"):
        assert private.get(url, token="").status == 401
        assert private.get(url, token=token).status == 200
        assert private.get(url, token=private.server.create_token("pull", pattern="public")).status == 404


def test_a_revoked_token_opens_nothing_any_more(private: Cache) -> None:
    token = private.server.create_token("pull")
    url = f"{HELLO[:32]}.narinfo"
    assert private.get(url, token=token).status == 200
    newest = private.server.ask("GET", "/api/v1/tokens").json()[-1]["id"]
    assert private.server.ask("DELETE", f"/api/v1/tokens/{newest}").status == 204
    assert private.get(url, token=token).status == 401
    assert private.server.ask("GET", f"/api/v1/caches/{private.name}", token=token).status == 401


def test_a_pushed_path_is_shown(cache: Cache) -> None:
    answer = cache.api("GET", f"/paths/{HELLO[:32]}", token="")
    assert answer.status == 200
    view = answer.json()
    assert (view["store_path"], view["references"]) == (HELLO, [LIBC])
    assert view["published_by"] == "first administrator"
    assert view["url"] == f"nar/{letters(NAR)}.nar.zst"
    missing = cache.api("GET", f"/paths/{ABSENT}", token="")
    assert missing.status == 404
    assert f"/why/{ABSENT}" in missing.json()["detail"]


def test_why_tells_what_became_of_a_path(cache: Cache) -> None:
    assert cache.api("GET", f"/why/{HELLO[:32]}", token="").json()["state"] == "visible"
    answer = cache.api("GET", f"/why/{ABSENT}", token="").json()
    assert (answer["state"], answer["since"]) == ("never-pushed", None)
    assert cache.api("GET", "/why/short", token="").status == 400


def test_missing_names_what_is_not_there(cache: Cache) -> None:
    answer = cache.api("POST", "/missing", {"hash_parts": [ABSENT, HELLO[:32]]}, token="")
    assert (answer.status, answer.json()) == (200, {"missing": [ABSENT]})


def test_a_second_push_sends_nothing(cache: Cache) -> None:
    upload = Upload.of(cut(NAR))
    identities = b"".join(entry.identity for entry in upload.entries)
    answer = cache.api("POST", "/chunks/missing", msgspec.json.encode({"identities": identities}))
    assert len(answer.json()["numbers"]) == len(upload.entries)
    assert cache.api("PUT", "/packs", upload.render()).json()["stored_bytes"] == 0
    assert cache.api("POST", "/paths", msgspec.json.encode({"paths": [path_body(LIBC, SMALL_NAR)]})).json()[
        "merged"
    ] == [LIBC]


def test_a_nar_tells_its_state(cache: Cache) -> None:
    assert cache.api("GET", f"/nars/{letters(NAR)}").json()["state"] == "stored"
    assert cache.api("GET", f"/nars/{'0' * 52}").status == 404
    assert cache.api("GET", "/nars/short").status == 400


def test_a_path_whose_references_are_absent_is_refused_with_its_reason(cache: Cache) -> None:
    body = msgspec.json.encode({"paths": [path_body(f"{'4' * 32}-x", SMALL_NAR, [f"{ABSENT}-y"])]})
    answer = cache.api("POST", "/paths", body)
    assert answer.status == 409
    assert answer.json()["refused"][0]["store_path"] == f"{'4' * 32}-x"
    assert cache.get(f"{'4' * 32}.narinfo").status == 404


def test_a_pack_that_is_damaged_or_too_short_is_refused(cache: Cache) -> None:
    pack = bytearray(Upload.of(cut(b"new contents" * 1000)).render())
    assert cache.api("PUT", "/packs", bytes(pack[:-1])).status == 400
    pack[-3] ^= 1
    assert cache.api("PUT", "/packs", bytes(pack)).status == 400
    assert cache.api("PUT", "/packs", b"").status == 400


def test_a_pack_without_content_length_is_read_as_it_comes(cache: Cache) -> None:
    pack = Upload.of(cut(b"sent in pieces" * 1000)).render()
    answer = cache.api("PUT", "/packs", Pieces([pack[:30], pack[30:]]))
    assert answer.status == 200, answer.body


def test_too_large_bodies_are_refused_before_they_are_read(cache: Cache) -> None:
    for what in ("PUT /packs", "POST /nars", "POST /missing"):
        method, path = what.split()
        headers = (
            f"{method} /api/v1/caches/{cache.name}{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            f"Authorization: Bearer {cache.server.token}\r\nContent-Length: 100000000000\r\n\r\n"
        )
        assert b" 413 " in cache.server.send_raw(headers.encode()).splitlines()[0], what


def test_a_body_that_breaks_off_or_breaks_its_framing_is_refused(cache: Cache) -> None:
    headers = (
        f"PUT /api/v1/caches/{cache.name}/packs HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        f"Authorization: Bearer {cache.server.token}\r\nTransfer-Encoding: chunked\r\n\r\nno chunk"
    )
    assert b" 400 " in cache.server.send_raw(headers.encode()).splitlines()[0]
    assert cache.get("nix-cache-info").status == 200


def test_too_many_items_are_refused(cache: Cache) -> None:
    answer = cache.api("POST", "/missing", {"hash_parts": [ABSENT] * 10_001})
    assert answer.status == 413
    assert "10000" in answer.json()["detail"].replace(",", "")


def test_more_uploads_at_once_than_the_limit_are_told_to_come_again(cache: Cache) -> None:
    head = f"PUT /api/v1/caches/{cache.name}/packs HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n"
    other = cache.server.create_token("push")
    with ExitStack() as stack:

        def begin(token: str, count: int) -> None:
            for _ in range(count):
                upload = stack.enter_context(cache.server.connect())
                upload.sendall(f"{head}Authorization: Bearer {token}\r\nExpect: 100-continue\r\n\r\n".encode())
                assert upload.recv(100).startswith(b"HTTP/1.1 100")  # From here on the body is waited for.

        begin(cache.server.token, 6)
        answer = cache.api("PUT", "/packs", b"")
        assert (answer.status, b"6 uploads with this token" in answer.body) == (429, True)
        assert int(answer.headers["retry-after"]) >= 1
        begin(other, 2)
        answer = cache.server.ask(
            "PUT", f"/api/v1/caches/{cache.name}/packs", b"", token=cache.server.create_token("push")
        )
        assert (answer.status, b"8 uploads are open" in answer.body) == (429, True)


def test_a_client_that_stops_in_the_middle_of_a_pack_leaves_nothing_behind(tmp_path: Path) -> None:
    with run_server(tmp_path / "data") as server:
        server.create_cache("half")
        pack = Upload.of(cut(NAR)).render()
        with server.connect() as connection:
            connection.sendall(
                f"PUT /api/v1/caches/half/packs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.token}\r\n"
                f"Content-Length: {len(pack)}\r\n\r\n".encode()
                + pack[: len(pack) // 2]
            )
        assert server.upload("half", NAR)
    unfinished = tmp_path / "data" / "unfinished"
    assert not unfinished.exists() or not any(unfinished.iterdir())
    assert len([path for path in (tmp_path / "data" / "packs").rglob("*") if path.is_file()]) == 1


def test_a_slow_reader_and_one_that_leaves_hold_nobody_up(cache: Cache) -> None:
    request = f"GET /{cache.name}/nar/{letters(NAR)}.nar.zst HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    slow = cache.server.connect()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    slow.sendall(request)
    for _ in range(20):
        with cache.server.connect() as leaving:
            leaving.sendall(request)
            leaving.recv(100)
    assert cache.get(f"{HELLO[:32]}.narinfo").status == 200
    received = len(slow.recv(4096))
    head = cache.server.ask("HEAD", f"/{cache.name}/nar/{letters(NAR)}.nar.zst")
    size = int(head.headers["content-length"])
    while received < size:
        received += len(slow.recv(1_000_000))
    slow.close()


@pytest.mark.parametrize(
    ("method", "path", "permissions"),
    [
        ("POST", "/chunks/missing", "pull"),
        ("PUT", "/packs", "pull"),
        ("POST", "/nars", "pull"),
        ("GET", f"/nars/{'0' * 52}", "pull"),
        ("POST", "/paths", "pull"),
        ("DELETE", "", "push"),
    ],
)
def test_what_a_token_lacks_is_denied_where_the_cache_is_known(
    cache: Cache, private: Cache, method: str, path: str, permissions: str
) -> None:
    empty: dict[str, object] = {
        "/chunks/missing": {"identities": ""},
        "/nars": {"nars": []},
        "/paths": {"paths": []},
    }
    data = empty.get(path)
    token = cache.server.create_token(permissions)
    stranger = cache.server.create_token("push", pattern="elsewhere")
    for one in (cache, private):
        assert one.api(method, path, data, token=token).status == 403
        assert one.api(method, path, data, token="").status == 401
        assert one.api(method, path, data, token="nonsense").status == 401
    assert private.api(method, path, data, token=stranger).status == 404
    absent = Cache(cache.server, "absent")
    assert absent.api(method, path, data, token="").status == 401
    assert absent.api(method, path, data, token=stranger).status == 404


def test_the_api_of_a_private_cache_and_of_an_absent_one_look_alike(private: Cache) -> None:
    stranger = private.server.create_token("push", pattern="elsewhere")
    absent = Cache(private.server, "absent")
    for path in ("", f"/paths/{HELLO[:32]}", f"/why/{HELLO[:32]}"):
        for token in ("", "nonsense", stranger, make_token(b"!" * 32)):
            answers = [one.api("GET", path, token=token) for one in (private, absent)]
            assert answers[0].status == answers[1].status == (404 if token == stranger else 401)
            details = [
                answer.json()["detail"].replace(one, "")
                for answer, one in zip(answers, ("private", "absent"), strict=True)
            ]
            assert details[0] == details[1]
            assert ("www-authenticate" in answers[0].headers) == (answers[0].status == 401)


def test_caches_are_created_listed_shown_and_deleted(server: RunningServer) -> None:
    server.create_cache("passing", is_public=False)
    assert server.ask("POST", "/api/v1/caches", {"name": "passing", "is_public": True}).status == 409
    assert server.ask("POST", "/api/v1/caches", {"name": "API", "is_public": True}).status == 400
    assert server.ask("POST", "/api/v1/caches", {"name": "x", "is_public": True}, token="").status == 401
    puller = server.create_token("pull", pattern="passing")
    assert server.ask("POST", "/api/v1/caches", {"name": "x", "is_public": True}, token=puller).status == 403
    names = [cache["name"] for cache in server.ask("GET", "/api/v1/caches", token=puller).json()]
    assert "passing" in names
    assert "passing" not in [cache["name"] for cache in server.ask("GET", "/api/v1/caches", token="").json()]
    shown = server.ask("GET", "/api/v1/caches/passing", token=puller).json()
    assert (shown["name"], shown["is_public"]) == ("passing", False)
    size = server.ask("GET", "/api/v1/caches/passing/size", token=puller).json()
    assert size == {"paths": 0, "nar_bytes": 0, "stored_bytes": 0}
    assert server.ask("DELETE", "/api/v1/caches/passing").status == 204
    assert server.ask("GET", "/api/v1/caches/passing").status == 404


def test_a_revocation_holds_at_once_on_every_worker(tmp_path: Path) -> None:
    with run_server(tmp_path / "data", "--workers", "2") as server:
        server.create_cache("secret", is_public=False)
        created = [
            server.ask("POST", "/api/v1/tokens", {"description": "x", "permissions": ["pull"], "cache_pattern": "*"})
            for _ in range(5)
        ]
        ways = ("/secret/nix-cache-info", "/api/v1/caches/secret", f"/secret/log/{HELLO}.drv")
        with contextlib.ExitStack() as stack:
            connections = [_connect(stack, server)]
            first = _find_process(connections[0], server)
            os.kill(first, signal.SIGSTOP)  # so that the other one takes the next connection, and keeps it
            try:
                connections.append(_connect(stack, server))
                assert _find_process(connections[1], server) != first
            finally:
                os.kill(first, signal.SIGCONT)

            def ask(way: str, token: str) -> set[int]:
                statuses: set[int] = set()
                for connection in connections:
                    connection.request("GET", way, headers={"Authorization": f"Bearer {token}"})
                    response = connection.getresponse()
                    response.read()
                    statuses.add(response.status)
                return statuses

            for answer in created:
                token, number = answer.json()["token"], answer.json()["view"]["id"]
                assert [ask(way, token) for way in ways] == [{200}, {200}, {404}]
                assert server.ask("DELETE", f"/api/v1/tokens/{number}").status == 204
                assert [ask(way, token) for way in ways] == [{401}, {401}, {401}]


def _connect(stack: contextlib.ExitStack, server: RunningServer) -> HTTPConnection:
    """A connection that a worker has taken."""
    connection = stack.enter_context(contextlib.closing(HTTPConnection("127.0.0.1", server.port, timeout=60)))
    connection.request("GET", "/health")
    connection.getresponse().read()
    return connection


def _find_process(connection: HTTPConnection, server: RunningServer) -> int:
    """Which worker has the other end of a connection."""
    mine = connection.sock.getsockname()[1]
    lines = Path("/proc/net/tcp").read_text().splitlines()
    fields = [line.split() for line in lines[1:]]
    theirs = next(
        row[9] for row in fields if row[1].endswith(f":{server.port:04X}") and row[2].endswith(f":{mine:04X}")
    )
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    for child in children:
        for link in Path(f"/proc/{child}/fd").iterdir():
            with contextlib.suppress(OSError):
                if link.readlink().name == f"socket:[{theirs}]":
                    return int(child)
    raise AssertionError(children)


def test_tokens_are_administered_by_administrators(server: RunningServer) -> None:
    token = server.create_token("push")
    assert server.ask("GET", "/api/v1/tokens", token=token).status == 403
    assert server.ask("GET", "/api/v1/tokens", token="").status == 401
    assert server.ask("GET", "/api/v1/tokens/self", token="").status == 401
    assert server.ask("GET", "/api/v1/tokens/self", token=token).json()["permissions"] != ["admin"]
    body = {"description": "x", "permissions": ["pull"], "cache_pattern": "*", "expires_in_seconds": 60}
    created = server.ask("POST", "/api/v1/tokens", body)
    assert created.status == 201
    assert created.headers["cache-control"] == "no-store"
    assert server.ask("POST", "/api/v1/tokens", body | {"permissions": ["fly"]}).status == 400
    assert server.ask("POST", "/api/v1/tokens", body | {"cache_pattern": "A B"}).status == 400
    assert server.ask("POST", "/api/v1/tokens", body, token=token).status == 403
    assert server.ask("DELETE", "/api/v1/tokens/999999").status == 404
    assert server.ask("DELETE", "/api/v1/tokens/many").status == 404


@pytest.mark.parametrize(
    ("body", "place"),
    [
        (b"{", "truncated"),
        (b"", ""),
        (b"[]", "array"),
        ({"name": 1, "is_public": True}, "name"),
        ({"name": "x"}, "is_public"),
        ({"name": "x", "is_public": True, "colour": "red"}, "colour"),
        (b"\xff\xfe", ""),
    ],
)
def test_a_malformed_body_is_told_by_its_place(server: RunningServer, body: object, place: str) -> None:
    answer = server.ask("POST", "/api/v1/caches", body)
    assert answer.status == 400
    assert answer.headers["content-type"].startswith("application/problem+json")
    problem = answer.json()
    assert problem["status"] == 400
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert place in problem["detail"].lower()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api", 404),
        ("GET", "/api/v1/nothing", 404),
        ("PATCH", "/api/v1/caches", 405),
        ("DELETE", "/health", 405),
        ("GET", "/api/v1/caches/a%2fb", 400),
        ("GET", "/api/v1/caches/a%00b", 400),
        ("GET", "/api/v1/caches/%2e%2e/tokens", 400),
        ("GET", "/api/v1/caches/../tokens", 400),
        ("GET", "/api//v1/server", 400),
        ("GET", "/nothing/here", 404),
        ("GET", "/", 404),
    ],
)
def test_paths_that_are_not_there(server: RunningServer, method: str, path: str, status: int) -> None:
    answer = server.ask(method, path)
    assert answer.status == status
    if path.startswith("/api"):
        assert answer.json()["request_id"] == answer.headers["x-request-id"]


def test_a_request_id_is_taken_over_if_it_is_sane(server: RunningServer) -> None:
    def ask(sent: str) -> str:
        return server.ask("GET", "/api/v1/server", headers={"X-Request-Id": sent}).headers["x-request-id"]

    assert ask("build-7.2_a") == "build-7.2_a"
    for odd in ("", "a b", "x" * 65, '"'):
        assert re.fullmatch(r"[0-9a-f]{16}", ask(odd))


def test_the_server_states_its_parameters_and_its_api(server: RunningServer) -> None:
    parameters = server.ask("GET", "/api/v1/server", token="").json()
    assert parameters["public_url"] == f"http://127.0.0.1:{server.port}"
    assert parameters["zstd_level"] == 3
    document = server.ask("GET", "/api/v1/openapi.json", token="").json()
    assert "/api/v1/caches/{cache_name}/packs" in document["paths"]


def test_metrics_need_an_administrator_and_count_what_happened(cache: Cache) -> None:
    cache.get(f"{HELLO[:32]}.narinfo")
    assert cache.server.ask("GET", "/metrics", token="").status == 401
    assert cache.server.ask("GET", "/metrics", token=cache.server.create_token("push")).status == 403
    of_one_cache = cache.server.create_token("admin", pattern=cache.name)
    assert cache.server.ask("GET", "/metrics", token=of_one_cache).status == 403
    answer = cache.server.ask("GET", "/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    text = answer.body.decode()
    for expected in (
        r'icehouse_http_requests_total\{route="narinfo",status="200"\} \d',
        r'icehouse_http_request_duration_seconds_bucket\{le="\+Inf",route="narinfo"\} \d',
        r'icehouse_http_received_bytes_total\{route="/api/v1/caches/\{cache_name\}/packs"\} [1-9]',
        r'icehouse_cache_paths\{cache="public"\} 2',
        rf'icehouse_cache_nar_bytes\{{cache="public"\}} {(len(NAR) + len(SMALL_NAR)) / 1e6}e\+06',
        r'icehouse_domain_pack_bytes\{domain="1"\} [1-9]',
        r'icehouse_domain_chunks\{domain="1"\} [1-9]',
        r'icehouse_database_transaction_duration_seconds_count\{database="icehouse",operation="write"\} [1-9]',
        r'icehouse_database_wait_duration_seconds_count\{database="icehouse",operation="read"\} [1-9]',
        r'icehouse_storage_operation_duration_seconds_count\{operation="write"\} [1-9]',
        r'icehouse_http_requests_total\{route="/api/v1/tokens/\{token_id\}",status="500"\} 0',
        r"icehouse_worker_duration_seconds_count [1-9]",
        r'icehouse_uploads_open\{kind="nars"\} 0',
        r"process_resident_memory_bytes [1-9]",
    ):
        assert re.search(expected, text), expected


def test_a_server_says_that_it_is_ready(server: RunningServer) -> None:
    answer = server.ask("GET", "/health/ready", token="")
    assert (answer.status, answer.body, answer.headers["cache-control"]) == (200, b"ready\n", "no-store")


def test_requests_are_logged_with_their_ids_and_without_secrets(server: RunningServer) -> None:
    server.ask("GET", "/api/v1/tokens", headers={"X-Request-Id": "find-me"})
    server.ask("GET", "/health")
    found = [event for event in server.events() if event.get("request_id") == "find-me"]
    assert [(event["method"], event["path"], event["status"]) for event in found] == [("GET", "/api/v1/tokens", 200)]
    assert found[0]["client"] == "127.0.0.1"
    text = server.log.read_text()
    assert "ice_" not in text
    assert '"/health"' not in text


def test_a_server_that_starts_again_has_everything_and_makes_no_second_token(tmp_path: Path) -> None:
    with run_server(tmp_path / "data") as server:
        cache = fill(server, "kept", is_public=True)
        narinfo = cache.get(f"{HELLO[:32]}.narinfo").body
    with run_server(tmp_path / "data", "--workers", "2", "--log-level", "warning") as server:
        cache = Cache(server, "kept")
        assert cache.get(f"{HELLO[:32]}.narinfo").body == narinfo
        assert zstd.decompress(cache.get(f"nar/{letters(NAR)}.nar.zst").body) == NAR
        assert len(server.ask("GET", "/api/v1/tokens").json()) == 1
        assert server.log.read_text() == ""
