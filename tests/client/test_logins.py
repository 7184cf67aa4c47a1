"""Logins are kept for their owner alone, and a token goes only where it belongs."""

import stat
from pathlib import Path

import pytest

from icehouse.client.logins import (
    CacheAddress,
    Login,
    Logins,
    default_login,
    find_cache_address,
    parse_server_url,
    parse_token,
    require_token,
)
from icehouse.errors import Conflict, InvalidFormat, NotFound
from icehouse.rules.access import make_token

A, B = "https://a.example.org", "http://b.example.org:8080/prefix"
TOKEN_A, TOKEN_B, TOKEN_X = (make_token(letter * 32) for letter in (b"a", b"b", b"x"))
LOGINS = Logins(A, {A: TOKEN_A, B: TOKEN_B})


def test_logins_are_read_as_they_were_written(tmp_path: Path) -> None:
    file = tmp_path / "icehouse" / "config.toml"
    logins = Logins().added(Login(B, TOKEN_B)).added(Login("https://c")).added(Login(A, TOKEN_A))
    logins.write(file)
    assert Logins.read(file) == logins
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_no_file_means_no_logins(tmp_path: Path) -> None:
    assert Logins.read(tmp_path / "config.toml") == Logins()


@pytest.mark.parametrize("text", ["default = 1", "servers = 1", "[servers]\n'https://a' = 'x'", "x =", "default = 'a'"])
def test_a_broken_file_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "config.toml"
    file.write_text(text)
    with pytest.raises(InvalidFormat):
        Logins.read(file)


def test_tokens_do_not_show_in_repr() -> None:
    assert TOKEN_A not in repr(LOGINS) + repr(default_login(LOGINS, {}))


@pytest.mark.parametrize(
    ("text", "environment", "login", "name"),
    [
        ("team", {}, Login(A, TOKEN_A), "team"),
        (f"{B}/team", {}, Login(B, TOKEN_B), "team"),
        ("https://elsewhere/team/", {}, Login("https://elsewhere"), "team"),
        ("team", {"ICEHOUSE_URL": B}, Login(B, TOKEN_B), "team"),
        ("team", {"ICEHOUSE_TOKEN": TOKEN_X}, Login(A, TOKEN_X), "team"),
        ("team", {"ICEHOUSE_URL": "https://x/", "ICEHOUSE_TOKEN": TOKEN_X}, Login("https://x", TOKEN_X), "team"),
        (f"{B}/team", {"ICEHOUSE_URL": "https://x", "ICEHOUSE_TOKEN": TOKEN_X}, Login(B, TOKEN_B), "team"),
        ("https://elsewhere/team", {"ICEHOUSE_TOKEN": TOKEN_X}, Login("https://elsewhere"), "team"),
    ],
)
def test_a_cache_is_found_with_the_token_of_its_server(
    text: str, environment: dict[str, str], login: Login, name: str
) -> None:
    assert find_cache_address(text, LOGINS, environment) == CacheAddress(login, name)


def test_the_environment_alone_is_enough() -> None:
    environment = {"ICEHOUSE_TOKEN": TOKEN_X}
    assert find_cache_address(f"{B}/team", Logins(), environment).login == Login(B, TOKEN_X)


def test_a_bare_name_without_a_server_says_what_to_do() -> None:
    with pytest.raises(NotFound, match="icehouse login URL"):
        find_cache_address("team", Logins(), {})


@pytest.mark.parametrize(
    "text", ["Team", "-team", "a/b", "https://host", "https:///team", "ftp://host/team", "", "api"]
)
def test_what_names_no_cache_is_refused(text: str) -> None:
    with pytest.raises(InvalidFormat):
        find_cache_address(text, LOGINS, {})


@pytest.mark.parametrize(
    ("text", "url"),
    [("https://Host.Example/", "https://host.example"), (" http://[::1]:80/x/ ", "http://[::1]:80/x")],
)
def test_a_server_has_one_spelling(text: str, url: str) -> None:
    assert parse_server_url(text) == url


@pytest.mark.parametrize(
    "text",
    ["host", "https://", "https://u:p@host", "https://host?x", "https://host#x", "https://h:99999", "https://h h"],
)
def test_what_is_no_address_is_refused_without_its_password(text: str) -> None:
    with pytest.raises(InvalidFormat) as caught:
        parse_server_url(text)
    assert "u:p" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", " ", "a b", "ice_ö", "x" * 513, TOKEN_A[:-1], TOKEN_A + "0", TOKEN_A[:-1] + "!", TOKEN_A.swapcase()]
)
def test_what_is_no_token_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(InvalidFormat) as caught:
        parse_token(text, "$ICEHOUSE_TOKEN")
    assert str(caught.value).startswith("$ICEHOUSE_TOKEN: token: ")
    assert text.strip() == "" or text not in str(caught.value)


@pytest.mark.parametrize("index", range(4, 53, 7))
def test_one_wrong_letter_of_a_token_is_noticed_with_its_place(tmp_path: Path, index: int) -> None:
    wrong = f"{TOKEN_A[:index]}{'1' if TOKEN_A[index] != '1' else '2'}{TOKEN_A[index + 1 :]}"
    file = tmp_path / "config.toml"
    Logins(A, {A: wrong}).write(file)
    with pytest.raises(InvalidFormat, match="checksum is wrong") as caught:
        Logins.read(file)
    assert f'{file}: servers."{A}": ' in str(caught.value)
    assert wrong not in str(caught.value)


def test_a_missing_token_is_asked_for_by_name() -> None:
    with pytest.raises(Conflict, match="icehouse login https://a"):
        require_token(Login("https://a"))
