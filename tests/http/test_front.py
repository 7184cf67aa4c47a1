import ipaddress

import pytest

from icehouse.http.front import choose_request_id, find_client
from tests.http.asgi_client import make_scope

PROXIES = [ipaddress.ip_network("192.0.2.0/24"), ipaddress.ip_network("2001:db8::/32")]


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        (None, "192.0.2.7"),
        ("203.0.113.5", "203.0.113.5"),
        ("10.9.9.9, 203.0.113.5", "203.0.113.5"),
        ("203.0.113.5, 192.0.2.8", "203.0.113.5"),
        ("203.0.113.5, 2001:db8::1", "203.0.113.5"),
        ("nonsense", "192.0.2.7"),
        ("203.0.113.5%25, fe80::1%<any text>", "192.0.2.7"),
        ("203.0.113.5, nonsense", "192.0.2.7"),
        (", ,", "192.0.2.7"),
    ],
)
def test_the_client_is_whom_the_nearest_trusted_proxy_saw(forwarded: str | None, client: str) -> None:
    headers = {} if forwarded is None else {"x-forwarded-for": forwarded}
    assert find_client("192.0.2.7", make_scope("GET", b"/", headers)["headers"], PROXIES) == client


def test_without_trusted_proxies_nobodys_word_counts() -> None:
    assert find_client("192.0.2.7", [(b"x-forwarded-for", b"203.0.113.5")], []) == "192.0.2.7"


@pytest.mark.parametrize("sent", [None, b"", b"a b", b"\xff", b"x" * 65, b"a\n", b'"'])
def test_a_request_without_a_sane_id_gets_a_new_one(sent: bytes | None) -> None:
    first, second = choose_request_id(sent), choose_request_id(sent)
    assert first != second
    assert len(first) == 16


def test_a_sane_request_id_is_kept() -> None:
    assert choose_request_id(b"Build_7.2-a") == "Build_7.2-a"
