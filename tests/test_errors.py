from __future__ import annotations

import pytest

from icehouse import errors
from icehouse.errors import IcehouseError, InvalidFormat, RateLimited, Refused


def test_a_broken_format_is_also_a_value_error() -> None:
    assert issubclass(InvalidFormat, ValueError)


def test_every_error_is_in_the_tree() -> None:
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    assert len(classes) == 15
    assert all(issubclass(error, IcehouseError) for error in classes)


@pytest.mark.parametrize(("asked", "kept"), [(30, 30), (0, 1), (-5, 1)])
def test_a_rate_limit_says_when_to_come_back(asked: int, kept: int) -> None:
    error = RateLimited("too many requests", retry_after_seconds=asked)
    assert isinstance(error, Refused)
    assert (str(error), error.retry_after_seconds) == ("too many requests", kept)
