"""`icehouse doctor`, with a real server and a real Nix."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from icehouse.client.narinfo_cache import find_narinfo_caches, forget_misses
from icehouse.nix.store_paths import StorePath
from tests.client.private_nix import CLOSURE, PrivateNix
from tests.end_to_end.conftest import ServerProcess, User
from tests.end_to_end.test_use import create

pytestmark = pytest.mark.end_to_end


def examine(user: User, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    """What the doctor leaves with, and what is not as it should be."""
    done = user.try_icehouse("doctor", *arguments, "--json")
    findings: list[dict[str, Any]] = json.loads(done.out)["findings"]
    return done.code, [finding for finding in findings if finding["level"] != "ok"]


def test_where_all_is_well_nothing_is_found(admin: User) -> None:
    create(admin, "team")
    admin.icehouse("use", "team")
    assert examine(admin) == (0, [])
    assert "✓ clock: as the server's" in admin.icehouse("doctor").out


def test_without_a_login_and_caches_that_is_only_noted(admin: User) -> None:
    (admin.home / ".config/icehouse/config.toml").unlink()
    code, found = examine(admin)
    assert (code, [finding["level"] for finding in found]) == (0, ["note", "note"])
    assert {finding["remedy"].split()[1] for finding in found} == {"login", "use"}


def test_each_fault_has_its_remedy_and_the_worst_decides_the_code(admin: User, server: ServerProcess) -> None:
    url = create(admin, "team")
    admin.icehouse("use", "team")
    netrc = admin.home / ".config/nix/netrc"
    netrc.chmod(0o644)
    code, found = examine(admin)
    assert (code, [finding["about"] for finding in found]) == (1, ["netrc"])
    assert f"chmod 600 {netrc}" in found[0]["remedy"]
    netrc.unlink()
    code, found = examine(admin)
    assert (code, [finding["about"] for finding in found]) == (5, [url, "netrc"])
    admin.icehouse("cache", "delete", "team", "--yes")
    create(admin, "team")
    netrc.write_text("")
    code, found = examine(admin)
    assert f"icehouse use {url}" in found[0]["remedy"]
    tokens = json.loads(admin.icehouse("token", "list", "--json").out)
    admin.icehouse("token", "revoke", str(tokens[0]["id"]))
    code, found = examine(admin)
    assert "token" in [finding["about"] for finding in found]
    server.stop()
    code, found = examine(admin)
    assert (code, found[0]["about"]) == (5, "server")


def test_a_cache_that_was_made_again_is_told_by_its_key(admin: User) -> None:
    url = create(admin, "team", "--public")
    admin.icehouse("use", "team")
    admin.icehouse("cache", "delete", "team", "--yes")
    create(admin, "team", "--public")
    code, found = examine(admin)
    assert (code, found[0]["about"]) == (1, url)
    assert "which Nix does not trust" in found[0]["text"]
    admin.icehouse("use", "team")
    assert examine(admin) == (0, [])


def test_a_path_that_nix_missed_is_told_and_a_push_from_there_has_it_ask_again(
    admin: User, builder: PrivateNix, make_user: Callable[[str], User], tmp_path: Path
) -> None:
    url = create(admin, "team", "--public")
    other = make_user("other")
    path = builder.build(CLOSURE, "base")
    pulling = ("nix-store", "--store", str(tmp_path / "pulled"), "-r", path, "--option", "substitute", "true")
    for user in (admin, other):
        user.icehouse("use", url)
        assert user.try_nix(*pulling).code != 0
        assert examine(user, path)[0] == 4
    admin.icehouse("push", "team", "--store", str(builder.root), path)
    code, found = examine(other, path)
    assert (code, [finding["level"] for finding in found]) == (0, ["note"])
    assert "believes for another" in found[0]["text"]
    assert other.try_nix(*pulling).code != 0
    assert examine(admin, path) == (0, [])
    done = admin.try_nix(*pulling)
    assert done.code == 0, done.err


def test_only_what_nix_would_refuse_is_forgotten(admin: User, builder: PrivateNix, tmp_path: Path) -> None:
    url = create(admin, "team", "--public")
    admin.icehouse("use", "team")
    path = builder.build(CLOSURE, "base")
    admin.icehouse("push", "team", "--store", str(builder.root), path)
    pulling = ("nix-store", "--store", str(tmp_path / "pulled"), "-r", path, "--option", "substitute", "true")
    assert admin.try_nix(*pulling).code == 0
    files = find_narinfo_caches(admin.environment)
    hash_part = StorePath.parse(Path(path).name).hash_part
    assert forget_misses(files, url, [hash_part], ["team.127.0.0.1-1"]) == 0
    assert forget_misses(files, "http://other", [hash_part], ["other-1"]) == 0
    assert forget_misses(files, url, [hash_part], ["other-1"]) == 1  # Nix would not look for another signature
