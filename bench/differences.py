"""How long the server takes to compare two closures of ten thousand paths, and whether others wait for that."""

import contextlib
import http.client
import random
import sqlite3
import threading
import time
import urllib.parse
from array import array
from collections.abc import Generator, Sequence
from http import HTTPStatus
from statistics import median

from bench.corpora import bench_folder
from bench.processes import cpu_seconds, peak_memory_bytes, reset_peak_memory
from bench.server import CACHE, IcehouseServer
from bench.table import Row, at_most, measured
from icehouse.nix import nix32
from icehouse.rules.recipes import Recipe, Run, render_recipe

_PATHS = 10_000
_COMMON = 0.2
_REBUILT = 0.7  # the rest has another version
_REFERENCES = 8
_GOAL_SECONDS = 2.0


def measure_differences(rounds: int) -> list[Row]:
    """Compare two closures, *rounds* times by the API and by the page, while narinfos are asked for."""
    with IcehouseServer(bench_folder() / "differences") as server:
        before, after = _fill(server)
        query = urllib.parse.urlencode({"from": before, "to": after})
        rows: list[Row] = []
        quiet = _ask_for_a_while(server, after, seconds=1.0)
        rows.append(measured("a narinfo, nothing else asked for, median", median(quiet), "s"))
        rows.append(measured("… the slowest", max(quiet), "s"))
        reset_peak_memory(server.pid)
        for what, path in (
            ("JSON", f"/api/v1/caches/{CACHE}/difference?{query}"),
            ("page", f"/ui/caches/{CACHE}/compare?{query}"),
        ):
            used = cpu_seconds(server.pid)
            with _asking(server, after) as waited:
                seconds = [_get(server, path) for _ in range(rounds)]
            used = (cpu_seconds(server.pid) - used) / rounds
            title = f"two closures of {_PATHS} paths compared, {what}, median"
            rows.append(measured(title, median(seconds), "s", at_most(_GOAL_SECONDS, "2 s")))
            rows.append(measured("… processor time, that of the narinfos too", used, "s"))
            rows.append(measured("… a narinfo meanwhile, median", median(waited), "s"))
            rows.append(measured("… the slowest", max(waited), "s"))
        rows.append(measured("peak memory of the server, differences", peak_memory_bytes(server.pid), "B"))
    return rows


def _fill(server: IcehouseServer) -> tuple[str, str]:
    """Put rows of two closures into the cache; the hash parts of their roots."""
    source = random.Random("differences")
    with contextlib.closing(sqlite3.connect(server.database, timeout=30)) as database:
        cache_id, domain_id = database.execute("SELECT id, domain_id FROM cache WHERE name = ?", [CACHE]).fetchone()
        common = round(_PATHS * _COMMON)
        one = [_name(source, number, 1) for number in range(_PATHS)]
        other = one[:common] + [
            _name(source, number, 1 if number < _PATHS * (_COMMON + _REBUILT) else 2)
            for number in range(common, _PATHS)
        ]
        needed = [
            sorted({number - 1, *(source.randrange(number) for _ in range(_REFERENCES))}) if number else []
            for number in range(_PATHS)
        ]
        for first, names in ((0, one), (common, other)):
            for number in range(first, _PATHS):
                _insert(database, source, cache_id, domain_id, number, names, needed[number])
        database.commit()
    return one[-1][:32], other[-1][:32]


def _name(source: random.Random, number: int, version: int) -> str:
    return f"{nix32.encode(source.randbytes(20))}-package-p{number}-{version}.0"


def _insert(
    database: sqlite3.Connection,
    source: random.Random,
    cache_id: int,
    domain_id: int,
    number: int,
    names: Sequence[str],
    needed: Sequence[int],
) -> None:
    digest = source.randbytes(32)
    letters = nix32.encode(digest)
    size = 10_000 + number * 100 + (7 if names[number].endswith("-2.0") else 0)
    values = (domain_id, digest, size, digest, size, 1)
    nar_id = database.execute(
        "INSERT INTO nar (domain_id, nar_hash, nar_size, file_hash, file_size, created_at) VALUES (?, ?, ?, ?, ?, ?)",
        values,
    ).lastrowid
    hashes = tuple(names[each][:32].encode() for each in needed)
    recipe = Recipe((Run(1 + number * 4, 3),), hashes, array("L", range(len(hashes))))
    database.execute("INSERT INTO recipe (nar_id, body) VALUES (?, ?)", (nar_id, render_recipe(recipe)))
    references = " ".join(sorted(names[each] for each in needed))
    part, _, name = names[number].partition("-")
    database.execute(
        'INSERT INTO path (cache_id, hash_part, name, nar_id, nar_hash, nar_size, file_hash, file_size, "references", '
        "signatures, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, '', 1)",
        (cache_id, part, name, nar_id, letters, size, letters, size, references),
    )


@contextlib.contextmanager
def _asking(server: IcehouseServer, hash_part: str) -> Generator[list[float]]:
    """Ask for a narinfo again and again; how long each took."""
    waited: list[float] = []
    is_done = threading.Event()
    thread = threading.Thread(target=lambda: waited.extend(_ask(server, hash_part, is_done)))
    thread.start()
    try:
        yield waited
    finally:
        is_done.set()
        thread.join()


def _ask_for_a_while(server: IcehouseServer, hash_part: str, *, seconds: float) -> list[float]:
    with _asking(server, hash_part) as waited:
        time.sleep(seconds)
    return waited


def _ask(server: IcehouseServer, hash_part: str, is_done: threading.Event) -> Generator[float]:
    with contextlib.closing(http.client.HTTPConnection(*_address(server))) as connection:
        while not is_done.wait(0.001):
            started = time.perf_counter()
            connection.request("GET", f"/{CACHE}/{hash_part}.narinfo")
            connection.getresponse().read()
            yield time.perf_counter() - started


def _get(server: IcehouseServer, path: str) -> float:
    with contextlib.closing(http.client.HTTPConnection(*_address(server))) as connection:
        started = time.perf_counter()
        connection.request("GET", path, headers={"Accept": "text/html"})
        answer = connection.getresponse()
        answer.read()
        seconds = time.perf_counter() - started
    if answer.status != HTTPStatus.OK:
        raise RuntimeError(f"{path}: status {answer.status}")
    return seconds


def _address(server: IcehouseServer) -> tuple[str, int]:
    address = urllib.parse.urlsplit(server.url)
    return address.hostname or "", address.port or 0
