"""What `icehouse use` writes for Nix, and how `icehouse remove` takes it back."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icehouse.client.nix_configuration import (
    INCLUDE_LINE,
    OwnFile,
    add_include,
    check_no_namesake,
    find_netrc_file,
    find_used,
    lines_that_name,
    remove_include,
)
from icehouse.errors import Conflict, InvalidFormat
from icehouse.nix.used_caches import UsedCache, parse_used_cache
from tests.client.private_nix import PrivateNix

URL = "https://cache.example.org/team"
KEYS = ("team.cache.example.org-1:hYxupVKG+qfns86P21J0liz8BZ86LfJSQxSHHiv+woU=",)
TEAM = UsedCache(URL, KEYS, is_public=True)
SECRET = UsedCache("https://other.example.org/secret", KEYS * 2, is_public=False)
FILE = Path("/home/ann/nix.conf")
NETRC = Path("/home/ann/netrc")
FULL = OwnFile((TEAM, SECRET), NETRC, (FILE, NETRC))

nix_confs = st.text(alphabet="abc =#\n-!", max_size=100)


@given(text=nix_confs)
def test_nix_conf_gets_one_line_and_gives_it_back_byte_for_byte(text: str) -> None:
    once = add_include(text)
    assert once.startswith(text)
    assert INCLUDE_LINE in once.splitlines()
    assert add_include(once) == once
    assert remove_include(once) == text


def test_lines_that_were_added_after_ours_stay() -> None:
    assert remove_include(add_include("a = 1") + "\nb = 2\n") == "a = 1\nb = 2\n"


@pytest.mark.parametrize("own", [OwnFile(), FULL, OwnFile((TEAM,)), OwnFile((SECRET, TEAM), NETRC)])
def test_our_file_is_read_as_it_was_written(own: OwnFile) -> None:
    assert OwnFile.parse(FILE, own.render()) == own


@pytest.mark.parametrize("line", ["sandbox = false", "extra-substituters = https://mine", "# a note"])
def test_a_line_of_somebody_else_in_our_file_is_told_and_not_lost(line: str) -> None:
    with pytest.raises(InvalidFormat, match=r"icehouse\.conf line \d+: .* was not written by icehouse"):
        OwnFile.parse(Path("icehouse.conf"), f"{FULL.render()}{line}\n")


def test_a_cache_that_is_known_is_replaced_in_its_place() -> None:
    renewed = replace(TEAM, public_keys=("team.cache.example.org-2:hYxupVKG+qfns86P21J0liz8BZ86LfJSQxSHHiv+woU=",))
    assert FULL.with_cache(renewed).caches == (renewed, SECRET)


def test_passwords_are_read_until_the_last_private_cache_is_gone() -> None:
    assert FULL.without(TEAM).netrc_file == NETRC
    assert FULL.without(SECRET).netrc_file is None


def test_real_nix_reads_what_was_written(nix: PrivateNix) -> None:
    folder = Path(nix.environment["HOME"]) / ".config/nix"
    nix_conf = folder / "nix.conf"
    nix_conf.write_text(add_include(nix_conf.read_text().rstrip("\n")))
    (folder / "icehouse.conf").write_text(FULL.render())
    text = nix.run("nix", "--extra-experimental-features", "nix-command", "show-config")
    settings = dict(line.split(" = ", 1) for line in text.splitlines() if " = " in line)
    assert settings["substituters"].split() == [TEAM.url, SECRET.url]
    assert KEYS[0] in settings["trusted-public-keys"].split()
    assert settings["netrc-file"] == str(NETRC)


@pytest.mark.parametrize("setting", ["trusted-public-keys", "extra-trusted-public-keys"])
def test_another_key_of_the_same_name_is_told_with_its_line(setting: str) -> None:
    old = "team.cache.example.org-1:AAAApVKG+qfns86P21J0liz8BZ86LfJSQxSHHiv+woU="
    with pytest.raises(Conflict, match=r"nix\.conf line 2: .* remove team\.cache\.example\.org-1:AAAA"):
        check_no_namesake(FILE, f"# keys\n{setting} = other-1:abc {old} # mine\n", KEYS)
    check_no_namesake(FILE, f"# {setting} = {old}\n{setting} = {KEYS[0]}\n", KEYS)


def test_a_netrc_file_of_the_users_is_found() -> None:
    assert find_netrc_file("netrc-file = /first\nnetrc-file = /second # really\n") == Path("/second")
    assert find_netrc_file("# netrc-file = /first\n") is None


@pytest.mark.parametrize(
    "line",
    [f"substituters = https://x {URL}", f"extra-substituters = {URL}/", f"  extra-substituters  =  {URL} # mine"],
)
def test_lines_of_the_users_that_name_a_cache_are_found(line: str) -> None:
    assert lines_that_name(f"x = 1\n{line}\n", URL) == [2]


@pytest.mark.parametrize("line", [f"# substituters = {URL}", f"extra-substituters = {URL}-two", f"x = {URL}"])
def test_lines_that_mean_something_else_are_not(line: str) -> None:
    assert lines_that_name(line, URL) == []


def test_a_cache_is_found_by_its_name_or_its_url() -> None:
    twin = replace(TEAM, url="https://other.example.org/team")
    assert find_used([TEAM, SECRET], "team", None) == TEAM
    assert find_used([TEAM, twin], f"{twin.url}/", None) == twin
    assert find_used([TEAM, twin], "team", "https://other.example.org") == twin
    with pytest.raises(Conflict, match="give the whole URL"):
        find_used([TEAM, twin], "team", None)
    with pytest.raises(Conflict, match=f"in use: {URL}$"):
        find_used([TEAM], "teams", None)


@pytest.mark.parametrize(
    ("url", "key"),
    [
        (f"{URL}\nsandbox = false", KEYS[0]),
        (f"{URL} https://evil.example.org", KEYS[0]),
        ('https://x/"; evil = "', KEYS[0]),
        ("https://x/${evil}", KEYS[0]),
        ("file:///tmp/x", KEYS[0]),
        (URL, f"{KEYS[0]}\nrequire-sigs = false"),
        (URL, f'a"b{KEYS[0]}'),
        (URL, "team-1:short"),
    ],
)
def test_what_would_mean_something_else_in_a_configuration_file_is_refused(url: str, key: str) -> None:
    with pytest.raises(InvalidFormat, match="the server names"):
        parse_used_cache(url, [key], is_public=True)
    assert parse_used_cache(URL, KEYS, is_public=True) == TEAM
