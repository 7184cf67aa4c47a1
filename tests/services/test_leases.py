import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from icehouse.db.engine import Database
from icehouse.db.leases import take_lease
from icehouse.db.migrate import prepare_database
from icehouse.db.schema import lease
from icehouse.errors import Conflict
from icehouse.services.leases import LEASE_SECONDS, hold

NOW = 1_000


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    prepare_database(tmp_path / "icehouse.db")
    database = Database.open(tmp_path / "icehouse.db")
    yield database
    database.close()


def test_lease_is_one_holders_until_it_is_given_back(database: Database) -> None:
    with (
        hold(database, "a collection", "ann", lambda: NOW),
        pytest.raises(Conflict, match="a collection is under way, started by ann;"),
        hold(database, "a collection", "ann", lambda: NOW),
    ):
        pass
    with hold(database, "a collection", "bob", lambda: NOW), hold(database, "other", "bob", lambda: NOW):
        pass


def test_lease_of_a_process_that_died_ends_by_itself(database: Database) -> None:
    def take(now: int) -> str | None:
        return database.write_now(
            lambda connection: take_lease(connection, "x", f"at {now}", now=now, expires_at=now + LEASE_SECONDS)
        )

    assert take(NOW) is None
    assert take(NOW + LEASE_SECONDS - 1) == f"at {NOW}"
    assert take(NOW + LEASE_SECONDS) is None


def test_lease_is_renewed_while_it_is_held_and_noticed_when_lost(database: Database) -> None:
    now = NOW
    renewed = threading.Event()

    def clock() -> int:
        if now > NOW:
            renewed.set()
        return now

    with hold(database, "x", "ann", clock, renew_seconds=0.001) as held:
        now = NOW + 50
        assert renewed.wait(30)
        held.check()
        database.write_now(
            lambda connection: take_lease(connection, "x", "bob", now=NOW + 10_000, expires_at=NOW + 20_000)
        )
        while not held.is_lost:
            threading.Event().wait(0.001)
        with pytest.raises(Conflict, match="was lost"):
            held.check()
    assert database.read_now(lambda connection: connection.execute(select(lease.c.holder)).scalar_one()) == "bob"
