"""Demands of a cache: what becomes visible in it carries a signature by one of the keys that it names.

The signature is the client's own, made before the path came here; that of the cache says only that it was accepted.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from icehouse.errors import InvalidFormat
from icehouse.nix.signing import PublicKey, Signature

MAX_REQUIRED_KEYS: Final = 16
"""Keys that a cache can name. Each may cost a verification for each signature of each path."""


def parse_required_keys(texts: Sequence[str]) -> tuple[PublicKey, ...]:
    """The keys that a cache is to demand, each once, in their order; none: it demands nothing.

    Raises:
        InvalidFormat: one is no public key of Nix's, or they are too many.
    """
    if len(texts) > MAX_REQUIRED_KEYS:
        raise InvalidFormat(f"{len(texts)} required keys: expected at most {MAX_REQUIRED_KEYS}")
    return tuple(dict.fromkeys(PublicKey.parse(text) for text in texts))


def is_vouched_for(signatures: Iterable[Signature], text: bytes, keys: Sequence[PublicKey]) -> bool:
    """Tell whether one of *signatures* over the fingerprint *text* was made by one of *keys*."""
    return any(key.verify(text, signature) for signature in signatures for key in keys)


def lacks_signature(signatures: Iterable[Signature], keys: Sequence[PublicKey]) -> str:
    """Why a path with these signatures is not accepted where one by one of *keys* is demanded, and what to do."""
    names = list(dict.fromkeys(key.key_name for key in keys))
    wrong = [signature.key_name for signature in signatures if signature.key_name in names]
    fault = (
        f"its signature by {wrong[0]} is not by the key of that name which this cache demands, or is over another NAR "
        "hash, size or references"
        if wrong
        else "it carries no signature by a key that this cache demands"
    )
    remedy = f"sign it with {' or '.join(names)} (nix store sign --recursive --key-file FILE PATH) and push it again"
    return f"{fault}; {remedy}"
