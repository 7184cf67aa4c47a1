"""Rotating the server's secret, killed at every line of it."""

import secrets
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from icehouse.db.caches import PUBLIC_DOMAIN_ID, insert_cache
from icehouse.db.engine import Database
from icehouse.db.keys import insert_key, list_sealed_keys
from icehouse.errors import Corrupt
from icehouse.nix.signing import PublicKey, SecretKey
from icehouse.nix.store_paths import NIX_STORE
from icehouse.rules.key_places import KeyFile, KeyPlace
from icehouse.services.secret_rotation import old_secret, rotate_secret
from icehouse.services.signing import Sealer
from icehouse.services.start import DataFolder, start

KEYS = [SecretKey.generate(f"key-{number}", bytes([number]) * 32) for number in range(3)]
PLACE = KeyFile("/run/keys/outside")
"""Where a fourth one is kept."""
KEPT = [*KEYS, PLACE]

DIE_AT_LINE = """
import os, secrets, signal, sys
from pathlib import Path
from icehouse.db.engine import Database
from icehouse.services.secret_rotation import rotate_secret

folder, last = Path(sys.argv[1]), int(sys.argv[2])
OURS = ("services/secret_rotation.py", "db/files.py", "db/engine.py", "db/keys.py")
lines = 0

def trace(frame, event, argument):
    global lines
    if not frame.f_code.co_filename.endswith(OURS):
        return None
    if event == "line":
        lines += 1
        if lines == last:
            os.kill(os.getpid(), signal.SIGKILL)
    return trace

database = Database.open(folder / "icehouse.db")
import threading
threading.settrace(trace)
sys.settrace(trace)
rotate_secret(folder / "secret", database, now=5, draw=secrets.token_bytes)
sys.settrace(None)
"""


def fill(folder: Path) -> None:
    with start(DataFolder(folder), clock=lambda: 1, draw=secrets.token_bytes) as started:
        sealer = Sealer(started.secret)
        with closing(Database.open(folder / "icehouse.db")) as database:
            cache = database.write_now(
                lambda connection: insert_cache(
                    connection,
                    name="main",
                    domain_id=PUBLIC_DOMAIN_ID,
                    is_public=True,
                    store_dir=NIX_STORE,
                    priority=1,
                    want_mass_query=True,
                    now=1,
                )
            )
            for key in KEYS:
                sealed = sealer.seal(key, key.key_name, secrets.token_bytes(12))
                database.write_now(lambda c, k=key, s=sealed: insert_key(c, cache.id, k.public_key, s, now=1))
            outside = PublicKey("outside-1", bytes(32))
            sealed = sealer.seal(PLACE, outside.key_name, secrets.token_bytes(12))
            database.write_now(lambda c: insert_key(c, cache.id, outside, sealed, now=1))


def opened(folder: Path) -> list[SecretKey | KeyPlace]:
    """The keys, after a start, by the secret that is in force then."""
    with start(DataFolder(folder), clock=lambda: 1, draw=secrets.token_bytes) as started:
        with closing(Database.open(folder / "icehouse.db")) as database:
            rows = database.read_now(list_sealed_keys)
        sealer = Sealer(started.secret)
    return [sealer.unseal(row.sealed_secret_key, row.public_key.key_name) for row in rows]


def test_keys_are_sealed_with_the_new_secret_and_the_old_one_is_kept(tmp_path: Path) -> None:
    fill(tmp_path)
    before = (tmp_path / "secret").read_bytes()
    with closing(Database.open(tmp_path / "icehouse.db")) as database:
        assert rotate_secret(tmp_path / "secret", database, now=5, draw=secrets.token_bytes) == len(KEPT)
        with pytest.raises(Corrupt):
            Sealer(before).unseal(database.read_now(list_sealed_keys)[0].sealed_secret_key, KEYS[0].key_name)
    assert (tmp_path / "secret").read_bytes() != before
    assert old_secret(tmp_path / "secret").read_bytes() == before
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600
    assert opened(tmp_path) == KEPT


def test_secret_of_another_server_changes_nothing(tmp_path: Path) -> None:
    fill(tmp_path)
    right = (tmp_path / "secret").read_bytes()
    (tmp_path / "secret").write_bytes(b"x" * 32)
    with closing(Database.open(tmp_path / "icehouse.db")) as database, pytest.raises(Corrupt):
        rotate_secret(tmp_path / "secret", database, now=5, draw=secrets.token_bytes)
    assert sorted(path.name for path in tmp_path.glob("secret*")) == ["secret"]
    (tmp_path / "secret").write_bytes(right)
    assert opened(tmp_path) == KEPT


def test_rotation_that_is_killed_at_any_line_leaves_a_secret_that_opens_all_keys(tmp_path: Path) -> None:
    stride, last, killed = 7, 1, 0
    while True:
        folder = tmp_path / str(last)
        fill(folder)
        command = [sys.executable, "-c", DIE_AT_LINE, str(folder), str(last)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert opened(folder) == KEPT, last
        assert not (folder / "secret.next").exists()
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        killed += 1
        last += stride
    assert killed > 5
