"""What `nix copy --to` sends, over a running server, and the answers that Nix and curl see."""

import gzip
import lzma
import os
import random
import select
import socket
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from backports.zstd import compress as compress_zstd

from icehouse.nix import nix32
from icehouse.nix.compression import Compression
from icehouse.nix.decompress import Decompressor
from icehouse.nix.narinfo import MAX_NARINFO_BYTES, NarInfo, parse_narinfo, render_narinfo
from icehouse.nix.signing import SecretKey
from icehouse.nix.store_paths import StoreDir
from icehouse.nix.stored import has_stored_form
from tests.http.running import Answer, Pieces, RunningServer, run_server
from tests.nix.compressed import MAKERS
from tests.services.publishing import nar_of
from tests.services.uploading import NarUpload, sign

GNU = StoreDir.parse("/gnu/store")
NAR_TYPE = "application/x-nix-nar"
OWN_KEY = SecretKey.generate("own-1", bytes([7]) * 32)
NUMBERS = count(1)


def new_path() -> str:
    """A store path that no other test has."""
    return f"{nix32.encode(next(NUMBERS).to_bytes(20))}-package"


def new_nar(size: int = 1_300_000) -> bytes:
    """A NAR that no other test has."""
    noise = random.Random(next(NUMBERS)).randbytes(size // 2)
    return nar_of(noise + f"/nix/store/{'a' * 32}-lib".encode() + b"text " * (size // 10))


@pytest.fixture(scope="module")
def caches(server: RunningServer) -> RunningServer:
    """The server with a public cache, a private one, and one of another store directory."""
    server.create_cache("open")
    server.create_cache("secret", is_public=False)
    gnu = b'{"name": "gnu", "is_public": true, "upstreams": [], "store_dir": "/gnu/store"}'
    assert server.ask("POST", "/api/v1/caches", gnu, headers={"Content-Type": "application/json"}).status == 201
    return server


def put_nar(server: RunningServer, file: NarUpload, cache: str = "open") -> Answer:
    return server.ask("PUT", f"/{cache}/nar/{file.name}", file.data)


def put_narinfo(server: RunningServer, info: NarInfo, cache: str = "open") -> Answer:
    path = f"/{cache}/{info.store_path.hash_part}.narinfo"
    return server.ask("PUT", path, render_narinfo(info).encode())


def push(server: RunningServer, file: NarUpload, cache: str = "open", store_path: str = "") -> str:
    """Send a path without references; its base name."""
    base_name = store_path or new_path()
    for answer in (put_nar(server, file, cache), put_narinfo(server, file.narinfo(base_name), cache)):
        assert (answer.status, answer.body) == (200, b"")
    return base_name


def decode(data: bytes, compression: Compression) -> bytes:
    decompressor = Decompressor(compression, max_bytes=10_000_000)
    decoded = b"".join(decompressor.feed(data))
    decompressor.finish()
    return decoded


def assert_refused(answer: Answer, status: int, text: str) -> None:
    """A final status, with one short line that Nix prints."""
    assert (answer.status, answer.headers["content-type"]) == (status, "text/plain; charset=utf-8"), answer.body
    body = answer.body.decode()
    assert text in body
    assert body.endswith("\n")
    assert body.count("\n") == 1
    assert len(body) < 1024
    assert answer.headers["cache-control"] == "no-store"


# Round trips


@pytest.mark.parametrize("cache", ["open", "secret"])
@pytest.mark.parametrize("compression", Compression)
def test_what_was_pushed_is_pulled_at_our_url_and_at_its_own(
    caches: RunningServer, compression: Compression, cache: str
) -> None:
    file = NarUpload.make(new_nar(), compression)
    base_name = push(caches, file, cache)
    info = parse_narinfo(caches.ask("GET", f"/{cache}/{base_name[:32]}.narinfo").body)
    assert (info.nar_hash, info.compression) == (file.narinfo(base_name).nar_hash, "zstd")
    ours = caches.ask("GET", f"/{cache}/{info.url}")
    assert (ours.status, decode(ours.body, Compression.ZSTD)) == (200, file.nar)
    alias = caches.ask("GET", f"/{cache}/nar/{file.name}")
    assert (alias.status, decode(alias.body, compression)) == (200, file.nar)
    assert alias.headers["content-type"] == NAR_TYPE
    assert "content-encoding" not in alias.headers
    forever = "max-age=31536000, immutable"
    assert alias.headers["cache-control"] == ("public, " if cache == "open" else "private, ") + forever


@pytest.mark.parametrize("compression", Compression)
def test_head_of_an_alias_tells_what_get_tells(caches: RunningServer, compression: Compression) -> None:
    file = NarUpload.make(new_nar(), compression)
    push(caches, file)
    url = f"/open/nar/{file.name}"
    head, get = caches.ask("HEAD", url), caches.ask("GET", url)
    assert (head.status, head.body) == (200, b"")
    for each in (head.headers, get.headers):
        for changing in ("x-request-id", "date", "transfer-encoding"):
            each.pop(changing, None)
    assert head.headers == get.headers
    has_size = has_stored_form(compression) or compression is Compression.ZSTD
    assert get.headers.get("content-length") == (str(len(get.body)) if has_size else None)


@pytest.mark.parametrize(
    "compression", [each for each in Compression if has_stored_form(each) or each is Compression.ZSTD]
)
def test_alias_is_resumed_where_it_broke_off(caches: RunningServer, compression: Compression) -> None:
    file = NarUpload.make(new_nar(3_000_000), compression)
    push(caches, file)
    url = f"/open/nar/{file.name}"
    whole = caches.ask("GET", url)
    assert whole.headers["accept-ranges"] == "bytes"
    for start in (0, 1, 70_000, 1_048_576, len(whole.body) - 1):
        headers = {"Range": f"bytes={start}-", "If-Range": whole.headers["etag"]}
        part = caches.ask("GET", url, headers=headers)
        assert (part.status, part.body) == (206, whole.body[start:])
        assert part.headers["content-range"] == f"bytes {start}-{len(whole.body) - 1}/{len(whole.body)}"
    changed = caches.ask("GET", url, headers={"Range": "bytes=5-", "If-Range": '"other"'})
    assert (changed.status, changed.body) == (200, whole.body)
    beyond = caches.ask("GET", url, headers={"Range": f"bytes={len(whole.body)}-"})
    assert (beyond.status, beyond.headers["content-range"]) == (416, f"bytes */{len(whole.body)}")
    known = caches.ask("GET", url, headers={"If-None-Match": whole.headers["etag"]})
    assert (known.status, known.body) == (304, b"")


def test_aliases_of_one_nar_have_entity_tags_of_their_own(caches: RunningServer) -> None:
    contents, tags = new_nar(9_000), set[str]()
    for compression in (Compression.NONE, Compression.XZ, Compression.GZIP, Compression.ZSTD):
        file = NarUpload.make(contents, compression)
        base_name = push(caches, file)
        tags.add(caches.ask("HEAD", f"/open/nar/{file.name}").headers["etag"])
        url = parse_narinfo(caches.ask("GET", f"/open/{base_name[:32]}.narinfo").body).url
        if compression is Compression.ZSTD:
            assert caches.ask("HEAD", f"/open/{url}").headers["etag"] in tags
    assert len(tags) == 4


@pytest.mark.parametrize("compression", [Compression.NONE, Compression.XZ, Compression.ZSTD])
def test_body_may_come_in_chunks_without_its_size(caches: RunningServer, compression: Compression) -> None:
    file = NarUpload.make(new_nar(), compression)
    pieces = Pieces(file.data[at : at + 70_001] for at in range(0, len(file.data), 70_001))
    assert caches.ask("PUT", f"/open/nar/{file.name}", pieces).status == 200
    assert put_narinfo(caches, file.narinfo(new_path())).status == 200
    assert decode(caches.ask("GET", f"/open/nar/{file.name}").body, compression) == file.nar


# Staged uploads


def test_staged_nar_is_there_for_head_alone(caches: RunningServer) -> None:
    file = NarUpload.make(new_nar(9_000))
    url = f"/open/nar/{file.name}"
    assert [caches.ask(method, url).status for method in ("HEAD", "GET")] == [404, 404]
    assert put_nar(caches, file).status == 200
    assert [caches.ask(method, url).status for method in ("HEAD", "GET")] == [200, 404]
    assert caches.ask("HEAD", url.replace(".xz", ".zst")).status == 404
    assert put_narinfo(caches, file.narinfo(new_path())).status == 200
    assert [caches.ask(method, url).status for method in ("HEAD", "GET")] == [200, 200]


def test_who_may_do_what(caches: RunningServer) -> None:
    reader, writer = caches.create_token("pull"), caches.create_token("push", "pull")
    stranger = caches.create_token("pull", "push", pattern="other")
    tokens = ("", "wrong", stranger, reader, writer)
    for cache, of_strangers in (("secret", 404), ("open", 403)):
        file = NarUpload.make(new_nar(9_000))
        narinfo = render_narinfo(file.narinfo(path := new_path())).encode()
        uploads = {
            f"/{cache}/nar/{file.name}": file.data,
            f"/{cache}/{path[:32]}.narinfo": narinfo,
            f"/{cache}/nix-cache-info": b"StoreDir: /nix/store\n",
        }
        for url, body in uploads.items():
            statuses = [caches.ask("PUT", url, body, token=token).status for token in tokens]
            assert statuses == [401, 401, of_strangers, 403, 200]
            for method in ("HEAD", "GET") if cache == "secret" else ():
                statuses = [caches.ask(method, url, token=token).status for token in tokens[:3]]
                assert statuses == [401, 401, 404]


def test_staged_nar_of_a_private_cache_looks_like_none(caches: RunningServer) -> None:
    staged, absent = NarUpload.make(new_nar(9_000)), NarUpload.make(new_nar(9_000))
    assert put_nar(caches, staged, "secret").status == 200
    stranger = caches.create_token("pull", "push", pattern="other")
    for method in ("HEAD", "GET"):
        for token in ("", stranger):
            answers = [
                caches.ask(method, f"/{cache}/nar/{file.name}", token=token)
                for cache, file in (("secret", staged), ("secret", absent), ("absent", staged))
            ]
            told = {(answer.status, answer.body.replace(b"absent", b"secret")) for answer in answers}
            assert len(told) == 1


def test_private_cache_does_not_tell_what_another_has(caches: RunningServer) -> None:
    file = NarUpload.make(new_nar(9_000))
    push(caches, file, "open")
    assert caches.ask("HEAD", f"/secret/nar/{file.name}").status == 404
    assert_refused(put_narinfo(caches, file.narinfo(new_path()), "secret"), 409, "no such NAR was uploaded")


# Refusals


def test_compression_that_is_not_read_is_refused_with_those_that_are(caches: RunningServer) -> None:
    file = NarUpload.of_file(b"LRZI" + bytes(100_000), b"", Compression.NONE)
    assert_refused(put_nar(caches, file), 415, "expected one of none, gzip, bzip2, xz, zstd, br, lzip, lz4")


def test_file_with_another_name_than_its_hash_is_refused(caches: RunningServer) -> None:
    file = NarUpload.make(new_nar())
    wrong = replace(file, name=f"{'0' * 52}.nar.xz")
    assert_refused(put_nar(caches, wrong), 400, f"has the SHA-256 {file.name[:52]}")
    assert caches.ask("HEAD", f"/open/nar/{wrong.name}").status == 404


@pytest.mark.parametrize("name", ["x.nar.xz", f"{'0' * 52}.nar.a%20b", f"{'e' * 52}.nar", "%C3%B6.nar"])
def test_file_that_is_not_named_as_nix_names_them_is_refused(caches: RunningServer, name: str) -> None:
    assert_refused(caches.ask("PUT", f"/open/nar/{name}", b"x"), 400, "expected <SHA-256 in Nix32>.nar")
    assert caches.ask("GET", f"/open/nar/{name}").status == 404


@pytest.mark.parametrize("encoding", ["gzip", "zstd", "identity, gzip", "nonsense"])
def test_content_encoding_of_a_nar_is_refused(caches: RunningServer, encoding: str) -> None:
    file = NarUpload.make(new_nar(9_000))
    headers = {"Content-Encoding": encoding}
    assert_refused(caches.ask("PUT", f"/open/nar/{file.name}", file.data, headers=headers), 415, "Content-Encoding")


ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "xz": lzma.compress,
    "zstd": compress_zstd,
    "br": MAKERS[Compression.BR],
    "gzip": gzip.compress,
    "identity": bytes,
    "bzip2": MAKERS[Compression.BZIP2],
}


@pytest.mark.parametrize("encoding", ENCODERS)
def test_narinfo_may_come_with_a_content_encoding(caches: RunningServer, encoding: str) -> None:
    file = NarUpload.make(new_nar(9_000))
    assert put_nar(caches, file).status == 200
    path = new_path()
    text = render_narinfo(file.narinfo(path)).encode()
    headers = {"Content-Encoding": encoding}
    assert caches.ask("PUT", f"/open/{path[:32]}.narinfo", ENCODERS[encoding](text), headers=headers).status == 200
    assert caches.ask("GET", f"/open/{path[:32]}.narinfo").status == 200


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        ("xz", b"StorePath: x\n", 400),
        ("zstd", compress_zstd(bytes(MAX_NARINFO_BYTES + 1)), 413),
        ("compress", b"x", 415),
        ("identity", b"x" * (MAX_NARINFO_BYTES + 1), 413),
        ("identity", b"", 400),
        ("identity", b"\xff\n", 400),
        ("identity", b"no narinfo\n" * 100_000, 400),
    ],
    ids=["not encoded so", "a bomb", "not read here", "too long", "empty", "not UTF-8", "no fields"],
)
def test_broken_narinfo_is_refused(caches: RunningServer, encoding: str, body: bytes, status: int) -> None:
    answer = caches.ask("PUT", f"/open/{new_path()[:32]}.narinfo", body, headers={"Content-Encoding": encoding})
    assert_refused(answer, status, "")


