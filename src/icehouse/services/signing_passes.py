"""Passes over the signatures of a cache: all its paths get those of the keys that sign, and lose what must go.

Whoever changes the keys asks for a pass in the same transaction. The server carries it out in the background, a page in
a transaction, in which the pass moves on too; so it goes on where it stood after any end, and nothing is done twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import structlog
from sqlalchemy import Connection

from icehouse.api.keys import SigningProgress
from icehouse.db.caches import CacheRow, find_cache_by_id
from icehouse.db.engine import Database
from icehouse.db.keys import KeyRow, SignedPath, count_paths_after, list_keys, page_signed_paths, replace_signatures
from icehouse.db.signing_passes import PassRow, find_pass, list_unfinished, save_pass
from icehouse.errors import CannotSign, Conflict, Corrupt, IcehouseError
from icehouse.nix.signing import Signature, fingerprint
from icehouse.rules.audit import THE_SERVER
from icehouse.rules.own_signatures import OwnKeys, keep_signatures, lacks_own, put_own_first
from icehouse.services.leases import Held, hold_in_thread
from icehouse.services.signing import Signed, Signers
from icehouse.services.workers import Workers

LEASE: Final = "signatures"
"""What only one process does at a time; servers alone take it."""

LOOK_SECONDS: Final = 10
"""How often a server looks whether a pass was asked for elsewhere, and tries again what failed, more or less."""

PATHS_A_PAGE: Final = 500

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Page:
    """Paths to look at, and what was found."""

    paths: Sequence[SignedPath]
    kept: Sequence[Sequence[Signature]]
    texts: Sequence[bytes]
    """Fingerprints of those that lack a signature."""
    lacking: Sequence[int]
    """Their places."""


class SigningPasses:
    """Carries out passes, and tells how far they are."""

    def __init__(
        self,
        database: Database,
        signers: Signers,
        workers: Workers,
        clock: Callable[[], int],
        *,
        draw: Callable[[], float],
    ) -> None:
        """*clock* gives seconds since the epoch; *draw* random numbers from 0 to 1, so that not all look at once."""
        self._database = database
        self._signers = signers
        self._workers = workers
        self._clock = clock
        self._draw = draw
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Look soon: a pass was asked for. For the event loop's thread."""
        self._woken.set()

    async def run(self) -> None:
        """Carry out what was asked for, until cancelled."""
        while True:
            try:
                is_due = await self._database.read(list_unfinished)
            except IcehouseError as exc:
                _log.error("could not look for passes over signatures", error=str(exc))
            else:
                if is_due:
                    await self.work()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), LOOK_SECONDS * (0.5 + self._draw()))
            self._woken.clear()

    async def work(self) -> None:
        """Carry out what was asked for, unless somebody else is at it. What fails is logged, and tried again later."""
        async with contextlib.AsyncExitStack() as stack:
            try:
                held = await stack.enter_async_context(
                    hold_in_thread(self._database, LEASE, THE_SERVER.who, self._clock)
                )
                for cache_id in await self._database.read(list_unfinished):
                    await self._carry_out(cache_id, held)
            except Conflict as exc:
                _log.debug("passes over signatures are somebody else's", reason=str(exc))
            except IcehouseError as exc:
                _log.error("a pass over signatures failed", error=str(exc))

    async def show_progress(self, cache: CacheRow) -> SigningProgress:
        """How far the last pass of a cache is."""

        def work(connection: Connection) -> SigningProgress:
            row = find_pass(connection, cache.id)
            if row is None:
                return SigningProgress(state="none")
            return SigningProgress(
                state="running" if row.ended_at is None else "done",
                began_at=row.began_at,
                ended_at=row.ended_at,
                looked_at=row.looked_at,
                changed=row.changed,
                left=0 if row.ended_at is not None else count_paths_after(connection, cache.id, row.after),
                error=row.error,
            )

        return await self._database.read(work)

    async def _carry_out(self, cache_id: int, held: Held) -> None:
        while True:
            held.check()
            began = time.monotonic()
            try:
                if await self.advance(cache_id):
                    return
            except (CannotSign, Corrupt) as exc:
                _log.error("a pass over signatures cannot go on", cache_id=cache_id, error=str(exc))
                await self._database.write(partial(_note_failure, cache_id=cache_id, error=str(exc)))
                return
            await asyncio.sleep(time.monotonic() - began)  # The other half of the time is for those who pull and push.

    async def advance(self, cache_id: int) -> bool:
        """Look at the next page of a cache's paths. True: there is nothing more to do.

        Raises:
            CannotSign: a key is kept outside, and does not sign now.
            Corrupt: a key cannot be decrypted.
        """

        def load(connection: Connection) -> tuple[CacheRow | None, PassRow | None, tuple[KeyRow, ...]]:
            cache = find_cache_by_id(connection, cache_id)
            return cache, find_pass(connection, cache_id), list_keys(connection, cache_id)

        cache, row, keys = await self._database.read(load)
        if cache is None or row is None or row.ended_at is not None:
            return True
        paths = await self._database.read(
            partial(page_signed_paths, cache_id=cache_id, after=row.after, limit=PATHS_A_PAGE)
        )
        own = _sort(keys)
        page = await self._workers.run(partial(_look, cache, own, paths))
        signed = await self._signers.sign(cache_id, page.texts)
        if signed.keys != own.active:
            return False  # They changed meanwhile, and a pass from the beginning was asked for.
        changes = await self._workers.run(partial(_find_changes, own, page, signed))
        is_last = len(paths) < PATHS_A_PAGE
        moved = replace(
            row,
            after=paths[-1].id if paths else row.after,
            looked_at=row.looked_at + len(paths),
            changed=row.changed + len(changes),
            ended_at=self._clock() if is_last else None,
            error=None,
        )

        def work(connection: Connection) -> bool:
            if list_keys(connection, cache_id) != keys:
                return False
            # What somebody added a signature to meanwhile is looked at once more, with the others of its page.
            is_whole = replace_signatures(connection, changes) == len(changes)
            return is_whole and save_pass(connection, row, moved) and is_last

        if not await self._database.write(work):
            return False
        _log.info("all signatures of a cache are as its keys are", cache=cache.name, paths=moved.looked_at)
        return True


