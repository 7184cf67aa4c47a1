"""What verification reads, a page at a time, and the marks that it makes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from sqlalchemy import Column, ColumnElement, Connection, func, insert, select, text, update

from icehouse.db.caches import next_generation
from icehouse.db.chunks import ChunkRow, merge_runs
from icehouse.db.collection import PackRow
from icehouse.db.nars import NarRow, find_unsound
from icehouse.db.paths import find_visible, load_externals, restore_paths
from icehouse.db.query_plans import by_id
from icehouse.db.schema import IS_DAMAGED, cache, chunk, domain, nar, pack, path, recipe, verify_pass
from icehouse.nix import nix32
from icehouse.nix.store_paths import HashPart
from icehouse.rules.recipes import Run
from icehouse.rules.verification import DAMAGED, ROWS_WRONG, UNREADABLE, referrer_reason

PAGE_ROWS: Final = 1000

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class NarFact:
    """A NAR and its encoded recipe. None: that row is gone."""

    row: NarRow
    recipe: bytes | None


@dataclass(frozen=True, slots=True)
class HitPath:
    """A path of some cache."""

    id: int
    cache_id: int
    cache_name: str
    hash_part: str
    name: str
    nar_id: int
    is_visible: bool

    @property
    def base_name(self) -> str:
        """`<hash part>-<name>`."""
        return f"{self.hash_part}-{self.name}"

    @property
    def place(self) -> str:
        """`<cache>/<base name>`."""
        return f"{self.cache_name}/{self.base_name}"


@dataclass(frozen=True, slots=True)
class PathFact:
    """A visible path beside the row of its NAR."""

    id: int
    hash_part: str
    name: str
    nar_id: int
    nar_hash: str
    nar_size: int
    file_hash: str
    file_size: int
    references: str
    signatures: str
    real: NarRow

    @property
    def base_name(self) -> str:
        """`<hash part>-<name>`."""
        return f"{self.hash_part}-{self.name}"


@dataclass(frozen=True, slots=True)
class PathsPage:
    """Paths, and those of their references that are visible or external, all as they were at one time."""

    paths: tuple[PathFact, ...]
    there: frozenset[str]
    """Hash parts."""


@dataclass(frozen=True, slots=True)
class PassState:
    """Where the verification that goes on for ever stands."""

    phase: str
    """`packs`, `nars` or `paths`."""
    scope: int
    after: int
    began_at: int
    read_bytes: int = 0
    findings: int = 0
    completed_at: int | None = None
    """The end of the pass before; `None`: there was none, as with the next three."""
    last_began_at: int | None = None
    last_read_bytes: int | None = None
    last_findings: int | None = None

    @property
    def is_between(self) -> bool:
        """Whether a pass was completed and the next one has not begun."""
        return self.completed_at is not None and (self.phase, self.scope, self.after) == ("packs", 0, 0)


def load_pass(connection: Connection) -> PassState | None:
    """Where it stands; `None`: it never began."""
    row = connection.execute(select(verify_pass).where(verify_pass.c.id == 1)).first()
    return None if row is None else PassState(*row[1:])


def save_pass(connection: Connection, state: PassState) -> None:
    """Note where it stands."""
    values = {name: getattr(state, name) for name in PassState.__dataclass_fields__}
    if not connection.execute(update(verify_pass).where(verify_pass.c.id == 1).values(**values)).rowcount:
        connection.execute(insert(verify_pass).values(id=1, **values))


def measure_phase(connection: Connection, state: PassState) -> tuple[int, int]:
    """How many packs, NARs or paths of the pass's phase are behind it, and how many there are."""
    match state.phase:
        case "packs":
            ids, is_behind = pack.c.id, pack.c.id <= state.after
        case "nars":
            ids, is_behind = nar.c.id, nar.c.id <= state.after
        case _:
            ids = path.c.id
            is_behind = (path.c.cache_id < state.scope) | ((path.c.cache_id == state.scope) & (ids <= state.after))
    counts = select(func.count().filter(is_behind), func.count(ids))
    behind, total = connection.execute(counts).one()
    return behind, total


