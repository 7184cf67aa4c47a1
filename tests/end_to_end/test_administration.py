"""Logging in, caches and tokens, against a real server."""

import json
import re
import stat
from collections.abc import Callable

import pytest

from icehouse.rules.access import make_token
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
    unknown = make_token(b"?" * 32)
    done = make_user("eve").try_icehouse("login", server.url, "--token", unknown)
    assert (done.code, unknown in done.err + done.out) == (3, False)


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
    listed = admin.icehouse("token", "list").out
    assert created["token"] not in listed
    assert re.search(r"^2 +push +team .* first administrator +ci$", listed, re.MULTILINE)
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
