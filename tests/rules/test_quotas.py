from typing import Any

import pytest

from icehouse.errors import InvalidFormat, OverQuota
from icehouse.rules.quotas import CacheSettings, check_limit, check_settings, find_warning

GIB = 1 << 30


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"keep_unused_seconds": 1, "keep_pushed_seconds": 86_400},
        {"budget_bytes": GIB, "limit_bytes": GIB},
        {"trash_seconds": 0},
    ],
)
def test_settings_that_make_sense_pass(values: dict[str, int]) -> None:
    assert check_settings(CacheSettings(**values)) == CacheSettings(**values)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"keep_unused_seconds": 0}, "keep_unused_seconds '0'"),
        ({"keep_pushed_seconds": -5}, "keep_pushed_seconds"),
        ({"keep_pushed_seconds": 10**20}, "keep_pushed_seconds"),
        ({"budget_bytes": 0}, "budget_bytes"),
        ({"limit_bytes": 1 << 62}, "limit_bytes"),
        ({"trash_seconds": -1}, "trash_seconds"),
        ({"budget_bytes": 2, "limit_bytes": 1}, "below budget_bytes 2"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(values: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InvalidFormat, match=complaint):
        check_settings(CacheSettings(**values))


def test_cache_is_refused_from_its_limit_on_with_size_limit_and_remedy() -> None:
    check_limit("main", GIB - 1, GIB)
    check_limit("main", GIB, None)
    with pytest.raises(
        OverQuota, match=r"'main' has 1\.0 GiB, and its limit is 1\.0 GiB.*icehouse gc.*raise the limit"
    ):
        check_limit("main", GIB, GIB)


def test_warning_begins_at_85_percent_and_names_the_limit_before_the_budget() -> None:
    settings = CacheSettings(budget_bytes=1000, limit_bytes=2000)
    assert find_warning(849, settings) is None
    assert find_warning(850, settings) == "850 bytes is 85 % of the budget of 1000 bytes"
    assert find_warning(1700, settings) == "1.7 KiB is 85 % of the limit of 2.0 KiB"
    assert find_warning(10**9, CacheSettings()) is None