def test_narinfo_that_disagrees_is_refused_in_a_line(caches: RunningServer) -> None:
    file = NarUpload.make(new_nar(9_000))
    assert put_nar(caches, file).status == 200
    info = file.narinfo(path := new_path())
    assert_refused(put_narinfo(caches, replace(info, nar_size=1)), 400, "NarSize 1, and the file has")
    assert_refused(put_narinfo(caches, replace(info, url="nar/x.nar")), 409, "upload it first")
    assert_refused(put_narinfo(caches, replace(info, store_dir=GNU)), 400, "is /nix/store")
    other = f"/open/{new_path()[:32]}.narinfo"
    assert_refused(caches.ask("PUT", other, render_narinfo(info).encode()), 400, "under the name")
    assert caches.ask("GET", f"/open/{path[:32]}.narinfo").status == 404


def test_another_nar_for_a_path_is_refused(caches: RunningServer) -> None:
    path = push(caches, NarUpload.make(new_nar(9_000)))
    before = caches.ask("GET", f"/open/{path[:32]}.narinfo").body
    other = NarUpload.make(new_nar(9_000))
    assert put_nar(caches, other).status == 200
    assert_refused(put_narinfo(caches, other.narinfo(path)), 409, "here already with another NAR hash")
    assert caches.ask("GET", f"/open/{path[:32]}.narinfo").body == before


