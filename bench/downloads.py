"""Downloads of NARs of 200 MB, beside nginx with sendfile serving the same bytes."""

import hashlib
import shutil
import urllib.request
from collections.abc import Callable
from pathlib import Path

from bench.corpora import bench_folder, make_large_corpus, make_plain_corpus
from bench.load import measure_download
from bench.nginx import Nginx
from bench.processes import Served, cpu_seconds, peak_memory_bytes, reset_peak_memory
from bench.rounds import Series, interleave
from bench.server import IcehouseServer
from bench.table import Row, at_least, at_most, compared, measured
from icehouse.nix.narinfo import NarInfo, parse_narinfo

SERVER_PEAK_BYTES = 300_000_000
_BLOCK_BYTES = 1 << 20
_DOWNLOADS_OF_ONE = 8
"""A single download takes a tenth of a second, which says little."""


def measure_downloads(rounds: int) -> list[Row]:
    """One plain NAR, and one of which the frames hold the hashes of another build, over 1 and 16 connections."""
    large, plain = make_large_corpus(bench_folder()), make_plain_corpus(bench_folder())
    folder = bench_folder() / "downloads"
    rows: list[Row] = []
    with IcehouseServer(bench_folder() / "server") as ours, Nginx(folder, bench_folder() / "nginx") as theirs:
        for roots, corpus in ((plain.first_roots, plain), (large.first_roots, large), (large.second_roots, large)):
            ours.push(corpus.store, *roots)
        shutil.rmtree(folder, ignore_errors=True)
        names = {
            "plain": fetch_nar(ours, plain.first_roots[0], folder),
            "rebuilt": fetch_nar(ours, large.second_roots[0], folder),
        }
        reset_peak_memory(ours.pid)
        for title, name in names.items():
            for connections in (1, 16):
                for discard in (False, True):
                    found = interleave(
                        {
                            url: _downloads(pid, f"{url}/{name}", connections, discard=discard)
                            for pid, url in ((ours.pid, ours.cache_url), (theirs.pid, theirs.url))
                        },
                        rounds=rounds,
                    )
                    mine, its = (Series([served.per_second for served in values]) for values in found.values())
                    my_cost, its_cost = (Series([served.cpu_seconds for served in values]) for values in found.values())
                    what = f"download of a {title} NAR over {connections}"
                    if discard:
                        rows.append(compared(f"{what}, discarded unread", mine, its, "B/s"))
                    else:
                        rows.append(compared(what, mine, its, "B/s", at_least(0.9)))
                        rows.append(compared("… processor time of the server for each", my_cost, its_cost, "s"))
        peak = peak_memory_bytes(ours.pid)
    goal = at_most(SERVER_PEAK_BYTES, "300 MB")
    return [*rows, measured("peak memory of the server, downloads", peak, "B", goal)]


def fetch_nar(server: IcehouseServer, root: str, folder: Path) -> str:
    """Download the NAR of a store path, checked, to where nginx would serve it from; its URL in the cache."""
    info = find_narinfo(server, root)
    target = folder / info.url
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with (
        urllib.request.urlopen(f"{server.cache_url}/{info.url}", timeout=60) as answer,  # noqa: S310  our own server
        target.open("wb") as file,
    ):
        while block := answer.read(_BLOCK_BYTES):
            digest.update(block)
            file.write(block)
    if info.file_hash is None or digest.digest() != info.file_hash.digest:
        raise RuntimeError(f"{info.url}: what the server sent is not what its narinfo says")
    return info.url


def find_narinfo(server: IcehouseServer, path: str) -> NarInfo:
    """What the server says of a store path."""
    return parse_narinfo(server.read(f"{path.rpartition('/')[2][:32]}.narinfo"))


def _downloads(pid: int, url: str, connections: int, *, discard: bool) -> Callable[[], Served]:
    """Bytes a second, from the server that is process *pid*."""
    times = _DOWNLOADS_OF_ONE if connections == 1 else 1

    def measure() -> Served:
        before = cpu_seconds(pid)
        speeds = [measure_download(url, connections=connections, discard=discard) for _ in range(times)]
        cost = (cpu_seconds(pid) - before) / (times * connections)
        return Served(times / sum(1 / speed for speed in speeds), cost)

    return measure
