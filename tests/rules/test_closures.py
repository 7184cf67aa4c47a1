from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise

import pytest

from icehouse.nix import nix32
from icehouse.nix.signing import Signature
from icehouse.nix.store_paths import StorePath
from icehouse.rules.closures import (
    MAX_SIGNATURES,
    PathRecord,
    PublishFacts,
    PublishPlan,
    VisiblePath,
    merge_signatures,
    plan_publish,
)

NAR = b"N" * 32
OTHER_NAR = b"O" * 32


def path(letter: str, name: str = "") -> StorePath:
    """The store path whose hash part is *letter*, 32 times, named after it."""
    return StorePath.parse(f"{letter * 32}-{name or 'package-' + letter}")


A, B, C, D = (path(letter) for letter in "abcd")
A_RENAMED = path("a", "another")


def record(store_path: StorePath, *references: StorePath, nar_hash: bytes = NAR, nar_size: int = 100) -> PathRecord:
    return PathRecord(
        store_path=store_path,
        nar_hash=nar_hash,
        nar_size=nar_size,
        references=references,
        deriver=None,
        system=None,
        ca=None,
        signatures=(),
    )


def facts(
    visible: Iterable[VisiblePath] = (), externals: Iterable[StorePath] = (), *, has_nar: bool = True
) -> PublishFacts:
    return PublishFacts(
        visible={there.store_path.hash_part: there for there in visible},
        externals={external.hash_part: external for external in externals},
        nar_sizes={NAR: 100} if has_nar else {},
    )


def here(store_path: StorePath, *references: StorePath, nar_hash: bytes = NAR) -> VisiblePath:
    return VisiblePath(store_path, nar_hash, references)


def published(*records: PathRecord) -> PublishPlan:
    return PublishPlan(publish=records, merge=(), refused=())


def merged(*records: PathRecord) -> PublishPlan:
    return PublishPlan(publish=(), merge=records, refused=())


@pytest.mark.parametrize(
    ("records", "known"),
    [
        ([], facts()),
        ([record(A)], facts()),
        ([record(A, A)], facts()),
        ([record(A), record(B, A)], facts()),
        ([record(B, A), record(A)], facts()),
        ([record(A, B), record(B, A)], facts()),
        ([record(A), record(B, A), record(C, A, B, C)], facts()),
        ([record(B, A)], facts([here(A)])),
        ([record(B, A)], facts(externals=[A])),
        ([record(D, A, B, C, D), record(C)], facts([here(A)], externals=[B])),
        ([record(A)], facts(externals=[A])),
    ],
    ids=[
        "nothing",
        "no references",
        "itself",
        "reference first",
        "reference in the same batch",
        "each other",
        "a chain",
        "reference visible",
        "reference external",
        "of each kind",
        "external until now",
    ],
)
def test_paths_whose_references_are_all_there_are_published(records: list[PathRecord], known: PublishFacts) -> None:
    assert plan_publish(records, known) == published(*records)


NOWHERE = "its reference {} is neither here, nor in this request, nor external"


@pytest.mark.parametrize(
    ("records", "known", "refused"),
    [
        ([record(B, A)], facts(), [(B, NOWHERE.format(A))]),
        ([record(B, A, C)], facts([here(C)]), [(B, NOWHERE.format(A))]),
        ([record(C, A, B)], facts(), [(C, f"{NOWHERE.format(A)}; {NOWHERE.format(B)}")]),
        ([record(A), record(C, B)], facts(), [(C, NOWHERE.format(B))]),
        ([record(A)], facts(has_nar=False), [(A, "its NAR is not stored; send it first")]),
        ([record(A, nar_hash=OTHER_NAR)], facts(), [(A, "its NAR is not stored; send it first")]),
        ([record(A, nar_size=99)], facts(), [(A, "its NAR has 100 bytes, not 99")]),
        ([record(B, A)], facts([here(A_RENAMED)]), [(B, f"its reference {A} is here under the name another")]),
        ([record(B, A)], facts(externals=[A_RENAMED]), [(B, f"its reference {A} is here under the name another")]),
        ([record(A_RENAMED), record(B, A)], facts(), [(B, f"its reference {A} is here under the name another")]),
        ([record(A), record(A)], facts(), [(A, "it is named twice in this request")]),
        ([record(A), record(A_RENAMED)], facts(), [(A_RENAMED, "it is named twice in this request")]),
        (
            [record(A_RENAMED)],
            facts([here(A)]),
            [(A_RENAMED, f"its hash part is that of {A}, which is here already")],
        ),
        (
            [record(A, nar_hash=OTHER_NAR)],
            facts([here(A)]),
            [(A, "it is here already with another NAR hash; nothing was changed")],
        ),
        (
            [record(A, A)],
            facts([here(A)]),
            [(A, "it is here already with other references; nothing was changed")],
        ),
        (
            [record(B, nar_size=1), record(C, D)],
            facts(),
            [(B, "its NAR has 100 bytes, not 1"), (C, NOWHERE.format(D))],
        ),
    ],
    ids=[
        "reference nowhere",
        "one of two nowhere",
        "both nowhere",
        "only the second path",
        "no NAR",
        "another NAR",
        "another size",
        "visible under another name",
        "external under another name",
        "in the batch under another name",
        "twice",
        "twice under two names",
        "hash part taken",
        "another NAR hash than before",
        "other references than before",
        "each path has its own reason",
    ],
)
def test_path_that_would_break_the_cache_is_refused(
    records: list[PathRecord], known: PublishFacts, refused: list[tuple[StorePath, str]]
) -> None:
    assert list(plan_publish(records, known).refused) == refused


