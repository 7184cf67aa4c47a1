import pytest

from icehouse.rules.sessions import hash_secret, make_form_key, make_secret, parse_return, parse_secret


def test_secret_is_read_as_it_was_made_and_nothing_else_is() -> None:
    secret = make_secret(bytes(range(32)))
    assert parse_secret(secret) == secret
    for text in (None, "", "x", secret[:-1], secret + "A", secret[:-1] + "=", secret[:-1] + "\n"):
        assert parse_secret(text) is None


def test_form_key_tells_neither_the_secret_nor_what_is_kept_of_it() -> None:
    first, second = make_secret(b"1" * 32), make_secret(b"2" * 32)
    assert make_form_key(first) != make_form_key(second)
    assert first not in make_form_key(first)
    assert hash_secret(first).hex() not in make_form_key(first)


@pytest.mark.parametrize("path", ["/", "/team", "/ui/tokens?a=b&c=%2F", "/team/serve/x//y", "/logins"])
def test_login_leads_back_to_a_page_of_this_server(path: str) -> None:
    assert parse_return(path) == path


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "team",
        "//evil.example",
        "///evil.example",
        "/\\evil.example",
        "\\/evil.example",
        "/team\\..",
        "https://evil.example/",
        "javascript:alert(1)",
        "/\t/evil.example",
        "/\n/evil.example",
        " /team",
        "/team\r\nSet-Cookie: a=b",
        "/é",
        "/" + "a" * 600,
        "/login?next=/login",
        "/login/",
        "/logout",
    ],
)
def test_login_leads_nowhere_else(text: str | None) -> None:
    assert parse_return(text) == "/"
