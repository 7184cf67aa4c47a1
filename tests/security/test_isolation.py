"""What one tenant learns of another by deduplication, where secrets are, and requests that lie about themselves."""

from __future__ import annotations

import hashlib
import json
import re
import socket
from pathlib import Path

import msgspec
import pytest

from icehouse.nix import nix32
from icehouse.nix.narinfo import render_narinfo
from icehouse.rules.access import Permission
from icehouse.rules.recipes import make_recipe, render_recipe
from tests.http.running import run_server
from tests.security.contents import ABSENT, NAR, STOCK_FILE
from tests.security.world import World
from tests.services.publishing import cut, identity_of, nar_hash_of, nar_of, path_body
from tests.services.uploading import NarUpload

in_world = pytest.mark.asyncio(loop_scope="module")


def script(nar: bytes, file: NarUpload, number: int) -> list[tuple[str, str, bytes | None]]:
    """What a tenant may ask about *nar* and *file*, neither of which it has, and about the chunk of that number."""
    api = "/api/v1/caches/stranger"
    hash_part, letters = ABSENT, nix32.encode(hashlib.sha256(nar).digest())
    recipe = render_recipe(make_recipe([number], []))
    body = {"nar_hash": nar_hash_of(nar), "nar_size": len(nar), "recipe": recipe}
    identities = b"".join(identity_of(chunk) for chunk in cut(nar))
    return [
        ("POST", f"{api}/chunks/missing", msgspec.json.encode({"identities": identities})),
        ("POST", f"{api}/nars", msgspec.json.encode({"nars": [body]})),
        ("GET", f"{api}/nars/{letters}", None),
        ("POST", f"{api}/paths", msgspec.json.encode({"paths": [path_body(f"{hash_part}-x", nar)]})),
        ("POST", f"{api}/missing", msgspec.json.encode({"hash_parts": [hash_part]})),
        ("GET", f"{api}/why/{hash_part}", None),
        ("GET", f"/stranger/nar/{letters}.nar.zst", None),
        ("HEAD", f"/stranger/nar/{letters}.nar.zst", None),
        ("HEAD", f"/stranger/nar/{file.name}", None),
        ("PUT", f"/stranger/{hash_part}.narinfo", render_narinfo(file.narinfo(f"{hash_part}-x")).encode()),
    ]


@in_world
async def test_what_other_tenants_have_answers_as_what_nobody_has(world: World) -> None:
    """Both in the public domain and in private ones there is `NAR`; in the stranger's own there is neither."""
    await world.do("POST", "/api/v1/caches", {"name": "stranger", "is_public": False, "upstreams": []})
    _, token = await world.make_token(Permission.PUSH, "stranger")
    novel = NAR.replace(b"\x7fELF", b"\x7fFLE")
    pairs = [(NAR, STOCK_FILE, 1), (novel, NarUpload.make(nar_of(b"sent by other Nix")), 999_999)]
    answers: list[list[str]] = []
    statuses: list[int] = []
    for nar, file, number in pairs:
        found: list[str] = []
        statuses.clear()
        for method, path, body in script(nar, file, number):
            answer = await world.ask(method, path, body, credential=f"Bearer {token}", headers={"x-request-id": "x"})
            text = answer.body.decode()
            for name in (nix32.encode(hashlib.sha256(nar).digest()), nar_hash_of(nar), file.name, str(number)):
                text = text.replace(name, "…")
            text = text.replace(nix32.encode(hashlib.sha256(file.nar).digest()), "…")
            statuses.append(answer.status)
            found.append(f"{method} {answer.status} {text}")
        answers.append(found)
    assert answers[0] == answers[1]
    assert statuses == [200, 200, 404, 409, 200, 200, 404, 404, 404, 409], answers[0]


@in_world
async def test_upload_of_what_others_have_is_stored_as_if_it_were_new(world: World) -> None:
    """That a chunk costs nothing would tell that somebody has it."""
    sent: list[tuple[int, int]] = []
    for name, nar in (("first", NAR), ("second", NAR.replace(b"\x7fELF", b"\x7fFLE"))):
        await world.do("POST", "/api/v1/caches", {"name": name, "is_public": False, "upstreams": []})
        await world.push(name, f"{ABSENT}-x", nar)
        size = json.loads((await world.do("GET", f"/api/v1/caches/{name}/size")).body)
        sent.append((size["paths"], size["nar_bytes"]))
        assert size["stored_bytes"] > 0
    assert sent[0] == sent[1]


# Secrets


