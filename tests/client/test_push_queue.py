"""The queue of paths that wait to be pushed."""

import sqlite3
from pathlib import Path

import pytest

from icehouse.client.push_queue import PushQueue, Refusal, Totals
from icehouse.errors import Corrupt, Unavailable
from icehouse.nix.store_paths import StorePath

PATHS = [StorePath.parse(f"{letter * 32}-{letter}") for letter in "abcd"]
A, B, C, D = PATHS


def test_paths_wait_once_for_each_cache_and_the_oldest_comes_first(tmp_path: Path) -> None:
    queue = PushQueue(tmp_path / "new" / "queue.db")
    queue.add(["one", "two"], [B, A])
    queue.add(["one"], [A, C])
    assert queue.first("one", 10) == [B, A, C]
    assert queue.first("one", 2) == [B, A]
    assert queue.first("two", 10) == [B, A]
    queue.close()


def test_what_was_added_is_there_for_the_next_process(tmp_path: Path) -> None:
    queue = PushQueue(tmp_path / "queue.db")
    queue.add(["one"], [A, B])
    queue.done("one", [A])
    queue.close()
    queue = PushQueue(tmp_path / "queue.db")
    assert queue.first("one", 10) == [B]
    assert queue.totals("one") == Totals(waiting=1, done=1, refused=0, gone=0)
    queue.close()


def test_what_failed_comes_last_and_alone() -> None:
    queue = PushQueue()
    queue.add(["one"], PATHS)
    queue.put_off("one", [A, B])
    assert queue.first("one", 10) == [C, D]
    queue.done("one", [C, D])
    assert queue.first("one", 10) == [A]
    queue.put_off("one", [A])
    assert queue.first("one", 10) == [B]
    queue.close()


def test_what_left_is_counted_by_its_reason() -> None:
    queue = PushQueue()
    queue.add(["one", "two"], PATHS)
    queue.done("one", [A])
    queue.gone("one", [B])
    queue.refused("one", C, "too large")
    assert queue.totals("one") == Totals(waiting=1, done=1, refused=1, gone=1)
    assert queue.totals("two") == Totals(waiting=4, done=0, refused=0, gone=0)
    assert queue.refusals("one", 10) == [Refusal(C, "too large")]
    assert queue.waiting("one", 10) == [D]
    queue.close()


def test_of_refusals_the_newest_thousand_are_kept() -> None:
    queue = PushQueue()
    for number in range(1003):
        queue.refused("one", A, str(number))
    reasons = [refusal.reason for refusal in queue.refusals("one", 2000)]
    assert (len(reasons), reasons[0], reasons[-1]) == (1000, "1002", "3")
    queue.close()


def test_only_its_owner_may_read_the_file(tmp_path: Path) -> None:
    PushQueue(tmp_path / "queue.db").close()
    assert (tmp_path / "queue.db").stat().st_mode & 0o777 == 0o600


def test_a_file_that_is_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "queue.db"
    file.write_text("something else, longer than a header of SQLite would be, and no database at all" * 20)
    before = file.read_bytes()
    with pytest.raises(Corrupt, match="move it away"):
        PushQueue(file)
    assert file.read_bytes() == before


def test_a_file_of_a_later_version_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "queue.db") as database:
        database.execute("PRAGMA user_version = 9")
    database.close()
    with pytest.raises(Corrupt, match="version 9"):
        PushQueue(tmp_path / "queue.db")


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match="cannot be opened"):
        PushQueue(tmp_path / "file" / "queue.db")
