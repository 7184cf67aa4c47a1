"""A NAR of 4 GiB: pushed and served in bounded memory."""

import hashlib
import time
import urllib.request

from backports import zstd

from bench.corpora import bench_folder, make_huge_corpus
from bench.downloads import SERVER_PEAK_BYTES, find_narinfo
from bench.processes import peak_memory_bytes, reset_peak_memory
from bench.server import IcehouseServer
from bench.table import Row, at_most, measured

_BLOCK_BYTES = 1 << 20


def measure_memory(_rounds: int) -> list[Row]:
    """Once: what it takes does not vary much, and it takes minutes."""
    corpus = make_huge_corpus(bench_folder())
    (root,) = corpus.first_roots
    goal = at_most(SERVER_PEAK_BYTES, "300 MB")
    with IcehouseServer(bench_folder() / "server") as server:
        reset_peak_memory(server.pid)
        pushed = server.push(corpus.store, root)
        push_peak = peak_memory_bytes(server.pid)
        reset_peak_memory(server.pid)
        info = find_narinfo(server, root)
        decompressor = zstd.ZstdDecompressor()
        digest = hashlib.sha256()
        size = 0
        started = time.perf_counter()
        with urllib.request.urlopen(f"{server.cache_url}/{info.url}", timeout=60) as answer:  # noqa: S310  our own server
            while block := answer.read(_BLOCK_BYTES):
                while block:
                    data = decompressor.decompress(block)
                    digest.update(data)
                    size += len(data)
                    block = b""
                    if decompressor.eof:
                        block, decompressor = decompressor.unused_data, zstd.ZstdDecompressor()
        seconds = time.perf_counter() - started
        serve_peak = peak_memory_bytes(server.pid)
    if digest.digest() != info.nar_hash:
        raise RuntimeError(f"{root} came back with other contents")
    return [
        measured("NAR of 4 GiB", size, "B"),
        measured("… pushed in", pushed.seconds, "s"),
        measured("… peak memory of the server, push", push_peak, "B", goal),
        measured("… peak memory of the client", pushed.client_peak_bytes, "B", goal),
        measured("… downloaded, decompressed and hashed in", seconds, "s"),
        measured("… peak memory of the server, download", serve_peak, "B", goal),
    ]
