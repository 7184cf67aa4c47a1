"""Requests for the files of a binary cache, from what stock Nix sends to what nobody should."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import http.client
import random
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from icehouse.nix.compression import Compression
from icehouse.nix.hashes import HashAlgorithm, NixHash
from icehouse.nix.narinfo import NarInfo, parse_narinfo, render_narinfo
from tests.fuzz.corpus import REALISATION_ID, narinfos, realisations, uploads
from tests.fuzz.mutations import mutate
from tests.nix.compressed import MAKERS
from tests.nix.vectors import VECTORS

CACHE: Final = "main"
TIMEOUT_SECONDS: Final = 60

_METHODS: Final = ("GET", "HEAD", "PUT", "PUT", "POST", "DELETE", "OPTIONS", "PATCH", "BREW")
_ODD: Final = (
    b"%00",
    b"%2e%2e",
    b"/../",
    b"//",
    b"%2F",
    b"%ff",
    b"\xff\xfe",
    b"%",
    b"?x=1",
    b"#",
    b";",
    b"%0d%0a",
    b"\\",
    b"*",
    b"a" * 3000,
    b"%C3%A9",
)
_RANGES: Final = (
    b"bytes=0-0",
    b"bytes=5-",
    b"bytes=-7",
    b"bytes=-0",
    b"bytes=9-3",
    b"bytes=0-0,5-6",
    b"bytes=99999999999999999999-",
    b"bytes=1000000-",
    b"lines=1-2",
    b"bytes=",
    b"\xff",
)
_ENCODINGS: Final = (b"identity", b"gzip", b"zstd", b"br", b"xz", b"bzip2", b"deflate", b"x", b"gzip, gzip", b"\xe9")
_ACCEPTED: Final = (
    b"*",
    b"zstd",
    b"zstd;q=0",
    b"gzip;q=1.5, zstd;q=",
    b";;,,",
    b"\xff",
    b"identity;q=0",
    b"zstd," * 500,
)


@dataclass(frozen=True, slots=True)
class File:
    """A file as stock Nix sends it, or asks for it: *target* is its path on the server, escaped."""

    target: bytes
    body: bytes
    method: str


@dataclass(frozen=True, slots=True)
class Request:
    """The bytes of a request. *is_framed*: they say where they end, so that an answer is due."""

    method: str
    target: bytes
    data: bytes
    is_framed: bool


def stock() -> list[File]:
    """NARs of real Nix in every compression and their narinfos, and one of each other kind of file, and of the API."""
    files: list[File] = []
    for index, text in enumerate(narinfos()):
        info = parse_narinfo(text)
        nar = (VECTORS / "narinfos" / f"{info.store_path.hash_part}.nar").read_bytes()
        compression = list(Compression)[index % len(Compression)]
        files += _upload(info, nar, compression)
        files.append(_file(f"{info.store_path.hash_part}.ls", b'{"root":{"type":"regular","size":1},"version":1}'))
        files.append(_file(f"serve/{info.store_path.hash_part}/bin", b""))
        files.append(_file(f"log/{info.store_path}", MAKERS[Compression.XZ](b"building\n" * 1000)))
    derivation = f"{'a' * 32}-hello.drv"
    files += [
        _file("nix-cache-info", b"StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 40\n"),
        _file(f"log/{derivation}", b"building\n" * 1000),
        _file(f"realisations/{REALISATION_ID}.doi", realisations()[1]),
        _file(f"build-trace-v2/{derivation}/out.doi", b'{"outPath":"%b-top","signatures":[]}' % (b"b" * 32)),
        _file(f"debuginfo/{'ab' * 20}.debug", b'{"archive":"../nar/x.nar","member":"lib/debug/x"}'),
        _file(f"debuginfo/{'ab' * 20}", b""),
        _file(f"buildid/{'ab' * 20}/debuginfo", b""),
    ]
    path = {"store_path": f"{'c' * 32}-x", "nar_hash": f"sha256:{'0' * 52}", "nar_size": 1, "references": ["x"]}
    bodies = {
        "missing": {"hash_parts": ["a" * 32]},
        "chunks/missing": {"identities": bytes(64)},
        "nars": {"nars": [{"nar_hash": f"sha256:{'0' * 52}", "nar_size": 1, "recipe": b"\1\0\0\0"}]},
        "paths": {"paths": [path], "externals": [path]},
    }
    files += [
        File(f"/api/v1/caches/{CACHE}/{name}".encode(), msgspec.json.encode(body), "POST")
        for name, body in bodies.items()
    ]
    files += [File(f"/api/v1/caches/{CACHE}/packs".encode(), body, "PUT") for body in uploads()[::4]]
    return files


def _file(name: str, body: bytes) -> File:
    return File(f"/{CACHE}/{name}".encode(), body, "PUT" if body else "GET")


def _upload(info: NarInfo, nar: bytes, compression: Compression) -> list[File]:
    body = MAKERS[compression](nar)
    digest = NixHash(HashAlgorithm.SHA256, hashlib.sha256(body).digest())
    url = f"nar/{digest.nix32().partition(':')[2]}.nar{compression.extension}"
    sent = dataclasses.replace(
        info, url=url, compression=compression.value, file_hash=digest, file_size=len(body), extra=()
    )
    return [_file(url, body), _file(f"{info.store_path.hash_part}.narinfo", render_narinfo(sent).encode())]


def make_request(chooser: random.Random, files: Sequence[File], token: str) -> Request:
    """One request; half of them right but for one thing or two."""
    file = chooser.choice(files)
    method, target, body = file.method, file.target, file.body
    headers: list[tuple[bytes, bytes]] = [(b"Authorization", f"Bearer {token}".encode())]
    framing = _frame_with_length
    for _ in range(chooser.choice((0, 0, 1, 1, 2, 5))):
        match chooser.randrange(8):
            case 0:
                method = chooser.choice(_METHODS)
            case 1:
                target = _bend(chooser, target)
            case 2:
                body = mutate(chooser, [body, chooser.choice(files).body])
            case 3:
                headers[0] = (b"Authorization", chooser.choice((b"", b"Basic !!", b"Bearer x", b"\xff", b"Basic Og==")))
            case 4:
                headers.append((b"Range", chooser.choice(_RANGES)))
                headers.append((b"If-Range", chooser.choice((b'"x"', b"*", b"\xff", b"Thu, 01 Jan 1970 00:00:00 GMT"))))
                method = "GET"
            case 5:
                headers.append((b"Content-Encoding", chooser.choice(_ENCODINGS)))
                body = MAKERS[chooser.choice(list(Compression))](body)
            case 6:
                headers.append((b"Accept-Encoding", chooser.choice(_ACCEPTED)))
                headers.append((b"If-None-Match", chooser.choice((b"*", b'"', b'W/"x"', b'"x",' * 300, b"\xff"))))
                method = chooser.choice(("GET", "HEAD"))
            case _:
                framing = chooser.choice((_frame_in_chunks, _frame_too_short, _frame_too_long, _frame_badly))
    framed, is_framed = framing(chooser, body)
    head = b"".join(b"%b: %b\r\n" % header for header in [(b"Host", b"localhost"), (b"Connection", b"close"), *headers])
    return Request(method, target, b"%b %b HTTP/1.1\r\n%b%b" % (method.encode(), target, head, framed), is_framed)


def _bend(chooser: random.Random, target: bytes) -> bytes:
    start = chooser.randint(1, len(target))
    return target[:start] + chooser.choice(_ODD) + target[start + chooser.choice((0, 0, 1, 5)) :]


Framing = Callable[[random.Random, bytes], tuple[bytes, bool]]


def _frame_with_length(_chooser: random.Random, body: bytes) -> tuple[bytes, bool]:
    return b"Content-Length: %d\r\n\r\n%b" % (len(body), body), True


def _frame_in_chunks(chooser: random.Random, body: bytes) -> tuple[bytes, bool]:
    size = chooser.randint(1, 5000)
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    return b"Transfer-Encoding: chunked\r\n\r\n%b0\r\n\r\n" % chunks, True


def _frame_too_short(_chooser: random.Random, body: bytes) -> tuple[bytes, bool]:
    """More is announced than comes."""
    return b"Content-Length: %d\r\n\r\n%b" % (len(body) + 1000, body), False


def _frame_too_long(_chooser: random.Random, body: bytes) -> tuple[bytes, bool]:
    return b"Content-Length: %d\r\n\r\n%b" % (len(body) // 2, body), True


def _frame_badly(chooser: random.Random, body: bytes) -> tuple[bytes, bool]:
    length = chooser.choice((b"-1", b"x", b"99999999999999999999999", b"1, 2", b""))
    chunked = b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"
    return chooser.choice((b"Content-Length: %b\r\n\r\n" % length, chunked, b"\r\n")) + body, False


@dataclass(frozen=True, slots=True)
class Answered:
    """What came back; *status* is 0 if nothing did."""

    status: int
    body: bytes


def send(port: int, request: Request) -> Answered:
    """Send a request and read the answer.

    Raises:
        TimeoutError: the server hangs.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_SECONDS) as connection:
        # A server may answer and close before it has read all.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(request.data)
            if not request.is_framed:  # The server would wait for the rest; where all came, this would say "I left".
                connection.shutdown(socket.SHUT_WR)
        response = http.client.HTTPResponse(connection, method=request.method)
        with contextlib.closing(response):
            try:
                response.begin()
                return Answered(response.status, response.read())
            except (http.client.HTTPException, ConnectionResetError):
                return Answered(0, b"")
