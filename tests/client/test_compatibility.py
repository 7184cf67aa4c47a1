"""Whether a client and a server understand each other."""

import pytest

from icehouse.client.compatibility import compare_versions


@pytest.mark.parametrize(
    ("client", "server", "said"),
    [
        ("0.1.0", "0.1.0", None),
        ("0.1.0", "0.1.9", None),
        ("0.2.0", "0.1.0", "older than this client"),
        ("0.2.0", "0.10.0", "newer than this client"),
        ("1.2.0", "2.2.0", "newer than this client"),
        ("0.1.0", "nginx", "none of Icehouse's"),
        ("0.1.0", "1.²", "none of Icehouse's"),
    ],
)
def test_versions_are_compared_as_numbers_up_to_the_second(client: str, server: str, said: str | None) -> None:
    found = compare_versions(client, server)
    assert found is None if said is None else said in str(found)
