"""Signatures over the metadata of store paths: what they cover, and Nix's text form of keys and signatures.

Source: Nix, src/libstore/path-info.cc and src/libutil/signature/local-keys.cc; Ed25519 is RFC 8032.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol, Self

from icehouse.errors import InvalidFormat
from icehouse.nix.excerpts import excerpt
from icehouse.nix.hashes import decode_base64, render_sha256
from icehouse.nix.store_paths import StoreDir, StorePath

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SEED_BYTES: Final = 32
PUBLIC_KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
MAX_KEY_NAME_LENGTH: Final = 255


class SignedFacts(Protocol):
    """What a signature covers of a store path; `PathInfo`, ``NarInfo`` and ``ValidPath`` have it."""

    @property
    def store_path(self) -> StorePath:
        """The path itself."""
        ...

    @property
    def nar_hash(self) -> bytes:
        """The SHA-256 of its NAR, 32 bytes."""
        ...

    @property
    def nar_size(self) -> int:
        """The size of its NAR."""
        ...

    @property
    def references(self) -> Iterable[StorePath]:
        """The paths that it refers to, itself included if so, in any order."""
        ...


@dataclass(frozen=True, slots=True)
class PathInfo:
    """What a signature covers, for who has nothing larger that holds it."""

    store_path: StorePath
    nar_hash: bytes
    nar_size: int
    references: tuple[StorePath, ...]


def fingerprint(info: SignedFacts, store_dir: StoreDir) -> bytes:
    """The bytes that a signature on *info* covers.

    ASCII, ``1;<path>;<nar hash>;<nar size>;<references>``: full paths, the hash as ``sha256:`` and 52 Nix32 characters,
    the size in decimal bytes, references sorted by base name and joined by commas.

    Raises:
        InvalidFormat: the NAR size is not positive, which Nix does not sign.
    """
    if info.nar_size <= 0:
        raise InvalidFormat(f"{info.store_path}: cannot sign a NAR size of {info.nar_size}, expected a positive number")
    references = ",".join([path.full(store_dir) for path in sorted(set(info.references))])
    path = info.store_path.full(store_dir)
    return f"1;{path};{render_sha256(info.nar_hash)};{info.nar_size};{references}".encode()


@dataclass(frozen=True, slots=True)
class Signature:
    """An Ed25519 signature, 64 bytes, with the name of the key that made it."""

    key_name: str
    value: bytes

    def __post_init__(self) -> None:
        """Hold the promise about name and length."""
        _check_key_name(self.key_name, "signature")
        _check_length(self.value, SIGNATURE_BYTES, f"signature by {self.key_name}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``<key name>:<base64>``.

        Raises:
            InvalidFormat: no name, or not exactly 64 bytes of base64.
        """
        name, value = _split(text, "signature")
        return cls(name, decode_base64(value, SIGNATURE_BYTES, what="signature"))

    def render(self) -> str:
        """``<key name>:<base64>``."""
        return _render(self.key_name, self.value)


@dataclass(frozen=True, slots=True)
class PublicKey:
    """What checks signatures made under its name."""

    key_name: str
    key: bytes

    def __post_init__(self) -> None:
        """Hold the promise about name and length."""
        _check_key_name(self.key_name, "public key")
        _check_length(self.key, PUBLIC_KEY_BYTES, f"public key {self.key_name}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``<key name>:<base64>``; a newline at the end does no harm.

        Raises:
            InvalidFormat: no name, or not exactly 32 bytes of base64.
        """
        name, value = _split(text.strip(), "public key")
        return cls(name, decode_base64(value, PUBLIC_KEY_BYTES, what=f"public key {name}"))

    def render(self) -> str:
        """``<key name>:<base64>``, as it stands in ``trusted-public-keys``."""
        return _render(self.key_name, self.key)

    def verify(self, fingerprint: bytes, signature: Signature) -> bool:
        """Tell whether *signature* carries this key's name and was made with it over *fingerprint*."""
        if signature.key_name != self.key_name:
            return False
        # Here, since loading it takes a command 6 ms, and few have signatures to look at.
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415

        try:
            Ed25519PublicKey.from_public_bytes(self.key).verify(signature.value, fingerprint)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True)
class SecretKey:
    """What makes signatures under its name. Its repr tells the name only."""

    key_name: str
    seed: bytes = field(repr=False)
    _key: Ed25519PrivateKey = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Hold the promise about name and length, and expand the seed once for all signatures."""
        _check_key_name(self.key_name, "secret key")
        _check_length(self.seed, SEED_BYTES, f"the seed of secret key {self.key_name}")
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415  as above

        object.__setattr__(self, "_key", Ed25519PrivateKey.from_private_bytes(self.seed))

    @classmethod
    def generate(cls, name: str, seed: bytes) -> Self:
        """The key called *name* that 32 random bytes, which the caller draws, stand for.

        Raises:
            InvalidFormat: the name cannot stand before a colon, or the seed has another length.
        """
        return cls(name, seed)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read Nix's key file, ``<key name>:<base64 of seed and public key>``; a newline at the end does no harm.

        Raises:
            InvalidFormat: malformed, or the public half does not belong to the seed. The message holds no secret.
        """
        name, separator, value = text.strip().partition(":")
        if not separator:
            raise InvalidFormat("secret key: expected <key name>:<base64>")
        _check_key_name(name, "secret key")
        try:
            both = base64.b64decode(value, validate=True)
        except ValueError:
            # Without its cause, which quotes nothing today but is not ours to trust with a secret.
            raise InvalidFormat(f"secret key {name}: what follows the colon is not base64") from None
        _check_length(both, SEED_BYTES + PUBLIC_KEY_BYTES, f"secret key {name}")
        key = cls(name, both[:SEED_BYTES])
        if key.public_key.key != both[SEED_BYTES:]:
            raise InvalidFormat(f"secret key {name}: its public half does not belong to its seed")
        return key

    def render(self) -> str:
        """The text of Nix's key file, secret and all, without a newline."""
        return _render(self.key_name, self.seed + self.public_key.key)

    @property
    def public_key(self) -> PublicKey:
        """The key that checks this one's signatures."""
        return PublicKey(self.key_name, self._key.public_key().public_bytes_raw())

    def sign(self, fingerprint: bytes) -> Signature:
        """The signature over *fingerprint*, the same each time."""
        return Signature(self.key_name, self._key.sign(fingerprint))


def _split(text: str, what: str) -> tuple[str, str]:
    name, separator, value = text.partition(":")
    if not separator:
        raise InvalidFormat(f"{what} {excerpt(text)}: expected <key name>:<base64>")
    return name, value


def _render(name: str, value: bytes) -> str:
    return f"{name}:{base64.b64encode(value).decode()}"


def _check_key_name(name: str, what: str) -> None:
    if not 0 < len(name) <= MAX_KEY_NAME_LENGTH or not name.isprintable() or ":" in name or " " in name:
        raise InvalidFormat(
            f"{what}: key name {excerpt(name)}: expected 1 to {MAX_KEY_NAME_LENGTH} printable characters "
            "without spaces and colons"
        )


def _check_length(value: bytes, size_bytes: int, what: str) -> None:
    if len(value) != size_bytes:
        raise InvalidFormat(f"{what} has {len(value)} bytes: expected {size_bytes}")
