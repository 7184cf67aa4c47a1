"""Content addresses: how the content of a store path fixes its hash part, and the store path that follows from it.

Source: Nix, src/libstore/content-address.cc and src/libstore/store-dir-config.cc.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Self

from icehouse.errors import InvalidFormat
from icehouse.nix.excerpts import excerpt
from icehouse.nix.hashes import HashAlgorithm, NixHash, parse_algorithm, parse_digest
from icehouse.nix.store_paths import StoreDir, StorePath, make_store_path


class IngestionMethod(Enum):
    """What of a file tree is hashed; the value is how a content address begins."""

    TEXT = "text:"
    """The bytes of one file, which may name other store paths."""
    FLAT = "fixed:"
    """The bytes of one file."""
    NAR = "fixed:r:"
    """The tree as a NAR."""
    GIT = "fixed:git:"
    """The tree as git objects."""


@dataclass(frozen=True, slots=True)
class ContentAddress:
    """How a tree was hashed, and the hash.

    With `IngestionMethod.TEXT` the hash is SHA-256, with `IngestionMethod.GIT` SHA-1 or SHA-256.
    """

    method: IngestionMethod
    hash: NixHash

    def __post_init__(self) -> None:
        """Hold the promise about algorithms: Nix aborts on others."""
        algorithm = self.hash.algorithm
        allowed = _ALLOWED_ALGORITHMS.get(self.method)
        if allowed is not None and algorithm not in allowed:
            expected = " or ".join(a.value for a in allowed)
            raise InvalidFormat(f"content address {self.method.value}{algorithm.value}: expected {expected}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``text:sha256:<digest>``, ``fixed:<algorithm>:<digest>``, or the latter with ``r:`` or ``git:`` inside.

        The digest may be Nix32, hexadecimal or base64, but not an SRI string.

        Raises:
            InvalidFormat: anything else.
        """
        method = next((method for method in _LONGEST_FIRST if text.startswith(method.value)), None)
        name, colon, digest = text[len(method.value) :].partition(":") if method is not None else ("", "", "")
        if method is None or not colon:
            raise InvalidFormat(
                f"content address {excerpt(text)}: expected text:sha256:<digest>, fixed:<algorithm>:<digest>, "
                "fixed:r:<algorithm>:<digest> or fixed:git:<algorithm>:<digest>"
            )
        try:
            algorithm = parse_algorithm(name)
            return cls(method, NixHash(algorithm, parse_digest(algorithm, digest)))
        except InvalidFormat as exc:
            raise InvalidFormat(f"content address {excerpt(text)}: {exc}") from exc

    def render(self) -> str:
        """The text that Nix writes, with the digest in Nix32."""
        return f"{self.method.value}{self.hash.nix32()}"


_LONGEST_FIRST = sorted(IngestionMethod, key=lambda method: -len(method.value))
_ALLOWED_ALGORITHMS = {
    IngestionMethod.TEXT: (HashAlgorithm.SHA256,),
    IngestionMethod.GIT: (HashAlgorithm.SHA1, HashAlgorithm.SHA256),
}


def store_path_of(
    ca: ContentAddress,
    name: str,
    references: Iterable[StorePath],
    has_self_reference: bool,  # noqa: FBT001  the signature that callers agreed on
    store_dir: StoreDir,
) -> StorePath:
    """The only store path that content with the address *ca* and that *name* can have.

    *references* are those to other paths; a reference to itself is said by *has_self_reference*.

    Raises:
        InvalidFormat: Nix has no such path, since content of that kind cannot have references, or the name is wrong.
    """
    if ca.method is not IngestionMethod.TEXT:
        return make_fixed_path(ca.method, ca.hash, name, references, has_self_reference, store_dir)
    if has_self_reference:
        raise InvalidFormat(f"{name}: a path with the content address {ca.render()} cannot refer to itself")
    return make_text_path(ca.hash.digest, name, references, store_dir)


def make_text_path(digest: bytes, name: str, references: Iterable[StorePath], store_dir: StoreDir) -> StorePath:
    """The store path of a file with the SHA-256 *digest* that names *references*, such as a .drv or ``toFile``.

    Raises:
        InvalidFormat: *name* cannot be the name of a store path.
    """
    return make_store_path(_kind("text", references, store_dir, has_self_reference=False), digest, name, store_dir)


def make_fixed_path(
    method: IngestionMethod,
    content_hash: NixHash,
    name: str,
    references: Iterable[StorePath],
    has_self_reference: bool,  # noqa: FBT001  as `store_path_of`
    store_dir: StoreDir,
) -> StorePath:
    """The store path of a source or of a fixed output, whose content hashed by *method* is *content_hash*.

    Raises:
        InvalidFormat: references, where only a NAR hashed by SHA-256 can have them; or a wrong name.
    """
    references = tuple(references)
    if method is IngestionMethod.NAR and content_hash.algorithm is HashAlgorithm.SHA256:
        kind = _kind("source", references, store_dir, has_self_reference=has_self_reference)
        return make_store_path(kind, content_hash.digest, name, store_dir)
    if references or has_self_reference:
        raise InvalidFormat(
            f"{name}: a path with a content address {method.value}{content_hash.algorithm.value} cannot have references"
        )
    # For fixed outputs "fixed:" is written out and followed by "out:", before the method's own prefix.
    inner = f"fixed:out:{method.value.removeprefix('fixed:')}{content_hash.hex()}:"
    return make_store_path("output:out", hashlib.sha256(inner.encode()).digest(), name, store_dir)


def _kind(kind: str, references: Iterable[StorePath], store_dir: StoreDir, *, has_self_reference: bool) -> str:
    parts = [kind, *(path.full(store_dir) for path in sorted(set(references)))]
    if has_self_reference:
        parts.append("self")
    return ":".join(parts)


def fits(ca: ContentAddress, store_path: StorePath, references: Iterable[StorePath], store_dir: StoreDir) -> bool:
    """Tell whether *store_path*, with these *references* (itself included if so), is the path that *ca* leads to.

    Never serve a path with a content address that does not fit: every Nix aborts when it reads that.
    """
    references = set(references)
    has_self_reference = store_path in references
    try:
        expected = store_path_of(ca, store_path.name, references - {store_path}, has_self_reference, store_dir)
    except InvalidFormat:
        return False
    return expected == store_path
