"""Which signatures a path keeps, of those under the names of its cache's own keys."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from icehouse.nix.signing import PublicKey, Signature
from icehouse.rules.closures import merge_signatures


@dataclass(frozen=True, slots=True)
class OwnKeys:
    """The keys of a cache. No two have the same name."""

    active: tuple[PublicKey, ...]
    """Those that sign."""
    silent: tuple[PublicKey, ...]
    """Those that do not, and whose signatures stay."""
    stripped: tuple[PublicKey, ...]
    """Those whose signatures go."""


def keep_signatures(present: Sequence[Signature], text: bytes, keys: OwnKeys) -> list[Signature]:
    """Those of *present* over the fingerprint *text* that stay: of other keys all, of own ones what they made."""
    by_name = {key.key_name: key for key in (*keys.active, *keys.silent)}
    gone = {key.key_name for key in keys.stripped}
    return [
        signature
        for signature in present
        if signature.key_name not in gone
        and (signature.key_name not in by_name or by_name[signature.key_name].verify(text, signature))
    ]


def lacks_own(kept: Collection[Signature], keys: OwnKeys) -> bool:
    """Tell whether a key that signs has not signed."""
    names = {signature.key_name for signature in kept}
    return any(key.key_name not in names for key in keys.active)


def put_own_first(ours: Sequence[Signature], kept: Sequence[Signature], keys: OwnKeys) -> tuple[Signature, ...]:
    """*ours* and what else was kept. Ours come first, so that the bound on their number never drops one of them."""
    names = {key.key_name for key in keys.active}
    return merge_signatures(ours, [signature for signature in kept if signature.key_name not in names])
