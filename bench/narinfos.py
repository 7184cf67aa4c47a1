"""Answers of narinfos, with 100,000 paths stored: ours from the database, those of nginx from as many files."""

import base64
import contextlib
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, insert, select

from bench.corpora import bench_folder
from bench.load import measure_requests
from bench.nginx import Nginx
from bench.processes import Served, cpu_seconds
from bench.rounds import Series, interleave
from bench.server import CACHE, IcehouseServer
from bench.table import Row, at_least, compared, measured
from icehouse.db.engine import Database
from icehouse.db.schema import cache, nar, path
from icehouse.db.serving import ServingQueries
from icehouse.http.hot import render_row
from icehouse.nix import nix32

MANY_PATHS = 100_000
FEW_PATHS = 1_000
_CONNECTIONS = 16
_SECONDS = 3
_BATCH = 5_000
_CHECKED = 200
_CREATED_AT = 1_700_000_000


def measure_narinfos(rounds: int) -> list[Row]:
    """Random hits and misses over 16 connections, one worker each."""
    many, few = (_Filled.make(count) for count in (MANY_PATHS, FEW_PATHS))
    present = [f"/{hash_part}.narinfo" for hash_part in many.hash_parts]
    some = [f"/{hash_part}.narinfo" for hash_part in few.hash_parts]
    source = random.Random(2)
    absent = [f"/{nix32.encode(source.randbytes(20))}.narinfo" for _ in range(MANY_PATHS)]
    with (
        IcehouseServer(many.data, keeps_data=True) as ours,
        IcehouseServer(few.data, keeps_data=True) as small,
        Nginx(many.files, bench_folder() / "nginx") as theirs,
        Nginx(few.files, bench_folder() / "nginx-2") as their_small,
    ):
        many.check(ours)

        def rate(server: IcehouseServer | Nginx, paths: list[str]) -> Callable[[], Served]:
            def measure() -> Served:
                before = cpu_seconds(server.pid)
                url = server.cache_url if isinstance(server, IcehouseServer) else server.url
                found = measure_requests(url, paths, connections=_CONNECTIONS, seconds=_SECONDS, seed=1)
                return Served(found.per_second, (cpu_seconds(server.pid) - before) / found.requests)

            return measure

        first = rate(ours, present)()
        # From here on most answers are kept by us, and most files by the system.
        rate(ours, present)()
        for server, paths in ((ours, present), (ours, absent), (small, some), (theirs, present), (their_small, some)):
            rate(server, paths)()
        found = interleave(
            {
                "hits": rate(ours, present),
                "nginx": rate(theirs, present),
                "misses": rate(ours, absent),
                "nginx misses": rate(theirs, absent),
                "few": rate(small, some),
                "nginx few": rate(their_small, some),
            },
            rounds=rounds,
        )
    rates = {name: Series([served.per_second for served in values]) for name, values in found.items()}
    costs = {name: Series([served.cpu_seconds for served in values]) for name, values in found.items()}
    return [
        compared("narinfo hits, of nginx's", rates["hits"], rates["nginx"], "/s", at_least(0.5)),
        compared("… processor time of the server for each", costs["hits"], costs["nginx"], "s"),
        measured("… in the first three seconds after a start", first.per_second, "/s"),
        measured("… processor time of the server for each", first.cpu_seconds, "s"),
        compared("narinfo 404s, of our hits", rates["misses"], rates["hits"], "/s", at_least(1)),
        compared("narinfo hits, of those at 1,000 paths", rates["hits"], rates["few"], "/s", at_least(0.85)),
        compared("… the same of nginx alone", rates["nginx"], rates["nginx few"], "/s"),
        compared("narinfo 404s, of nginx's", rates["misses"], rates["nginx misses"], "/s"),
        compared("… processor time of the server for each", costs["misses"], costs["nginx misses"], "s"),
    ]


@dataclass(frozen=True, slots=True)
class _Filled:
    """A data folder with so many paths, and a folder of files with their narinfos."""

    data: Path
    files: Path
    hash_parts: list[str]

    @classmethod
    def make(cls, count: int) -> "_Filled":
        """Fill both. The paths look like those of nixpkgs; their NARs have rows and no bytes."""
        data = bench_folder() / f"narinfo-{count}"
        with IcehouseServer(data) as server:
            database = Database.open(server.database)
        try:
            hash_parts = database.write_now(lambda connection: _insert_paths(connection, count))
            with contextlib.closing(database.open_reader()) as reader:
                files = data.with_name(f"{data.name}-files")
                shutil.rmtree(files, ignore_errors=True)
                files.mkdir()
                queries = ServingQueries(reader)
                for hash_part in hash_parts:
                    row = queries.find_narinfo(CACHE, hash_part)
                    assert row is not None
                    (files / f"{hash_part}.narinfo").write_bytes(render_row(row, hash_part))
        finally:
            database.close()
        return cls(data, files, hash_parts)

    def check(self, server: IcehouseServer) -> None:
        """That the server answers what the files say."""
        for hash_part in self.hash_parts[:: len(self.hash_parts) // _CHECKED]:
            name = f"{hash_part}.narinfo"
            if server.read(name) != (self.files / name).read_bytes():
                raise RuntimeError(f"{name}: the server's answer is not the text that nginx serves")


def _insert_paths(connection: Connection, count: int) -> list[str]:
    """Add paths with 5 to 20 references and two signatures each; their hash parts."""
    found = connection.execute(select(cache.c.id, cache.c.domain_id).where(cache.c.name == CACHE)).one()
    source = random.Random(1)
    base_names: list[str] = []
    for start in range(0, count, _BATCH):
        nars: list[dict[str, object]] = []
        paths: list[dict[str, object]] = []
        for number in range(start + 1, min(start + _BATCH, count) + 1):
            hash_part, deriver = (nix32.encode(source.randbytes(20)) for _ in range(2))
            name = f"package-{number}-{source.randrange(10)}.{source.randrange(100)}"
            nar_hash, file_hash = source.randbytes(32), source.randbytes(32)
            nar_size = source.randrange(1_000, 10_000_000)
            sizes = {"nar_size": nar_size, "file_size": nar_size // 3}
            nars.append(
                {
                    "id": number,
                    "domain_id": found.domain_id,
                    "nar_hash": nar_hash,
                    "file_hash": file_hash,
                    "created_at": _CREATED_AT,
                    **sizes,
                }
            )
            references = source.sample(base_names, min(len(base_names), source.randint(5, 20)))
            paths.append(
                {
                    "cache_id": found.id,
                    "hash_part": hash_part,
                    "name": name,
                    "nar_id": number,
                    "nar_hash": nix32.encode(nar_hash),
                    "file_hash": nix32.encode(file_hash),
                    "references": " ".join(sorted(references)),
                    "deriver": f"{deriver}-{name}.drv",
                    "system": "x86_64-linux",
                    "signatures": " ".join(
                        f"{key}:{base64.b64encode(source.randbytes(64)).decode()}"
                        for key in ("bench.127.0.0.1-1", "cache.nixos.org-1")
                    ),
                    "created_at": _CREATED_AT,
                    **sizes,
                }
            )
            base_names.append(f"{hash_part}-{name}")
        connection.execute(insert(nar), nars)
        connection.execute(insert(path), paths)
    return [base_name[:32] for base_name in base_names]
