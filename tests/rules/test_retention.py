from array import array
from collections.abc import Sequence

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from icehouse.rules.retention import (
    CacheFacts,
    Lists,
    Reason,
    Retention,
    outline_retention,
    plan_retention,
    preview_retention,
    rank_paths,
    rescue,
    round_age,
    size_without,
)

DAY = 86_400
NOW = 1_000 * DAY


def cache_facts(
    references: Sequence[Sequence[int]],
    *,
    pushed: Sequence[int] | None = None,
    used: Sequence[int] | None = None,
    nars: Sequence[int] | None = None,
    chunks: Sequence[Sequence[int]] | None = None,
    chunk_bytes: Sequence[int] | None = None,
) -> CacheFacts:
    """Paths by number, pushed and used so many days ago; if not said, today, each with a NAR and a chunk of its own."""
    count = len(references)
    pushed = pushed or [0] * count
    used = used or pushed
    nars = range(count) if nars is None else nars
    chunks = [[number] for number in range(count)] if chunks is None else chunks
    sizes = (
        [1] * (1 + max((chunk for one in chunks for chunk in one), default=0)) if chunk_bytes is None else chunk_bytes
    )
    return CacheFacts(
        array("Q", (NOW - days * DAY for days in pushed)),
        array("Q", (NOW - min(days, pushed[place]) * DAY for place, days in enumerate(used))),
        array("I", nars),
        Lists.of(references),
        Lists.of(chunks),
        array("I", sizes),
    )


def hidden(facts: CacheFacts, roots: Sequence[int] = (), **settings: int) -> list[int]:
    plan = plan_retention(facts, rank_paths(facts, roots), Retention(**settings), now=NOW)
    return [place for place, _ in plan.hide]


def test_nothing_is_hidden_where_nothing_is_bounded() -> None:
    assert hidden(cache_facts([[], [0]], pushed=[500, 400])) == []


def test_what_was_not_used_for_too_long_is_hidden() -> None:
    facts = cache_facts([[], [], []], pushed=[40, 40, 10], used=[31, 29, 10])
    assert hidden(facts, keep_unused_seconds=30 * DAY) == [0]


def test_use_of_a_referrer_is_use_of_what_it_refers_to() -> None:
    facts = cache_facts([[], [0], [1]], pushed=[90, 90, 90], used=[90, 90, 1])
    assert hidden(facts, keep_unused_seconds=30 * DAY) == []


def test_push_of_a_referrer_keeps_what_it_refers_to() -> None:
    facts = cache_facts([[], [0], []], pushed=[90, 10, 90])
    assert hidden(facts, keep_pushed_seconds=30 * DAY) == [2]


def test_referrers_are_hidden_before_what_they_refer_to() -> None:
    facts = cache_facts([[], [0], [1, 0]], pushed=[90, 90, 90])
    assert hidden(facts, keep_unused_seconds=30 * DAY) == [2, 1, 0]


def test_pin_keeps_its_closure_whatever_retention_says() -> None:
    facts = cache_facts([[], [0], [1], []], pushed=[90, 90, 90, 90])
    plan = plan_retention(facts, rank_paths(facts, [1]), Retention(keep_unused_seconds=DAY, budget_bytes=0), now=NOW)
    assert set(plan.hide) == {(2, Reason.UNUSED), (3, Reason.UNUSED)}
    assert plan.pinned == 2


def test_budget_evicts_what_was_used_least_recently_and_no_more() -> None:
    facts = cache_facts([[], [], []], pushed=[3, 2, 1], chunk_bytes=[10, 10, 10])
    plan = plan_retention(facts, rank_paths(facts, []), Retention(budget_bytes=20), now=NOW)
    assert plan.hide == ((0, Reason.BUDGET),)
    assert (plan.size_before, plan.size_after) == (30, 20)


def test_budget_counts_a_shared_chunk_once_and_frees_it_with_its_last_user() -> None:
    facts = cache_facts(
        [[], [], []], pushed=[3, 2, 1], nars=[0, 1, 1], chunks=[[0, 1], [1, 2]], chunk_bytes=[5, 100, 7]
    )
    plan = plan_retention(facts, rank_paths(facts, []), Retention(budget_bytes=111), now=NOW)
    assert (plan.size_before, plan.size_after) == (112, 107)
    assert [place for place, _ in plan.hide] == [0]
    assert hidden(facts, budget_bytes=106) == [0, 1, 2]


def test_path_that_refers_to_itself_can_go() -> None:
    assert hidden(cache_facts([[0]], pushed=[90]), keep_unused_seconds=DAY) == [0]


def test_circle_and_what_it_reaches_stay() -> None:
    facts = cache_facts([[], [2, 0], [1], []], pushed=[90, 90, 90, 90])
    assert hidden(facts, keep_unused_seconds=DAY) == [3]


@pytest.mark.parametrize("needed", [[2], [1], [0]])
def test_what_is_needed_since_the_plan_is_rescued_with_its_closure(needed: list[int]) -> None:
    references = Lists.of([[], [0], [1]])
    can_go = rescue(references, [2, 1, 0], needed)
    assert [place for place in (0, 1, 2) if can_go[place]] == [place for place in (0, 1, 2) if place > needed[0]]


