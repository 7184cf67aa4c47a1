"""What is selected by ranges of ids is found by them, however many rows the domain or the cache has."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import Connection

from icehouse.db.caches import CacheRow, page_recipes, sum_stored_bytes
from icehouse.db.chunks import are_all_sound, load_chunks
from icehouse.db.collection import (
    page_of_chunks,
    page_of_paths,
    page_of_purgeable_nars,
    page_of_recipes,
    page_of_references,
)
from icehouse.db.engine import Database
from icehouse.db.keys import page_signed_paths
from icehouse.db.migrate import prepare_database
from icehouse.db.path_search import (
    find_by_reference,
    find_by_words,
    load_facts,
    page_by_hash,
    page_newest,
    page_published,
)
from icehouse.db.serving import load_served_chunks
from icehouse.db.trash import TrashPlace, page_of_hidden, search_referrers
from icehouse.db.verification import find_packs_of_chunks, page_of_links, page_of_nars, page_of_path_facts
from icehouse.nix.store_paths import parse_hash_part
from icehouse.rules.recipes import Run
from tests.db.plans import steps_of
from tests.db.test_caches import add_cache

LONG = [Run(1, 5_000)]
SHORT = [Run(1, 2), Run(7, 1)]

Read = Callable[[Connection, CacheRow], object]

READS: dict[str, tuple[str, Read]] = {
    "a run of chunks": ("chunk", lambda db, cache: load_chunks(db, cache.domain_id, LONG)),
    "some chunks": ("chunk", lambda db, cache: load_chunks(db, cache.domain_id, SHORT)),
    "is a run sound": ("chunk", lambda db, cache: are_all_sound(db, cache.domain_id, LONG)),
    "are chunks sound": ("chunk", lambda db, cache: are_all_sound(db, cache.domain_id, SHORT)),
    "stored bytes": ("chunk", lambda db, cache: sum_stored_bytes(db, cache.domain_id, [(1, 9)])),
    "packs of chunks": ("chunk", lambda db, cache: find_packs_of_chunks(db, cache.domain_id, LONG)),
    "page of chunks": ("chunk", lambda db, cache: page_of_chunks(db, cache.domain_id, 5)),
    "recipes in use": ("nar", lambda db, cache: page_recipes(db, cache, after_nar_id=5, limit=9)),
    "recipes": ("nar", lambda db, cache: page_of_recipes(db, cache.domain_id, 5)),
    "NARs": ("nar", lambda db, cache: page_of_nars(db, cache.domain_id, None, 5)),
    "NARs of a cache": ("nar", lambda db, cache: page_of_nars(db, cache.domain_id, cache.id, 5)),
    "purgeable NARs": ("nar", lambda db, cache: page_of_purgeable_nars(db, cache.domain_id, 5, now=9)),
    "paths and NARs": ("path", lambda db, cache: page_of_path_facts(db, cache.id, 5)),
    "links": ("path", lambda db, cache: page_of_links(db, cache.id, 5)),
    "paths": ("path", lambda db, cache: page_of_paths(db, cache.id, 5)),
    "references": ("path", lambda db, cache: page_of_references(db, cache.id, 5)),
    "signatures": ("path", lambda db, cache: page_signed_paths(db, cache.id, after=5, limit=9)),
    "referrers": ("path", lambda db, cache: search_referrers(db, cache.id, parse_hash_part("0" * 32), after=5)),
}
"""The table, and what reads a part of it."""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plans") / "icehouse.db"
    prepare_database(path)
    return path


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    with closing(Database.open(path)) as database:
        yield database


@pytest.mark.parametrize("name", READS)
def test_a_range_of_ids_is_what_is_read(database: Database, name: str) -> None:
    table, read = READS[name]

    def explain(connection: Connection) -> list[str]:
        cache = add_cache(connection, "main")
        steps = steps_of(connection, lambda: read(connection, cache))
        connection.rollback()
        return steps

    steps = database.write_now(explain)
    assert any(step.startswith(f"SEARCH {table} USING INTEGER PRIMARY KEY (rowid") for step in steps), steps
    assert "USE TEMP B-TREE FOR ORDER BY" not in steps


def test_the_chunks_of_a_nar_are_read_by_their_numbers(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        asked: list[str] = []
        connection.set_trace_callback(asked.append)
        load_served_chunks(connection, 1, SHORT)
        connection.set_trace_callback(None)
        steps = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {asked[0]}")]
    assert steps[0] == "SEARCH chunk USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"


FINDS: dict[str, Read] = {
    "newest": lambda db, cache: page_newest(db, cache.id, before=(5, 5), limit=9),
    "words": lambda db, cache: find_by_words(db, cache.id, ["openssl"], before=5, limit=9),
    "references": lambda db, cache: find_by_reference(db, cache.id, parse_hash_part("0" * 32), before=5, limit=9),
    "published": lambda db, cache: page_published(db, cache.id, [1], before=5, limit=9),
    "hash": lambda db, cache: page_by_hash(db, cache.id, "abcd", limit=9),
    "facts": lambda db, cache: load_facts(db, cache.id, [1, 2]),
}
"""What finds a page of paths."""


@pytest.mark.parametrize("name", FINDS)
def test_page_is_read_in_its_order_and_no_further(database: Database, name: str) -> None:
    def explain(connection: Connection) -> list[str]:
        cache = add_cache(connection, "main")
        steps = steps_of(connection, lambda: FINDS[name](connection, cache))
        connection.rollback()
        return steps

    steps = database.write_now(explain)
    assert not [step for step in steps if "SCAN" in step and "VIRTUAL TABLE" not in step], steps
    assert not [step for step in steps if "TEMP B-TREE" in step], steps


def test_what_a_collection_hid_is_found_among_a_million_visible_paths(database: Database) -> None:
    def explain(connection: Connection) -> list[str]:
        cache = add_cache(connection, "main")
        read = partial(page_of_hidden, connection, cache.id, since=1, until=9, reasons=["x"], after=TrashPlace(7, 5))
        steps = steps_of(connection, read)
        connection.rollback()
        return steps

    (step,) = database.write_now(explain)
    assert step.startswith("SEARCH path USING INDEX path_in_trash (cache_id=? AND hidden_at>?")
