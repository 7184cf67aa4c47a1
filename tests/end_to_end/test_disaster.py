"""The database is lost, and real Nix pulls everything again."""

from pathlib import Path

import pytest

from tests.client.private_nix import CLOSURE
from tests.end_to_end.conftest import ServerProcess, User
from tests.end_to_end.nix_clients import SYSTEM_LINE, NixClient

pytestmark = pytest.mark.end_to_end


@pytest.fixture
def pushed(server: ServerProcess, tmp_path: Path) -> tuple[NixClient, User, str]:
    """A closure in a public cache called main."""
    nix = NixClient.make(SYSTEM_LINE, tmp_path / "pusher")
    admin = User(nix.home, nix.environment)
    admin.icehouse("login", server.url, "--token-file", str(server.data_dir / "admin-token"))
    admin.icehouse("cache", "create", "main", "--public", "--store-dir", nix.environment["NIX_STORE_DIR"])
    top = nix.build(CLOSURE, "top")
    admin.icehouse("push", "main", "--store", str(nix.root), top)
    return nix, admin, top


def assert_pulled(nix: NixClient, server: ServerProcess, key: str, top: str, folder: Path) -> None:
    """A Nix with an empty store gets the closure byte for byte, with signatures checked."""
    reader = NixClient.make(SYSTEM_LINE, folder, nix.environment["NIX_STORE_DIR"])
    reader.use_cache(f"{server.url}/main", key)
    reader.pull(top)
    for path in nix.closure_of(top):
        assert reader.dump(path) == nix.dump(path)


def test_a_rebuilt_server_gives_nix_the_same_closure(
    server: ServerProcess, pushed: tuple[NixClient, User, str], tmp_path: Path
) -> None:
    nix, admin, top = pushed
    old_key = admin.icehouse("cache", "show", "main", "--json").json["public_keys"][0]
    server.stop()
    for file in server.data_dir.glob("icehouse.db*"):
        file.unlink()
    done = admin.icehouse("rebuild", "--data-dir", str(server.data_dir))
    assert "CACHE main (public) HAS A NEW KEY" in done.err
    assert "A new administrator's token" in done.err
    server.start()
    admin.icehouse("login", server.url, "--token-file", str(server.data_dir / "admin-token"))
    (new_key,) = admin.icehouse("cache", "show", "main", "--json").json["public_keys"]
    assert new_key.split(":")[0] == old_key.split(":")[0].removesuffix("1") + "2"
    for number, key in enumerate((old_key, new_key)):
        assert_pulled(nix, server, key, top, tmp_path / f"reader-{number}")
    assert "all is well" in admin.icehouse("verify", "--data-dir", str(server.data_dir)).out


def test_a_restored_server_keeps_its_key_and_gets_what_was_pushed_since(
    server: ServerProcess, pushed: tuple[NixClient, User, str], tmp_path: Path
) -> None:
    nix, admin, top = pushed
    key = admin.icehouse("cache", "show", "main", "--json").json["public_keys"][0]
    admin.icehouse("backup", "--data-dir", str(server.data_dir))
    late = nix.build(CLOSURE.replace("echo base", "echo other"), "top")
    admin.icehouse("push", "main", "--store", str(nix.root), late)
    server.stop()
    server.data_dir.joinpath("icehouse.db").write_bytes(b"lost")
    done = admin.icehouse("restore", "latest", "--data-dir", str(server.data_dir))
    assert "icehouse rebuild" in done.err
    admin.icehouse("rebuild", "--data-dir", str(server.data_dir))
    server.start()
    for path in (top, late):
        assert_pulled(nix, server, key, path, tmp_path / Path(path).name)


def test_damage_is_repaired_from_another_cache(
    server: ServerProcess, pushed: tuple[NixClient, User, str], tmp_path: Path
) -> None:
    nix, admin, top = pushed
    key = admin.icehouse("cache", "show", "main", "--json").json["public_keys"][0]
    other = ServerProcess(tmp_path / "other", tmp_path / "other.log")
    other.start()
    try:
        admin.icehouse("login", other.url, "--token-file", str(other.data_dir / "admin-token"))
        admin.icehouse("cache", "create", "copy", "--public", "--store-dir", nix.environment["NIX_STORE_DIR"])
        admin.icehouse("push", "copy", "--store", str(nix.root), top)
        for file in (server.data_dir / "packs").rglob("*"):
            if file.is_file():
                file.unlink()
        verify = ("verify", "--data-dir", str(server.data_dir), "--repair")
        alone = admin.try_icehouse(*verify, "--from", f"{other.url}/nothing")
        assert (alone.code, "Repaired 0 of 3 paths." in alone.out) == (1, True)
        done = admin.icehouse(*verify, "--from", f"{other.url}/copy")
        assert "Repaired 3 of 3 paths." in done.out
    finally:
        other.stop()
    assert_pulled(nix, server, key, top, tmp_path / "reader")
