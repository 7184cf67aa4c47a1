"""Realisations over a running server."""

import gzip
import json

import pytest

from icehouse.nix.realisation import MAX_REALISATION_BYTES
from tests.http.running import Pieces, RunningServer

HASH = f"sha256:{'7' * 64}"
DERIVATION = f"{'c' * 32}-tool.drv"
OUT_PATH, OTHER_PATH = f"{'a' * 32}-tool", f"{'b' * 32}-tool"
FILES = {
    f"realisations/{HASH}!out.doi": {"id": f"{HASH}!out", "outPath": OUT_PATH, "signatures": ["k:a"]},
    f"build-trace-v2/{DERIVATION}/out.doi": {"outPath": OUT_PATH, "signatures": [{"keyName": "k", "sig": "a"}]},
}


@pytest.fixture(scope="module")
def caches(server: RunningServer) -> RunningServer:
    """The server with a public cache and a private one, each with the files."""
    for name, is_public in (("open", True), ("secret", False)):
        server.create_cache(name, is_public=is_public)
        for file, body in FILES.items():
            assert server.ask("PUT", f"/{name}/{file}", body).status == 200
    return server


@pytest.mark.parametrize("cache", ["open", "secret"])
@pytest.mark.parametrize("file", FILES)
def test_an_upload_is_read_byte_for_byte(caches: RunningServer, cache: str, file: str) -> None:
    answer = caches.ask("GET", f"/{cache}/{file}")
    assert (answer.status, answer.body) == (200, json.dumps(FILES[file]).encode())
    assert answer.headers["content-type"] == "application/json"
    caching = answer.headers["cache-control"]
    assert caching == ("public, max-age=3600" if cache == "open" else "private, no-store")


@pytest.mark.parametrize("file", FILES)
def test_head_tells_what_get_tells(caches: RunningServer, file: str) -> None:
    head, get = caches.ask("HEAD", f"/open/{file}"), caches.ask("GET", f"/open/{file}")
    assert (head.status, head.body) == (200, b"")
    for each in (head.headers, get.headers):
        for changing in ("x-request-id", "date"):
            each.pop(changing, None)
    assert head.headers == get.headers
    unchanged = caches.ask("GET", f"/open/{file}", headers={"If-None-Match": get.headers["etag"]})
    assert (unchanged.status, unchanged.body) == (304, b"")


@pytest.mark.parametrize("name", [f"{HASH}!out", f"{HASH}%21out", f"{HASH.replace(':', '%3A')}%21out", f"{HASH}!%6fut"])
def test_a_name_may_be_escaped(caches: RunningServer, name: str) -> None:
    assert caches.ask("GET", f"/open/realisations/{name}.doi").status == 200
    body = FILES[f"realisations/{HASH}!out.doi"]
    assert caches.ask("PUT", f"/open/realisations/{name}.doi", body).status == 200


@pytest.mark.parametrize("file", FILES)
def test_who_may_do_what(caches: RunningServer, file: str) -> None:
    reader, writer = caches.create_token("pull"), caches.create_token("push", "pull")
    stranger = caches.create_token("pull", "push", pattern="other")
    secret, public = f"/secret/{file}", f"/open/{file}"
    for method in ("GET", "HEAD"):
        statuses = [caches.ask(method, secret, token=token).status for token in ("", "wrong", stranger, reader)]
        assert statuses == [401, 401, 404, 200]
        assert [caches.ask(method, public, token=token).status for token in ("", "wrong", stranger)] == [200] * 3
    for path, of_strangers in ((secret, 404), (public, 403)):
        tokens = ("", "wrong", stranger, reader, writer)
        statuses = [caches.ask("PUT", path, FILES[file], token=token).status for token in tokens]
        assert statuses == [401, 401, of_strangers, 403, 200]


