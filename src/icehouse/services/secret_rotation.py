"""Another secret for a server: what is encrypted with it is encrypted anew.

The order makes each step safe to die after: the old secret is kept under another name, the new one is written under a
third, all keys change in one transaction, and then the new one takes its place. Which of the two belongs to the
database can always be tried out, and `settle_secret` does so.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Connection

from icehouse.db.engine import Database
from icehouse.db.files import read_small_file, sync_folder, write_private_file
from icehouse.db.keys import list_sealed_keys, set_sealed_key
from icehouse.errors import Corrupt, NotFound
from icehouse.rules.audit import ON_SERVER, Action
from icehouse.services.audit import record
from icehouse.services.signing import NONCE_BYTES, SECRET_BYTES, Sealer


def rotate_secret(secret: Path, database: Database, *, now: int, draw: Callable[[int], bytes]) -> int:
    """Encrypt all signing keys with a new secret; how many there are. The caller keeps servers out meanwhile.

    Raises:
        NotFound: there is no secret.
        Corrupt: it does not open a key. Nothing was changed.
    """
    settle_secret(secret, database)
    old = read_small_file(secret)
    if old is None:
        raise NotFound(f"{secret} is not there")
    new = draw(SECRET_BYTES)
    opener, sealer = Sealer(old), Sealer(new)
    for row in database.read_now(list_sealed_keys):
        opener.unseal(row.sealed_secret_key, row.public_key.key_name)

    def work(connection: Connection) -> int:
        rows = list_sealed_keys(connection)
        for row in rows:
            kept = opener.unseal(row.sealed_secret_key, row.public_key.key_name)
            set_sealed_key(connection, row.id, sealer.seal(kept, row.public_key.key_name, draw(NONCE_BYTES)))
        record(connection, ON_SERVER, Action.SECRET_ROTATE, "*", new={"keys": len(rows)}, now=now)
        return len(rows)

    write_private_file(old_secret(secret), old)
    write_private_file(_next_secret(secret), new)
    count = database.write_now(work)
    settle_secret(secret, database)
    return count


def settle_secret(secret: Path, database: Database) -> None:
    """Finish, or undo, what a rotation left that was cut off."""
    found = read_small_file(_next_secret(secret))
    if found is None:
        return
    if _opens(found, database):
        _next_secret(secret).rename(secret)
    else:
        _next_secret(secret).unlink()
    sync_folder(secret.parent)


def _opens(secret: bytes, database: Database) -> bool:
    """Whether the keys are sealed with that secret: all are, or none. Without any, it does not matter."""
    rows = database.read_now(list_sealed_keys)
    with contextlib.suppress(Corrupt):
        for row in rows[:1]:
            Sealer(secret).unseal(row.sealed_secret_key, row.public_key.key_name)
        return True
    return False


def old_secret(secret: Path) -> Path:
    """Where the secret before the present one is kept: databases of backups from before need it."""
    return secret.with_name(f"{secret.name}.old")


def _next_secret(secret: Path) -> Path:
    return secret.with_name(f"{secret.name}.next")
