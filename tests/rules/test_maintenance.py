import pytest

from icehouse.rules.maintenance import (
    IDLE_COLLECT_SECONDS,
    VERIFY_REST_SECONDS,
    is_collection_due,
    is_verification_due,
)


@pytest.mark.parametrize(
    ("last", "has_work", "now", "is_due"),
    [
        (None, True, 5, True),
        (None, False, 5, True),
        (1_000, True, 1_099, False),
        (1_000, True, 1_100, True),
        (1_000, False, 1_100, False),
        (1_000, False, 1_000 + IDLE_COLLECT_SECONDS, True),
    ],
)
def test_collection_is_due_after_its_interval_or_a_week_if_there_is_nothing_to_do(
    last: int | None,
    has_work: bool,  # noqa: FBT001  as below
    now: int,
    is_due: bool,  # noqa: FBT001  a row of the table
) -> None:
    assert is_collection_due(last, has_work=has_work, collect_seconds=100, now=now) == is_due


@pytest.mark.parametrize(
    ("completed_at", "is_due"), [(None, True), (5, False), (1000 - VERIFY_REST_SECONDS, True)], ids=str
)
def test_verification_goes_on_until_it_is_through_and_then_rests(
    completed_at: int | None,
    is_due: bool,  # noqa: FBT001  a row of the table
) -> None:
    assert is_verification_due(completed_at, now=1000) == is_due
