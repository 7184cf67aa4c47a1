"""Raw HTTP at all files of a cache: no error of ours, no hang, bounded memory, nothing visible that is not whole."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest

from icehouse.nix.compression import MAGIC_BYTES, Compression, find_compression, parse_compression
from icehouse.nix.decompress import Decompressor
from icehouse.nix.nar_read import NarReader
from icehouse.nix.narinfo import parse_narinfo
from tests.fuzz.corpus import keep, kept_files
from tests.fuzz.requests import CACHE, File, Request, make_request, send, stock
from tests.fuzz.watching import check_health, peak_bytes
from tests.http.running import RunningServer, run_server

SEED = 1
MAX_NAR_BYTES = 64 * 1024 * 1024


def decode(compression: Compression, data: bytes) -> bytes:
    decompressor = Decompressor(compression, max_bytes=MAX_NAR_BYTES)
    decoded = b"".join(decompressor.feed(data))
    decompressor.finish()
    return decoded


def check_that_what_is_visible_is_whole(server: RunningServer, files: list[File]) -> int:
    """Give the number of paths that are visible."""
    visible: set[str] = set()
    referred: set[str] = set()
    for target in sorted({file.target.decode() for file in files}):
        answer = server.ask("GET", target)
        if target.endswith(".narinfo") and answer.status == 200:
            info = parse_narinfo(answer.body)
            file = server.ask("GET", f"/{CACHE}/{info.url}")
            assert (file.status, len(file.body)) == (200, info.file_size)
            nar = decode(parse_compression(info.compression), file.body)
            assert (hashlib.sha256(nar).digest(), len(nar)) == (info.nar_hash, info.nar_size)
            visible.add(info.store_path.base_name)
            referred |= {reference.base_name for reference in info.references}
        elif target.startswith(f"/{CACHE}/nar/") and answer.status == 200:
            reader = NarReader()
            reader.feed(decode(find_compression(target, answer.body[:MAGIC_BYTES]), answer.body))
            reader.finish()
    assert referred <= visible
    return len(visible)


def try_request(server: RunningServer, request: Request) -> int:
    """Give the status. A request that gets an error of ours, or no answer, is kept."""
    try:
        status = send(server.port, request).status
        # Who stopped sending in the middle has left, for the server; only its log tells then if it was at fault.
        assert 0 < status < 500 or not request.is_framed
    except (AssertionError, TimeoutError):
        keep("http", request.data)
        raise
    return status


def fuzz(server: RunningServer, seed: int, count: int) -> None:
    chooser = random.Random(seed)
    files = stock()
    statuses: dict[int, int] = {}
    for _ in range(count):
        status = try_request(server, make_request(chooser, files, server.token))
        statuses[status] = statuses.get(status, 0) + 1
    visible = check_that_what_is_visible_is_whole(server, files)
    assert visible
    print(  # noqa: T201  for the record of a campaign
        f"seed {seed}: {count} requests, statuses {dict(sorted(statuses.items()))}, {visible} paths visible, "
        f"{peak_bytes(server) / 1024**2:.0f} MiB at the peak"
    )


def send_kept(server: RunningServer) -> None:
    for path in kept_files("http"):
        data = path.read_bytes()
        method, target, _ = data.split(b" ", 2)
        try_request(server, Request(method.decode(), target, data, is_framed=False))


@pytest.mark.parametrize(
    ("seed", "count"),
    [(SEED, 500), *(pytest.param(seed, 40_000, marks=pytest.mark.long) for seed in (2, 3))],
)
def test_no_request_breaks_the_server_or_what_it_shows(tmp_path: Path, seed: int, count: int) -> None:
    with run_server(tmp_path / "data") as server:
        server.create_cache(CACHE)
        send_kept(server)
        fuzz(server, seed, count)
        check_health(server)
