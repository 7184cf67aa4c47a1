"""Writing objects of the journal."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import msgspec

from icehouse.nix.signing import PublicKey
from icehouse.rules.journal import JournalEntry, render_journal_entry
from icehouse.storage.blobs import BlobKey, BlobStore


def put_entry(blobs: BlobStore, domain_id: int, entry: JournalEntry) -> BlobKey:
    """Write an object of its own for *entry*; its key, for whoever must take it back. Blocks."""
    # Random, since of two requests that say the same, one fails and takes its object away again.
    key = BlobKey(f"journal/{domain_id}/{entry.created_at}-{secrets.token_hex(16)}")
    blobs.put(key, render_journal_entry(entry))
    return key


def render_required(keys: Sequence[PublicKey]) -> list[str] | msgspec.UnsetType:
    """What an entry says of the keys of which a cache demands a signature."""
    return [key.render() for key in keys] or msgspec.UNSET