def test_narinfo_is_sent_back_with_one_more_signature(caches: RunningServer) -> None:
    path = push(caches, NarUpload.make(new_nar(9_000)))
    url = f"/open/{path[:32]}.narinfo"
    ours = parse_narinfo(caches.ask("GET", url).body)
    assert put_narinfo(caches, sign(ours, OWN_KEY)).status == 200
    signed = parse_narinfo(caches.ask("GET", url).body)
    assert signed == sign(ours, OWN_KEY)
    forged = sign(ours, SecretKey.generate(ours.signatures[0].key_name, bytes([9]) * 32))
    assert put_narinfo(caches, forged).status == 200
    assert parse_narinfo(caches.ask("GET", url).body) == signed


def test_narinfo_before_its_references_is_kept_and_tells_what_it_waits_for(caches: RunningServer) -> None:
    lib, app = new_path(), new_path()
    lib_file, app_file = NarUpload.make(new_nar(9_000)), NarUpload.make(new_nar(9_000))
    for file in (lib_file, app_file):
        assert put_nar(caches, file).status == 200
    answer = put_narinfo(caches, app_file.narinfo(app, [lib]))
    assert (answer.status, answer.body) == (200, f"Kept, and not visible before: {lib}\n".encode())
    for url in (f"/open/{app[:32]}.narinfo", f"/open/nar/{app_file.name}"):
        assert caches.ask("GET", url).status == 404
    assert put_narinfo(caches, lib_file.narinfo(lib)).status == 200
    for url in (f"/open/{app[:32]}.narinfo", f"/open/nar/{app_file.name}"):
        assert caches.ask("GET", url).status == 200


