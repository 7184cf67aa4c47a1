"""Pushes: of a new closure beside `nix copy`, of its rebuild, and of what is there already; and what they leave."""

import contextlib
import sqlite3
import subprocess
from pathlib import Path

from backports import zstd

from bench.comparators import NIX_COPY_PARAMETERS, folder_bytes, read_closure
from bench.corpora import Corpus, bench_folder, make_chain_corpus, make_rebuild_corpus
from bench.processes import Finished, peak_memory_bytes
from bench.rounds import Series, interleave
from bench.server import IcehouseServer, Pushed
from bench.table import Row, amount, at_most, compared, measured

ZSTD_LEVEL = 3
_BYTES_PER_PATH = 2_000
_BYTES_PER_CHUNK = 100


def measure_pushes(rounds: int) -> list[Row]:
    """Times and bytes of first pushes and rebuilds, each pair to a fresh server."""
    corpus = make_rebuild_corpus(bench_folder())
    firsts: list[Pushed] = []
    seconds: list[Pushed] = []
    peaks: list[float] = []

    def push_both() -> float:
        with IcehouseServer(bench_folder() / "server") as server:
            read_closure(corpus)
            firsts.append(server.push(corpus.store, *corpus.first_roots))
            seconds.append(server.push(corpus.store, *corpus.second_roots))
            peaks.append(peak_memory_bytes(server.pid))
        return firsts[-1].seconds

    copies: list[Finished] = []

    def copy() -> float:
        folder = bench_folder() / "scratch-cache"
        read_closure(corpus)
        copies.append(corpus.store.copy_to_file_cache(corpus.first_roots, folder, NIX_COPY_PARAMETERS))
        return copies[-1].seconds

    found = {
        name: Series(values) for name, values in interleave({"push": push_both, "copy": copy}, rounds=rounds).items()
    }
    del firsts[0], seconds[0], copies[0]  # the round that warms up
    theirs = Series([done.cpu_seconds for done in copies])
    cpu = Series([push.client_cpu_seconds + push.server_cpu_seconds for push in firsts])
    first, second = firsts[-1].summary, seconds[-1].summary
    return [
        compared("push of a new closure, of `nix copy`", found["push"], found["copy"], "s", at_most(1.2)),
        compared("its processor time, of `nix copy`'s", cpu, theirs, "s"),
        measured("… of which the client's", Series([push.client_cpu_seconds for push in firsts]).median, "s"),
        measured("… of which the server's", Series([push.server_cpu_seconds for push in firsts]).median, "s"),
        compared(
            "push of the rebuild, of the first push",
            Series([push.seconds for push in seconds]),
            Series([push.seconds for push in firsts]),
            "s",
            at_most(0.5),
        ),
        _share("… bytes sent, of the first's", second["sent_bytes"], first["sent_bytes"]),
        _share("… bytes stored, of the first's", second["stored_bytes"], first["stored_bytes"]),
        measured("peak memory of the client, first push", max(push.client_peak_bytes for push in firsts), "B"),
        measured("peak memory of the server, both pushes", max(peaks), "B"),
        *_measure_sizes(corpus),
        *_measure_repeated(),
    ]


def _share(title: str, ours: float, theirs: float) -> Row:
    goal = at_most(0.01, "1 %")
    ratio = ours / theirs
    return Row(title, amount(ours, "B"), amount(theirs, "B"), f"{ratio:.2%}", goal.text, goal.is_met(ratio))


def _measure_sizes(corpus: Corpus) -> list[Row]:
    """What a first push leaves on the disk."""
    with IcehouseServer(bench_folder() / "server") as server:
        empty_bytes = database_bytes(server.database)
        server.push(corpus.store, *corpus.first_roots)
        data = server.data
    pack_bytes = folder_bytes(data / "packs")
    nar_bytes = compressed_nar_bytes(corpus)
    used = database_bytes(data / "icehouse.db") - empty_bytes + folder_bytes(data / "journal")
    with contextlib.closing(sqlite3.connect(data / "icehouse.db")) as database:
        paths, chunks = (database.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in ("path", "chunk"))  # noqa: S608  two names
    allowed = _BYTES_PER_PATH * paths + _BYTES_PER_CHUNK * chunks
    goal = at_most(1.1)
    ratio = pack_bytes / nar_bytes
    title = f"packs after the first push, of whole NARs at zstd {ZSTD_LEVEL}"
    packs = Row(title, amount(pack_bytes, "B"), amount(nar_bytes, "B"), f"{ratio:.3f}", goal.text, goal.is_met(ratio))
    title = f"database and journal beside, {paths} paths and {chunks:,} chunks"
    return [packs, measured(title, used, "B", at_most(allowed, amount(allowed, "B")))]


def database_bytes(database: Path) -> int:
    """The size of a database once its log is written back, without its free pages."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        pages, free, size = (
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
    return (pages - free) * size


def compressed_nar_bytes(corpus: Corpus) -> int:
    """The first half's NARs, each distinct one compressed whole by the same libzstd at the same level."""
    nars = {fact.nar_hash: fact.path for fact in corpus.store.closure(*corpus.first_roots)}
    total = 0
    for path in nars.values():
        command = ["nix-store", "--dump", str(corpus.store.physical(path))]
        nar = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
        total += len(zstd.compress(nar, level=ZSTD_LEVEL))
    return total


def _measure_repeated() -> list[Row]:
    """A push of 200 paths that are all there."""
    corpus = make_chain_corpus(bench_folder())
    with IcehouseServer(bench_folder() / "server") as server:
        first = server.push(corpus.store, *corpus.first_roots)
        again = server.push(corpus.store, *corpus.first_roots)
    summary = again.summary
    sent = summary["new_bytes"] + summary["stored_bytes"] + summary["paths_pushed"]
    return [
        measured("push of 200 paths", first.seconds, "s"),
        measured("the same again", again.seconds, "s", at_most(2, "2 s")),
        measured("… chunks and paths sent", sent, "", at_most(0, "0")),
    ]
