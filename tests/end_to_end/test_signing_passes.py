"""A server that is killed while it signs what was published before goes on with that when it is started again."""

from __future__ import annotations

import signal
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from icehouse.nix import nix32
from icehouse.nix.signing import PathInfo, PublicKey, SecretKey, Signature, fingerprint
from icehouse.nix.store_paths import HashPart, StoreDir, StorePath
from tests.client.private_nix import CLOSURE, PrivateNix
from tests.end_to_end.conftest import ServerProcess, User

pytestmark = pytest.mark.end_to_end

KEY = SecretKey.generate("kms-1", b"k" * 32)
PATHS = 1_600
"""Three pages of 500, and one that is not full."""

SCRIPT = f"""
import base64, os, pathlib, signal, sys
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
runs = pathlib.Path(sys.argv[1])
with runs.open("a") as file:
    file.write("x")
if runs.stat().st_size == KILLING:
    os.kill(os.getppid(), signal.SIGKILL)
key = Ed25519PrivateKey.from_private_bytes({KEY.seed!r})
for line in sys.stdin.buffer:
    print(base64.b64encode(key.sign(line.rstrip(b"\\n"))).decode())
"""
KILLING = 5
"""The run that kills the server: after those for adding and activating the key, and two pages, the third page's."""


def copy_path(database: Path) -> None:
    """Give the cache many paths with the NAR of its only one, without signatures."""
    with closing(sqlite3.connect(database, timeout=30)) as raw, raw:
        raw.execute("CREATE TEMP TABLE copied AS SELECT * FROM path")
        raw.execute("""UPDATE copied SET id = NULL, "references" = '', signatures = ''""")
        for number in range(PATHS - 1):
            raw.execute("UPDATE copied SET hash_part = ?", (nix32.encode(number.to_bytes(20, "little")),))
            raw.execute("INSERT INTO path SELECT * FROM copied")


def signed_paths(database: Path, key: PublicKey, store_dir: StoreDir) -> int:
    """How many paths have a valid signature by a key. All signatures of all paths must be valid."""
    with closing(sqlite3.connect(database, timeout=30)) as raw:
        rows = raw.execute('SELECT hash_part, name, nar_hash, nar_size, "references", signatures FROM path').fetchall()
    assert len(rows) == PATHS
    count = 0
    for hash_part, name, nar_hash, nar_size, references, signatures in rows:
        others = tuple(StorePath.parse(text) for text in references.split())
        info = PathInfo(StorePath(HashPart(hash_part), name), nix32.decode(nar_hash, 32), nar_size, others)
        made = [Signature.parse(text) for text in signatures.split()]
        ours = [each for each in made if each.key_name == key.key_name]
        assert all(key.verify(fingerprint(info, store_dir), each) for each in ours)
        assert len(ours) <= 1
        count += len(ours)
    return count


def test_pass_goes_on_after_the_server_was_killed_in_the_middle(
    admin: User, builder: PrivateNix, server: ServerProcess, tmp_path: Path
) -> None:
    store_dir = builder.environment["NIX_STORE_DIR"]
    created = admin.icehouse("cache", "create", "team", "--public", "--store-dir", store_dir, "--json").json
    admin.icehouse("push", "team", builder.build(CLOSURE, "base"))
    database = server.data_dir / "icehouse.db"
    copy_path(database)
    script = tmp_path / "sign.py"
    script.write_text(SCRIPT.replace("KILLING", str(KILLING)))
    command = f"{sys.executable} {script} {tmp_path / 'runs'}"
    key = KEY.public_key.render()
    admin.icehouse(
        *("key", "add", "team", "--data-dir", str(server.data_dir), "--public-key", key, "--command", command)
    )
    admin.icehouse("key", "activate", "team", KEY.key_name)

    assert server.process is not None
    assert server.process.wait(60) == -signal.SIGKILL
    server.stop()  # which closes what was left of it
    with closing(sqlite3.connect(database, timeout=30)) as raw:
        states = raw.execute("SELECT looked_at, changed, ended_at IS NULL FROM signing_pass").fetchall()
        assert raw.execute("SELECT name FROM lease").fetchall() == [("signatures",)]
    assert states == [(1_000, 1_000, 1)]
    assert signed_paths(database, KEY.public_key, StoreDir.parse(store_dir)) == 1_000

    server.start()
    done = admin.icehouse("key", "progress", "team", "--wait", "--json").json
    assert (done["state"], done["looked_at"], done["changed"], done["error"]) == ("done", PATHS, PATHS, None)
    assert signed_paths(database, KEY.public_key, StoreDir.parse(store_dir)) == PATHS
    old = PublicKey.parse(created["public_keys"][0])
    assert signed_paths(database, old, StoreDir.parse(store_dir)) == PATHS
    assert (tmp_path / "runs").stat().st_size == KILLING + 2  # no page was signed twice but the one that was cut off