def test_cache_takes_paths_of_its_own_store_directory_only(caches: RunningServer) -> None:
    file = NarUpload.make(new_nar(9_000))
    assert put_nar(caches, file, "gnu").status == 200
    path = new_path()
    assert_refused(put_narinfo(caches, file.narinfo(path), "gnu"), 400, "is /gnu/store")
    assert put_narinfo(caches, file.narinfo(path, store_dir=GNU), "gnu").status == 200
    assert caches.ask("GET", f"/gnu/{path[:32]}.narinfo").body.startswith(b"StorePath: /gnu/store/")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"StoreDir: /nix/store\n", 200),
        (b"StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 7\n", 200),
        (b"", 200),
        (b"StoreDir: /gnu/store\n", 409),
        (b"StoreDir: nowhere\n", 400),
        (b"x" * 1_000_000, 413),
    ],
)
def test_cache_info_may_be_put_if_it_agrees(caches: RunningServer, body: bytes, status: int) -> None:
    before = caches.ask("GET", "/open/nix-cache-info").body
    answer = caches.ask("PUT", "/open/nix-cache-info", body)
    if status == 200:
        assert (answer.status, answer.body) == (200, b"")
    else:
        assert_refused(answer, status, "")
    assert caches.ask("GET", "/open/nix-cache-info").body == before


