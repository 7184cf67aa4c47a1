"""The lifecycle with a million paths: a plan, pins, telling why, and serving while a collection runs."""

import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from functools import partial
from statistics import median

import msgspec

from bench.load import measure_requests
from bench.million import SHARES, Million, make_million
from bench.processes import run_measured
from bench.rounds import Series
from bench.server import CACHE, ICEHOUSE, IcehouseServer
from bench.table import Row, at_least, at_most, compared, measured
from icehouse.rules.audit import Actor
from icehouse.services.collection_run import RunRequest

PATHS = int(os.environ.get("ICEHOUSE_BENCH_PATHS", "1000000"))
_ASKED = 50
_CONNECTIONS = 16
_SECONDS = 3
_PAIRS_A_ROUND = 8


def measure_lifecycle(rounds: int) -> list[Row]:
    """All of it; the database is made once and kept."""
    million = make_million(PATHS)
    million.undo_collection()
    rows = _measure_plan(million)
    with IcehouseServer(million.data, keeps_data=True) as server:
        rows += _measure_pins(server, million)
        rows += _measure_why(server, million)
        rows += _measure_serving(server, million, rounds)
    million.undo_collection()
    return rows


def _measure_plan(million: Million) -> list[Row]:
    command = [ICEHOUSE, "gc", "--dry-run", "--json", "--quiet", "--data-dir", million.data]
    done = run_measured(command, os.environ)
    report = json.loads(done.output)["report"]
    hidden = sum(len(mark["hidden"]) for mark in report["marks"])
    before = sum(mark["stored_bytes_before"] for mark in report["marks"])
    after = sum(mark["stored_bytes_after"] for mark in report["marks"])
    assert hidden > PATHS * 0.02, "the budget evicts next to nothing"
    return [
        measured(
            f"plan of a collection, {PATHS:,} paths in {len(SHARES)} caches", done.seconds, "s", at_most(60, "60 s")
        ),
        measured("… its processor time", done.cpu_seconds, "s"),
        measured("… its peak memory", done.peak_bytes, "B", at_most(1e9, "1 GB")),
        measured("… paths that would go", hidden, ""),
        measured("… of stored bytes, in a thousand", 1000 * (before - after) / before, ""),
    ]


def _measure_pins(server: IcehouseServer, million: Million) -> list[Row]:
    """A new pin, its next revision, and its end, on paths whose closures have hundreds of paths."""
    source = random.Random(1)

    def pin(hash_part: str, number: int) -> None:
        server.call("PUT", f"/api/v1/caches/{CACHE}/pins/bench-{number}", {"store_path": hash_part})

    seconds = [
        _time(partial(pin, source.choice(million.unpinned), number)) for number in range(_ASKED // 2) for _ in range(2)
    ]
    for number in range(_ASKED // 2):
        server.call("DELETE", f"/api/v1/caches/{CACHE}/pins/bench-{number}")
    return _latencies("pin", seconds)


def _measure_why(server: IcehouseServer, million: Million) -> list[Row]:
    source = random.Random(2)
    rows: list[Row] = []
    for title, chosen in (
        ("path why, pinned", million.pinned),
        ("path why, maybe kept", million.recent),
        ("path why, never pushed", ["0" * 32]),
    ):
        asked = [source.choice(chosen) for _ in range(_ASKED)]
        rows += _latencies(
            title, [_time(lambda part=part: server.call("GET", f"/api/v1/caches/{CACHE}/why/{part}")) for part in asked]
        )
    return rows


def _latencies(title: str, seconds: list[float]) -> list[Row]:
    return [
        measured(f"{title}, median of {len(seconds)}", median(seconds), "s", at_most(0.1, "100 ms")),
        measured("… the slowest", max(seconds), "s"),
    ]


def _time(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _measure_serving(server: IcehouseServer, million: Million, rounds: int) -> list[Row]:
    """Narinfos while a collection runs and while it is held up, in turn; the server would start it just so."""
    paths = [f"/{hash_part}.narinfo" for hash_part in million.recent]

    def rate() -> float:
        return measure_requests(server.cache_url, paths, connections=_CONNECTIONS, seconds=_SECONDS, seed=1).per_second

    rate()
    with_it: list[float] = []
    without: list[float] = []
    while len(with_it) < rounds * _PAIRS_A_ROUND:
        million.undo_collection()
        with _collection(million) as process:
            while process.poll() is None and len(with_it) < rounds * _PAIRS_A_ROUND:
                process.send_signal(signal.SIGSTOP)
                quiet = rate()
                process.send_signal(signal.SIGCONT)
                busy = rate()
                if process.poll() is None:
                    without.append(quiet)
                    with_it.append(busy)
    title = "narinfos while a collection runs, of those without"
    return [compared(title, Series(with_it), Series(without), "/s", at_least(0.8))]


@contextlib.contextmanager
def _collection(million: Million) -> Generator[subprocess.Popen[bytes]]:
    request = msgspec.json.encode(RunRequest(cache_name=None, is_dry_run=False, actor=Actor("bench"))).decode()
    command = [sys.executable, "-m", "icehouse.cli.collection_child", str(million.data), "warning", "json", request]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield process
        if process.poll():
            raise RuntimeError(f"the collection ended with {process.returncode}")
    finally:
        process.kill()  # which is safe at any time, and leaves the lease until it ends by itself
        process.wait()
        with contextlib.closing(sqlite3.connect(million.data / "icehouse.db", isolation_level=None)) as database:
            database.execute("DELETE FROM lease")
