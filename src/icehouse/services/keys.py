"""Administering the signing keys of a cache. Each change asks for a pass over the signatures of its paths."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from sqlalchemy import Connection

from icehouse.api.keys import KeyAdd, KeyState, KeyView
from icehouse.db.caches import CacheRow, get_cache
from icehouse.db.engine import Database
from icehouse.db.keys import (
    KeyRow,
    insert_key,
    list_keys,
    list_sealed_keys,
    set_state,
)
from icehouse.db.signing_passes import request_pass
from icehouse.errors import Conflict, Corrupt, InvalidFormat, NotFound
from icehouse.nix.excerpts import excerpt
from icehouse.nix.signing import SEED_BYTES, PublicKey, SecretKey
from icehouse.rules.audit import ON_SERVER, Action, Actor
from icehouse.rules.key_places import KeyPlace
from icehouse.services.audit import record
from icehouse.services.signing import NONCE_BYTES, Sealer, Signer, how_kept

MAX_KEYS: Final = 16
"""Keys of a cache, retired ones included."""

MAX_SECRET_KEY_LENGTH: Final = 1_000
_NUMBERED: Final = re.compile(r"(.*)-([1-9][0-9]{0,8})")


class Keys:
    """Adds, activates and retires keys. Rights on the cache are checked by who calls: it takes `admin`."""

    def __init__(
        self,
        database: Database,
        sealer: Sealer,
        signer: Signer,
        *,
        clock: Callable[[], int],
        draw: Callable[[int], bytes],
        wake: Callable[[], None],
    ) -> None:
        """*draw* gives so many random bytes, fit for secrets; *wake* is told that a pass over signatures is due."""
        self._database = database
        self._sealer = sealer
        self._signer = signer
        self._wake = wake
        self._clock = clock
        self._draw = draw

    async def list_keys(self, cache: CacheRow) -> list[KeyView]:
        """The keys of a cache in all states, the oldest first."""
        return [view_of(row) for row in await self._database.read(partial(list_keys, cache_id=cache.id))]

    async def add_key(self, cache: CacheRow, request: KeyAdd, actor: Actor) -> KeyView:
        """Make or import a key. It is staged: clients can be told of it, and it does not sign yet.

        Raises:
            InvalidFormat: what is to be imported is no key file of Nix's.
            Conflict: the cache has a key of that name, or as many as it may.
            NotFound: the cache was deleted meanwhile.
        """
        imported = None if request.secret_key is None else _parse(request.secret_key)
        seed, nonce = self._draw(SEED_BYTES), self._draw(NONCE_BYTES)
        now = self._clock()

        def work(connection: Connection) -> KeyView:
            rows = list_keys(connection, get_cache(connection, cache.name).id)
            key = imported or SecretKey.generate(_next_name([row.public_key.key_name for row in rows]), seed)
            sealed = self._sealer.seal(key, key.key_name, nonce)
            return _stage(connection, cache.name, key.public_key, sealed, actor, now)

        view = await self._database.write(work)
        self._wake()
        return view

    async def activate_key(self, cache: CacheRow, name: str, actor: Actor) -> KeyView:
        """Let a key sign what is published from now on, beside those that do. Repeating changes nothing.

        Raises:
            NotFound: the cache has no such key.
            CannotSign: it is kept outside, and does not sign now.
            Corrupt: it cannot be decrypted.
        """
        rows = await self._database.read(partial(list_keys, cache_id=cache.id))
        row = next((row for row in rows if row.public_key.key_name == name), None)
        if row is not None and row.state != "active":
            await self._signer.try_key(row)  # Else all pushes would fail from now on.
        return await self._change(cache, name, "active", Action.KEY_ACTIVATE, actor)

    async def retire_key(self, cache: CacheRow, name: str, actor: Actor, *, strip: bool = False) -> KeyView:
        """Let a key sign no more, and publish it no longer. Repeating changes nothing.

        What it signed stays, or with *strip* is removed in the background; pushes bring no signature of it back then.

        Raises:
            NotFound: the cache has no such key.
            Conflict: no other key of the cache signs.
        """
        return await self._change(cache, name, "stripped" if strip else "retired", Action.KEY_RETIRE, actor)

    async def _change(self, cache: CacheRow, name: str, state: KeyState, action: Action, actor: Actor) -> KeyView:
        now = self._clock()

        def work(connection: Connection) -> KeyView:
            rows = list_keys(connection, cache.id)
            row = next((row for row in rows if row.public_key.key_name == name), None)
            if row is None:
                raise NotFound(f"cache {cache.name!r} has no key {excerpt(name)}")
            if row.state == state or (row.state, state) == ("stripped", "retired"):
                return view_of(row)
            if state in {"retired", "stripped"} and not any(
                other.state == "active" for other in rows if other is not row
            ):
                raise Conflict(f"{name} cannot be retired: no other key of cache {cache.name!r} signs; activate one")
            set_state(connection, row.id, state)
            request_pass(connection, cache.id, now=now)
            record(connection, actor, action, cache.name, name, old={"state": row.state}, new={"state": state}, now=now)
            return view_of(next(each for each in list_keys(connection, cache.id) if each.id == row.id))

        view = await self._database.write(work)
        self._wake()
        return view


def _parse(text: str) -> SecretKey:
    if len(text) > MAX_SECRET_KEY_LENGTH:
        raise InvalidFormat(f"secret key: {len(text)} characters, expected at most {MAX_SECRET_KEY_LENGTH}")
    return SecretKey.parse(text)


def _next_name(names: Sequence[str]) -> str:
    """The name of the next key: that of the first with a higher number at its end."""
    match = _NUMBERED.fullmatch(names[0])
    stem = names[0] if match is None else match[1]
    numbers = [int(found[2]) for name in names if (found := _NUMBERED.fullmatch(name)) and found[1] == stem]
    return f"{stem}-{max(numbers, default=1) + 1}"


def add_outside_key(
    database: Database, sealer: Sealer, cache_name: str, place: KeyPlace, key: PublicKey, *, nonce: bytes, now: int
) -> KeyView:
    """Stage a key whose secret half is kept outside of the database. Blocks.

    For commands on the server's machine alone: nobody over the network may say what the server reads or runs.

    Raises:
        NotFound: there is no such cache.
        Conflict: it has a key of that name, or as many as it may; or the server's secret is being changed.
        InvalidFormat: the place is not absolute, or long.
    """
    sealed = sealer.seal(place, key.key_name, nonce)

    def work(connection: Connection) -> KeyView:
        for row in list_sealed_keys(connection)[:1]:
            try:
                sealer.unseal(row.sealed_secret_key, row.public_key.key_name)
            except Corrupt as exc:
                raise Conflict("the server's secret does not open its keys: it is being changed; repeat yours") from exc
        return _stage(connection, cache_name, key, sealed, ON_SERVER, now)

    return database.write_now(work)


def _stage(connection: Connection, cache_name: str, key: PublicKey, sealed: bytes, actor: Actor, now: int) -> KeyView:
    cache = get_cache(connection, cache_name)
    rows = list_keys(connection, cache.id)
    if any(row.public_key.key_name == key.key_name for row in rows):
        raise Conflict(
            f"cache {cache.name!r} has a key {key.key_name} already; Nix knows keys by their names, so each "
            "needs one of its own"
        )
    if len(rows) >= MAX_KEYS:
        raise Conflict(f"cache {cache.name!r} has {MAX_KEYS} keys, retired ones included, as many as it may")
    insert_key(connection, cache.id, key, sealed, now=now, state="staged")
    request_pass(connection, cache.id, now=now)  # of forged signatures under its name, which nobody could tell before
    view = view_of(list_keys(connection, cache.id)[-1])
    record(connection, actor, Action.KEY_ADD, cache.name, view.name, new=_audited(view), now=now)
    return view


def _audited(view: KeyView) -> dict[str, object]:
    return {"public_key": view.public_key, "state": view.state, "kept": view.kept}


def view_of(row: KeyRow) -> KeyView:
    """What is told of a key."""
    return KeyView(
        name=row.public_key.key_name,
        public_key=row.public_key.render(),
        state=row.state,
        created_at=row.created_at,
        kept=how_kept(row.sealed_secret_key),
    )