@pytest.mark.parametrize(
    "file",
    [
        "realisations/x.doi",
        f"realisations/{HASH}.doi",
        f"realisations/{HASH}!.doi",
        f"realisations/{HASH}!a%FF.doi",
        f"realisations/{HASH}!out%0A.doi",
        f"realisations/{HASH}!{'x' * 300}.doi",
        f"realisations/{HASH}%2521out.doi",
        "build-trace-v2/x.drv/out.doi",
        f"build-trace-v2/{OUT_PATH}/out.doi",
        f"build-trace-v2/{DERIVATION}/a!b.doi",
    ],
)
def test_what_names_no_output_is_refused(caches: RunningServer, file: str) -> None:
    assert caches.ask("GET", f"/open/{file}").status == 404
    assert caches.ask("PUT", f"/open/{file}", {"outPath": OUT_PATH}).status == 400


@pytest.mark.parametrize(
    "file",
    [
        "realisations/",
        "realisations/.doi",
        f"realisations/{HASH}!out",
        f"realisations/{HASH}!..%2fout.doi",
        f"build-trace-v2/{DERIVATION}/x/out.doi",
        f"build-trace-v2/../realisations/{HASH}!out.doi",
        f"build-trace-v2/{DERIVATION}.doi",
        f"build-trace/{DERIVATION}/out.doi",
    ],
)
def test_hostile_paths_are_no_files(caches: RunningServer, file: str) -> None:
    assert caches.ask("GET", f"/open/{file}").status == 404
    assert caches.ask("PUT", f"/open/{file}", {"outPath": OUT_PATH}).status == 405


@pytest.mark.parametrize("file", FILES)
def test_another_output_path_is_refused(caches: RunningServer, file: str) -> None:
    before = caches.ask("GET", f"/open/{file}").body
    answer = caches.ask("PUT", f"/open/{file}", FILES[file] | {"outPath": OTHER_PATH})
    assert (answer.status, answer.headers["content-type"]) == (409, "text/plain; charset=utf-8")
    assert OTHER_PATH.encode() in answer.body
    assert caches.ask("GET", f"/open/{file}").body == before


def test_signatures_in_both_shapes_are_joined(caches: RunningServer) -> None:
    path = f"/open/build-trace-v2/{DERIVATION}/lib.doi"
    structured = {"keyName": "k", "sig": "a"}
    for signature in ("j:b", structured, "k:a", "j:b"):
        assert caches.ask("PUT", path, {"outPath": OUT_PATH, "signatures": [signature]}).status == 200
    assert caches.ask("GET", path).json() == {"outPath": OUT_PATH, "signatures": ["j:b", structured]}


def test_a_realisation_may_come_with_a_content_encoding(caches: RunningServer) -> None:
    path = f"/open/build-trace-v2/{DERIVATION}/zip.doi"
    text = json.dumps({"outPath": OUT_PATH}).encode()
    assert caches.ask("PUT", path, gzip.compress(text), headers={"Content-Encoding": "gzip"}).status == 200
    assert caches.ask("GET", path).body == text


def test_too_large_a_realisation_is_refused(caches: RunningServer) -> None:
    path = f"/open/build-trace-v2/{DERIVATION}/large.doi"
    text = json.dumps({"outPath": OUT_PATH, "more": "x" * MAX_REALISATION_BYTES}).encode()
    assert caches.ask("PUT", path, text).status == 413
    assert caches.ask("PUT", path, Pieces([text])).status == 413
    assert caches.ask("PUT", path, gzip.compress(text), headers={"Content-Encoding": "gzip"}).status == 413
    assert caches.ask("GET", path).status == 404


@pytest.mark.parametrize("body", [b"", b"[]", b"[" * 50_000, b'{"outPath":"x"}', b'{"outPath":1}'])
def test_a_malformed_realisation_is_refused(caches: RunningServer, body: bytes) -> None:
    assert caches.ask("PUT", f"/open/build-trace-v2/{DERIVATION}/bad.doi", body).status == 400