def test_uploads_are_not_deleted_over_http(caches: RunningServer) -> None:
    file = NarUpload.make(new_nar(9_000))
    path = push(caches, file)
    for url in (f"/open/nar/{file.name}", f"/open/{path[:32]}.narinfo", "/open/nix-cache-info"):
        for method in ("DELETE", "POST", "PATCH"):
            answer = caches.ask(method, url, b"")
            assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD, PUT")


def test_clients_that_push_the_same_at_once_all_succeed(caches: RunningServer) -> None:
    file, path = NarUpload.make(new_nar()), new_path()
    with ThreadPoolExecutor(12) as threads:
        nars = [threads.submit(put_nar, caches, file) for _ in range(24)]
        assert {each.result().status for each in nars} == {200}
        narinfos = [threads.submit(put_narinfo, caches, file.narinfo(path)) for _ in range(24)]
        assert {each.result().status for each in narinfos} == {200}
    assert decode(caches.ask("GET", f"/open/nar/{file.name}").body, Compression.XZ) == file.nar


# Sockets


def head_of(server: RunningServer, url: str, *lines: str, token: str | None = None) -> bytes:
    chosen = server.token if token is None else token
    credentials = [f"Authorization: Bearer {chosen}"] if chosen else []
    return "\r\n".join([f"PUT {url} HTTP/1.1", "Host: x", *credentials, *lines, "", ""]).encode()


def status_of(response: bytes) -> int:
    return int(response.split(b" ", 2)[1])


def receive_head(connection: socket.socket) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head:
        received = connection.recv(65_536)
        assert received, head
        head += received
    return head


def test_body_that_is_shorter_than_announced_stores_nothing(caches: RunningServer) -> None:
    file = NarUpload.make(new_nar(9_000))
    url = f"/open/nar/{file.name}"
    with caches.connect() as connection:
        connection.sendall(head_of(caches, url, f"Content-Length: {len(file.data) + 1}") + file.data)
        connection.shutdown(socket.SHUT_WR)
        response = b"".join(iter(lambda: connection.recv(65_536), b""))
    assert status_of(response) == 400
    assert caches.ask("HEAD", url).status == 404


