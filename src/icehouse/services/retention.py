"""What other settings of a cache would let go: sums that each collection makes of all paths, and a look at these."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Final

import msgspec

from icehouse.api.collections import PreviewedPath, RetentionBody, RetentionPreview
from icehouse.db.caches import CacheRow
from icehouse.db.engine import Database
from icehouse.db.retention_outlines import load_outline, save_outline
from icehouse.rules.quotas import CacheSettings, check_settings
from icehouse.rules.retention import (
    CacheFacts,
    Outline,
    Ranks,
    Reason,
    Retention,
    outline_retention,
    preview_retention,
)

_NAMED: Final = 20  # paths of a preview


class _Body(msgspec.Struct, frozen=True):
    outline: Outline
    names: list[str]
    """Of `outline.largest`, in that order."""


def parse_retention(body: RetentionBody) -> Retention:
    """What somebody asks about.

    Raises:
        InvalidFormat: a number is out of bounds.
    """
    settings = check_settings(
        CacheSettings(
            keep_unused_seconds=body.keep_unused_seconds,
            keep_pushed_seconds=body.keep_pushed_seconds,
            budget_bytes=body.budget_bytes,
        )
    )
    return Retention(settings.keep_unused_seconds, settings.keep_pushed_seconds, settings.budget_bytes)


def note_outline(
    database: Database,
    cache: CacheRow,
    names: Sequence[str],
    facts: CacheFacts,
    ranks: Ranks,
    gone: Iterable[tuple[int, Reason]],
    now: int,
) -> None:
    """Sum up a cache that was read for a collection, without what that hid. *names* are those of the paths. Blocks."""
    outline = outline_retention(facts, ranks, (place for place, _ in gone), now=now)
    body = _Body(outline, [names[path.place] for path in outline.largest])
    database.write_now(partial(save_outline, cache_id=cache.id, body=msgspec.json.encode(body), now=now))


class Retentions:
    """Tells what retentions would hide. Rights on the cache are checked by who calls (`Access.enter`)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def preview(self, cache: CacheRow, retention: Retention) -> RetentionPreview | None:
        """What *retention* would hide in the cache; `None`: it was never summed up."""
        found = await self._database.read(partial(load_outline, cache_id=cache.id))
        if found is None:
            return None
        made_at, text = found
        body = msgspec.json.decode(text, type=_Body)
        outline = body.outline
        names = {path.place: name for path, name in zip(outline.largest, body.names, strict=True)}
        seen = preview_retention(outline, retention)
        unused, old, budget = (seen.shares[reason] for reason in (Reason.UNUSED, Reason.OLD, Reason.BUDGET))
        return RetentionPreview(
            made_at=made_at,
            is_about=seen.is_about,
            paths=outline.paths,
            pinned_paths=outline.pinned,
            unused_paths=unused.paths,
            unused_bytes=unused.stored_bytes,
            old_paths=old.paths,
            old_bytes=old.stored_bytes,
            budget_paths=budget.paths,
            budget_bytes=budget.stored_bytes,
            stored_bytes_before=outline.size_bytes,
            stored_bytes_after=seen.size_after,
            largest=[
                PreviewedPath(store_path=names[path.place], stored_bytes=path.stored_bytes)
                for path in seen.largest[:_NAMED]
            ],
        )
