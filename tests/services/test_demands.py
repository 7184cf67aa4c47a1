"""A cache that demands signatures shows nothing that lacks one, whoever brings it and however."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import Connection, select, update

from icehouse.api.caches import CacheConfigure, CacheView
from icehouse.api.publish import MissingRequest, PathBody, PathsAnswer, PathsRequest
from icehouse.api.revocations import RevocationCreate
from icehouse.db.access_times import ACCESS_REVISION
from icehouse.db.cache_settings import load_required_keys, set_required_keys
from icehouse.db.caches import CacheRow
from icehouse.db.engine import Database
from icehouse.db.keys import insert_key
from icehouse.db.migrate import prepare_access_database
from icehouse.db.schema import audit, path, waiting_path
from icehouse.db.tokens import insert_token
from icehouse.db.verification import restore_healed
from icehouse.errors import Conflict, InvalidFormat, Unavailable
from icehouse.nix.hashes import NixHash
from icehouse.nix.signing import PathInfo, PublicKey, SecretKey, fingerprint
from icehouse.nix.store_paths import NIX_STORE, HashPart, StorePath
from icehouse.rules.access import Permission
from icehouse.rules.audit import Actor
from icehouse.rules.closures import MAX_SIGNATURES
from icehouse.rules.demands import MAX_REQUIRED_KEYS
from icehouse.rules.verification import UNREADABLE
from icehouse.services.caches import Caches, permission_to_configure
from icehouse.services.nar_copies import NarCopies
from icehouse.services.promote import Promotions
from icehouse.services.revocations import Revocations
from icehouse.services.signing import Sealer, Signer
from icehouse.services.trash import Trash
from icehouse.storage.blobs import BlobKey
from tests.services.publishing import NOW, TESTER, Store, nar_of, path_body
from tests.services.test_publish import WatchedPuts

LIB, APP, OTHER = f"{'a' * 32}-lib", f"{'b' * 32}-app", f"{'c' * 32}-other"
NARS = {name: nar_of(name.encode()) for name in (LIB, APP, OTHER)}
OURS = SecretKey.generate("ours-1", b"o" * 32)
THEIRS = SecretKey.generate("theirs-1", b"t" * 32)
FALSE_OURS = SecretKey.generate("ours-1", b"f" * 32)


def body(name: str, references: Sequence[str] = (), *keys: SecretKey) -> PathBody:
    bare = path_body(name, NARS[name], references)
    digest = NixHash.parse(bare.nar_hash).digest
    info = PathInfo(StorePath.parse(name), digest, bare.nar_size, tuple(map(StorePath.parse, references)))
    text = fingerprint(info, NIX_STORE)
    return msgspec.structs.replace(bare, signatures=[key.sign(text).render() for key in keys])


class World:
    """A cache that demands a signature by `OURS`, with the NARs of all paths and no path."""

    def __init__(self, store: Store, cache: CacheRow, access: Database) -> None:
        self.store = store
        self.cache = cache
        self.access = access
        self.trash = Trash(store.database, lambda: store.now, note_use=lambda _id, _now: None)
        self.caches = Caches(
            store.database,
            store.blobs,
            Sealer(b"k" * 32),
            public_url="https://cache.example.org",
            clock=lambda: store.now,
            draw=secrets.token_bytes,
        )

    async def demand(self, *keys: SecretKey) -> None:
        publics = [key.public_key for key in keys]
        await self.store.database.write(lambda c: set_required_keys(c, self.cache.id, publics))

    async def publish(self, *bodies: PathBody) -> PathsAnswer:
        return await self.store.publisher.publish_paths(self.cache, PathsRequest(list(bodies)), token_id=1)

    async def assert_refused(self, refused: PathBody, reason: str) -> None:
        before = await self.store.count(path), self.store.keys("journal/")
        (told,) = (await self.publish(refused)).refused
        assert (told.store_path, reason in told.reason) == (refused.store_path, True), told
        assert "sign it with ours-1 (nix store sign --recursive --key-file FILE PATH)" in told.reason
        assert (await self.store.count(path), self.store.keys("journal/")) == before

    async def visible(self) -> list[str]:
        return [each.store_path for each in (await self.trash.list_paths(self.cache, is_trash=False)).paths]

    async def hide(self, *names: str, because: str = "a test") -> None:
        parts = [name[:32] for name in names]
        statement = update(path).where(path.c.hash_part.in_(parts)).values(hidden_at=NOW, hidden_because=because)
        await self.store.database.write(lambda connection: connection.execute(statement) and None)

    def promotions(self) -> Promotions:
        store = self.store
        copies = NarCopies(store.database, store.blobs, store.workers, store.nars, lambda: NOW)
        return Promotions(store.database, store.publisher, copies, lambda: NOW)

    async def required(self) -> tuple[PublicKey, ...]:
        return await self.store.database.read(lambda c: load_required_keys(c, self.cache.id))

    async def configure(self, *texts: str) -> CacheView:
        return await self.caches.configure_cache(self.cache, CacheConfigure(required_keys=list(texts)), None, TESTER)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncGenerator[World]:
    store = Store.open(tmp_path)
    prepare_access_database(tmp_path / "access.db")
    access = Database.open(tmp_path / "access.db", revision=ACCESS_REVISION)
    world = World(store, await store.create_cache("main"), access)
    await store.register(world.cache, *[await store.nar_body(world.cache, nar) for nar in NARS.values()])
    await world.demand(OURS)
    await store.database.write(_add_token)
    yield world
    access.close()
    await store.close()


async def test_signed_path_is_published_and_keeps_the_signature(world: World) -> None:
    assert (await world.publish(body(LIB, (), OURS), body(APP, [LIB], THEIRS, OURS))).published == [LIB, APP]
    text = await world.store.database.read(lambda c: c.execute(select(path.c.signatures)).scalars().all())
    assert all("ours-1:" in each for each in text)


async def test_unsigned_path_is_refused_with_the_key_and_the_remedy(world: World) -> None:
    await world.assert_refused(body(LIB), "it carries no signature by a key that this cache demands")
    await world.assert_refused(body(LIB, (), THEIRS), "it carries no signature by a key that this cache demands")


async def test_signature_by_another_key_of_the_name_is_refused(world: World) -> None:
    await world.assert_refused(body(LIB, (), FALSE_OURS), "its signature by ours-1 is not by the key of that name")


async def test_signature_over_other_references_is_refused(world: World) -> None:
    await world.publish(body(LIB, (), OURS))
    signatures = body(APP, (), OURS).signatures
    altered = msgspec.structs.replace(body(APP, [LIB]), signatures=signatures)
    await world.assert_refused(altered, "or is over another NAR hash, size or references")


async def test_one_of_several_keys_is_enough(world: World) -> None:
    await world.demand(OURS, THEIRS)
    assert (await world.publish(body(LIB, (), THEIRS))).published == [LIB]


async def test_batch_with_one_unsigned_path_publishes_nothing(world: World) -> None:
    answer = await world.publish(body(LIB, (), OURS), body(APP, [LIB]))
    assert [each.store_path for each in answer.refused] == [APP]
    assert await world.visible() == []


async def test_what_is_visible_stays_so_and_may_be_named_without_a_signature(world: World) -> None:
    await world.demand()
    await world.publish(body(LIB))
    await world.demand(OURS)
    assert (await world.publish(body(LIB), body(APP, [LIB], OURS))).merged == [LIB]
    assert await world.visible() == [LIB, APP]


async def test_demanded_signature_is_kept_among_as_many_as_a_path_may_have(world: World) -> None:
    many = [SecretKey.generate(f"k-{n}", hashlib.sha256(b"%d" % n).digest()) for n in range(MAX_SIGNATURES - 1)]
    await world.publish(body(LIB, (), *many, OURS))
    text = await world.store.database.read(lambda c: c.execute(select(path.c.signatures)).scalar_one())
    assert len(text.split()) == MAX_SIGNATURES
    assert text.split()[1].startswith("ours-1:")


async def test_push_of_a_referrer_does_not_bring_back_what_is_unsigned(world: World) -> None:
    await world.demand()
    await world.publish(body(LIB))
    await world.hide(LIB)
    await world.demand(OURS)
    (refused,) = (await world.publish(body(APP, [LIB], OURS))).refused
    assert f"its reference {LIB} is neither here" in refused.reason
    await world.assert_refused(body(LIB), "it carries no signature")
    assert (await world.publish(body(LIB, (), OURS), body(APP, [LIB], OURS))).published == [LIB, APP]


async def test_push_of_a_referrer_brings_back_what_is_signed(world: World) -> None:
    await world.publish(body(LIB, (), OURS))
    await world.hide(LIB)
    assert (await world.publish(body(APP, [LIB], OURS))).published == [APP]
    assert await world.visible() == [LIB, APP]


async def test_restore_takes_only_what_is_signed_all_the_way_down(world: World) -> None:
    await world.demand()
    await world.publish(body(LIB), body(APP, [LIB], OURS), body(OTHER, (), OURS))
    await world.hide(LIB, APP, OTHER)
    await world.demand(OURS)
    for name in (LIB, APP):
        with pytest.raises(Conflict, match="lacks a signature that the cache demands"):
            await world.trash.restore(world.cache, HashPart(name[:32]), TESTER)
    assert (await world.trash.restore(world.cache, HashPart(OTHER[:32]), TESTER)).restored == [OTHER]
    assert await world.visible() == [OTHER]
    await world.demand()
    assert (await world.trash.restore(world.cache, HashPart(APP[:32]), TESTER)).restored == [LIB, APP]


async def test_undo_of_a_revocation_leaves_what_is_unsigned(world: World) -> None:
    await world.demand()
    await world.publish(body(LIB, (), OURS), body(OTHER))
    revocations = Revocations(world.store.database, world.access, lambda: NOW, flush_uses=_nothing)
    request = RevocationCreate(by={"token": "1"}, since=NOW)
    revoked = await revocations.revoke(request, Actor("admin"))
    assert (revoked.count, revoked.id is not None) == (2, True)
    await world.demand(OURS)
    undone = await revocations.undo(revoked.id or 0, Actor("admin"))
    assert (undone.restored, undone.left) == ([f"main/{LIB}"], 1)


async def test_what_damage_hid_comes_back_when_it_is_whole(world: World) -> None:
    """It was visible, and nobody brings it: the server had lost it."""
    await world.demand()
    await world.publish(body(LIB))
    await world.hide(LIB, because=UNREADABLE)
    await world.demand(OURS)
    assert await world.store.database.write(lambda c: restore_healed(c, world.cache.id)) == [LIB]


async def test_path_that_waits_needs_its_signature_when_it_comes_and_when_it_is_completed(world: World) -> None:
    publisher = world.store.publisher
    plan = await publisher.publish_or_wait(world.cache, body(APP, [LIB]), token_id=None)
    assert (plan.may_wait, "no signature" in plan.refused[0][1]) == ((), True)
    assert await world.store.count(waiting_path) == 0
    await world.demand()
    await publisher.publish_or_wait(world.cache, body(APP, [LIB]), token_id=None)
    await world.demand(OURS)
    assert (await world.publish(body(LIB, (), OURS))).published == [LIB]
    assert await world.visible() == [LIB]
    assert await world.store.count(waiting_path) == 1
    await publisher.publish_or_wait(world.cache, body(APP, [LIB], OURS), token_id=None)
    assert await world.visible() == [LIB, APP]


async def test_demand_that_is_made_while_a_path_is_published_holds(world: World) -> None:
    def demand(key: BlobKey) -> None:
        if key.startswith("journal/"):  # between the decision and the transaction
            publics = [OURS.public_key]
            world.store.database.write_now(lambda c: set_required_keys(c, world.cache.id, publics))

    await world.demand()
    store = Store(world.store.database, WatchedPuts(world.store.blobs, demand), workers=world.store.workers)
    answer = await store.publisher.publish_paths(world.cache, PathsRequest([body(LIB)]), token_id=None)
    await store.nars.close()
    store.reader.close()
    assert "no signature" in answer.refused[0].reason
    assert world.store.keys("journal/") == []


async def test_promotion_needs_the_signature_too_and_brings_it_from_the_other_cache(world: World) -> None:
    staging = await world.store.create_cache("pr")
    for name in (LIB, OTHER):
        await world.store.register(staging, await world.store.nar_body(staging, NARS[name]))
    request = PathsRequest([body(LIB, (), OURS), body(OTHER)])
    await world.store.publisher.publish_paths(staging, request, token_id=None)
    promotions = world.promotions()

    async def promote(name: str) -> PathsAnswer:
        return await promotions.promote(world.cache, staging, HashPart(name[:32]), TESTER)

    assert "no signature" in (await promote(OTHER)).refused[0].reason
    assert (await promote(LIB)).published == [LIB]


async def test_key_of_another_cache_can_be_demanded_of_what_is_promoted_from_it(world: World) -> None:
    staging = await world.store.create_cache("pr")
    sealer = Sealer(b"k" * 32)
    sealed = sealer.seal(OURS, OURS.key_name, b"n" * 12)
    await world.store.database.write(lambda c: insert_key(c, staging.id, OURS.public_key, sealed, now=NOW))
    signer = Signer(world.store.database, sealer)
    store = Store(world.store.database, world.store.blobs, workers=world.store.workers, keys=signer)
    await store.push(staging, (OTHER, NARS[OTHER], []))
    await store.nars.close()
    store.reader.close()
    promotions = world.promotions()
    answer = await promotions.promote(world.cache, staging, HashPart(OTHER[:32]), TESTER)
    assert answer.published == [OTHER]


async def test_setting_is_shown_audited_and_taken_back(world: World) -> None:
    await world.demand()
    texts = [OURS.public_key.render(), THEIRS.public_key.render()]
    assert (await world.configure(*texts, texts[0])).required_keys == texts
    assert (await world.caches.show_cache(world.cache, None)).required_keys == texts
    assert (await world.configure()).required_keys == []
    statement = select(audit.c.old_values, audit.c.new_values).where(audit.c.action == "cache.configure")
    rows = await world.store.database.read(lambda c: [tuple(row) for row in c.execute(statement)])
    told = msgspec.json.encode({"required_keys": texts}).decode()
    assert rows == [('{"required_keys":[]}', told), (told, '{"required_keys":[]}')]


async def test_demand_that_the_journal_could_not_be_told_does_not_hold(world: World) -> None:
    def fail(_key: BlobKey) -> None:
        raise Unavailable("the disk is away")

    world.caches = Caches(
        world.store.database,
        WatchedPuts(world.store.blobs, fail),
        Sealer(b"k" * 32),
        public_url="https://cache.example.org",
        clock=lambda: NOW,
        draw=secrets.token_bytes,
    )
    with pytest.raises(Unavailable):
        await world.configure(THEIRS.public_key.render())
    assert await world.required() == (OURS.public_key,)


async def test_other_settings_leave_the_demand_and_write_no_journal(world: World) -> None:
    await world.caches.configure_cache(world.cache, CacheConfigure(priority=7), None, TESTER)
    assert await world.required() == (OURS.public_key,)
    assert world.store.keys("journal/") == []


@pytest.mark.parametrize(
    "texts", [["no key"], ["ours-1:AAAA"], [OURS.render()], [OURS.public_key.render()] * (MAX_REQUIRED_KEYS + 1)]
)
async def test_what_is_no_public_key_is_refused(world: World, texts: list[str]) -> None:
    with pytest.raises(InvalidFormat) as error:
        await world.configure(*texts)
    assert OURS.render().partition(":")[2] not in str(error.value)
    assert await world.required() == (OURS.public_key,)
    assert world.store.keys("journal/") == []


@pytest.mark.parametrize(
    ("request_", "permission"),
    [
        (CacheConfigure(priority=1), Permission.CONFIGURE),
        (CacheConfigure(required_keys=[]), Permission.ADMIN),
        (CacheConfigure(priority=1, required_keys=[OURS.public_key.render()]), Permission.ADMIN),
    ],
)
def test_who_only_configures_says_nothing_of_signatures(request_: CacheConfigure, permission: Permission) -> None:
    assert permission_to_configure(request_) is permission


async def test_missing_is_asked_without_signatures(world: World) -> None:
    answer = await world.store.publisher.find_missing(world.cache, MissingRequest([LIB[:32]]))
    assert answer.missing == [LIB[:32]]


def _add_token(connection: Connection) -> None:
    insert_token(
        connection,
        bytes(32),
        description="somebody",
        permissions=[Permission.PUSH],
        cache_pattern="*",
        created_by=None,
        expires_at=None,
        now=NOW,
    )


async def _nothing() -> None:
    return None
