"""Signing keys of caches: kept encrypted with the server's secret, decrypted once."""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from icehouse.db.engine import Database
from icehouse.db.keys import KeyRow, list_keys
from icehouse.errors import Corrupt, InvalidFormat
from icehouse.nix.signing import SecretKey

SECRET_BYTES: Final = 32
NONCE_BYTES: Final = 12

_VERSION: Final = b"\x01"
_TAG_BYTES: Final = 16


class Sealer:
    """Encrypts secret keys with a key made of the server's secret.

    A sealed key is one byte of version, 1; a nonce of 12 bytes; and AES-256-GCM of the text of Nix's key file, with the
    key's name as associated data. The AES key is HKDF-SHA-256 of the secret, with no salt, for ``icehouse signing
    keys``.
    """

    def __init__(self, secret: bytes) -> None:
        if len(secret) != SECRET_BYTES:
            raise InvalidFormat(f"the server's secret has {len(secret)} bytes, expected {SECRET_BYTES}")
        key = HKDF(SHA256(), length=32, salt=None, info=b"icehouse signing keys").derive(secret)
        self._aead = AESGCM(key)

    def seal(self, key: SecretKey, nonce: bytes) -> bytes:
        """*key*, encrypted. The nonce is 12 random bytes, new each time."""
        text = self._aead.encrypt(nonce, key.render().encode(), key.key_name.encode())
        return _VERSION + nonce + text

    def unseal(self, sealed: bytes, key_name: str) -> SecretKey:
        """The key of that name that was sealed.

        Raises:
            Corrupt: the bytes were changed, or sealed with another secret or under another name.
        """
        if sealed[:1] != _VERSION or len(sealed) < 1 + NONCE_BYTES + _TAG_BYTES:
            raise Corrupt(f"signing key {key_name}: encrypted in an unknown way (version {sealed[:1].hex() or 'none'})")
        nonce, text = sealed[1 : 1 + NONCE_BYTES], sealed[1 + NONCE_BYTES :]
        try:
            opened = self._aead.decrypt(nonce, text, key_name.encode())
        except InvalidTag as exc:
            raise Corrupt(
                f"signing key {key_name}: it cannot be decrypted with the secret in the data folder; "
                "the secret is another server's, or the database is damaged"
            ) from exc
        return SecretKey.parse(opened.decode())


class Signer:
    """The secret keys of caches. Decrypted ones stay in memory; which ones a cache has is read each time."""

    def __init__(self, database: Database, sealer: Sealer) -> None:
        self._database = database
        self._sealer = sealer
        self._opened: dict[int, dict[int, SecretKey]] = {}

    async def secret_keys(self, cache_id: int) -> tuple[SecretKey, ...]:
        """The keys that sign what is published in a cache, the oldest first.

        Raises:
            Corrupt: one cannot be decrypted with the server's secret.
        """
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
        return tuple(keys.values())

    def _open(self, row: KeyRow) -> SecretKey:
        key = self._sealer.unseal(row.sealed_secret_key, row.public_key.key_name)
        if key.public_key != row.public_key:
            raise Corrupt(f"signing key {row.public_key.key_name}: its public half in the database is another key's")
        return key
