"""`icehouse use` and `icehouse remove`, with a real server and a real Nix."""

import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.client.private_nix import CLOSURE, PrivateNix
from tests.end_to_end.conftest import ServerProcess, User

pytestmark = pytest.mark.end_to_end


def create(admin: User, name: str, *options: str) -> str:
    """A new cache for the store of the tests' Nix; its URL."""
    store_dir = admin.environment["NIX_STORE_DIR"]
    return str(admin.icehouse("cache", "create", name, "--store-dir", store_dir, *options, "--json").json["url"])


def configuration(user: User) -> dict[str, bytes]:
    """Every file of the user's configuration of Nix."""
    return {file.name: file.read_bytes() for file in sorted((user.home / ".config/nix").iterdir())}


def netrc_token(user: User) -> str:
    return (user.home / ".config/nix/netrc").read_text().split()[5]


def test_a_cache_is_used_pulled_from_and_removed_and_the_files_are_as_they_were(
    admin: User, builder: PrivateNix, make_user: Callable[[str], User], tmp_path: Path
) -> None:
    url = create(admin, "team", "--public")
    path = builder.build(CLOSURE, "top")
    admin.icehouse("push", "team", "--store", str(builder.root), path)
    user = make_user("newcomer")  # without a login
    nix_conf = user.home / ".config/nix/nix.conf"
    nix_conf.write_text(nix_conf.read_text().replace("substitute = false\n", "").rstrip("\n"))
    before = configuration(user)
    assert user.icehouse("use", url, "--json").json["checked"] is True
    done = user.try_nix("nix-store", "--store", str(tmp_path / "pulled"), "-r", path)
    assert done.code == 0, done.err
    assert (tmp_path / "pulled/nix/store" / Path(path).name / "bin/top").is_file()
    user.icehouse("remove", "team")
    assert configuration(user) == before


def test_removing_needs_no_server_and_takes_private_caches_back_one_by_one(admin: User, server: ServerProcess) -> None:
    (admin.home / ".config/nix/netrc").write_text("machine elsewhere login me password p")
    before = configuration(admin)
    create(admin, "one")
    create(admin, "two")
    create(admin, "open", "--public")
    admin.icehouse("use", "one", "two", "open")
    server.stop()
    admin.icehouse("remove", "one")
    assert netrc_token(admin).startswith("ice_")  # for the other one
    assert admin.try_icehouse("remove", "one").code == 1
    admin.icehouse("remove", "two", "open")
    assert configuration(admin) == before


def test_files_that_were_not_there_are_gone_afterwards(admin: User) -> None:
    (admin.home / ".config/nix/nix.conf").unlink()
    create(admin, "team")
    admin.icehouse("use", "team")
    assert set(configuration(admin)) == {"icehouse.conf", "netrc", "nix.conf"}
    admin.icehouse("remove", "team")
    assert configuration(admin) == {}


def test_use_writes_once_and_keeps_what_is_there(admin: User) -> None:
    url = create(admin, "team")
    before = (admin.home / ".config/nix/nix.conf").read_text()
    assert admin.icehouse("use", "team", "--json").json["changed"] is True
    files = configuration(admin)
    assert files["nix.conf"].decode() == f"{before}!include icehouse.conf\n"
    assert f"extra-substituters = {url}\n" in files["icehouse.conf"].decode()
    netrc = admin.home / ".config/nix/netrc"
    assert stat.S_IMODE(netrc.stat().st_mode) == 0o600
    assert netrc.read_text().startswith("machine 127.0.0.1 login icehouse password ice_")
    assert admin.icehouse("use", "team", "--json").json["changed"] is False
    assert configuration(admin) == files


def test_a_cache_that_was_made_again_gets_its_new_key(admin: User) -> None:
    create(admin, "team", "--public")
    admin.icehouse("use", "team")
    before = configuration(admin)["icehouse.conf"]
    admin.icehouse("cache", "delete", "team", "--yes")
    create(admin, "team", "--public")
    admin.icehouse("use", "team")
    after = configuration(admin)["icehouse.conf"]
    assert (after.count(b"team.127.0.0.1-1:"), after != before) == (1, True)


def test_a_setting_that_takes_the_cache_back_is_noticed(admin: User) -> None:
    create(admin, "team", "--public")
    user = User(admin.home, {**admin.environment, "NIX_CONFIG": "substituters = https://other.example.org"})
    done = user.try_icehouse("use", "team")
    assert (done.code, "Nix does not have http" in done.err) == (1, True), done


def test_a_cache_for_another_store_directory_is_told_by_nix(admin: User) -> None:
    admin.icehouse("cache", "create", "other", "--public", "--store-dir", "/elsewhere/store")
    done = admin.try_icehouse("use", "other")
    assert (done.code, "/elsewhere/store" in done.err) == (5, True), done


def test_everybodys_nix_is_configured_in_the_systems_folder(admin: User, tmp_path: Path) -> None:
    create(admin, "team")
    (admin.home / ".config/nix/nix.conf").unlink()  # it sets the whole list of substituters
    folder = tmp_path / "no-system-configuration"
    admin.icehouse("use", "team", "--mode", "root-nixconf")
    assert {file.name for file in folder.iterdir()} == {"icehouse.conf", "netrc", "nix.conf"}
    admin.icehouse("remove", "team", "--mode", "root-nixconf")
    assert list(folder.iterdir()) == []


def test_nixos_gets_a_module_a_cache(admin: User, builder: PrivateNix, tmp_path: Path) -> None:
    url = create(admin, "team", "--public")
    folder = tmp_path / "nixos"
    options = ("--mode", "nixos", "--nixos-folder", str(folder))
    admin.icehouse("use", "team", *options)
    expression = f"map (file: (import file).nix.settings.substituters) (import {folder}/icehouse.nix).imports"
    assert json.loads(builder.run("nix-instantiate", "--eval", "--strict", "--json", "-E", expression)) == [[url]]
    admin.icehouse("remove", "team", *options)
    assert list((folder / "icehouse").iterdir()) == []
    assert admin.try_icehouse("remove", "team", *options).code == 4


@pytest.mark.parametrize("form", ["nix.conf", "nixos", "flake", "home-manager"])
def test_use_can_print_instead_and_prints_no_secret(admin: User, server: ServerProcess, form: str) -> None:
    url = create(admin, "team")
    before = configuration(admin)
    printed = admin.icehouse("use", "team", "--print", form).out
    assert url in printed
    assert "machine 127.0.0.1 login icehouse password <token>" in printed
    assert server.admin_token not in printed
    assert configuration(admin) == before


def test_use_gives_nix_a_token_that_may_only_pull(
    admin: User, server: ServerProcess, make_user: Callable[[str], User]
) -> None:
    for name in ("one", "two"):
        create(admin, name)
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
    create(admin, "team")
    for permission in ("push", "pull"):
        created = admin.icehouse("token", "create", "x", "--allow", permission, "--caches", "team", "-q")
        user = make_user(permission)
        user.icehouse("login", server.url, "--token", created.out.strip())
        done = user.icehouse("use", "team")
        assert netrc_token(user) == created.out.strip()
        assert ("token create DESCRIPTION --allow pull --caches team" in done.err) == (permission == "push")
