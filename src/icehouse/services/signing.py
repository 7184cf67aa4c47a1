"""Signing keys of caches: kept encrypted with the server's secret, or outside; and signing with them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from icehouse.api.keys import KeyKept
from icehouse.db.engine import Database
from icehouse.db.keys import KeyRow, list_keys
from icehouse.errors import Corrupt, InvalidFormat
from icehouse.nix.signing import PathInfo, PublicKey, SecretKey, Signature, fingerprint
from icehouse.nix.store_paths import NIX_STORE, StorePath
from icehouse.rules.key_places import KeyCommand, KeyFile, KeyPlace, parse_place, render_place
from icehouse.services.outside_keys import OutsideKeys

SECRET_BYTES: Final = 32
NONCE_BYTES: Final = 12

_IN_DATABASE: Final = b"\x01"
_IN_FILE: Final = b"\x02"
_BEHIND_COMMAND: Final = b"\x03"
_KEPT: Final[dict[bytes, KeyKept]] = {_IN_DATABASE: "database", _IN_FILE: "file", _BEHIND_COMMAND: "command"}
_TAG_BYTES: Final = 16
_TRIAL: Final = fingerprint(PathInfo(StorePath.parse(f"{'0' * 32}-trial"), bytes(32), 1, ()), NIX_STORE)
"""Of a path that nobody can have, for its hashes are zero."""


@dataclass(frozen=True, slots=True)
class Signed:
    """Signatures over some texts, by all keys that sign in a cache."""

    keys: tuple[PublicKey, ...]
    """The oldest first."""
    signatures: Sequence[Sequence[Signature]]
    """For each text one by each key, in their order."""


class Signers(Protocol):
    """What signs for caches."""

    async def sign(self, cache_id: int, texts: Sequence[bytes]) -> Signed:
        """Sign with the keys that sign now what this cache publishes; without texts, only tell which keys these are.

        Raises:
            Corrupt: one cannot be decrypted with the server's secret.
            CannotSign: one is kept outside, and does not sign now.
        """
        ...


class Sealer:
    """Encrypts secret keys, or where they are kept, with a key made of the server's secret.

    What is sealed is one byte of version; a nonce of 12 bytes; and AES-256-GCM. Version 1 is the text of Nix's key
    file, with the key's name as associated data. Version 2 is the path of such a file, and 3 a command and its
    arguments, as JSON, with that byte and the key's name as associated data. So nobody who writes to the database, and
    has not the secret, chooses what the server reads or runs. The AES key is HKDF-SHA-256 of the secret, with no salt,
    for ``icehouse signing keys``.
    """

    def __init__(self, secret: bytes) -> None:
        if len(secret) != SECRET_BYTES:
            raise InvalidFormat(f"the server's secret has {len(secret)} bytes, expected {SECRET_BYTES}")
        key = HKDF(SHA256(), length=32, salt=None, info=b"icehouse signing keys").derive(secret)
        self._aead = AESGCM(key)

    def seal(self, kept: SecretKey | KeyPlace, key_name: str, nonce: bytes) -> bytes:
        """A key, or where it is kept, encrypted. The nonce is 12 random bytes, new each time.

        Raises:
            InvalidFormat: the place is not absolute, or long.
        """
        match kept:
            case SecretKey():
                version, text = _IN_DATABASE, kept.render().encode()
            case KeyFile():
                version, text = _IN_FILE, render_place(kept)
            case KeyCommand():
                version, text = _BEHIND_COMMAND, render_place(kept)
        return version + nonce + self._aead.encrypt(nonce, text, _bind(version, key_name))

    def unseal(self, sealed: bytes, key_name: str) -> SecretKey | KeyPlace:
        """The key of that name that was sealed, or where it is kept.

        Raises:
            Corrupt: the bytes were changed, or sealed with another secret or under another name.
        """
        version = sealed[:1]
        if version not in _KEPT or len(sealed) < 1 + NONCE_BYTES + _TAG_BYTES:
            raise Corrupt(f"signing key {key_name}: encrypted in an unknown way (version {version.hex() or 'none'})")
        nonce, text = sealed[1 : 1 + NONCE_BYTES], sealed[1 + NONCE_BYTES :]
        try:
            opened = self._aead.decrypt(nonce, text, _bind(version, key_name))
        except InvalidTag as exc:
            raise Corrupt(
                f"signing key {key_name}: it cannot be decrypted with the secret in the data folder; "
                "the secret is another server's, or the database is damaged"
            ) from exc
        return SecretKey.parse(opened.decode()) if version == _IN_DATABASE else parse_place(opened)


def how_kept(sealed: bytes) -> KeyKept:
    """Where the secret half of a sealed key is, without decrypting it."""
    return _KEPT.get(sealed[:1], "database")


def _bind(version: bytes, key_name: str) -> bytes:
    """The associated data. Names are printable, so no two are the same."""
    return key_name.encode() if version == _IN_DATABASE else version + key_name.encode()


class Signer:
    """Signs for caches. Decrypted keys stay in memory; which ones a cache has is read each time."""

    def __init__(self, database: Database, sealer: Sealer) -> None:
        self._database = database
        self._sealer = sealer
        self._outside = OutsideKeys()
        self._opened: dict[int, dict[int, SecretKey | KeyPlace]] = {}

    async def sign(self, cache_id: int, texts: Sequence[bytes]) -> Signed:
        """See `Signers.sign`."""
        rows = [
            row
            for row in await self._database.read(lambda connection: list_keys(connection, cache_id))
            if row.state == "active"
        ]
        opened = self._opened.get(cache_id, {})
        keys = {row.id: opened.get(row.id) or self._open(row) for row in rows}
        if keys:
            self._opened[cache_id] = keys
        else:  # The cache was deleted.
            self._opened.pop(cache_id, None)
        publics = tuple(row.public_key for row in rows)
        by_key = [await self._sign(keys[row.id], row.public_key, texts) for row in rows] if texts else []
        return Signed(publics, [[signatures[index] for signatures in by_key] for index in range(len(texts))])

    async def try_key(self, row: KeyRow) -> None:
        """Sign something with a key, whatever its state.

        Raises:
            Corrupt: it cannot be decrypted with the server's secret.
            CannotSign: it is kept outside, and does not sign now.
        """
        await self._sign(self._open(row), row.public_key, [_TRIAL])

    async def _sign(self, kept: SecretKey | KeyPlace, key: PublicKey, texts: Sequence[bytes]) -> list[Signature]:
        if isinstance(kept, SecretKey):
            return await asyncio.to_thread(partial(_sign_all, kept, texts))
        return await self._outside.sign(kept, key, texts)

    def _open(self, row: KeyRow) -> SecretKey | KeyPlace:
        kept = self._sealer.unseal(row.sealed_secret_key, row.public_key.key_name)
        if isinstance(kept, SecretKey) and kept.public_key != row.public_key:
            raise Corrupt(f"signing key {row.public_key.key_name}: its public half in the database is another key's")
        return kept


async def try_place(place: KeyPlace, key: PublicKey) -> None:
    """Sign something with a key that is kept outside.

    Raises:
        CannotSign: it does not sign now; the log says why.
    """
    await OutsideKeys().sign(place, key, [_TRIAL])


def _sign_all(key: SecretKey, texts: Sequence[bytes]) -> list[Signature]:
    return [key.sign(text) for text in texts]
