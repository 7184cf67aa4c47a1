"""Pushes are shown while they are under way, each for itself, and of everybody's no more than may be."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from icehouse.db.caches import CacheRow
from icehouse.errors import RateLimited
from icehouse.nix.store_paths import NIX_STORE
from icehouse.rules.access import Grant, Permission
from icehouse.services.access import Entry
from icehouse.services.live_pushes import QUIET_SECONDS, LivePushes
from icehouse.services.live_streams import LiveStreams

NAR = f"{'0' * 52}.nar.xz"


class Pushes(LivePushes):
    def __init__(self, *, max_pushes: int = 10) -> None:
        self.now = 1_000
        super().__init__(lambda: self.now, max_pushes=max_pushes)


def entry(cache: str = "main", token_id: int = 1) -> Entry:
    row = CacheRow(1, cache, 1, is_public=True, store_dir=NIX_STORE, priority=1, want_mass_query=True, created_at=1)
    return Entry(row, Grant(token_id, f"token {token_id}", frozenset({Permission.PUSH}), cache))


async def pieces(*sizes: int) -> AsyncIterator[bytes]:
    for size in sizes:
        yield bytes(size)


async def test_push_is_shown_with_what_arrives_and_what_waits_until_half_a_minute_after_its_end() -> None:
    pushes = Pushes()
    with pushes.receive(entry(), None) as pack, pushes.receive(entry(), NAR):
        assert [len(piece) async for piece in pack.count(pieces(3, 4))] == [3, 4]
        (push,) = pushes.list_pushes()
        assert (push.cache, push.who, push.began_at, push.received_bytes) == ("main", "token 1", 1_000, 7)
        assert [(upload.file, upload.received_bytes) for upload in push.uploads] == [(None, 7), (NAR, 0)]
        pushes.now += 2 * QUIET_SECONDS
        assert len(pushes.list_pushes()[0].uploads) == 2
    pushes.note_published(entry(), ["a-lib", "b-app"])
    pushes.now += QUIET_SECONDS
    (push,) = pushes.list_pushes()
    assert (push.uploads, push.published_paths, push.last_path, push.bytes_per_second) == ([], 2, "b-app", 0)
    pushes.now += 1
    assert pushes.list_pushes() == []


async def test_upload_that_fails_is_no_longer_under_way() -> None:
    pushes = Pushes()
    with pytest.raises(ZeroDivisionError), pushes.receive(entry(), NAR):
        raise ZeroDivisionError
    assert pushes.list_pushes()[0].uploads == []


async def test_speed_is_that_of_the_last_seconds() -> None:
    pushes = Pushes()
    with pushes.receive(entry(), None) as pack:
        for _ in range(20):
            assert [piece async for piece in pack.count(pieces(500, 500))]
            pushes.now += 1
        assert pushes.list_pushes()[0].bytes_per_second == 1_000
        pushes.now += 5
        assert 0 < pushes.list_pushes()[0].bytes_per_second < 1_000
        pushes.now += 10
        assert pushes.list_pushes()[0].bytes_per_second == 0


async def test_pushes_of_several_tokens_and_caches_are_told_apart_newest_first_and_bounded() -> None:
    pushes = Pushes(max_pushes=3)
    for number, (cache, token) in enumerate((("main", 1), ("main", 2), ("other", 1), ("other", 2))):
        pushes.now = 1_000 + number
        with pushes.receive(entry(cache, token), None) as pack:
            assert [piece async for piece in pack.count(pieces(1))]
    shown = [(push.cache, push.who) for push in pushes.list_pushes()]
    assert shown == [("other", "token 1"), ("main", "token 2"), ("main", "token 1")]


async def test_streams_are_bounded_for_each_session_and_altogether_and_room_comes_back() -> None:
    streams = LiveStreams(limit=3, of_one_session=2)
    with streams.open(1), streams.open(1):
        with pytest.raises(RateLimited):
            streams.check_room(1)
        with streams.open(2), pytest.raises(RateLimited), streams.open(3):
            pass
        streams.check_room(3)
    streams.check_room(1)


async def test_streams_end_at_once_when_the_server_stops() -> None:
    streams = LiveStreams()
    assert await streams.wait(0.001)
    streams.end_all()
    assert not await streams.wait(3_600)
