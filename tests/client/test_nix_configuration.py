"""What `icehouse use` adds to Nix's files, and what it leaves alone."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icehouse.client.nix_configuration import add_cache, find_netrc_file, merge_netrc
from icehouse.errors import Conflict
from tests.client.private_nix import PrivateNix

URL = "https://cache.example.org/team"
KEYS = ["team.cache.example.org-1:hYxupVKG+qfns86P21J0liz8BZ86LfJSQxSHHiv+woU="]
FILE = Path("/home/ann/nix.conf")
NETRC = Path("/home/ann/netrc")


def test_an_empty_file_gets_all_lines() -> None:
    assert add_cache(FILE, "", URL, KEYS, NETRC).splitlines() == [
        f"extra-substituters = {URL}",
        f"extra-trusted-public-keys = {KEYS[0]}",
        f"netrc-file = {NETRC}",
    ]


@given(text=st.text(alphabet="abc =#\n-", max_size=100))
def test_what_stands_in_the_file_stays_and_twice_is_once(text: str) -> None:
    once = add_cache(FILE, text, URL, KEYS, NETRC)
    assert once.startswith(text)
    assert add_cache(FILE, once, URL, KEYS, NETRC) == once


@pytest.mark.parametrize(
    "line",
    [f"substituters = https://x {URL}", f"extra-substituters = {URL}/", f"  extra-substituters  =  {URL} # mine"],
)
def test_a_substituter_that_is_known_is_not_added(line: str) -> None:
    assert "extra-trusted" in add_cache(FILE, line, URL, KEYS, None)
    assert add_cache(FILE, line, URL, KEYS, None).count(URL) == 1


@pytest.mark.parametrize("line", [f"# substituters = {URL}", f"extra-substituters = {URL}-two", f"x = {URL}"])
def test_a_substituter_elsewhere_in_the_file_does_not_count(line: str) -> None:
    assert f"\nextra-substituters = {URL}\n" in add_cache(FILE, line, URL, KEYS, None)


@pytest.mark.parametrize("setting", ["trusted-public-keys", "extra-trusted-public-keys"])
def test_another_key_of_the_same_name_is_told_with_its_line(setting: str) -> None:
    old = "team.cache.example.org-1:AAAApVKG+qfns86P21J0liz8BZ86LfJSQxSHHiv+woU="
    with pytest.raises(Conflict, match=r"nix\.conf line 2: .* remove team\.cache\.example\.org-1:AAAA"):
        add_cache(FILE, f"# keys\n{setting} = other-1:abc {old} # mine\n", URL, KEYS, None)
    assert KEYS[0] in add_cache(FILE, f"# {setting} = {old}\n", URL, KEYS, None)


def test_a_netrc_file_of_the_users_is_kept() -> None:
    text = "netrc-file = /first\nnetrc-file = /second # really\n"
    assert find_netrc_file(text) == Path("/second")
    assert "netrc-file = /home" not in add_cache(FILE, text, URL, KEYS, NETRC)


def test_real_nix_reads_what_was_added(nix: PrivateNix) -> None:
    file = Path(nix.environment["HOME"]) / ".config/nix/nix.conf"
    file.write_text(add_cache(FILE, file.read_text(), URL, KEYS, NETRC))
    text = nix.run("nix", "--extra-experimental-features", "nix-command", "show-config")
    settings = dict(line.split(" = ", 1) for line in text.splitlines() if " = " in line)
    assert settings["substituters"].split() == [URL]
    assert KEYS[0] in settings["trusted-public-keys"].split()
    assert settings["netrc-file"] == str(NETRC)


def test_a_netrc_gets_one_line_a_host_first() -> None:
    others = "machine other login me password p\ndefault login d password q\n"
    once = merge_netrc(others, "host", "ice_1")
    assert once == f"machine host login icehouse password ice_1\n{others}"
    assert merge_netrc(once, "host", "ice_2") == f"machine host login icehouse password ice_2\n{others}"


@pytest.mark.parametrize(
    "text", ["machine host login me password p", "machine x password y\nmachine\n  host\n password p"]
)
def test_a_password_of_somebody_else_for_the_host_is_not_touched(text: str) -> None:
    with pytest.raises(Conflict, match="host"):
        merge_netrc(text, "host", "ice_1")
