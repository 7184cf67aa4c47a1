"""Pinning paths, and finding them by the names of their pins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from sqlalchemy import Connection

from icehouse.api.pins import PinAnswer, PinDetails, PinPut, PinView, RevisionView
from icehouse.db.caches import CacheRow
from icehouse.db.engine import Database
from icehouse.db.paths import PathRow, load_externals, load_paths
from icehouse.db.pins import (
    PinRow,
    RevisionRow,
    count_pins,
    delete_pin,
    delete_revisions,
    find_links,
    find_pin,
    insert_pin,
    insert_revision,
    list_pins,
    load_revisions,
    page_pins,
    page_revisions,
    set_artifacts,
    set_keep,
)
from icehouse.errors import Conflict, NotFound, TooLarge
from icehouse.nix.excerpts import excerpt
from icehouse.nix.store_paths import HASH_PART_LENGTH, HashPart, StoreDir, StorePath, parse_path_or_hash
from icehouse.rules.audit import Action, Actor
from icehouse.rules.pins import (
    MAX_PINS,
    Keep,
    Pin,
    Revision,
    is_artifact,
    kept_revisions,
    make_keep,
    parse_artifacts,
    parse_pin_name,
    plan_pin,
)
from icehouse.services.audit import record
from icehouse.services.contents import Contents, FoundFile, FoundFolder

MAX_CLOSURE_PATHS: Final = 200_000
"""Paths of a closure that can be pinned: some ten times those of a whole system."""

REVISIONS_A_PAGE: Final = 200

_PATHS_A_QUERY: Final = 1_000
_PATHS_A_READ: Final = 5_000
_NAMED_MISSING: Final = 10


@dataclass(frozen=True, slots=True)
class _Wish:
    """A `PinPut` whose parts were read."""

    hash_part: HashPart
    store_path: StorePath | None
    """`None`: only the hash part was given."""
    artifacts: tuple[str, ...]
    keep: Keep | None


@dataclass(slots=True)
class _Walk:
    """How far a closure was looked at. All are base names."""

    wanted: list[str]
    seen: set[str]
    missing: list[str] = field(default_factory=list[str])


class Pins:
    """Puts, shows and removes pins. Rights on the cache are checked by who calls (`Access.enter`)."""

    def __init__(self, database: Database, contents: Contents, *, clock: Callable[[], int]) -> None:
        """*clock* gives seconds since the epoch."""
        self._database = database
        self._contents = contents
        self._clock = clock

    async def put_pin(
        self, cache: CacheRow, name: str, request: PinPut, actor: Actor, *, seen: int | None = None
    ) -> PinAnswer:
        """Put a pin on a visible path; if it was on another, that makes the next revision. Repeating changes nothing.

        With *seen* only if that is the number of the pin's newest revision; 0: if there is no such pin.

        Raises:
            InvalidFormat: the name, the path, an artifact or the rule is malformed.
            TooLarge: too many artifacts, or a closure of more than `MAX_CLOSURE_PATHS`.
            NotFound: the path was never pushed, or lacks an artifact.
            Conflict: the path is in the trash or its closure is not whole; there are too many pins; the path changed
                meanwhile; or the pin is at another revision than *seen*.
            StorageError: its NAR, which has the artifacts, cannot be read.
        """
        parse_pin_name(name)
        wish = _parse(request, cache.store_dir)
        path = await self._database.read(partial(_get_path, cache=cache, wish=wish))
        await self._check_closure(cache, path.store_path)
        await self._check_artifacts(cache, path.store_path, wish.artifacts)
        return await self._database.write(
            partial(self._put, cache=cache, name=name, wish=wish, checked=path, actor=actor, seen=seen)
        )

    async def list_pins(self, cache: CacheRow) -> list[PinView]:
        """All pins of the cache, by name."""
        rows = await self._database.read(partial(list_pins, cache_id=cache.id))
        return [_view(cache, row) for row in rows]

    async def page_pins(self, cache: CacheRow, *, after: str = "", limit: int) -> list[PinView]:
        """The next pins of the cache behind the name *after*, by name."""
        rows = await self._database.read(partial(page_pins, cache_id=cache.id, after=after, limit=limit))
        return [_view(cache, row) for row in rows]

    async def show_pin(self, cache: CacheRow, name: str, *, before: int | None = None) -> PinDetails:
        """A pin with its newest revisions, or with the newest of those whose number is lower than *before*.

        Raises:
            NotFound: the cache has no such pin.
        """
        return await self._database.read(partial(self._show, cache=cache, name=name, before=before))

    async def delete_pin(self, cache: CacheRow, name: str, actor: Actor) -> None:
        """Remove a pin with all its revisions. Their paths stay, until retention lets go of them.

        Raises:
            NotFound: the cache has no such pin.
        """
        now = self._clock()

        def work(connection: Connection) -> None:
            row = find_pin(connection, cache.id, name)
            # One whose last path was purged from the trash is not found, and can still be in the way.
            if not delete_pin(connection, cache.id, name):
                raise _no_such_pin(cache, name)
            old = None if row is None else _audited(row)
            record(connection, actor, Action.PIN_DELETE, cache.name, name, old=old, now=now)

        await self._database.write(work)

    async def resolve(self, cache: CacheRow, name: str) -> StorePath:
        """The visible path that a pin stands for.

        Raises:
            NotFound: the cache has no such pin, or the path is in the trash.
        """
        return (await self._find_visible(cache, name)).store_path

    async def find_artifact(self, cache: CacheRow, name: str, names: Sequence[bytes]) -> FoundFile | FoundFolder:
        """What a pin's path has at *names*, if that is one of its artifacts or lies in one.

        Raises:
            NotFound: as `resolve`; or it is no artifact, or its symlinks lead out of what the cache has.
            StorageError: a NAR cannot be read.
        """
        newest = await self._find_visible(cache, name)
        if not is_artifact(newest.artifacts, names):
            named = ", ".join(newest.artifacts) or "none"
            raise NotFound(f"the artifacts of pin {name!r} are: {named}")
        return await self._contents.find(cache, newest.store_path.hash_part, names)

    async def _find_visible(self, cache: CacheRow, name: str) -> RevisionRow:
        newest = (await self._database.read(partial(_get_pin, cache=cache, name=name))).newest
        if newest.hidden_at is not None:
            raise NotFound(f"{newest.store_path}, which pin {name!r} stands for, is in the trash")
        return newest

    async def _check_closure(self, cache: CacheRow, root: StorePath) -> None:
        # By induction all visible paths have theirs; here it costs little to be sure.
        walk = _Walk([root.base_name], {root.base_name})
        while walk.wanted:
            await self._database.read(partial(_walk_on, cache_id=cache.id, walk=walk))
            if len(walk.seen) > MAX_CLOSURE_PATHS:
                raise TooLarge(
                    f"{root}: its closure has more than {MAX_CLOSURE_PATHS} paths, the most that can be pinned"
                )
        if walk.missing:
            some = ", ".join(sorted(walk.missing)[:_NAMED_MISSING])
            rest = len(walk.missing) - _NAMED_MISSING
            more = f" and {rest} more" if rest > 0 else ""
            raise Conflict(f"{root}: its closure is not whole; cache {cache.name!r} lacks {some}{more}. Push it again")

    async def _check_artifacts(self, cache: CacheRow, path: StorePath, artifacts: Sequence[str]) -> None:
        faults: list[str] = []
        for artifact in artifacts:
            try:
                await self._contents.find(cache, path.hash_part, artifact.encode().split(b"/"))
            except NotFound as exc:
                faults.append(f"{path} has no artifact {artifact!r}: {exc}")
        if faults:
            raise NotFound("; ".join(faults))

    def _put(
        self,
        connection: Connection,
        *,
        cache: CacheRow,
        name: str,
        wish: _Wish,
        checked: PathRow,
        actor: Actor,
        seen: int | None,
    ) -> PinAnswer:
        # Meanwhile the path may have been hidden, and even pushed again with other contents.
        path = _get_path(connection, cache=cache, wish=wish)
        if path.nar_hash != checked.nar_hash:
            raise Conflict(f"{path.store_path} was replaced by another build meanwhile; repeat the request")
        now = self._clock()
        row = find_pin(connection, cache.id, name)
        if seen is not None and seen != (0 if row is None else row.newest.revision.number):
            raise Conflict(_outdated(name, row))
        plan = plan_pin(None if row is None else _load_history(connection, row, wish.keep), path.id, wish.keep, now=now)
        if row is None:
            pin_id = _insert_pin(connection, cache, name, plan.keep, now=now)
        else:
            pin_id = row.id
            set_keep(connection, pin_id, plan.keep)
        if plan.is_new_revision:
            revision = Revision(plan.number, path.id, now)
            insert_revision(connection, pin_id, revision, wish.artifacts, created_by=actor.token_id)
        else:
            set_artifacts(connection, pin_id, plan.number, wish.artifacts)
        delete_revisions(connection, pin_id, plan.forget)
        put = _get_pin(connection, cache=cache, name=name)
        old, new = None if row is None else _audited(row), _audited(put)
        if old != new:
            record(connection, actor, Action.PIN_PUT, cache.name, name, old=old, new=new, now=now)
        return PinAnswer(pin=_view(cache, put), is_new_revision=plan.is_new_revision)

    def _show(self, connection: Connection, *, cache: CacheRow, name: str, before: int | None) -> PinDetails:
        row = _get_pin(connection, cache=cache, name=name)
        page = page_revisions(connection, row.id, before=before, limit=REVISIONS_A_PAGE + 1)
        kept = {each.revision.number for each in page}
        if not row.keep.is_all:
            pin = Pin(name, row.keep, load_revisions(connection, row.id))
            kept = {revision.number for revision in kept_revisions(pin, self._clock())}
        view = _view(cache, row)
        return PinDetails(
            name=view.name,
            full_path=view.full_path,
            keep_days=view.keep_days,
            keep_revisions=view.keep_revisions,
            created_at=view.created_at,
            newest=view.newest,
            revisions=[_revision_view(each, is_kept=each.revision.number in kept) for each in page[:REVISIONS_A_PAGE]],
            has_older=len(page) > REVISIONS_A_PAGE,
        )


def _parse(request: PinPut, store_dir: StoreDir) -> _Wish:
    hash_part, store_path = parse_path_or_hash(request.store_path, store_dir)
    keep = make_keep(days=request.keep_days, revisions=request.keep_revisions, forever=request.keep_forever)
    return _Wish(hash_part, store_path, parse_artifacts(request.artifacts), keep)


def _get_path(connection: Connection, *, cache: CacheRow, wish: _Wish) -> PathRow:
    """The visible path to pin."""
    row = load_paths(connection, cache.id, [wish.hash_part]).get(wish.hash_part)
    if row is None or wish.store_path not in {None, row.store_path}:
        asked = wish.hash_part if wish.store_path is None else wish.store_path
        if load_externals(connection, cache.id, [wish.hash_part]):
            raise NotFound(f"{asked} is in an upstream of cache {cache.name!r}, and only what is stored can be pinned")
        raise NotFound(f"cache {cache.name!r} has no path {asked}; push it first")
    if row.hidden_at is not None:
        raise Conflict(f"{row.store_path} is in the trash of cache {cache.name!r}; restore it first, or push it again")
    return row


def _walk_on(connection: Connection, *, cache_id: int, walk: _Walk) -> None:
    """Look at some more paths of a closure."""
    looked_at = 0
    while walk.wanted and looked_at < _PATHS_A_READ:
        names = walk.wanted[-_PATHS_A_QUERY:]
        del walk.wanted[-_PATHS_A_QUERY:]
        looked_at += len(names)
        found = find_links(connection, cache_id, [_hash_part(name) for name in names])
        absent: list[str] = []
        for name in names:
            links = found.get(_hash_part(name))
            if links is None or links.base_name != name:
                absent.append(name)
                continue
            new = [reference for reference in links.references if reference not in walk.seen]
            walk.seen.update(new)
            walk.wanted += new
        externals = load_externals(connection, cache_id, [_hash_part(name) for name in absent])
        there = {external.store_path.base_name for external in externals.values()}
        walk.missing += [name for name in absent if name not in there]


def _hash_part(base_name: str) -> HashPart:
    return HashPart(base_name[:HASH_PART_LENGTH])


def _get_pin(connection: Connection, *, cache: CacheRow, name: str) -> PinRow:
    row = find_pin(connection, cache.id, name)
    if row is None:
        raise _no_such_pin(cache, name)
    return row


def _no_such_pin(cache: CacheRow, name: str) -> NotFound:
    return NotFound(f"cache {cache.name!r} has no pin {excerpt(name)}")


def _outdated(name: str, row: PinRow | None) -> str:
    if row is None:
        return f"pin {name!r} was removed meanwhile"
    return f"pin {name!r} stands for {row.newest.store_path} by now, revision {row.newest.revision.number}"


def _load_history(connection: Connection, row: PinRow, keep: Keep | None) -> Pin:
    # What keeps all, before and after, lets nothing go, and may have been put any number of times.
    is_all = row.keep.is_all and (keep is None or keep.is_all)
    revisions = (row.newest.revision,) if is_all else load_revisions(connection, row.id)
    return Pin(row.name, row.keep, revisions)


def _insert_pin(connection: Connection, cache: CacheRow, name: str, keep: Keep, *, now: int) -> int:
    delete_pin(connection, cache.id, name)  # one whose last path was purged from the trash is none, but is in the way
    if count_pins(connection, cache.id) >= MAX_PINS:
        raise Conflict(f"cache {cache.name!r} has {MAX_PINS} pins, the most that there can be; unpin some first")
    return insert_pin(connection, cache.id, name, keep, now=now)


def _view(cache: CacheRow, row: PinRow) -> PinView:
    return PinView(
        name=row.name,
        full_path=row.newest.store_path.full(cache.store_dir),
        keep_days=row.keep.days,
        keep_revisions=row.keep.revisions,
        created_at=row.created_at,
        newest=_revision_view(row.newest, is_kept=True),
    )


def _audited(row: PinRow) -> dict[str, object]:
    """What the audit log holds of a pin."""
    return {
        "store_path": row.newest.store_path.base_name,
        "revision": row.newest.revision.number,
        "artifacts": row.newest.artifacts,
        "keep_days": row.keep.days,
        "keep_revisions": row.keep.revisions,
    }


def _revision_view(row: RevisionRow, *, is_kept: bool) -> RevisionView:
    return RevisionView(
        number=row.revision.number,
        store_path=row.store_path.base_name,
        artifacts=list(row.artifacts),
        is_kept=is_kept,
        is_visible=row.hidden_at is None,
        created_at=row.revision.created_at,
        created_by=row.created_by,
    )
