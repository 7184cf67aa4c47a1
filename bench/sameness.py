"""Whether two closures are a rebuild of one another: all paths new, all bytes equal but for store hashes."""

import hashlib
import re
import subprocess
from dataclasses import dataclass

from bench.nix_store import NixStore, PathFacts

_STORE_HASH = re.compile(rb"(?<=/nix/store/)[0-9abcdfghijklmnpqrsvwxyz]{32}(?=-)")
_ZEROS = b"0" * 32


@dataclass(frozen=True, slots=True)
class Sameness:
    """What a comparison of two closures found. A rebuild has no *differing* and no *shared*."""

    paths: int
    nar_bytes: int
    store_hashes: int
    shared: list[str]
    differing: list[str]


def compare_closures(store: NixStore, first: list[PathFacts], second: list[PathFacts]) -> Sameness:
    """Compare two closures of *store*, path by path of equal name.

    Raises:
        RuntimeError: the names differ, or one stands for several paths.
    """
    pairs = {fact.name: fact for fact in second}
    if sorted(fact.name for fact in first) != sorted(pairs) or len(pairs) != len(second):
        raise RuntimeError(f"names of the closures differ: {sorted({f.name for f in first} ^ set(pairs))}")
    shared = sorted({fact.path for fact in first} & {fact.path for fact in second})
    differing: list[str] = []
    store_hashes = 0
    for fact in first:
        digest, found = _digest_without_hashes(store, fact.path)
        other_digest, _ = _digest_without_hashes(store, pairs[fact.name].path)
        store_hashes += found
        if digest != other_digest:
            differing.append(f"{fact.path} and {pairs[fact.name].path}")
    return Sameness(len(first), sum(fact.nar_bytes for fact in first), store_hashes, shared, differing)


def _digest_without_hashes(store: NixStore, path: str) -> tuple[str, int]:
    """The SHA-256 of the path's NAR with store hashes zeroed, and how many it has."""
    nar = subprocess.run(["nix-store", "--dump", str(store.physical(path))], stdout=subprocess.PIPE, check=True).stdout
    zeroed, found = _STORE_HASH.subn(_ZEROS, nar)
    return hashlib.sha256(zeroed).hexdigest(), found
