"""Passes over the signatures of a cache: what they add and remove, and that no end of theirs loses anything."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import pytest
from sqlalchemy import delete, update

from icehouse.db.keys import page_signed_paths, replace_signatures
from icehouse.db.leases import take_lease
from icehouse.db.schema import cache as cache_table
from icehouse.db.schema import lease, path, signing_pass, waiting_path
from icehouse.db.signing_passes import find_pass
from icehouse.errors import CannotSign
from icehouse.nix.signing import PublicKey, SecretKey, Signature
from icehouse.rules.closures import MAX_SIGNATURES
from icehouse.services import signing_passes
from icehouse.services.signing import Signed, Signer, Signers
from icehouse.services.signing_passes import LEASE
from tests.services.publishing import KEY, NOW, TESTER, Store, nar_of, path_body
from tests.services.test_keys import IMPORTED, PATHS, SEALER, World, world
from tests.services.test_publish import signed

__all__ = ["world"]  # the fixture

FORGED = Signature(IMPORTED.key_name, b"f" * 64).render()
USERS = f"user-1:{'A' * 86}=="


async def activate(world: World, secret: SecretKey | None = None) -> PublicKey:
    key = await world.add(secret)
    await world.keys.activate_key(world.cache, key.key_name, TESTER)
    return key


async def test_paths_of_before_get_the_new_signature_and_keep_the_old_one(world: World) -> None:
    new = await activate(world)
    assert await world.signed_by(new) == []
    before = await world.passes.show_progress(world.cache)
    assert (before.state, before.looked_at, before.left) == ("running", 0, 5)
    done = await world.settle()
    assert (done.state, done.looked_at, done.changed, done.left, done.ended_at) == ("done", 5, 5, 0, NOW)
    for key in (KEY.public_key, new):
        assert await world.signed_by(key) == list("abcdf")


async def test_pass_goes_by_pages_and_goes_on_where_it_stood(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signing_passes, "PATHS_A_PAGE", 2)
    new = await activate(world)
    assert not await world.passes.advance(world.cache.id)
    assert await world.signed_by(new) == ["a", "b"]
    after_crash = world.make_passes(Signer(world.store.database, SEALER))
    progress = await after_crash.show_progress(world.cache)
    assert (progress.state, progress.looked_at, progress.changed, progress.left) == ("running", 2, 2, 3)
    await after_crash.work()
    progress = await after_crash.show_progress(world.cache)
    assert (progress.state, progress.looked_at, progress.changed) == ("done", 5, 5)
    assert await world.signed_by(new) == list("abcdf")


async def test_another_change_of_keys_begins_anew(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signing_passes, "PATHS_A_PAGE", 2)
    first = await activate(world)
    await world.passes.advance(world.cache.id)
    second = await activate(world)
    assert (await world.settle()).looked_at == 5
    for key in (KEY.public_key, first, second):
        assert await world.signed_by(key) == list("abcdf")


async def test_keys_that_change_while_a_page_is_signed_are_heeded(world: World) -> None:
    first = await activate(world)
    second = await world.add()

    async def change() -> None:
        await world.keys.activate_key(world.cache, second.key_name, TESTER)

    passes = world.make_passes(Meddling(Signer(world.store.database, SEALER), change))
    assert not await passes.advance(world.cache.id)
    assert await world.signed_by(first) == []
    await world.settle()
    for key in (first, second):
        assert await world.signed_by(key) == list("abcdf")


async def test_signature_that_is_added_while_a_page_is_signed_is_kept(world: World) -> None:
    new = await activate(world)

    async def add() -> None:
        if USERS not in await world.signatures("a"):
            await world.set_signatures("a", f" {USERS}")

    passes = world.make_passes(Meddling(Signer(world.store.database, SEALER), add))
    assert not await passes.advance(world.cache.id)  # once more
    assert await passes.advance(world.cache.id)
    assert await world.signed_by(new) == list("abcdf")
    assert USERS in await world.signatures("a")


async def test_path_that_changed_is_left_by_the_statement_itself(world: World) -> None:
    database = world.store.database
    page = await database.read(lambda c: page_signed_paths(c, world.cache.id, after=0, limit=9))
    await world.set_signatures("a", f" {USERS}")
    before = await world.signatures("a")
    assert await database.write(lambda c: replace_signatures(c, [(each, "x:x") for each in page])) == 4
    assert await world.signatures("a") == before


@pytest.mark.parametrize("is_active", [False, True], ids=["staged", "active"])
async def test_signature_under_the_new_name_that_the_new_key_did_not_make_goes(
    world: World, *, is_active: bool
) -> None:
    await world.set_signatures("a", f" {FORGED} {USERS}")
    key = await (activate if is_active else World.add)(world, IMPORTED)
    await world.settle()
    left = await world.signatures("a")
    assert (FORGED in left, USERS in left) == (False, True)
    assert await world.signed_by(key) == (list("abcdf") if is_active else [])


@pytest.mark.parametrize("state", ["staged", "active", "retired", "stripped"])
async def test_push_brings_no_forged_signature_under_the_name_of_a_key_of_the_cache(world: World, state: str) -> None:
    await world.add(IMPORTED)
    if state != "staged":
        await world.keys.activate_key(world.cache, IMPORTED.key_name, TESTER)
    if state in {"retired", "stripped"}:
        await world.keys.retire_key(world.cache, IMPORTED.key_name, TESTER, strip=state == "stripped")
    store = signing_store(world)
    false_key = SecretKey.generate(IMPORTED.key_name, b"z" * 32)
    # Of what is there, of what is new, and of what waits for its references.
    for name, references in ((PATHS[0], []), (f"{'g' * 32}-g", []), (f"{'h' * 32}-h", [f"{'i' * 32}-i"])):
        nar = nar_of(name.encode())
        await store.register(world.cache, await store.nar_body(world.cache, nar))
        body = signed(path_body(name, nar, references), false_key)
        await store.publisher.publish_or_wait(world.cache, body, token_id=None)
    assert await store.count(waiting_path) == 1
    await store.push(world.cache, (f"{'i' * 32}-i", nar_of(b"i"), []))
    for letter in "agh":
        texts = await world.signatures(letter)
        ours = [Signature.parse(text) for text in texts if text.startswith(f"{IMPORTED.key_name}:")]
        assert len(ours) == (1 if state == "active" and letter != "a" else 0), (letter, texts)
        assert all(IMPORTED.public_key.key_name == each.key_name and each.value != b"f" * 64 for each in ours)
    assert "h" in await world.signed_by(KEY.public_key)
    await close(store)


async def test_key_that_is_staged_while_a_path_is_published_is_heeded(world: World) -> None:
    """Else a signature that was of nobody known when it was looked at would stand under the name of a key of ours."""

    async def stage() -> None:
        if len(await world.states()) == 1:
            await world.add(IMPORTED)

    store = signing_store(world, stage)
    name, nar = f"{'g' * 32}-g", nar_of(b"g")
    await store.register(world.cache, await store.nar_body(world.cache, nar))
    body = signed(path_body(name, nar), SecretKey.generate(IMPORTED.key_name, b"z" * 32))
    await store.publisher.publish_or_wait(world.cache, body, token_id=None)
    assert [text.partition(":")[0] for text in await world.signatures("g")] == [KEY.key_name]
    await close(store)


async def test_signatures_of_a_retired_key_stay_and_those_of_a_stripped_one_go(world: World) -> None:
    new = await activate(world)
    await world.keys.retire_key(world.cache, KEY.key_name, TESTER)
    await world.settle()
    assert await world.signed_by(KEY.public_key) == list("abcdf")
    view = await world.keys.retire_key(world.cache, KEY.key_name, TESTER, strip=True)
    assert view.state == "stripped"
    assert (await world.settle()).changed == 5
    assert await world.signed_by(KEY.public_key) == []
    assert await world.signed_by(new) == list("abcdf")
    assert (await world.keys.retire_key(world.cache, KEY.key_name, TESTER)).state == "stripped"


async def test_key_can_be_stripped_at_once_and_no_path_is_ever_without_a_signature_of_ours(world: World) -> None:
    new = await activate(world)
    await world.keys.retire_key(world.cache, KEY.key_name, TESTER, strip=True)
    await world.settle()
    assert (await world.signed_by(KEY.public_key), await world.signed_by(new)) == ([], list("abcdf"))


async def test_push_does_not_bring_back_the_signature_of_a_stripped_key(world: World) -> None:
    await activate(world)
    await world.keys.retire_key(world.cache, KEY.key_name, TESTER, strip=True)
    await world.settle()
    store = signing_store(world)
    body = signed(path_body(PATHS[0], nar_of(PATHS[0].encode())), KEY)
    await store.publisher.publish_or_wait(world.cache, body, token_id=None)
    assert await world.signed_by(KEY.public_key) == []
    await world.keys.activate_key(world.cache, KEY.key_name, TESTER)  # and that can be undone
    await world.settle()
    assert await world.signed_by(KEY.public_key) == list("abcdf")
    await close(store)


async def test_signature_of_ours_has_a_place_among_as_many_as_a_path_may_have(world: World) -> None:
    await world.set_signatures("a", "".join(f" user-{n}:{'A' * 86}==" for n in range(MAX_SIGNATURES - 1)))
    new = await activate(world)
    await world.settle()
    assert len(await world.signatures("a")) == MAX_SIGNATURES
    assert "a" in await world.signed_by(new)


async def test_hidden_paths_are_signed_too(world: World) -> None:
    await world.store.database.write(lambda c: c.execute(update(path).values(hidden_at=NOW)) and None)
    new = await activate(world)
    await world.settle()
    assert await world.signed_by(new) == list("abcdf")


async def test_key_that_does_not_sign_stops_the_pass_until_it_does(world: World) -> None:
    new = await activate(world)
    failing = True

    async def fail() -> None:
        if failing:
            raise CannotSign("signing key kms-1 does not sign now")

    passes = world.make_passes(Meddling(Signer(world.store.database, SEALER), fail))
    await passes.work()
    progress = await passes.show_progress(world.cache)
    assert (progress.state, progress.looked_at) == ("running", 0)
    assert progress.error == "signing key kms-1 does not sign now"
    assert await world.signed_by(new) == []
    failing = False
    await passes.work()
    progress = await passes.show_progress(world.cache)
    assert (progress.state, progress.error) == ("done", None)


async def test_only_one_process_is_at_it(world: World) -> None:
    new = await activate(world)
    held = {"name": LEASE, "holder": "another", "now": NOW, "expires_at": NOW + 9}
    await world.store.database.write(lambda c: take_lease(c, **held))  # pyright: ignore[reportArgumentType]
    await world.passes.work()
    assert await world.signed_by(new) == []
    await world.store.database.write(lambda c: c.execute(delete(lease)) and None)
    await world.passes.work()
    assert await world.signed_by(new) == list("abcdf")


async def test_cache_without_changes_of_keys_has_no_pass_and_a_deleted_one_none_any_more(world: World) -> None:
    assert (await world.passes.show_progress(world.cache)).state == "none"
    await activate(world)
    await world.store.database.write(lambda c: c.execute(delete(path)) and None)
    await world.store.database.write(lambda c: c.execute(delete(cache_table)) and None)
    assert await world.store.count(signing_pass) == 0
    assert await world.passes.advance(world.cache.id)
    assert await world.store.database.read(lambda c: find_pass(c, world.cache.id)) is None


class Meddling:
    """Signs as another does, and lets something happen before."""

    def __init__(self, signer: Signer, before: Callable[[], Awaitable[None]]) -> None:
        self._signer = signer
        self._before = before

    async def sign(self, cache_id: int, texts: Sequence[bytes]) -> Signed:
        answer = await self._signer.sign(cache_id, texts)
        if texts:
            await self._before()
        return answer


def signing_store(world: World, before: Callable[[], Awaitable[None]] | None = None) -> Store:
    """The same store, which signs with the keys of the cache."""
    signer = Signer(world.store.database, SEALER)
    signers: Signers = signer if before is None else Meddling(signer, before)
    return Store(world.store.database, world.store.blobs, workers=world.store.workers, keys=signers)


async def close(store: Store) -> None:
    await store.nars.close()
    store.reader.close()
