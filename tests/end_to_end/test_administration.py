"""Logging in, caches, tokens and `use`, against a real server."""

import json
import stat
from collections.abc import Callable

import pytest

from tests.end_to_end.conftest import ServerProcess, User

pytestmark = pytest.mark.end_to_end


def test_a_login_is_kept_for_its_owner_alone(admin: User, server: ServerProcess) -> None:
    file = admin.home / ".config/icehouse/config.toml"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert server.admin_token in file.read_text()


def test_a_login_without_a_token_keeps_the_one_that_is_remembered(admin: User, server: ServerProcess) -> None:
    done = admin.icehouse("login", server.url + "/")
    assert "the one that was remembered for this server is kept" in done.err
    assert server.admin_token in (admin.home / ".config/icehouse/config.toml").read_text()
    done = admin.try_icehouse("login", f"{server.url}/team")
    assert (done.code, "a server's address has no path behind it, such as a cache's name" in done.err) == (4, True)


def test_a_wrong_token_is_refused_at_login(server: ServerProcess, make_user: Callable[[str], User]) -> None:
    done = make_user("eve").try_icehouse("login", server.url, "--token", "ice_wrong")
    assert (done.code, "ice_wrong" in done.err + done.out) == (3, False)


def test_caches_are_created_listed_shown_and_deleted(admin: User) -> None:
    admin.icehouse("cache", "create", "open", "--public", "--no-upstream", "--priority", "30")
    created = admin.icehouse("cache", "create", "closed", "--json").json
    assert (created["is_public"], [upstream["url"] for upstream in created["upstreams"]]) == (
        False,
        ["https://cache.nixos.org"],
    )
    table = admin.icehouse("cache", "list").out.splitlines()
    assert [line.split()[:2] for line in table] == [["NAME", "ACCESS"], ["closed", "private"], ["open", "public"]]
    shown = admin.icehouse("cache", "show", "open", "--json").json
    assert (shown["priority"], shown["upstreams"], shown["paths"]) == (30, [], 0)
    assert admin.try_icehouse("cache", "create", "open").code == 1
    assert admin.try_icehouse("cache", "delete", "open").code == 1  # nobody said yes
    admin.icehouse("cache", "delete", "open", "--yes")
    assert admin.try_icehouse("cache", "show", "open").code == 4


def test_tokens_are_made_listed_and_revoked(
    admin: User, server: ServerProcess, make_user: Callable[[str], User]
) -> None:
    admin.icehouse("cache", "create", "team")
    arguments = ["token", "create", "ci", "--allow", "push", "--caches", "team", "--expires", "1d"]
    created = admin.icehouse(*arguments, "--json").json
    bot = make_user("bot")
    bot.icehouse("login", server.url, "--token-file", "-", stdin=created["token"])
    assert [cache["name"] for cache in json.loads(bot.icehouse("cache", "list", "--json").out)] == ["team"]
    assert bot.try_icehouse("token", "list").code == 3
    assert created["token"] not in admin.icehouse("token", "list").out
    admin.icehouse("token", "revoke", str(created["view"]["id"]))
    assert bot.try_icehouse("cache", "list").code == 3


def test_on_the_servers_machine_no_token_is_needed(server: ServerProcess, make_user: Callable[[str], User]) -> None:
    user = make_user("root")
    arguments = ["--allow", "admin", "--caches", "*", "--data-dir", str(server.data_dir), "-q"]
    token = user.icehouse("token", "create", "mine", *arguments).out.strip()
    user.icehouse("login", server.url, "--token", token)
    user.icehouse("cache", "create", "a")
    assert "mine" in user.icehouse("token", "list", "--data-dir", str(server.data_dir)).out
    assert user.try_icehouse("token", "list", "--data-dir", str(user.home)).code == 4


def test_use_writes_once_and_keeps_what_is_there(admin: User) -> None:
    view = admin.icehouse("cache", "create", "team", "--json").json
    nix_conf = admin.home / ".config/nix/nix.conf"
    before = nix_conf.read_text()
    assert admin.icehouse("use", "team", "--json").json["changed"] is True
    after = nix_conf.read_text()
    assert after.startswith(before)
    assert f"extra-substituters = {view['url']}\n" in after
    netrc = admin.home / ".config/nix/netrc"
    assert stat.S_IMODE(netrc.stat().st_mode) == 0o600
    assert netrc.read_text().startswith("machine 127.0.0.1 login icehouse password ice_")
    assert admin.icehouse("use", "team", "--json").json["changed"] is False
    assert nix_conf.read_text() == after


def netrc_token(user: User) -> str:
    return (user.home / ".config/nix/netrc").read_text().split()[5]


def test_use_gives_nix_a_token_that_may_only_pull(
    admin: User, server: ServerProcess, make_user: Callable[[str], User]
) -> None:
    for name in ("one", "two"):
        admin.icehouse("cache", "create", name)
    seen: list[tuple[list[str], str]] = []
    reader = make_user("reader")
    for name in ("one", "one", "two", "one"):
        done = admin.icehouse("use", name)
        assert ("Made token" in done.err) == (len(seen) in {0, 2})
        reader.icehouse("login", server.url, "--token", netrc_token(admin))
        assert reader.try_icehouse("token", "list").code == 3
        newest = json.loads(admin.icehouse("token", "list", "--json").out)[-1]
        assert newest["description"].startswith("icehouse use on ")
        seen.append((newest["permissions"], newest["cache_pattern"]))
    assert seen == [(["pull"], "one"), (["pull"], "one"), (["pull"], "*"), (["pull"], "*")]


def test_use_warns_of_a_token_that_may_do_more_and_writes_one_that_may_only_pull_as_it_is(
    admin: User, server: ServerProcess, make_user: Callable[[str], User]
) -> None:
    admin.icehouse("cache", "create", "team")
    for permission in ("push", "pull"):
        created = admin.icehouse("token", "create", "x", "--allow", permission, "--caches", "team", "-q")
        user = make_user(permission)
        user.icehouse("login", server.url, "--token", created.out.strip())
        done = user.icehouse("use", "team")
        assert netrc_token(user) == created.out.strip()
        assert ("token create DESCRIPTION --allow pull --caches team" in done.err) == (permission == "push")


def test_use_can_print_instead_and_prints_no_secret(admin: User, server: ServerProcess) -> None:
    view = admin.icehouse("cache", "create", "team", "--json").json
    nix_conf = admin.home / ".config/nix/nix.conf"
    before = nix_conf.read_text()
    printed = admin.icehouse("use", "team", "--print").out
    assert f"extra-trusted-public-keys = {view['public_keys'][0]}" in printed
    assert server.admin_token not in printed
    assert nix_conf.read_text() == before