def test_path_that_is_there_already_is_merged_even_if_its_nar_or_references_are_gone() -> None:
    again = record(B, A)
    assert plan_publish([again], facts([here(B, A)], has_nar=False)) == merged(again)


def test_new_path_may_refer_to_one_that_is_merged() -> None:
    old, new = record(A), record(B, A)
    plan = plan_publish([new, old], facts([here(A)]))
    assert (plan.publish, plan.merge, plan.refused) == ((new,), (old,), ())


def signature(number: int) -> Signature:
    return Signature("key-1", number.to_bytes(64, "big"))


def test_new_signatures_come_after_those_that_are_there() -> None:
    first, second, third = (signature(number) for number in range(3))
    assert merge_signatures([second], [first, second, third]) == (second, first, third)
    assert merge_signatures([], []) == ()


def test_path_keeps_the_signatures_that_it_has_when_more_come_than_fit() -> None:
    present = [signature(number) for number in range(MAX_SIGNATURES - 1)]
    offered = [signature(number) for number in range(100, 110)]
    assert merge_signatures(present, offered) == (*present, offered[0])


# Paths that wait


def waiting(*records: PathRecord) -> PublishFacts:
    known = facts()
    return replace(known, waiting={each.store_path.hash_part: each for each in records})


def test_path_that_lacks_only_references_may_wait_and_tells_which() -> None:
    lacking = record(D, A, B, C, D)
    plan = plan_publish([lacking], facts([here(B)]))
    assert (plan.may_wait, plan.absent, plan.publish, plan.complete) == ((lacking,), (A, C), (), ())
    assert [refused for refused, _ in plan.refused] == [D]


@pytest.mark.parametrize(
    ("lacking", "known"),
    [
        (record(B, A), facts(has_nar=False)),
        (record(B, A, nar_size=99), facts()),
        (record(C, A, B), facts([here(A_RENAMED)])),
        (record(B, A), facts([here(B)])),
        (record(B, A, nar_hash=OTHER_NAR), facts([here(B, A)])),
    ],
    ids=["no NAR", "another size", "a reference under another name", "there without it", "there with another NAR"],
)
def test_path_with_another_fault_may_not_wait(lacking: PathRecord, known: PublishFacts) -> None:
    plan = plan_publish([lacking], known)
    assert plan.refused
    assert (plan.may_wait, plan.absent) == ((), ())


def test_each_absent_reference_of_a_batch_is_told_once() -> None:
    plan = plan_publish([record(B, A), record(C, A, B, D)], facts())
    assert (plan.may_wait, plan.absent) == ((record(B, A), record(C, A, B, D)), (A, D))


def test_published_path_completes_those_that_wait_for_it_and_for_them_in_turn() -> None:
    b, c, d = record(B, A), record(C, B), record(D, A, C, D)
    assert plan_publish([record(A)], waiting(d, c, b)).complete == (b, c, d)


@pytest.mark.parametrize(
    "still_waiting",
    [
        record(B, A, D),
        record(B, A, nar_hash=OTHER_NAR),
        record(B, A, nar_size=99),
        record(B, A_RENAMED),
        record(B, A, A_RENAMED),
        record(B, C),
    ],
    ids=["more is absent", "no NAR", "another size", "another name", "both names", "for itself through another"],
)
def test_path_that_cannot_be_visible_waits_on_and_so_do_those_that_wait_for_it(still_waiting: PathRecord) -> None:
    plan = plan_publish([record(A)], waiting(still_waiting, record(C, A, B)))
    assert (plan.publish, plan.complete) == ((record(A),), ())


def test_path_that_waits_and_is_published_now_is_no_completed_one() -> None:
    now, then = record(B, A), record(B, D)
    plan = plan_publish([now, record(A)], waiting(then, record(C, B)))
    assert (plan.publish, plan.complete) == ((now, record(A)), (record(C, B),))


def test_nothing_is_complete_where_anything_is_refused() -> None:
    plan = plan_publish([record(A), record(C, D)], waiting(record(B, A)))
    assert plan.refused
    assert plan.complete == ()


def test_chain_of_paths_that_wait_is_completed_in_time_that_grows_with_its_length() -> None:
    """A search for what is ready after each completed path took hours for this, in the event loop."""
    paths = [StorePath.parse(f"{nix32.encode(number.to_bytes(20))}-link") for number in range(20_000)]
    links = [record(path, reference) for reference, path in pairwise(paths)]
    assert plan_publish([record(paths[0])], waiting(*reversed(links))).complete == tuple(links)
