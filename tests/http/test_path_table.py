"""The table gives back what was put into it and nothing else, counts it, and stays within its bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icehouse.http.path_table import PathTable


class Kept:
    """A table, and what it noted."""

    def __init__(self, *, max_bytes: int = 1_000_000, slots: int = 16) -> None:
        self.given: Counter[int] = Counter()
        self.sizes: dict[int, int] = {}
        self.table = PathTable[int](max_bytes, self._note, slots=slots)

    def _note(self, subject: int, count: int, body_bytes: int) -> None:
        assert count > 0
        self.given[subject] += count
        self.sizes[subject] = body_bytes

    def put(self, number: int, body: bytes = b"text") -> None:
        self.table.put(b"/%d" % number, body, number)

    def settle(self) -> None:
        while self.table.settle(3):
            pass

    def find(self, *numbers: int) -> list[bool]:
        return [self.table.find(b"/%d" % number) is not None for number in numbers]


def test_a_text_is_found_by_its_path_and_each_time_counted() -> None:
    kept = Kept()
    kept.put(1, b"one")
    kept.put(2, b"the second")
    assert [kept.table.find(b"/1"), kept.table.find(b"/2"), kept.table.find(b"/1")] == [b"one", b"the second", b"one"]
    assert not kept.given
    kept.settle()
    kept.settle()
    assert kept.given == {1: 2, 2: 1}
    assert kept.sizes == {1: 3, 2: 10}


def test_one_that_is_given_often_is_counted_each_time() -> None:
    kept = Kept()
    kept.put(1)
    for _ in range(1_000):
        assert kept.find(1) == [True]
    kept.settle()
    assert kept.given == {1: 1_000}


@pytest.mark.parametrize("raw_path", [b"", b"/", b"/1.narinf", b"/1.narinfo\0", b"/1.narinfo\0text", b"/1.narinfotext"])
def test_only_the_whole_path_finds(raw_path: bytes) -> None:
    kept = Kept(slots=4)
    kept.table.put(b"/1.narinfo", b"text", 1)
    kept.table.put(b"/2.narinfo", b"text", 2)
    assert kept.table.find(raw_path) is None
    assert kept.table.find(b"/1.narinfo") == b"text"


def test_what_was_not_used_makes_room() -> None:
    kept = Kept(max_bytes=4_000)
    for number in range(3):
        kept.put(number, bytes(1_000))
    assert kept.find(0, 2) == [True, True]
    kept.put(3, bytes(1_000))
    assert kept.find(0, 2) == [True, True]
    assert kept.find(1, 3).count(True) == 1  # both are as good as the other
    kept.settle()
    assert kept.given[0] == kept.given[2] == 2


def test_what_was_used_long_ago_makes_room_too() -> None:
    kept = Kept(max_bytes=4_000)
    for number in range(3):
        kept.put(number, bytes(1_000))
    assert kept.find(0, 1, 2) == [True] * 3
    for number in range(3, 40):
        kept.put(number, bytes(1_000))
        kept.find(number)
    assert kept.find(0, 1, 2) == [False] * 3
    kept.settle()
    assert kept.given == dict.fromkeys(range(3), 1) | {n: kept.given[n] for n in range(3, 40) if kept.given[n]}


def test_one_that_is_too_large_is_not_kept() -> None:
    kept = Kept(max_bytes=1_000)
    kept.put(1, bytes(1_000))
    kept.put(2, bytes(100))
    assert kept.find(1, 2) == [False, True]


def test_uses_of_what_goes_are_noted() -> None:
    kept = Kept()
    kept.put(1)
    kept.find(1, 1)
    kept.table.clear()
    assert kept.find(1) == [False]
    kept.settle()
    assert kept.given == {1: 2}
    kept.put(1)
    assert kept.find(1) == [True]


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 30), st.integers(0, 40)),
        st.tuples(st.just("find"), st.integers(0, 30), st.just(0)),
        st.tuples(st.sampled_from(["settle", "clear"]), st.just(0), st.just(0)),
    ),
    min_size=50,
    max_size=150,
)


@settings(max_examples=300)
@given(slots=st.sampled_from([4, 8, 16]), max_bytes=st.sampled_from([700, 2_000, 1_000_000]), operations=OPERATIONS)
def test_it_is_a_dictionary_that_may_forget(
    slots: int, max_bytes: int, operations: Sequence[tuple[str, int, int]]
) -> None:
    kept = Kept(max_bytes=max_bytes, slots=slots)
    bodies: dict[int, bytes] = {}
    given: Counter[int] = Counter()
    for operation, number, size in operations:
        found = kept.table.find(b"/%d" % number) if operation in {"put", "find"} else None
        if found is not None:
            assert found == bodies[number]
            given[number] += 1
        match operation:
            case "put" if found is None:
                bodies[number] = b"%d " % number + bytes(size)
                kept.put(number, bodies[number])
            case "settle":
                kept.settle()
                assert kept.given == given
            case "clear":
                kept.table.clear()
                bodies.clear()
            case _:
                pass
    present = [number for number in range(31) if kept.table.find(b"/%d" % number) is not None]
    assert len(present) <= slots * 3 // 4
    assert set(present) <= set(bodies)
    # Nothing is where it is not found.
    assert len(present) == kept.table._taken  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    assert sum(161 + len(b"/%d" % number) + len(bodies[number]) for number in present) <= max_bytes
    kept.settle()
    assert kept.given == given + Counter(present)
