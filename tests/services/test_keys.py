"""Rotating the signing keys of a cache."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from sqlalchemy import Connection, select, update

from icehouse.api.keys import KeyAdd, SigningProgress
from icehouse.db.caches import CacheRow
from icehouse.db.keys import insert_key, list_keys, page_signed_paths
from icehouse.db.schema import audit, path
from icehouse.errors import Conflict, InvalidFormat, NotFound
from icehouse.nix.signing import PublicKey, SecretKey, Signature, fingerprint
from icehouse.services.keys import MAX_KEYS, Keys
from icehouse.services.signing import Sealer, Signer, Signers
from icehouse.services.signing_passes import SigningPasses
from tests.services.publishing import KEY, NOW, TESTER, Store, nar_of

SEALER = Sealer(b"k" * 32)
IMPORTED = SecretKey.generate("old.cachix.org-1", b"i" * 32)
PATHS = [f"{letter * 32}-{letter}" for letter in "abcdf"]


class World:
    """A cache of five paths that its first key signed."""

    def __init__(self, store: Store, cache: CacheRow) -> None:
        numbers = itertools.count(1)
        self.store = store
        self.cache = cache
        self.keys = Keys(
            store.database,
            SEALER,
            Signer(store.database, SEALER),
            clock=lambda: NOW,
            draw=lambda size: next(numbers).to_bytes(size, "big"),
            wake=lambda: self.wakes.append(None),
        )
        self.wakes: list[None] = []
        self.passes = self.make_passes(Signer(store.database, SEALER))

    def make_passes(self, signers: Signers) -> SigningPasses:
        return SigningPasses(self.store.database, signers, self.store.workers, lambda: NOW, draw=lambda: 0.5)

    async def add(self, secret: SecretKey | None = None) -> PublicKey:
        request = KeyAdd(secret_key=None if secret is None else secret.render() + "\n")
        return PublicKey.parse((await self.keys.add_key(self.cache, request, TESTER)).public_key)

    async def settle(self) -> SigningProgress:
        """Carry out the pass that was asked for; how it ended."""
        while not await self.passes.advance(self.cache.id):
            pass
        return await self.passes.show_progress(self.cache)

    async def states(self) -> dict[str, str]:
        return {view.name: view.state for view in await self.keys.list_keys(self.cache)}

    async def signed_by(self, key: PublicKey) -> list[str]:
        """Hash parts of paths with a signature that this key made."""

        def work(connection: Connection) -> list[str]:
            rows = page_signed_paths(connection, self.cache.id, after=0, limit=100)
            return [
                row.info.store_path.hash_part[0]
                for row in rows
                if any(
                    key.verify(fingerprint(row.info, self.cache.store_dir), Signature.parse(text))
                    for text in row.signatures.split()
                )
            ]

        return await self.store.database.read(work)

    async def set_signatures(self, letter: str, text: str) -> None:
        statement = update(path).where(path.c.hash_part == letter * 32).values(signatures=path.c.signatures + text)
        await self.store.database.write(lambda connection: connection.execute(statement))

    async def signatures(self, letter: str) -> list[str]:
        statement = select(path.c.signatures).where(path.c.hash_part == letter * 32)
        return (await self.store.database.read(lambda connection: connection.execute(statement).scalar_one())).split()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncGenerator[World]:
    store = Store.open(tmp_path)
    cache = await store.create_cache("main")
    sealed = SEALER.seal(KEY, KEY.key_name, b"n" * 12)
    await store.database.write(lambda c: insert_key(c, cache.id, KEY.public_key, sealed, now=NOW))
    await store.push(cache, *((name, nar_of(name.encode()), PATHS[:number]) for number, name in enumerate(PATHS)))
    yield World(store, cache)
    await store.close()


async def test_new_key_is_staged_then_signs_beside_the_old_one_then_alone(world: World) -> None:
    new = await world.add()
    assert await world.states() == {KEY.key_name: "active", new.key_name: "staged"}
    assert len(world.wakes) == 1
    signer = Signer(world.store.database, SEALER)
    assert (await signer.sign(world.cache.id, [])).keys == (KEY.public_key,)
    await world.keys.activate_key(world.cache, new.key_name, TESTER)
    assert (await signer.sign(world.cache.id, [])).keys == (KEY.public_key, new)
    await world.keys.retire_key(world.cache, KEY.key_name, TESTER)
    assert (await signer.sign(world.cache.id, [])).keys == (new,)
    assert await world.states() == {KEY.key_name: "retired", new.key_name: "active"}


async def test_publish_that_was_signed_by_other_keys_than_the_active_ones_is_not_made(world: World) -> None:
    new = await world.add()
    await world.keys.activate_key(world.cache, new.key_name, TESTER)
    late = f"{'g' * 32}-late"
    with pytest.raises(Conflict, match="again and again"):  # the publisher of these tests knows the old key only
        await world.store.push(world.cache, (late, nar_of(b"late"), []))


async def test_imported_key_keeps_its_name_and_is_sealed(world: World) -> None:
    assert await world.add(IMPORTED) == IMPORTED.public_key
    row = (await world.store.database.read(lambda c: list_keys(c, world.cache.id)))[-1]
    assert IMPORTED.render().encode() not in row.sealed_secret_key
    assert SEALER.unseal(row.sealed_secret_key, IMPORTED.key_name) == IMPORTED
    noted = await world.store.database.read(lambda c: str(c.execute(select(audit)).all()))
    assert IMPORTED.render().partition(":")[2] not in noted


@pytest.mark.parametrize("text", ["", "x", "a:b", "a:" + "A" * 2_000, IMPORTED.public_key.render()])
async def test_what_is_no_secret_key_is_refused(world: World, text: str) -> None:
    with pytest.raises(InvalidFormat, match="secret key"):
        await world.keys.add_key(world.cache, KeyAdd(secret_key=text), TESTER)
    assert len(await world.states()) == 1


async def test_two_keys_of_one_name_and_too_many_keys_are_refused(world: World) -> None:
    await world.add(IMPORTED)
    with pytest.raises(Conflict, match="already"):
        await world.add(SecretKey.generate(IMPORTED.key_name, b"o" * 32))
    for _ in range(MAX_KEYS - 2):
        await world.add()
    with pytest.raises(Conflict, match="as many as it may"):
        await world.add()
    assert len(await world.states()) == MAX_KEYS


@pytest.mark.parametrize("strip", [False, True])
async def test_last_key_that_signs_cannot_be_retired(world: World, *, strip: bool) -> None:
    await world.add()
    with pytest.raises(Conflict, match="no other key"):
        await world.keys.retire_key(world.cache, KEY.key_name, TESTER, strip=strip)
    with pytest.raises(NotFound, match="no key 'x'"):
        await world.keys.retire_key(world.cache, "x", TESTER)
    with pytest.raises(NotFound, match="no key 'x'"):
        await world.keys.activate_key(world.cache, "x", TESTER)


def test_secret_is_not_in_the_repr_of_a_request() -> None:
    assert IMPORTED.render() not in repr(KeyAdd(secret_key=IMPORTED.render()))