def test_body_that_is_longer_than_announced_is_taken_up_to_there(caches: RunningServer) -> None:
    file = NarUpload.make(new_nar(9_000))
    url = f"/open/nar/{file.name}"
    lines = (f"Content-Length: {len(file.data) - 1}", "Connection: close")
    response = caches.send_raw(head_of(caches, url, *lines) + file.data)
    assert status_of(response) == 400
    assert b"before it is complete" in response
    assert caches.ask("HEAD", url).status == 404


def test_chunked_body_that_breaks_its_framing_stores_nothing(caches: RunningServer) -> None:
    file = NarUpload.make(new_nar(9_000))
    url = f"/open/nar/{file.name}"
    body = b"%x\r\n" % len(file.data) + file.data + b"\r\nnonsense\r\n"
    with caches.connect() as connection:
        connection.sendall(head_of(caches, url, "Transfer-Encoding: chunked") + body)
        connection.shutdown(socket.SHUT_WR)
        response = b"".join(iter(lambda: connection.recv(65_536), b""))
    assert status_of(response) == 400
    assert caches.ask("HEAD", url).status == 404


def test_client_that_asks_first_is_told_to_go_on_where_its_body_is_wanted(caches: RunningServer) -> None:
    file = NarUpload.make(new_nar(9_000))
    url = f"/open/nar/{file.name}"
    with caches.connect() as connection:
        lines = (f"Content-Length: {len(file.data)}", "Expect: 100-continue")
        connection.sendall(head_of(caches, url, *lines))
        assert status_of(receive_head(connection)) == 100
        connection.sendall(file.data)
        assert status_of(receive_head(connection)) == 200
    assert caches.ask("HEAD", url).status == 200


@pytest.mark.parametrize(
    ("url", "length", "token", "status"),
    [
        (f"/open/nar/{'0' * 52}.nar.xz", 10**6, "", 401),
        (f"/secret/nar/{'0' * 52}.nar.xz", 10**6, "", 401),
        (f"/secret/nar/{'0' * 52}.nar.xz", 10**6, "stranger", 404),
        (f"/absent/nar/{'0' * 52}.nar.xz", 10**6, None, 404),
        ("/open/nar/x.nar.xz", 10**6, None, 400),
        (f"/open/nar/{'0' * 52}.nar.xz", 10**12, None, 413),
        (f"/open/{'0' * 32}.narinfo", 10**8, None, 413),
        ("/open/whatever", 10**6, None, 405),
    ],
)
def test_client_that_asks_first_is_refused_before_it_sends(
    caches: RunningServer, url: str, length: int, token: str | None, status: int
) -> None:
    chosen = caches.create_token("pull", "push", pattern="other") if token == "stranger" else token
    lines = (f"Content-Length: {length}", "Expect: 100-continue")
    with caches.connect() as connection:
        connection.sendall(head_of(caches, url, *lines, token=chosen))
        assert status_of(receive_head(connection)) == status


@pytest.mark.parametrize("length", ["-1", "1e3", "0x10", "99999999999999999999999", "1, 2"])
def test_size_that_is_no_number_is_refused(caches: RunningServer, length: str) -> None:
    url = f"/open/nar/{'0' * 52}.nar.xz"
    response = caches.send_raw(head_of(caches, url, f"Content-Length: {length}", "Connection: close") + b"x")
    assert status_of(response) in {400, 413}


@pytest.mark.parametrize("options", [[], ["-H", "Expect:"], ["-H", "Expect:", "-H", "Transfer-Encoding: chunked"]])
@pytest.mark.parametrize(
    ("url", "token", "status", "text"),
    [
        (f"/open/nar/{'0' * 52}.nar.xz", None, 400, "xz data cannot be decoded"),
        (f"/open/nar/{'0' * 52}.nar", None, 400, "expected a NAR, gzip"),
        (f"/open/nar/{'0' * 52}.nar.xz", "wrong", 401, "these credentials are malformed"),
        (f"/open/{'0' * 32}.narinfo", None, 413, "2097152"),
        ("/open/whatever", None, 405, "does not have that method"),
    ],
)
def test_curl_that_is_refused_while_it_sends_much_prints_why(
    caches: RunningServer, tmp_path: Path, options: list[str], url: str, token: str | None, status: int, text: str
) -> None:
    """The rest of the body is still on its way then; a server that just closes has the client see a reset."""
    big = tmp_path / "big"
    big.write_bytes(random.Random(1).randbytes(1024 * 1024) * 60)
    command = ["curl", "-sS", "--oauth2-bearer", caches.token if token is None else token, *options, "-T", str(big)]
    command += ["-w", "%{stderr}%{http_code}", f"http://127.0.0.1:{caches.port}{url}"]
    sent = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (sent.returncode, sent.stderr) == (0, str(status))
    assert text in sent.stdout