def _sort(keys: Sequence[KeyRow]) -> OwnKeys:
    return OwnKeys(
        tuple(row.public_key for row in keys if row.state == "active"),
        tuple(row.public_key for row in keys if row.state in {"staged", "retired"}),
        tuple(row.public_key for row in keys if row.state == "stripped"),
    )


def _look(cache: CacheRow, own: OwnKeys, paths: Sequence[SignedPath]) -> _Page:
    texts = [fingerprint(each.info, cache.store_dir) for each in paths]
    kept = [
        keep_signatures([Signature.parse(one) for one in each.signatures.split()], text, own)
        for each, text in zip(paths, texts, strict=True)
    ]
    lacking = [place for place, signatures in enumerate(kept) if lacks_own(signatures, own)]
    return _Page(paths, kept, [texts[place] for place in lacking], lacking)


def _find_changes(own: OwnKeys, page: _Page, signed: Signed) -> list[tuple[SignedPath, str]]:
    ours = dict(zip(page.lacking, signed.signatures, strict=True))
    changes: list[tuple[SignedPath, str]] = []
    for place, (each, kept) in enumerate(zip(page.paths, page.kept, strict=True)):
        wanted = put_own_first(ours[place], kept, own) if place in ours else kept
        text = " ".join(signature.render() for signature in wanted)
        if text != each.signatures:
            changes.append((each, text))
    return changes


def _note_failure(connection: Connection, *, cache_id: int, error: str) -> None:
    row = find_pass(connection, cache_id)
    if row is not None and row.ended_at is None:
        save_pass(connection, row, replace(row, error=error))
