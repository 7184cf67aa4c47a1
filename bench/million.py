"""A server's database with a million paths: rows as pushes of many years would leave them, over a few real NARs."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import random
import sqlite3
import sys
import time
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.corpora import bench_folder
from bench.server import CACHE, IcehouseServer
from icehouse.nix import nix32
from icehouse.nix.nar_write import Regular, write_nar
from icehouse.rules.recipes import Recipe, Run, render_recipe

SHARES: Final = {CACHE: 0.5, "tools": 0.3, "team": 0.2}
"""How the paths are spread over the caches; the last one is private, and has a domain of its own."""

WAVE_PATHS: Final = 400
"""One build of everything: its paths refer to each other, and to what was built once for all."""

_MADE_BY: Final = 3  # counts changes of what is made
_DAY: Final = 86_400
_DAYS: Final = 400
_BASE_PATHS: Final = 200
_WIDE_EVERY: Final = 10  # waves; the last path of these refers to a thousand others
_WIDE_REFERENCES: Final = 1_000
_PINS: Final = 100
_REVISIONS: Final = 5
_REAL_NARS: Final = 8
_REAL_BYTES: Final = 200_000
_PACK_CHUNKS: Final = 100
_PATH_COLUMNS: Final = (
    "id cache_id hash_part name nar_id nar_hash nar_size file_hash file_size references deriver system signatures "
    "created_at generation"
)
_KEPT: Final = 0.9  # of its size: the budget of each cache


@dataclass(frozen=True, slots=True)
class Million:
    """The data folder, and what there is to ask about."""

    data: Path
    now: int
    """When it was made: the newest path was pushed a minute before."""
    recent: list[str]
    """Hash parts of paths of the first cache that no collection of now evicts."""
    pinned: list[str]
    """Of paths of the first cache that pins name."""
    unpinned: list[str]
    """Of paths of the first cache that no pin keeps."""

    def undo_collection(self) -> None:
        """Undo a collection, so that the next one has the same to do."""
        with contextlib.closing(sqlite3.connect(self.data / "icehouse.db", isolation_level=None)) as database:
            database.execute("UPDATE path SET hidden_at = NULL, hidden_because = NULL WHERE hidden_at IS NOT NULL")
            database.execute("DELETE FROM collection")


@dataclass(slots=True)
class _Rows:
    """Rows that are to be inserted."""

    nars: list[tuple[object, ...]] = field(default_factory=list[tuple[object, ...]])
    recipes: list[tuple[object, ...]] = field(default_factory=list[tuple[object, ...]])
    paths: list[tuple[object, ...]] = field(default_factory=list[tuple[object, ...]])
    chunks: list[tuple[object, ...]] = field(default_factory=list[tuple[object, ...]])
    packs: list[tuple[object, ...]] = field(default_factory=list[tuple[object, ...]])
    uses: list[tuple[object, ...]] = field(default_factory=list[tuple[object, ...]])

    def insert(self, database: sqlite3.Connection) -> None:
        for table, names, rows in (
            ("pack", "id domain_id name size_bytes created_at", self.packs),
            ("chunk", "number domain_id identity pack_id pack_offset stored_bytes raw_bytes", self.chunks),
            ("nar", "id domain_id nar_hash nar_size file_hash file_size created_at", self.nars),
            ("recipe", "nar_id body", self.recipes),
            ("path", _PATH_COLUMNS, self.paths),
            ("access.path_access", "path_id last_used_at uses", self.uses),
        ):
            columns = names.split()
            values = ", ".join("?" * len(columns))
            quoted = ", ".join(f'"{column}"' for column in columns)
            database.executemany(f"INSERT INTO {table} ({quoted}) VALUES ({values})", rows)  # noqa: S608  our own names
            rows.clear()


@dataclass(slots=True)
class _Cache:
    """A cache while it is filled."""

    id: int
    domain_id: int
    paths: int
    base: list[str] = field(default_factory=list[str])
    """Base names of what all others are built with."""
    last_wave: list[_Built] = field(default_factory=list["_Built"])
    tops: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])
    """The last path of each wave: id and base name."""
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class _Built:
    """A path, with what the next build of the same package may share."""

    base_name: str
    runs: tuple[Run, ...]
    stored_bytes: int


def make_million(count: int) -> Million:
    """The folder with *count* paths in the bench folder, made unless it is there: that takes some minutes."""
    data = bench_folder() / f"lifecycle-{count}"
    marker = data / "made.json"
    if marker.exists():
        made = json.loads(marker.read_text())
        if made["made_by"] == _MADE_BY:
            with IcehouseServer(data, keeps_data=True):
                pass  # Its start brings the database to the present schema.
            return Million(data, made["now"], made["recent"], made["pinned"], made["unpinned"])
    print(f"bench: making a database of {count:,} paths", file=sys.stderr, flush=True)
    with IcehouseServer(data) as server:
        for name in SHARES:
            if name != CACHE:
                server.call("POST", "/api/v1/caches", {"name": name, "is_public": name != "team", "upstreams": []})
        for seed in range(_REAL_NARS):
            _upload(server, random.Random(seed).randbytes(_REAL_BYTES))
    filler = _Filler(data, int(time.time()))
    try:
        million = filler.fill(count)
    finally:
        filler.close()
    lists = {"recent": million.recent, "pinned": million.pinned, "unpinned": million.unpinned}
    marker.write_text(json.dumps({"made_by": _MADE_BY, "now": million.now} | lists))
    return million


def _upload(server: IcehouseServer, contents: bytes) -> None:
    """Push one file as stock Nix does."""
    nar = b"".join(write_nar(Regular(contents)))
    nar_hash = nix32.encode(hashlib.sha256(nar).digest())
    server.call("PUT", f"/{CACHE}/nar/{nar_hash}.nar", nar)
    name = f"{nix32.encode(hashlib.sha256(contents).digest()[:20])}-real"
    lines = {
        "StorePath": f"/nix/store/{name}",
        "URL": f"nar/{nar_hash}.nar",
        "Compression": "none",
        "FileHash": f"sha256:{nar_hash}",
        "FileSize": str(len(nar)),
        "NarHash": f"sha256:{nar_hash}",
        "NarSize": str(len(nar)),
        "References": "",
    }
    text = "".join(f"{key}: {value}\n" for key, value in lines.items())
    server.call("PUT", f"/{CACHE}/{name[:32]}.narinfo", text.encode())


class _Filler:
    """Adds rows to a database that no server uses. Numbers of rows go on where those of the real NARs end."""

    def __init__(self, data: Path, now: int) -> None:
        self._data = data
        self._now = now
        self._source = random.Random(1)
        self._rows = _Rows()
        self._database = sqlite3.connect(data / "icehouse.db", isolation_level=None)
        self._database.execute("PRAGMA synchronous = OFF")
        self._database.execute("PRAGMA cache_size = -500000")
        self._database.execute("ATTACH ? AS access", (str(data / "access.db"),))
        self._path, self._nar, self._pack = (self._last(table, "id") for table in ("path", "nar", "pack"))
        self._chunk = self._last("chunk", "number")
        self._real_nars = self._nar
        self._pack_left = 0

    def _last(self, table: str, column: str) -> int:
        return int(self._database.execute(f"SELECT coalesce(max({column}), 0) FROM {table}").fetchone()[0])  # noqa: S608

    def fill(self, count: int) -> Million:
        """Add that many paths, pins on some, and budgets."""
        caches: dict[str, _Cache] = {}
        for name, share in SHARES.items():
            found = self._database.execute("SELECT id, domain_id FROM cache WHERE name = ?", (name,)).fetchone()
            caches[name] = _Cache(found[0], found[1], int(count * share))
        recent: list[str] = []
        for cache in caches.values():
            recent += self._fill_cache(cache)
        pinned = {name: self._pin(cache) for name, cache in caches.items()}
        for cache in caches.values():
            self._database.execute(
                "UPDATE cache SET budget_bytes = ?, stored_bytes = ?, generation = ? WHERE id = ?",
                (int(cache.size_bytes * _KEPT), cache.size_bytes, cache.paths, cache.id),
            )
        first = caches[CACHE]
        unpinned = [name[:32] for _, name in first.tops if name[:32] not in set(pinned[CACHE])]
        many = int(first.paths * 0.2)
        return Million(self._data, self._now, recent[many // 2 : many], pinned[CACHE], unpinned[-len(unpinned) // 5 :])

    def close(self) -> None:
        """Let go of the database."""
        self._database.close()

    def _fill_cache(self, cache: _Cache) -> list[str]:
        """Add its paths; the hash parts of the newest fifth."""
        waves = -(-cache.paths // WAVE_PATHS)
        recent: list[str] = []
        self._pack_left = 0
        for wave in range(waves):
            size = min(WAVE_PATHS, cache.paths - wave * WAVE_PATHS)
            names = self._add_wave(cache, wave, size, self._now - 60 - (waves - 1 - wave) * _DAYS * _DAY // waves)
            self._database.execute("BEGIN")
            self._rows.insert(self._database)
            self._database.execute("COMMIT")
            if wave >= waves * 0.8:
                recent += [name[:32] for name in names]
        return recent

    def _add_wave(self, cache: _Cache, wave: int, size: int, created_at: int) -> list[str]:
        """One build of everything; base names in the order of building."""
        names: list[str] = []
        built: list[_Built] = []
        for index in range(size):
            name = f"{nix32.encode(self._source.randbytes(20))}-package-{index}-{wave}.{self._source.randrange(100)}"
            is_wide = index == size - 1 and wave % _WIDE_EVERY == 0
            if cache.last_wave and self._source.random() < 0.6:  # as before, but for store hashes
                before = cache.last_wave[index]
                this = _Built(name, before.runs, before.stored_bytes)
            else:
                count = self._source.choice((1, 1, 1, 1, 2, 2, 3, 20))
                stored_bytes = sum(self._add_chunk(cache, created_at) for _ in range(count))
                this = _Built(name, (Run(self._chunk - count + 1, count),), stored_bytes)
                cache.size_bytes += stored_bytes
            self._add_path(cache, this, self._choose_references(cache, names, is_wide=is_wide), created_at, wave)
            names.append(name)
            built.append(this)
        cache.last_wave = built
        cache.tops.append((self._path, names[-1]))
        cache.base = cache.base or names[:_BASE_PATHS]
        return names

    def _choose_references(self, cache: _Cache, names: list[str], *, is_wide: bool) -> Iterable[str]:
        """Some of what was built shortly before, so that closures are deep; and of what all are built with."""
        if is_wide:
            return {*names, *(built.base_name for built in cache.last_wave), *cache.base}
        near = names[-40:]
        found = set(self._source.sample(near, min(len(near), self._source.randint(3, 8))))
        if cache.base:
            chosen = (int(len(cache.base) * self._source.random() ** 3) for _ in range(self._source.randint(1, 4)))
            found.update(cache.base[place] for place in chosen)
        return found

    def _add_chunk(self, cache: _Cache, created_at: int) -> int:
        """Add a chunk to the last pack, or to a new one; its stored bytes."""
        packs = self._rows.packs
        if not self._pack_left or not packs:
            self._pack += 1
            self._pack_left = _PACK_CHUNKS
            packs.append((self._pack, cache.domain_id, self._source.randbytes(32), 0, created_at))
        offset = packs[-1][3]
        assert isinstance(offset, int)
        self._chunk += 1
        self._pack_left -= 1
        size = self._source.randrange(2_000, 200_000)
        identity = self._source.randbytes(32)
        self._rows.chunks.append((self._chunk, cache.domain_id, identity, self._pack, offset, size, size * 3))
        packs[-1] = (*packs[-1][:3], offset + size, created_at)
        return size

    def _add_path(self, cache: _Cache, built: _Built, references: Iterable[str], created_at: int, wave: int) -> None:
        self._path += 1
        digest = self._source.randbytes(32)
        text, size = nix32.encode(digest), built.stored_bytes * 3
        if cache.id == 1 and self._path % 50 == 0:
            nar_id = self._source.randint(1, self._real_nars)
        else:
            self._nar += 1
            nar_id = self._nar
            self._rows.nars.append((nar_id, cache.domain_id, digest, size, digest, built.stored_bytes, created_at))
            self._rows.recipes.append((nar_id, render_recipe(Recipe(built.runs, (), array("L")))))
        hash_part, _, name = built.base_name.partition("-")
        signature = base64.b64encode(digest * 2).decode()
        self._rows.paths.append(
            (
                *(self._path, cache.id, hash_part, name, nar_id, text, size, text, built.stored_bytes),
                *(" ".join(sorted(references)), f"{text[:32]}-{name}.drv", "x86_64-linux"),
                f"bench.127.0.0.1-1:{signature} cache.nixos.org-1:{signature}",
                *(created_at, wave + 1),
            )
        )
        if self._source.random() < 0.3:
            used_at = min(self._now, created_at + self._source.randrange(30 * _DAY))
            self._rows.uses.append((self._path, used_at, 3))

    def _pin(self, cache: _Cache) -> list[str]:
        """Pin some builds of everything; the hash parts that are pinned."""
        chosen = self._source.sample(cache.tops, min(len(cache.tops) // 3, _PINS * _REVISIONS))
        for number, (path_id, _) in enumerate(sorted(chosen)):
            pin, revision = divmod(number, _REVISIONS)
            pin_id = cache.id * 1_000 + pin
            self._database.execute(
                "INSERT OR IGNORE INTO pin (id, cache_id, name, created_at) VALUES (?, ?, ?, ?)",
                (pin_id, cache.id, f"release-{pin}", self._now),
            )
            self._database.execute(
                "INSERT INTO pin_revision (pin_id, number, path_id, artifacts, created_at) VALUES (?, ?, ?, '[]', ?)",
                (pin_id, revision + 1, path_id, self._now),
            )
        return [name[:32] for _, name in chosen]
