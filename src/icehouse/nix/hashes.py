"""Hashes as Nix writes them: an algorithm and a digest, in hexadecimal, Nix32 or base64, or as an SRI string.

Source: Nix, src/libutil/hash.cc.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from enum import Enum
from typing import Final, Self

from icehouse.errors import InvalidFormat
from icehouse.nix import nix32
from icehouse.nix.excerpts import excerpt

SHA256_SIZE_BYTES: Final = 32


class HashAlgorithm(Enum):
    """An algorithm that Nix knows without experimental features; the value is Nix's name for it."""

    MD5 = "md5"
    SHA1 = "sha1"
    SHA256 = "sha256"
    SHA512 = "sha512"

    @property
    def size_bytes(self) -> int:
        """The length of a digest."""
        return _SIZES[self]


_SIZES: Final = {
    HashAlgorithm.MD5: 16,
    HashAlgorithm.SHA1: 20,
    HashAlgorithm.SHA256: SHA256_SIZE_BYTES,
    HashAlgorithm.SHA512: 64,
}


@dataclass(frozen=True, slots=True)
class NixHash:
    """A digest with its algorithm. The digest has the algorithm's length."""

    algorithm: HashAlgorithm
    digest: bytes

    def __post_init__(self) -> None:
        """Hold the promise about the length."""
        if len(self.digest) != self.algorithm.size_bytes:
            raise InvalidFormat(
                f"a digest of {len(self.digest)} bytes is not {self.algorithm.value}: "
                f"expected {self.algorithm.size_bytes} bytes"
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``<algorithm>:<digest>``, or ``<algorithm>-<base64>`` (SRI).

        After a colon the digest may be hexadecimal in either case, Nix32 or base64; its length tells which.

        Raises:
            InvalidFormat: no algorithm that Nix knows stands before a separator, or the digest is not one of its.
        """
        name, colon, rest = text.partition(":")
        if colon:
            return cls(parse_algorithm(name), parse_digest(parse_algorithm(name), rest))
        name, dash, rest = text.partition("-")
        if not dash:
            raise InvalidFormat(f"hash {excerpt(text)} has no algorithm: expected for instance sha256:<digest>")
        algorithm = parse_algorithm(name)
        return cls(algorithm, _parse_base64(rest, algorithm))

    def nix32(self) -> str:
        """``<algorithm>:<Nix32>``, as narinfos have it."""
        return f"{self.algorithm.value}:{nix32.encode(self.digest)}"

    def hex(self) -> str:
        """``<algorithm>:<hexadecimal>``, as Nix's database and store path computations have it."""
        return f"{self.algorithm.value}:{self.digest.hex()}"

    def sri(self) -> str:
        """``<algorithm>-<base64>``, as Nix's JSON has it."""
        return f"{self.algorithm.value}-{base64.b64encode(self.digest).decode()}"


def parse_algorithm(name: str) -> HashAlgorithm:
    """The algorithm called *name*, which is written in small letters.

    Raises:
        InvalidFormat: Nix has no such algorithm, or only as an experiment.
    """
    try:
        return HashAlgorithm(name)
    except ValueError as exc:
        known = ", ".join(algorithm.value for algorithm in HashAlgorithm)
        raise InvalidFormat(f"hash algorithm {excerpt(name)} is not known: expected one of {known}") from exc


def parse_digest(algorithm: HashAlgorithm, text: str) -> bytes:
    """Read a digest whose length tells whether it is hexadecimal, Nix32 or base64.

    Raises:
        InvalidFormat: no form of such a digest has this length, or a character does not belong to the form.
    """
    size = algorithm.size_bytes
    if len(text) == nix32.encoded_length(size):
        return nix32.decode(text, size)
    if len(text) == 2 * size:
        try:
            return binascii.unhexlify(text)
        except ValueError as exc:
            raise InvalidFormat(f"{algorithm.value} digest {excerpt(text)} is not hexadecimal") from exc
    return _parse_base64(text, algorithm)


def parse_sha256(text: str) -> bytes:
    """The 32 bytes of a SHA-256 in any form that `NixHash.parse` reads.

    Raises:
        InvalidFormat: malformed, or of another algorithm.
    """
    parsed = NixHash.parse(text)
    if parsed.algorithm is not HashAlgorithm.SHA256:
        raise InvalidFormat(f"hash {excerpt(text)} is {parsed.algorithm.value}: expected sha256")
    return parsed.digest


def render_sha256(digest: bytes) -> str:
    """``sha256:`` and 52 Nix32 characters."""
    return f"sha256:{nix32.encode(digest)}"


def _parse_base64(text: str, algorithm: HashAlgorithm) -> bytes:
    size = algorithm.size_bytes
    if len(text) != (size + 2) // 3 * 4:
        raise InvalidFormat(
            f"{algorithm.value} digest {excerpt(text)} has {len(text)} characters: expected {2 * size} (hexadecimal), "
            f"{nix32.encoded_length(size)} (Nix32) or {(size + 2) // 3 * 4} (base64)"
        )
    return decode_base64(text, size, what=f"{algorithm.value} digest")


def decode_base64(text: str, size_bytes: int, *, what: str) -> bytes:
    """Read exactly *size_bytes* bytes of padded base64, spelled in the only canonical way; *what* names it in errors.

    Raises:
        InvalidFormat: other characters, another length, missing padding, or unused bits that are not zero.
    """
    try:
        decoded = base64.b64decode(text, validate=True)
    except ValueError as exc:
        raise InvalidFormat(f"{what} {excerpt(text)} is not base64") from exc
    if len(decoded) != size_bytes:
        raise InvalidFormat(f"{what} {excerpt(text)} has {len(decoded)} bytes: expected {size_bytes}")
    if base64.b64encode(decoded).decode() != text:
        raise InvalidFormat(f"{what} {excerpt(text)} is base64 with bits set that stand for nothing")
    return decoded
