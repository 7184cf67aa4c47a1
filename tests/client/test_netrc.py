"""What `icehouse use` writes into a netrc file, and what it leaves alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icehouse.client.netrc import find_netrc_token, merge_netrc, remove_from_netrc
from icehouse.errors import Conflict


def test_a_netrc_gets_one_line_a_host_first() -> None:
    others = "machine other login me password p\ndefault login d password q\n"
    once = merge_netrc(others, "host", "ice_1")
    assert once == f"machine host login icehouse password ice_1\n{others}"
    assert merge_netrc(once, "host", "ice_2") == f"machine host login icehouse password ice_2\n{others}"
    assert find_netrc_token(once, "host") == "ice_1"
    assert find_netrc_token(once, "other") is None


@pytest.mark.parametrize(
    "text", ["machine host login me password p", "machine x password y\nmachine\n  host\n password p"]
)
def test_a_password_of_somebody_else_for_the_host_is_not_touched(text: str) -> None:
    with pytest.raises(Conflict, match="host"):
        merge_netrc(text, "host", "ice_1")


@given(text=st.text(alphabet="abc machine\n", max_size=100))
def test_what_was_there_comes_back_byte_for_byte(text: str) -> None:
    assert remove_from_netrc(merge_netrc(text, "host", "ice_1"), "host") == text
