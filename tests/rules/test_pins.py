from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icehouse.errors import InvalidFormat, TooLarge
from icehouse.rules.pins import (
    KEEP_ALL,
    NAME_PATTERN,
    Keep,
    Pin,
    PinPlan,
    Revision,
    is_artifact,
    kept_revisions,
    make_keep,
    parse_artifacts,
    parse_pin_name,
    plan_pin,
)

DAY = 86_400
NOW = 1_000 * DAY


def pin(keep: Keep, *ages_in_days: float) -> Pin:
    """A pin whose revisions are so old; that of place n is on path n."""
    revisions = tuple(Revision(n, n, NOW - int(age * DAY)) for n, age in enumerate(ages_in_days, start=1))
    return Pin("app", keep, revisions)


def kept_numbers(kept: Pin, now: int = NOW) -> list[int]:
    return [revision.number for revision in kept_revisions(kept, now)]


@pytest.mark.parametrize(
    ("keep", "numbers"),
    [
        (KEEP_ALL, [1, 2, 3, 4]),
        (Keep(revisions=1), [4]),
        (Keep(revisions=3), [2, 3, 4]),
        (Keep(revisions=4), [1, 2, 3, 4]),
        (Keep(revisions=9), [1, 2, 3, 4]),
        (Keep(days=30), [3, 4]),
        (Keep(days=31), [2, 3, 4]),
        (Keep(days=1), [4]),
    ],
    ids=str,
)
def test_pin_keeps_what_its_rule_says(keep: Keep, numbers: list[int]) -> None:
    assert kept_numbers(pin(keep, 100, 30, 29, 3)) == numbers


def test_newest_revision_stays_whatever_its_age() -> None:
    assert kept_numbers(pin(Keep(days=1), 500)) == [1]
    assert kept_numbers(pin(Keep(revisions=1), 500)) == [1]


@given(
    keep=st.one_of(
        st.just(KEEP_ALL), st.builds(Keep, days=st.integers(1, 40)), st.builds(Keep, revisions=st.integers(1, 9))
    ),
    ages=st.lists(st.integers(0, 50), min_size=1, max_size=8),
    later=st.integers(0, 60),
)
def test_what_a_rule_let_go_does_not_come_back_as_time_passes(keep: Keep, ages: list[int], later: int) -> None:
    held = pin(keep, *ages)
    assert set(kept_numbers(held, NOW + later * DAY)) <= set(kept_numbers(held))
    assert held.newest.number in kept_numbers(held, NOW + later * DAY)


# Putting a pin on a path


def test_first_pin_keeps_all_unless_told_otherwise() -> None:
    assert plan_pin(None, 7, None, now=NOW) == PinPlan(KEEP_ALL, 1, is_new_revision=True, forget=())
    assert plan_pin(None, 7, Keep(days=3), now=NOW).keep == Keep(days=3)


def test_another_path_makes_the_next_revision_and_the_rule_stays() -> None:
    plan = plan_pin(pin(Keep(revisions=9), 2, 1), 7, None, now=NOW)
    assert plan == PinPlan(Keep(revisions=9), 3, is_new_revision=True, forget=())


def test_same_path_again_makes_no_revision_and_may_change_the_rule() -> None:
    plan = plan_pin(pin(KEEP_ALL, 2, 1), 2, Keep(days=9), now=NOW)
    assert plan == PinPlan(Keep(days=9), 2, is_new_revision=False, forget=())


def test_path_of_an_earlier_revision_makes_a_new_one() -> None:
    assert plan_pin(pin(KEEP_ALL, 2, 1), 1, None, now=NOW).number == 3


@pytest.mark.parametrize(
    ("present", "keep", "forget"),
    [
        (Keep(revisions=2), None, (1, 2)),
        (Keep(days=2), None, (1, 2)),
        (KEEP_ALL, Keep(revisions=1), (1, 2, 3)),
        (Keep(days=2), KEEP_ALL, (1, 2)),
        (Keep(revisions=1), KEEP_ALL, (1, 2)),
    ],
    ids=["beyond the number", "too old", "by the new rule", "by age, before", "by number, before"],
)
def test_what_is_not_kept_is_forgotten_when_the_pin_is_put(
    present: Keep, keep: Keep | None, forget: tuple[int, ...]
) -> None:
    assert plan_pin(pin(present, 9, 8, 1), 7, keep, now=NOW).forget == forget


def test_pinning_the_same_path_again_forgets_too() -> None:
    assert plan_pin(pin(Keep(days=2), 9, 8, 1), 3, None, now=NOW).forget == (1, 2)


# What is asked for


@pytest.mark.parametrize("name", ["a", "App-1.0_x86", "_", "-", "0", "a..b", "a" * 100])
def test_safe_name_is_taken(name: str) -> None:
    assert parse_pin_name(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", ".a", "a/b", "a b", "a%2f", "\u00e9", "a\n", "a" * 101])
def test_other_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidFormat, match="expected 1 to 100 characters of A-Z a-z 0-9 "):
        parse_pin_name(name)


def test_pattern_of_names_has_no_group() -> None:
    assert "(" not in NAME_PATTERN  # it is part of a route's pattern, whose groups are counted


def test_rule_is_one_of_three_or_none() -> None:
    assert make_keep(days=None, revisions=None, forever=False) is None
    assert make_keep(days=None, revisions=None, forever=True) == KEEP_ALL
    assert make_keep(days=3, revisions=None, forever=False) == Keep(days=3)
    assert make_keep(days=None, revisions=3, forever=False) == Keep(revisions=3)


@pytest.mark.parametrize(
    ("days", "revisions", "forever"),
    [(1, 1, False), (1, None, True), (None, 1, True), (0, None, False), (36_501, None, False), (None, 0, False)],
)
def test_other_rules_are_refused(days: int | None, revisions: int | None, forever: bool) -> None:  # noqa: FBT001  a column
    with pytest.raises(InvalidFormat, match=r"name one of these|expected 1 to"):
        make_keep(days=days, revisions=revisions, forever=forever)


def test_artifacts_are_kept_once_and_without_a_slash_at_the_end() -> None:
    assert parse_artifacts(["bin/app", "share/", "share", "h\u00f6her \u96ea/x"]) == (
        "bin/app",
        "share",
        "h\u00f6her \u96ea/x",
    )


@pytest.mark.parametrize("text", ["", "/", "/bin", "bin//app", ".", "a/../b", "a\\b", "a\0b", "a\nb", "a//"])
def test_path_that_is_none_inside_a_store_path_is_no_artifact(text: str) -> None:
    with pytest.raises(InvalidFormat, match="such as bin/app"):
        parse_artifacts([text])


@pytest.mark.parametrize("texts", [["a"] * 101, ["a" * 8_193]])
def test_too_many_artifacts_are_refused(texts: list[str]) -> None:
    with pytest.raises(TooLarge, match="at most 100, with 8192 together"):
        parse_artifacts(texts)


@pytest.mark.parametrize(
    ("way", "is_one"),
    [
        ("bin/app", True),
        ("share", True),
        ("share/doc/x", True),
        ("bin", False),
        ("bin/app2", False),
        ("sharex", False),
        ("h\u00f6her/x", True),
    ],
)
def test_artifacts_are_what_was_named_and_what_is_below(way: str, is_one: bool) -> None:  # noqa: FBT001  a column
    names = way.encode().split(b"/")
    assert is_artifact(["bin/app", "share", "h\u00f6her"], names) is is_one