@st.composite
def caches(draw: st.DrawFn) -> tuple[CacheFacts, list[int], Retention]:
    count = draw(st.integers(1, 12))
    references = [draw(st.lists(st.integers(0, place), max_size=4, unique=True)) for place in range(count)]
    order = draw(st.permutations(range(count)))
    renamed = [[order[reference] for reference in references[order.index(place)]] for place in range(count)]
    days = st.integers(0, 20)
    pushed = draw(st.lists(days, min_size=count, max_size=count))
    used = draw(st.lists(days, min_size=count, max_size=count))
    nar_count = draw(st.integers(1, count))
    nars = draw(st.lists(st.integers(0, nar_count - 1), min_size=count, max_size=count))
    chunks = [draw(st.lists(st.integers(0, 9), max_size=4, unique=True)) for _ in range(nar_count)]
    sizes = draw(st.lists(st.integers(1, 9), min_size=10, max_size=10))
    facts = cache_facts(renamed, pushed=pushed, used=used, nars=nars, chunks=chunks, chunk_bytes=sizes)
    roots = draw(st.lists(st.integers(0, count - 1), max_size=2))
    maybe = st.none() | st.integers(0, 20)
    unused, old, budget = draw(maybe), draw(maybe), draw(st.none() | st.integers(0, 60))
    seconds = [None if value is None else value * DAY for value in (unused, old)]
    return facts, roots, Retention(seconds[0], seconds[1], budget)


def size_of(facts: CacheFacts, places: set[int]) -> int:
    used = {chunk for place in places for chunk in facts.chunks[facts.nars[place]]}
    return sum(facts.chunk_bytes[chunk] for chunk in used)


@given(caches())
def test_no_path_that_stays_loses_its_closure_and_sizes_are_right(
    case: tuple[CacheFacts, list[int], Retention],
) -> None:
    facts, roots, retention = case
    plan = plan_retention(facts, rank_paths(facts, roots), retention, now=NOW)
    gone = [place for place, _ in plan.hide]
    assert len(gone) == len(set(gone))
    stays = set(range(len(facts.nars))) - set(gone)
    assert all(reference in stays for place in stays for reference in facts.references[place])
    for step, place in enumerate(gone):  # no prefix of the plan breaks a closure either
        assert not any(place in facts.references[other] for other in set(gone[step + 1 :]) | stays if other != place)
    pinned = set(roots)
    while (reached := pinned | {reference for place in pinned for reference in facts.references[place]}) != pinned:
        pinned = reached
    assert pinned <= stays
    assert plan.pinned == len(pinned)
    assert plan.size_before == size_of(facts, set(range(len(facts.nars))))
    assert plan.size_after == size_of(facts, stays) == size_without(facts, gone)
    if retention.budget_bytes is not None and plan.size_after > retention.budget_bytes:
        assert stays == pinned, "over the budget only with nothing left to evict"


@given(caches())
def test_preview_tells_what_the_plan_does_or_says_that_it_is_only_near(
    case: tuple[CacheFacts, list[int], Retention],
) -> None:
    facts, roots, retention = case
    assume(0 not in {retention.keep_unused_seconds, retention.keep_pushed_seconds})  # which no cache can have
    ranks = rank_paths(facts, roots)
    plan = plan_retention(facts, ranks, retention, now=NOW)
    seen = preview_retention(outline_retention(facts, ranks, [], now=NOW), retention)
    counts = {reason: sum(why is reason for _, why in plan.hide) for reason in Reason}
    for reason in (Reason.UNUSED, Reason.OLD):
        assert seen.shares[reason].paths == counts[reason]
    assert seen.size_after <= max(plan.size_after, retention.budget_bytes or 0)
    if not seen.is_about:
        assert seen.size_after == plan.size_after
        assert seen.shares[Reason.BUDGET].paths == counts[Reason.BUDGET]
        assert {path.place for path in seen.largest} <= {place for place, _ in plan.hide}


@given(caches())
def test_outline_after_a_collection_is_that_of_what_it_left(case: tuple[CacheFacts, list[int], Retention]) -> None:
    facts, roots, retention = case
    ranks = rank_paths(facts, roots)
    plan = plan_retention(facts, ranks, retention, now=NOW)
    assume(0 not in {retention.keep_unused_seconds, retention.keep_pushed_seconds})
    outline = outline_retention(facts, ranks, [place for place, _ in plan.hide], now=NOW)
    assert (outline.size_bytes, outline.paths) == (plan.size_after, len(facts.nars) - len(plan.hide))
    again = preview_retention(outline, retention)
    assert sum(share.paths for share in again.shares.values()) == 0 or plan.size_after > (retention.budget_bytes or 0)


def test_ages_are_told_apart_less_the_higher_they_are() -> None:
    days = [0, 1, 89, 90, 96, 97, 364, 365, 394, 395, 99_999]
    rounded = [round_age(day * DAY + 1) // DAY for day in days]
    assert rounded == [0, 1, 89, 90, 90, 97, 363, 365, 365, 395, 36_500]
    assert [round_age(seconds) // DAY for seconds in (-5, 0, DAY, DAY + 1)] == [0, 0, 0, 1]
