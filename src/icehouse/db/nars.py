"""Rows of NARs and their recipes."""

import contextlib
from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import Connection, insert, select, update

from icehouse.db.chunks import are_all_sound
from icehouse.db.schema import chunk, nar, path, recipe
from icehouse.errors import InvalidFormat
from icehouse.nix import nix32
from icehouse.rules.recipes import Run, parse_runs

_BATCH = 1000
_YOUNG_SECONDS = 3600  # a day later a NAR without a path is removed


@dataclass(frozen=True, slots=True)
class NarRow:
    """A NAR that a domain has. The file is what is served: the NAR as zstd."""

    id: int
    domain_id: int
    nar_hash: bytes
    nar_size: int
    file_hash: bytes
    file_size: int


_INSERT = insert(nar).returning(nar.c.id)  # Made once: to make one takes as long as to carry it out.
_INSERT_RECIPE = insert(recipe)
_COLUMNS = (nar.c.id, nar.c.domain_id, nar.c.nar_hash, nar.c.nar_size, nar.c.file_hash, nar.c.file_size)


def find_nars(connection: Connection, domain_id: int, nar_hashes: Collection[bytes]) -> dict[bytes, NarRow]:
    """Those of the NARs that the domain has, by hash."""
    wanted = list(nar_hashes)
    found: dict[bytes, NarRow] = {}
    for start in range(0, len(wanted), _BATCH):
        batch = wanted[start : start + _BATCH]
        for row in connection.execute(select(*_COLUMNS).where(nar.c.domain_id == domain_id, nar.c.nar_hash.in_(batch))):
            found[row.nar_hash] = NarRow(*row)
    return found


def find_recipe(connection: Connection, nar_id: int) -> bytes | None:
    """The encoded recipe of a NAR."""
    return connection.execute(select(recipe.c.body).where(recipe.c.nar_id == nar_id)).scalar()


def load_runs(connection: Connection, nar_ids: Collection[int]) -> dict[int, tuple[Run, ...]]:
    """The chunks of at most a thousand NARs, without those whose recipe is damaged. One recipe is read at a time."""
    rows = connection.execute(select(recipe.c.nar_id, recipe.c.body).where(recipe.c.nar_id.in_(nar_ids)))
    found: dict[int, tuple[Run, ...]] = {}
    for row in rows:
        with contextlib.suppress(InvalidFormat):
            found[row.nar_id] = parse_runs(row.body)
    return found


def find_unsound(connection: Connection, nar_ids: Collection[int]) -> set[int]:
    """Those of the NARs that cannot be put together, since a chunk of theirs is known to be damaged.

    As long as nothing is damaged this costs one look at an empty index.
    """
    is_damaged = select(chunk.c.number).where(chunk.c.quarantined_at.is_not(None)).limit(1)
    if connection.execute(is_damaged).first() is None:
        return set()
    wanted = list(nar_ids)
    unsound: set[int] = set()
    for start in range(0, len(wanted), _BATCH):
        batch = wanted[start : start + _BATCH]
        rows = connection.execute(
            select(nar.c.id, nar.c.domain_id, recipe.c.body)
            .outerjoin_from(nar, recipe, recipe.c.nar_id == nar.c.id)
            .where(nar.c.id.in_(batch))
        )
        unsound.update(row.id for row in rows if not is_sound(connection, row.domain_id, row.body))
    return unsound


def is_sound(connection: Connection, domain_id: int, recipe_body: bytes | None) -> bool:
    """Whether a recipe is there and can be read, and the domain has each of its chunks, none of them damaged."""
    try:
        return recipe_body is not None and are_all_sound(connection, domain_id, parse_runs(recipe_body))
    except InvalidFormat:
        return False


def touch_nar(connection: Connection, nar_id: int, *, now: int) -> bool:
    """Have a NAR count as young, so that it stays until its paths come. False: it was removed meanwhile."""
    statement = update(nar).where(nar.c.id == nar_id, nar.c.created_at < now - _YOUNG_SECONDS).values(created_at=now)
    if connection.execute(statement).rowcount:
        return True
    return connection.execute(select(nar.c.id).where(nar.c.id == nar_id)).first() is not None


def put_nar(
    connection: Connection,
    *,
    domain_id: int,
    nar_hash: bytes,
    nar_size: int,
    file_hash: bytes,
    file_size: int,
    recipe_body: bytes,
    now: int,
) -> int:
    """Add a NAR whose bytes were checked, and give its id.

    One that is there keeps its id and gets this recipe; what its paths say of the file follows.
    """
    present = find_nars(connection, domain_id, [nar_hash]).get(nar_hash)
    if present is not None:
        connection.execute(
            update(nar).where(nar.c.id == present.id).values(file_hash=file_hash, file_size=file_size, created_at=now)
        )
        connection.execute(update(recipe).where(recipe.c.nar_id == present.id).values(body=recipe_body))
        if (present.file_hash, present.file_size) != (file_hash, file_size):
            values = {"file_hash": nix32.encode(file_hash), "file_size": file_size}
            connection.execute(update(path).where(path.c.nar_id == present.id).values(**values))
        return present.id
    row = {
        "domain_id": domain_id,
        "nar_hash": nar_hash,
        "nar_size": nar_size,
        "file_hash": file_hash,
        "file_size": file_size,
        "created_at": now,
    }
    nar_id = connection.execute(_INSERT, row).scalar_one()
    connection.execute(_INSERT_RECIPE, {"nar_id": nar_id, "body": recipe_body})
    return int(nar_id)
