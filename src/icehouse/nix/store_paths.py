"""Store directories, hash parts and store paths, and how Nix computes the hash part of a store path.

Source: Nix, src/libstore/path.cc and src/libstore/store-dir-config.cc.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final, NewType, Self

from icehouse.errors import InvalidFormat
from icehouse.nix import nix32
from icehouse.nix.excerpts import excerpt

HASH_PART_LENGTH: Final = 32
MAX_NAME_LENGTH: Final = 211
MAX_BASE_NAME_LENGTH: Final = HASH_PART_LENGTH + 1 + MAX_NAME_LENGTH
MAX_STORE_DIR_LENGTH: Final = 1024

_HASH_PART: Final = re.compile(f"[{nix32.ALPHABET}]{{{HASH_PART_LENGTH}}}")
_NAME_LETTERS: Final = r"0-9a-zA-Z+._?=\-"
# A name that is "." or "..", or begins with one of them and a dash, would make a base name that shells and build
# systems take for a folder; other leading dots are fine, since the hash part stands in front.
_NAME: Final = re.compile(rf"(?!\.\.?(?:-|\Z))[{_NAME_LETTERS}]{{1,{MAX_NAME_LENGTH}}}")
_BASE_NAME: Final = re.compile(f"({_HASH_PART.pattern})-({_NAME.pattern})")
_STORE_DIR: Final = re.compile(r"(?:/[!-.0-~]+)+")

HashPart = NewType("HashPart", str)
"""The 32 Nix32 characters that open a base name. Made by `parse_hash_part` only."""


def parse_hash_part(text: str) -> HashPart:
    """Read a hash part.

    Raises:
        InvalidFormat: not 32 characters, or one of them is outside Nix32's alphabet.
    """
    if _HASH_PART.fullmatch(text) is None:
        raise InvalidFormat(f"hash part {excerpt(text)}: expected {HASH_PART_LENGTH} characters of {nix32.ALPHABET}")
    return HashPart(text)


def parse_name(text: str) -> str:
    """Read the name of a store path, what follows the hash part and the dash.

    Raises:
        InvalidFormat: empty, over 211 characters, outside ``0-9a-zA-Z+._?=-``, or ``.``, ``..`` alone or before a dash.
    """
    if _NAME.fullmatch(text) is None:
        raise InvalidFormat(_why_no_name(text))
    return text


@dataclass(frozen=True, slots=True)
class StoreDir:
    """The folder that store paths live in: absolute, in its only spelling, of printable ASCII without spaces."""

    path: str

    def __post_init__(self) -> None:
        """Hold the promise about the spelling."""
        path = self.path
        if (
            len(path) > MAX_STORE_DIR_LENGTH
            or _STORE_DIR.fullmatch(path) is None
            or not {".", ".."}.isdisjoint(path.split("/"))
        ):
            raise InvalidFormat(
                f"store directory {excerpt(path)}: expected an absolute path of printable ASCII without spaces, "
                f"without a slash at the end, '//', '.' or '..', at most {MAX_STORE_DIR_LENGTH} long"
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a store directory.

        Raises:
            InvalidFormat: relative, with a slash at the end, with empty, ``.`` or ``..`` parts, not printable ASCII.
        """
        return cls(text)

    def __str__(self) -> str:
        """The path, for messages and for building others."""
        return self.path


NIX_STORE: Final = StoreDir("/nix/store")
"""The usual store directory."""


@dataclass(frozen=True, slots=True, order=True)
class StorePath:
    """One entry of a store directory, without that directory. Sorts by base name, as Nix signs references.

    Whoever builds one from its parts takes these from `parse_hash_part` and `parse_name`, or from where they were kept.
    """

    hash_part: HashPart
    name: str

    @classmethod
    def parse(cls, base_name: str) -> Self:
        """Read ``<hash part>-<name>``.

        Raises:
            InvalidFormat: Nix would refuse the base name; the message says which part of it.
        """
        match = _BASE_NAME.fullmatch(base_name)
        if match is None:
            raise InvalidFormat(_why_no_base_name(base_name))
        return cls(HashPart(match[1]), match[2])

    @property
    def base_name(self) -> str:
        """``<hash part>-<name>``."""
        return f"{self.hash_part}-{self.name}"

    def full(self, store_dir: StoreDir) -> str:
        """The absolute path in *store_dir*."""
        return f"{store_dir.path}/{self.hash_part}-{self.name}"

    def __str__(self) -> str:
        """The base name, for messages."""
        return self.base_name


def parse_full(text: str, store_dir: StoreDir) -> StorePath:
    """Read the absolute path of an entry of *store_dir*.

    Raises:
        InvalidFormat: the path is not directly in *store_dir*, or its base name is malformed.
    """
    prefix = f"{store_dir.path}/"
    if not text.startswith(prefix):
        raise InvalidFormat(f"path {excerpt(text)} is not in the store directory {store_dir.path}")
    return StorePath.parse(text[len(prefix) :])


def parse_path_or_hash(text: str, store_dir: StoreDir) -> tuple[HashPart, StorePath | None]:
    """Read what people name a path by: its base name, its absolute path, or the hash part alone.

    Raises:
        InvalidFormat: it is none of these.
    """
    if len(text) == HASH_PART_LENGTH:
        return parse_hash_part(text), None
    store_path = parse_full(text, store_dir) if text.startswith("/") else StorePath.parse(text)
    return store_path.hash_part, store_path


def make_store_path(kind: str, inner_digest: bytes, name: str, store_dir: StoreDir) -> StorePath:
    """The store path of that *name* whose hash part stands for *kind* and the SHA-256 *inner_digest*.

    The hash part is SHA-256 of ``<kind>:sha256:<hex>:<store dir>:<name>``, folded to 20 bytes by exclusive or.

    Raises:
        InvalidFormat: *name* cannot be the name of a store path.
    """
    description = f"{kind}:sha256:{inner_digest.hex()}:{store_dir.path}:{parse_name(name)}"
    digest = hashlib.sha256(description.encode()).digest()
    return StorePath(HashPart(nix32.encode(_fold(digest, 20))), name)


def _fold(digest: bytes, size_bytes: int) -> bytes:
    folded = bytearray(size_bytes)
    for position, byte in enumerate(digest):
        folded[position % size_bytes] ^= byte
    return bytes(folded)


def _why_no_base_name(text: str) -> str:
    hash_part, dash, name = text.partition("-")
    if not dash or _HASH_PART.fullmatch(hash_part) is None:
        return (
            f"store path {excerpt(text)}: expected a hash part of {HASH_PART_LENGTH} characters of {nix32.ALPHABET}, "
            "a dash and a name"
        )
    return f"store path {excerpt(text)}: {_why_no_name(name)}"


def _why_no_name(name: str) -> str:
    if len(name) > MAX_NAME_LENGTH:
        return f"the name has {len(name)} characters: expected at most {MAX_NAME_LENGTH}"
    return (
        f"name {excerpt(name)}: expected characters of 0-9 a-z A-Z + - . _ ? =, at least one, "
        "and neither '.' nor '..' alone or before a dash"
    )
