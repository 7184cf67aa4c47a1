"""What a server does by itself, with real collections in processes of their own."""

import secrets
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from icehouse.db.cache_settings import set_settings
from icehouse.db.caches import PUBLIC_DOMAIN_ID, insert_cache
from icehouse.db.engine import Database
from icehouse.errors import Conflict
from icehouse.nix.store_paths import NIX_STORE
from icehouse.rules.quotas import CacheSettings
from icehouse.services.collections import Collections
from icehouse.services.leases import hold
from icehouse.services.maintenance import Maintenance, MaintenancePlan
from icehouse.services.start import DataFolder, start


class Kept:
    """A data folder with a cache that lets something go, and its maintenance."""

    def __init__(self, folder: Path, database: Database) -> None:
        self.later = 0
        self.database = database
        self.backups = 0
        self.forgotten = 0
        child = "icehouse.cli.collection_child"
        command = (sys.executable, "-m", child, str(folder), "warning", "json")
        self._collections = Collections(database, command, flush_uses=self.flush_uses)

    def clock(self) -> int:
        return int(time.time()) + self.later

    async def flush_uses(self) -> None:
        """Nothing is used here."""

    async def back_up(self) -> None:
        self.backups += 1

    async def forget(self) -> None:
        self.forgotten += 1

    async def work(self, *, collect_seconds: int = 3_600) -> list[Any]:
        """The log of one turn."""
        plan = MaintenancePlan(collect_seconds, self.back_up, self.forget)
        maintenance = Maintenance(self.database, self._collections, self.clock, plan, draw=lambda: 0.5)
        with structlog.testing.capture_logs() as logs:
            await maintenance.work()
        return [entry["event"] for entry in logs if entry["log_level"] != "debug"]


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    with start(DataFolder(tmp_path), clock=lambda: 1, draw=secrets.token_bytes):
        database = Database.open(tmp_path / "icehouse.db")
        cache = database.write_now(
            lambda connection: insert_cache(
                connection,
                name="main",
                domain_id=PUBLIC_DOMAIN_ID,
                is_public=True,
                store_dir=NIX_STORE,
                priority=1,
                want_mass_query=True,
                now=1,
            )
        )
        database.write_now(lambda connection: set_settings(connection, cache.id, CacheSettings(keep_unused_seconds=5)))
        yield Kept(tmp_path, database)
        database.close()


async def test_collection_is_made_when_it_is_due_and_then_not_again(kept: Kept) -> None:
    assert await kept.work() == ["collection began", "collected"]
    assert await kept.work() == []
    kept.later = 3_700
    assert await kept.work() == ["collection began", "collected"]
    assert kept.backups == 3


async def test_none_is_made_where_that_is_turned_off(kept: Kept) -> None:
    assert await kept.work(collect_seconds=0) == []
    assert (kept.backups, kept.forgotten) == (1, 1)


async def test_only_one_of_several_processes_does_it(kept: Kept) -> None:
    with hold(kept.database, "maintenance", "another worker", kept.clock):
        assert await kept.work() == []
    assert (kept.backups, kept.forgotten) == (0, 0)


async def test_collection_that_somebody_else_makes_is_waited_for_and_holds_up_nothing_else(kept: Kept) -> None:
    with hold(kept.database, "a collection", "ann", kept.clock):
        assert await kept.work() == ["collection began", "not now"]
    assert kept.backups == 1
    assert await kept.work() == ["collection began", "collected"]


async def test_backup_that_fails_does_not_end_the_server(kept: Kept) -> None:
    async def fail() -> None:
        raise Conflict("another backup is being made")

    kept.back_up = fail
    assert await kept.work() == ["collection began", "collected", "not now"]