def measure_progress(connection: Connection, state: PassState) -> int:
    """How many percent of the pass's phase are behind it, by the highest numbers alone: it counts no rows."""
    match state.phase:
        case "packs":
            last, behind = func.max(pack.c.id), state.after
        case "nars":
            last, behind = func.max(nar.c.id), state.after
        case _:
            last, behind = func.max(cache.c.id), state.scope - 1
    total = connection.execute(select(last)).scalar_one() or 0
    return min(99, max(0, behind) * 100 // total) if total else 0


def page_damaged(connection: Connection, cache_id: int, *, limit: int) -> list[tuple[str, str, int]]:
    """Paths of the cache that damage hides: base name, reason, since when."""
    rows = connection.execute(
        select(path.c.hash_part, path.c.name, path.c.hidden_because, path.c.hidden_at)
        .where(path.c.cache_id == cache_id, text(IS_DAMAGED))
        .order_by(path.c.id)
        .limit(limit)
    )
    return [(f"{row.hash_part}-{row.name}", row.hidden_because, row.hidden_at) for row in rows]


def count_quarantined(connection: Connection, domain_id: int, *, limit: int) -> int:
    """How many chunks of the domain wait to be healed, at most *limit*."""
    some = (
        select(chunk.c.number)
        .where(by_id(chunk.c.domain_id) == domain_id, chunk.c.quarantined_at.is_not(None))
        .limit(limit)
    )
    return connection.execute(select(func.count()).select_from(some.subquery())).scalar_one()


def list_hidden_by_damage(connection: Connection, limit: int) -> tuple[int, list[tuple[str, str]]]:
    """How many paths damage hides now, and the first of them: `<cache>/<base name>`, and the reason."""
    is_damaged = path.c.hidden_at.is_not(None) & path.c.hidden_because.startswith(DAMAGED, autoescape=True)
    count = connection.execute(select(func.count()).select_from(path).where(is_damaged)).scalar_one()
    rows = connection.execute(
        select(cache.c.name.label("cache_name"), path.c.hash_part, path.c.name, path.c.hidden_because)
        .where(is_damaged, cache.c.id == path.c.cache_id)
        .order_by(path.c.id)
        .limit(limit)
    )
    return count, [(f"{row.cache_name}/{row.hash_part}-{row.name}", row.hidden_because) for row in rows]


def find_next_pack(connection: Connection, after: int) -> tuple[int, PackRow] | None:
    """The next pack of any domain after that id that is not condemned, and its domain."""
    row = connection.execute(
        select(pack.c.domain_id, pack.c.id, pack.c.name, pack.c.size_bytes, pack.c.created_at, pack.c.condemned_at)
        .where(pack.c.id > after, pack.c.condemned_at.is_(None))
        .order_by(pack.c.id)
        .limit(1)
    ).first()
    return None if row is None else (row[0], PackRow(*row[1:]))


def find_next_nar(connection: Connection, after: int) -> NarFact | None:
    """The next NAR of any domain after that id that a path has."""
    users = select(path.c.nar_id).where(path.c.nar_id == nar.c.id)
    row = connection.execute(
        select(*_NAR_COLUMNS, recipe.c.body)
        .outerjoin_from(nar, recipe, recipe.c.nar_id == nar.c.id)
        .where(nar.c.id > after, users.exists())
        .order_by(nar.c.id)
        .limit(1)
    ).first()
    return None if row is None else NarFact(NarRow(*row[:6]), row[6])


def find_next_cache(connection: Connection, cache_id: int) -> str | None:
    """The name of the first cache whose number is *cache_id* or higher."""
    return connection.execute(select(cache.c.name).where(cache.c.id >= cache_id).order_by(cache.c.id).limit(1)).scalar()


def list_domains(connection: Connection) -> list[int]:
    """The numbers of all domains."""
    return list(connection.execute(select(domain.c.id).order_by(domain.c.id)).scalars())


def load_pack_chunks(connection: Connection, pack_id: int, name: bytes) -> list[ChunkRow]:
    """The chunks of a pack that was not condemned, without those that are quarantined, in the order of their frames.

    Nothing if another pack has got the id meanwhile: an id tells packs apart only while they are there.
    """
    rows = connection.execute(
        select(
            chunk.c.number,
            chunk.c.identity,
            pack.c.name,
            chunk.c.pack_offset,
            chunk.c.stored_bytes,
            chunk.c.raw_bytes,
            chunk.c.places,
        )
        .where(chunk.c.pack_id == pack_id, pack.c.id == chunk.c.pack_id, pack.c.name == name)
        .where(pack.c.condemned_at.is_(None), chunk.c.quarantined_at.is_(None))
        .order_by(chunk.c.pack_offset)
    )
    return [ChunkRow(*row, is_sound=True) for row in rows]


def page_of_nars(connection: Connection, domain_id: int, cache_id: int | None, after: int) -> list[NarFact]:
    """The next NARs of the domain that paths have (paths of the cache, if one is given), after that id."""
    users = select(path.c.nar_id).where(path.c.nar_id == nar.c.id)
    if cache_id is not None:
        users = users.where(path.c.cache_id == cache_id)
    rows = connection.execute(
        select(*_NAR_COLUMNS, recipe.c.body)
        .outerjoin_from(nar, recipe, recipe.c.nar_id == nar.c.id)
        .where(by_id(nar.c.domain_id) == domain_id, nar.c.id > after, users.exists())
        .order_by(nar.c.id)
        .limit(PAGE_ROWS)
    )
    return [NarFact(NarRow(*row[:6]), row[6]) for row in rows]


def load_nar(connection: Connection, nar_id: int) -> NarFact | None:
    """One NAR as it is now; `None`: it was deleted."""
    row = connection.execute(
        select(*_NAR_COLUMNS, recipe.c.body)
        .outerjoin_from(nar, recipe, recipe.c.nar_id == nar.c.id)
        .where(nar.c.id == nar_id)
    ).first()
    return None if row is None else NarFact(NarRow(*row[:6]), row[6])


def set_file(connection: Connection, nar_id: int, *, file_hash: bytes, file_hash_text: str, file_size: int) -> None:
    """Note what the file of a NAR is now, for it and its paths: a healed chunk may have got another frame."""
    connection.execute(update(nar).where(nar.c.id == nar_id).values(file_hash=file_hash, file_size=file_size))
    connection.execute(
        update(path).where(path.c.nar_id == nar_id).values(file_hash=file_hash_text, file_size=file_size)
    )


def find_paths_of_nars(connection: Connection, nar_ids: Collection[int]) -> list[HitPath]:
    """All paths that have one of these NARs, hidden ones too."""
    return _find_hit(connection, path.c.nar_id, nar_ids)


def _find_hit(connection: Connection, column: Column[int], values: Collection[int]) -> list[HitPath]:
    found: list[HitPath] = []
    for batch in _batches(list(values)):
        rows = connection.execute(
            select(
                path.c.id,
                path.c.cache_id,
                cache.c.name,
                path.c.hash_part,
                path.c.name,
                path.c.nar_id,
                path.c.hidden_at.is_(None),
            )
            .where(column.in_(batch), cache.c.id == path.c.cache_id)
            .order_by(path.c.id)
        )
        found += [HitPath(*row[:6], is_visible=bool(row[6])) for row in rows]
    return found


def page_of_path_facts(connection: Connection, cache_id: int, after: int) -> PathsPage:
    """The next visible paths of the cache after that id, and which of their references are there."""
    columns = (
        path.c.id,
        path.c.hash_part,
        path.c.name,
        path.c.nar_id,
        path.c.nar_hash,
        path.c.nar_size,
        path.c.file_hash,
        path.c.file_size,
        path.c.references,
        path.c.signatures,
    )
    rows = connection.execute(
        select(*columns, *_NAR_COLUMNS)
        .where(
            by_id(path.c.cache_id) == cache_id, path.c.hidden_at.is_(None), path.c.id > after, nar.c.id == path.c.nar_id
        )
        .order_by(path.c.id)
        .limit(PAGE_ROWS)
    )
    facts = tuple(PathFact(*row[:10], NarRow(*row[10:])) for row in rows)
    wanted = {HashPart(reference[:32]) for fact in facts for reference in fact.references.split()}
    return PathsPage(facts, frozenset(find_there(connection, cache_id, wanted)))


def page_of_links(connection: Connection, cache_id: int, after: int) -> list[tuple[int, str, str]]:
    """The next visible paths of the cache after that id: id, hash part, and references joined by spaces."""
    rows = connection.execute(
        select(path.c.id, path.c.hash_part, path.c.references)
        .where(by_id(path.c.cache_id) == cache_id, path.c.hidden_at.is_(None), path.c.id > after)
        .order_by(path.c.id)
        .limit(10 * PAGE_ROWS)
    )
    return [(row[0], row[1], row[2]) for row in rows]


def find_packs_of_chunks(connection: Connection, domain_id: int, runs: Iterable[Run]) -> set[int]:
    """The packs that have these chunks of the domain."""
    found: set[int] = set()
    for run in merge_runs(runs):
        is_in_run = chunk.c.number.between(run.first, run.first + run.count - 1)
        is_in_run &= by_id(chunk.c.domain_id) == domain_id
        found.update(connection.execute(select(chunk.c.pack_id).where(is_in_run).distinct()).scalars())
    return found


def find_still_placed(connection: Connection, rows: Collection[ChunkRow]) -> list[ChunkRow]:
    """Those of *rows* whose frames are still where they were."""
    wanted = {row.number: row for row in rows}
    found: list[ChunkRow] = []
    for batch in _batches(list(wanted)):
        for number, name, offset in connection.execute(
            select(chunk.c.number, pack.c.name, chunk.c.pack_offset).where(
                chunk.c.number.in_(batch), pack.c.id == chunk.c.pack_id
            )
        ):
            if (wanted[number].pack_name, wanted[number].pack_offset) == (name, offset):
                found.append(wanted[number])
    return found


def find_paths(connection: Connection, path_ids: Collection[int]) -> list[HitPath]:
    """These paths, hidden ones too."""
    return _find_hit(connection, path.c.id, path_ids)


def hide_paths(connection: Connection, cache_id: int, reasons: Mapping[str, str], *, now: int) -> list[tuple[str, str]]:
    """Hide those of the paths that are visible, each given by its hash part with the reason.

    Returns:
        Their hash parts and base names.
    """
    hidden: list[tuple[str, str]] = []
    for batch in _batches(list(reasons)):
        is_visible = (path.c.cache_id == cache_id) & path.c.hash_part.in_(batch) & path.c.hidden_at.is_(None)
        rows = connection.execute(select(path.c.id, path.c.hash_part, path.c.name).where(is_visible)).all()
        for row in rows:
            values = {"hidden_at": now, "hidden_because": reasons[row.hash_part]}
            connection.execute(update(path).where(path.c.id == row.id).values(**values))
        hidden += [(row.hash_part, f"{row.hash_part}-{row.name}") for row in rows]
    return hidden


@dataclass(frozen=True, slots=True)
class DamagedPath:
    """A path that was hidden for damage of its own."""

    place: str
    """`<cache>/<base name>`."""
    cache_name: str
    hash_part: str
    nar_id: int
    nar_hash: bytes
    nar_size: int


def load_damaged(connection: Connection, cache_name: str | None) -> list[DamagedPath]:
    """The paths whose own NAR is damaged, of one cache or of all."""
    statement = (
        select(cache.c.name, path.c.hash_part, path.c.name, nar.c.id, nar.c.nar_hash, nar.c.nar_size)
        .where(path.c.hidden_at.is_not(None), path.c.hidden_because.in_([UNREADABLE, ROWS_WRONG]))
        .where(cache.c.id == path.c.cache_id, nar.c.id == path.c.nar_id)
        .order_by(path.c.id)
    )
    if cache_name is not None:
        statement = statement.where(cache.c.name == cache_name)
    return [
        DamagedPath(f"{row[0]}/{row[1]}-{row[2]}", row[0], row[1], row[3], row[4], row[5])
        for row in connection.execute(statement)
    ]


def mark_readable(connection: Connection, nar_id: int) -> None:
    """Let `restore_healed` restore the paths of a NAR that was put together and hashed just now.

    What their rows say of the NAR is written anew: it may be what was wrong. Of a NAR that was purged meanwhile, as a
    repair takes its time, there are no paths.
    """
    row = connection.execute(select(*_NAR_COLUMNS).where(nar.c.id == nar_id)).one_or_none()
    if row is None:
        return
    hidden = (path.c.nar_id == nar_id) & (path.c.hidden_because == ROWS_WRONG)
    values = {
        "hidden_because": UNREADABLE,
        "nar_hash": nix32.encode(row.nar_hash),
        "nar_size": row.nar_size,
        "file_hash": nix32.encode(row.file_hash),
        "file_size": row.file_size,
    }
    connection.execute(update(path).where(hidden).values(**values))


def restore_healed(connection: Connection, cache_id: int) -> list[str]:
    """Make those paths visible that damage hid and that are whole again, as far as what they refer to is there.

    Returns:
        Their base names.
    """
    return _restore(connection, cache_id, path.c.hidden_because.startswith(DAMAGED))


def restore_referrers(connection: Connection, cache_id: int, base_names: Collection[str]) -> list[str]:
    """The same for those only that were hidden since they reach one of these paths, for who makes these visible.

    One that reaches two damaged ones names one of them, and may have to wait for `restore_healed`.
    """
    return _restore(connection, cache_id, path.c.hidden_because.in_([referrer_reason(name) for name in base_names]))


def _restore(connection: Connection, cache_id: int, is_candidate: ColumnElement[bool]) -> list[str]:
    rows = connection.execute(
        select(path.c.id, path.c.nar_id, path.c.hash_part, path.c.name, path.c.references)
        .where(path.c.cache_id == cache_id, path.c.hidden_at.is_not(None), is_candidate)
        .where(path.c.hidden_because != ROWS_WRONG, path.c.revocation_id.is_(None))
    ).all()
    candidates = {row.hash_part: row for row in rows}
    wanted = {HashPart(reference[:32]) for row in rows for reference in row.references.split()}
    there = find_there(connection, cache_id, wanted)
    unsound = find_unsound(connection, {row.nar_id for row in rows})
    lost = {row.hash_part for row in rows if row.nar_id in unsound}
    count = -1
    while len(lost) > count:
        count = len(lost)
        for hash_part, row in candidates.items():
            parts = {text[:32] for text in row.references.split()}
            if any(part not in there and (part not in candidates or part in lost) for part in parts):
                lost.add(hash_part)
    whole = [row for hash_part, row in candidates.items() if hash_part not in lost]
    if whole:
        restore_paths(connection, [row.id for row in whole], generation=next_generation(connection, cache_id))
    return [f"{row.hash_part}-{row.name}" for row in whole]


def find_there(connection: Connection, cache_id: int, hash_parts: Iterable[HashPart]) -> set[str]:
    """Those of *hash_parts* that are visible in the cache or external."""
    wanted = set(hash_parts)
    visible = set(find_visible(connection, cache_id, wanted))
    return {*visible, *load_externals(connection, cache_id, wanted - visible)}


def _batches(values: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(values), PAGE_ROWS):
        yield values[start : start + PAGE_ROWS]


_NAR_COLUMNS: Final = (nar.c.id, nar.c.domain_id, nar.c.nar_hash, nar.c.nar_size, nar.c.file_hash, nar.c.file_size)
