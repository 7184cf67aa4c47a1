"""A key that stays behind a command on the server's machine, from adding it to the day on which it does not answer."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from tests.client.private_nix import CLOSURE, PrivateNix
from tests.end_to_end.conftest import ServerProcess, User
from tests.end_to_end.test_push_and_pull import pull

pytestmark = pytest.mark.end_to_end

SCRIPT = """
import base64, pathlib, sys
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
secret = pathlib.Path(sys.argv[1])
if not secret.exists():
    sys.exit("the vault hunter2 is sealed")
seed = base64.b64decode(secret.read_text().partition(":")[2])[:32]
key = Ed25519PrivateKey.from_private_bytes(seed)
for line in sys.stdin.buffer:
    print(base64.b64encode(key.sign(line.rstrip(b"\\n"))).decode())
"""


def test_cache_is_signed_by_a_command_and_shows_nothing_while_that_fails(
    admin: User, builder: PrivateNix, server: ServerProcess, tmp_path: Path
) -> None:
    secret, public, vault = tmp_path / "secret", tmp_path / "public", tmp_path / "vault"
    builder.run("nix-store", "--generate-binary-cache-key", "kms-1", str(secret), str(public))
    (tmp_path / "sign.py").write_text(SCRIPT)
    key = public.read_text().strip()
    store_dir = builder.environment["NIX_STORE_DIR"]
    old = admin.icehouse("cache", "create", "team", "--public", "--store-dir", store_dir, "--json").json["public_keys"]
    command = f"{sys.executable} {tmp_path}/sign.py {vault}"
    add = ("key", "add", "team", "--data-dir", str(server.data_dir), "--public-key", key, "--command", command)

    sealed = admin.try_icehouse(*add)
    assert (sealed.code, "the vault hunter2 is sealed" in sealed.err) == (5, True), sealed  # who types it reads stderr
    shutil.copy(secret, vault)
    assert admin.icehouse(*add).out.strip() == key  # while the server runs
    admin.icehouse("key", "activate", "team", "kms-1")
    admin.icehouse("key", "retire", "team", old[0].partition(":")[0])
    assert json.loads(admin.icehouse("key", "list", "team", "--json").out)[1]["kept"] == "command"

    base, top = builder.build(CLOSURE, "base"), builder.build(CLOSURE, "top")
    admin.icehouse("push", "team", base)
    assert pull(admin, tmp_path / "store", f"{server.url}/team", key, base).returncode == 0

    vault.unlink()
    refused = admin.try_icehouse("push", "team", top)
    assert (refused.code, "signing key kms-1 does not sign now" in " ".join(refused.err.split())) == (5, True), refused
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine 127.0.0.1 login icehouse password {server.admin_token}\n")
    options = ("--option", "netrc-file", str(netrc), "--option", "experimental-features", "nix-command")
    copied = admin.try_nix("nix", "copy", *options, "--to", f"{server.url}/team?compression=zstd", top)
    assert (copied.code, "409" in copied.err, "signing key kms-1 does not sign" in copied.err) == (1, True, True), (
        copied
    )
    assert "hunter2" not in refused.err + copied.err
    assert "hunter2" in server.log.read_text()
    assert admin.icehouse("cache", "show", "team", "--json").json["paths"] == 1

    shutil.copy(secret, vault)
    admin.icehouse("push", "team", top)
    assert pull(admin, tmp_path / "store", f"{server.url}/team", key, top).returncode == 0


def test_key_stays_in_a_file_on_the_servers_machine(
    admin: User, builder: PrivateNix, server: ServerProcess, tmp_path: Path
) -> None:
    secret, public = tmp_path / "secret", tmp_path / "public"
    builder.run("nix-store", "--generate-binary-cache-key", "filed-1", str(secret), str(public))
    admin.icehouse("cache", "create", "team", "--public", "--store-dir", builder.environment["NIX_STORE_DIR"])
    add = ("key", "add", "team", "--data-dir", str(server.data_dir), "--file")
    assert admin.try_icehouse(*add, str(public)).code == 1
    admin.icehouse(*add, str(secret))
    admin.icehouse("key", "activate", "team", "filed-1")
    base = builder.build(CLOSURE, "base")
    admin.icehouse("push", "team", base)
    assert pull(admin, tmp_path / "store", f"{server.url}/team", public.read_text().strip(), base).returncode == 0
    for wrong in (("--from-file", str(secret)), ("--command", "true"), ("--public-key", "a:b")):
        assert admin.try_icehouse(*add, str(secret), *wrong).code == 2
    assert admin.try_icehouse("key", "add", "team", "--data-dir", str(server.data_dir)).code == 2
