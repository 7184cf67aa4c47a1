"""What the user's own Nix says of its configuration, and what follows for users whom its daemon does not trust."""

from dataclasses import replace
from pathlib import Path

import pytest

from icehouse.client.nix_settings import NixSettings, ask_cache, explain_distrust, is_trusted, read_settings
from icehouse.errors import Unavailable, Unsupported
from icehouse.nix.used_caches import UsedCache
from tests.client.private_nix import PrivateNix

CACHE = UsedCache("https://cache.example.org/team", ("team-1:key",), is_public=True)
SYSTEM = NixSettings(frozenset({"https://cache.nixos.org"}), frozenset(), frozenset(), ("root",))
NIX_CONF = Path("/etc/nix/nix.conf")


@pytest.mark.parametrize(
    ("trusted_users", "expected"),
    [((), False), (("root", "bob"), False), (("ann",), True), (("*",), True), (("@wheel",), True), (("@dev",), False)],
)
def test_trusted_are_users_by_name_by_group_or_all(trusted_users: tuple[str, ...], expected: bool) -> None:  # noqa: FBT001  a case
    assert is_trusted(trusted_users, "ann", {"users", "wheel"}) is expected


def test_an_untrusted_user_is_told_what_an_administrator_must_add() -> None:
    told = explain_distrust(SYSTEM, [CACHE], NIX_CONF)
    assert told is not None
    assert f"\n    extra-trusted-substituters = {CACHE.url}\n" in told
    assert "\n    extra-trusted-public-keys = team-1:key\n" in told


def test_what_the_daemon_trusts_already_works_for_everybody() -> None:
    with_key = replace(SYSTEM, trusted_public_keys=frozenset({"team-1:key"}))
    assert explain_distrust(replace(with_key, trusted_substituters=frozenset({CACHE.url})), [CACHE], NIX_CONF) is None
    assert explain_distrust(replace(with_key, substituters=frozenset({f"{CACHE.url}/"})), [CACHE], NIX_CONF) is None
    told = explain_distrust(with_key, [CACHE], NIX_CONF)
    assert told is not None
    assert "public-keys" not in told


def test_settings_of_the_system_are_told_apart_from_the_users(nix: PrivateNix, tmp_path: Path) -> None:
    (tmp_path / "system").mkdir()
    (tmp_path / "system/nix.conf").write_text("trusted-substituters = https://a\ntrusted-users = ann @wheel\n")
    user_file = Path(nix.environment["HOME"]) / ".config/nix/nix.conf"
    user_file.write_text(f"{user_file.read_text()}\nextra-substituters = https://mine\ntrusted-users = everybody\n")
    environment = {**nix.environment, "NIX_CONF_DIR": str(tmp_path / "system")}
    system = read_settings(environment, is_system_only=True)
    assert (system.trusted_users, system.trusted_substituters) == (("ann", "@wheel"), {"https://a"})
    assert "https://mine" not in system.substituters
    assert "https://mine" in read_settings(environment).substituters


def test_a_cache_that_is_not_there_is_told_in_nixs_words(nix: PrivateNix) -> None:
    with pytest.raises(Unavailable, match="nix store ping"):
        ask_cache("http://127.0.0.1:9/team", nix.environment)


def test_without_nix_nothing_is_asked(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="`nix` is not in PATH"):
        read_settings({"PATH": str(tmp_path)})