def test_secrets_are_in_no_log_process_or_file_but_their_own(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with run_server(folder, "--workers", "2", "--log-level", "debug") as server:
        server.create_cache("secret", is_public=False)
        token = server.create_token("push")
        for credential in (token, server.token, f"{token[:-1]}x"):
            for path in ("/secret/nix-cache-info", "/api/v1/caches/secret", "/api/v1/tokens", "/metrics", "/secret/x"):
                answer = server.ask("GET", path, token=credential)
                assert credential.encode() not in answer.body + repr(answer.headers).encode()
        server.ask("POST", "/api/v1/tokens", b'{"token": "' + token.encode())
        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
        for process in (str(server.process.pid), *children):
            seen = Path(f"/proc/{process}/cmdline").read_bytes() + Path(f"/proc/{process}/environ").read_bytes()
            assert b"ice_" not in seen
        assert len(children) >= 2
        key = (folder / "secret").read_bytes()
        log = server.log.read_bytes()
    assert b"ice_" not in log
    texts = [token.encode(), server.token.encode(), key, key.hex().encode()]
    holders = {
        (file.name, index)
        for file in folder.rglob("*")
        if file.is_file()
        for index, text in enumerate(texts)
        if text in file.read_bytes()
    }
    assert holders == {("admin-token", 1), ("secret", 2)}


# Requests that lie about where they end or what they name

HEAD = b"Host: x\r\nConnection: close\r\n"
PUT = b"PUT /a/nix-cache-info HTTP/1.1\r\n" + HEAD
CHUNKED = PUT + b"Transfer-Encoding: chunked\r\n"
GET = b"GET /health HTTP/1.1\r\n" + HEAD
HOSTILE: dict[str, bytes] = {
    "both lengths": PUT + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": PUT + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
    "list of lengths": PUT + b"Content-Length: 4, 5\r\n\r\nabcde",
    "signed length": PUT + b"Content-Length: +4\r\n\r\nabcd",
    "huge length": PUT + b"Content-Length: 99999999999999999999999\r\n\r\n",
    "bad chunk size": CHUNKED + b"\r\nzz\r\n\r\n",
    "huge chunk size": CHUNKED + b"\r\nfffffffffffffffff\r\n\r\n",
    "NUL in a header": GET + b"X: a\0b\r\n\r\n",
    "bare CR in a header": GET + b"X: a\rX-Request-Id: b\r\n\r\n",
    "space before a colon": GET + b"X : a\r\n\r\n",
    "many headers": GET + b"".join(b"X-%d: a\r\n" % n for n in range(50_000)) + b"\r\n",
    "huge header": GET + b"Authorization: Bearer " + b"a" * 10_000_000 + b"\r\n\r\n",
    "huge path": b"GET /" + b"a" * 10_000_000 + b" HTTP/1.1\r\n" + HEAD + b"\r\n",
    "NUL in the path": b"GET /a\0/nix-cache-info HTTP/1.1\r\n" + HEAD + b"\r\n",
}
PATHS = [
    "/api/v1/caches/..%2f..%2fmetrics",
    "/api/v1/caches/%2e%2e/tokens",
    "/api/v1/../../metrics",
    "/api/v1/caches/a%00b",
    "/api/v1/caches/%252e%252e%252ftokens",
    f"/api/v1/caches/{'a' * 5_000}",
    f"/api/v1/caches/a/paths/{'1' * 5_000}",
    "/a/log/..%2f..%2fsecret",
    "/a/log/%2e%2e/secret",
    "/a/log/%252e%252e%252fsecret",
    "/a/nar/../../secret",
    "/a//secret",
    "/a/serve/" + "1" * 32 + "/..%2f..%2f..%2fetc/passwd",
    "/a/serve/" + "1" * 32 + "/%252e%252e/secret",
    "/../secret",
    "/..%5csecret",
]


def test_hostile_requests_are_refused_and_the_server_lives(tmp_path: Path) -> None:
    with run_server(tmp_path / "data") as server:
        server.create_cache("a")
        secret = (tmp_path / "data" / "secret").read_bytes()
        for name, request in HOSTILE.items():
            received = bytearray()
            try:
                with server.connect() as connection:
                    connection.settimeout(20)
                    try:
                        connection.sendall(request)
                        connection.shutdown(socket.SHUT_WR)
                    except OSError:
                        pass  # it did not want to hear the rest
                    while piece := connection.recv(65_536):
                        received += piece
            except ConnectionResetError:
                pass
            statuses = re.findall(rb"HTTP/1\.1 (\d\d\d)", received)
            assert len(statuses) <= 1, (name, received)
            assert all(status.startswith(b"4") for status in statuses), (name, received[:200])
        for path in PATHS:
            answer = server.ask("GET", path)
            assert answer.status in {400, 404}, (path, answer)
            assert secret not in answer.body
            assert b"root:" not in answer.body
            assert len(answer.body) < 2_000
        for number in ("9" * 20, "9" * 5_000, "-1", "1e3", "0"):
            for path in ("/api/v1/tokens", "/api/v1/caches/a/trust"):  # beyond 64 bits there was a status 500
                assert server.ask("DELETE", f"{path}/{number}").status in {400, 404}, number
            assert server.ask("POST", f"/api/v1/revocations/{number}/undo").status in {400, 404}, number
        assert server.ask("GET", "/health", token="").status == 200
        assert not [event for event in server.events() if event.get("level") in {"error", "critical"}]