def test_netrc_password_is_enough_to_push(caches: RunningServer, tmp_path: Path) -> None:
    file = NarUpload.make(new_nar(9_000))
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1 login any password {caches.create_token('push')}\n")
    (tmp_path / "file").write_bytes(file.data)
    url = f"http://127.0.0.1:{caches.port}/secret/nar/{file.name}"
    command = ["curl", "-sS", "--fail", "--netrc-file", str(tmp_path / "netrc"), "-T", str(tmp_path / "file"), url]
    subprocess.run(command, check=True)
    assert caches.ask("HEAD", f"/secret/nar/{file.name}").status == 200


def wait_for_unfinished(folder: Path, count: int) -> None:
    while len(list((folder / "unfinished").iterdir())) != count:
        os.sched_yield()


def test_clients_that_leave_in_the_middle_leave_nothing(tmp_path: Path) -> None:
    """Also more of them than are served at a time, and whether they leave in order or not."""
    folder = tmp_path / "data"
    noise = random.Random(3)
    with run_server(folder) as server:
        server.create_cache("open")
        for _ in range(2):
            connections: list[socket.socket] = []
            for _ in range(20):
                file = NarUpload.make(nar_of(noise.randbytes(3_000_000)), Compression.NONE)
                connection = server.connect()
                connections.append(connection)
                url = f"/open/nar/{file.name}"
                connection.sendall(head_of(server, url, f"Content-Length: {len(file.data)}") + file.data[:100_000])
            for connection in connections:
                connection.close()
        with server.connect() as connection:
            file = NarUpload.make(nar_of(noise.randbytes(9_000_000)), Compression.NONE)
            url = f"/open/nar/{file.name}"
            connection.sendall(head_of(server, url, f"Content-Length: {len(file.data)}") + file.data[:8_500_000])
            wait_for_unfinished(folder, 1)
        wait_for_unfinished(folder, 0)
        assert server.ask("HEAD", url).status == 404
        assert not list(folder.glob("packs/**/*.*"))
        assert put_nar(server, file).status == 200
        assert server.ask("HEAD", url).status == 200
        assert not [event for event in server.events() if event.get("level") in {"error", "critical"}]


@pytest.mark.parametrize(("expect", "limit", "status"), [("Expect: 100-continue\r\n", 128, 503), ("", 256, 409)])
def test_only_so_many_uploads_of_a_token_wait_and_who_still_has_the_body_is_told_to_come_again(
    caches: RunningServer, expect: str, limit: int, status: int
) -> None:
    file, token = NarUpload.make(new_nar()), caches.create_token("push")
    head = f"PUT /open/nar/{file.name} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n{expect}"
    refused: list[str] = []
    with ExitStack() as stack:
        sockets = [stack.enter_context(caches.connect()) for _ in range(limit + 3)]
        for each in sockets:
            each.sendall(f"{head}Content-Length: {len(file.data)}\r\n\r\n".encode())
        while len(refused) < 3:
            readable, _, _ = select.select(sockets, [], [], 30)
            assert readable, refused
            for each in readable:
                answer = each.recv(4096).decode()
                if not answer.startswith("HTTP/1.1 100"):
                    while not answer.endswith("takes at once\n"):
                        more = each.recv(4096).decode()
                        assert more, answer
                        answer += more
                    refused.append(answer)
                    sockets.remove(each)
        assert {answer.split()[1] for answer in refused} == {str(status)}
        assert all(("retry-after: 1" in answer) == (status == 503) for answer in refused), refused
        assert all("uploads with this token are open" in answer for answer in refused), refused
        # Those with another token do not wait for these, of which none brings anything forward.
        assert put_nar(caches, NarUpload.make(new_nar())).status == 200
    assert put_nar(caches, file).status == 200
