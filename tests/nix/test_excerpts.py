from __future__ import annotations

import pytest

from icehouse.nix.excerpts import excerpt


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a\nb", r"'a\nb'"),
        (b"a\0b", r"'a\x00b'"),
        ("", "''"),
        ("x" * 80, f"'{'x' * 80}'"),
        ("x" * 81, f"'{'x' * 80}'... (81 long)"),
        (b"x" * 5000, f"'{'x' * 80}'... (5000 long)"),
    ],
)
def test_a_value_is_shown_on_one_line_and_short(value: str | bytes, shown: str) -> None:
    assert excerpt(value) == shown
