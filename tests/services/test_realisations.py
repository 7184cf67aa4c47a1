"""Realisations: what an upload changes, and what follows from it in the other layout."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from icehouse.api.publish import PathsRequest
from icehouse.db.caches import CacheRow, delete_cache
from icehouse.db.schema import realisation
from icehouse.db.tokens import insert_token
from icehouse.errors import Conflict, InvalidFormat, NotFound
from icehouse.nix.content_address import ContentAddress, IngestionMethod, make_fixed_path
from icehouse.nix.hashes import HashAlgorithm, NixHash
from icehouse.nix.realisation import RealisationName
from icehouse.nix.store_paths import NIX_STORE
from icehouse.rules.access import Permission
from icehouse.services.realisations import Realisations
from tests.services.publishing import NOW, Store, nar_of, path_body

HASH = f"sha256:{'7' * 64}"
NAR = nar_of(b"content-addressed")
CA = ContentAddress(IngestionMethod.NAR, NixHash(HashAlgorithm.SHA256, hashlib.sha256(NAR).digest()))
OUT_PATH = make_fixed_path(CA.method, CA.hash, "tool-dev", [], False, NIX_STORE).base_name  # noqa: FBT003 - as there
OTHER_PATH = f"{'b' * 32}-tool-dev"
DERIVER = f"{'c' * 32}-tool.drv"
BY_HASH = RealisationName.of_hash(f"{HASH}!dev")
BY_DERIVATION = RealisationName.of_derivation(DERIVER, "dev")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = Store.open(tmp_path)
    yield opened
    await opened.close()


@pytest.fixture
async def cache(store: Store) -> CacheRow:
    await store.database.write(
        lambda connection: insert_token(
            connection,
            bytes(32),
            description="test",
            permissions=[Permission.PUSH],
            cache_pattern="*",
            created_by=None,
            expires_at=None,
            now=NOW,
        )
    )
    return await store.create_cache("main")


@pytest.fixture
def realisations(store: Store) -> Realisations:
    return Realisations(store.database, lambda: NOW)


def body(out_path: str = OUT_PATH, *signatures: object, **fields: object) -> bytes:
    return json.dumps({"id": f"{HASH}!dev", "outPath": out_path, "signatures": signatures, **fields}).encode()


async def put(realisations: Realisations, cache: CacheRow, name: RealisationName, text: bytes) -> None:
    await realisations.put_realisation(cache, name, text, token_id=1)


async def get(realisations: Realisations, cache: CacheRow, name: RealisationName) -> Any:  # noqa: ANN401  as json.loads
    return json.loads(await realisations.get_realisation(cache, name))


async def publish(
    store: Store, cache: CacheRow, *, ca: str | None = CA.render(), deriver: str | None = DERIVER
) -> None:
    await store.register(cache, await store.nar_body(cache, NAR))
    path = msgspec.structs.replace(path_body(OUT_PATH, NAR), ca=ca, deriver=deriver)
    assert not (await store.publisher.publish_paths(cache, PathsRequest([path]), token_id=None)).refused


async def test_an_upload_comes_back_byte_for_byte(realisations: Realisations, cache: CacheRow) -> None:
    text = b' {"outPath" : "%s", "later": 1}\n' % OUT_PATH.encode()
    await put(realisations, cache, BY_DERIVATION, text)
    assert await realisations.get_realisation(cache, BY_DERIVATION) == text


async def test_repeating_an_upload_changes_nothing(realisations: Realisations, cache: CacheRow) -> None:
    text = body(OUT_PATH, "a:1", "b:2") + b" "
    await put(realisations, cache, BY_HASH, text)
    for again in (text, body(OUT_PATH, "b:2"), body(OUT_PATH, "b:2", "a:1"), body()):
        await put(realisations, cache, BY_HASH, again)
        assert await realisations.get_realisation(cache, BY_HASH) == text


async def test_signatures_of_uploads_at_once_are_all_kept(realisations: Realisations, cache: CacheRow) -> None:
    signatures = [f"k{number}:x" for number in range(12)]
    await asyncio.gather(*(put(realisations, cache, BY_HASH, body(OUT_PATH, each)) for each in signatures))
    assert sorted((await get(realisations, cache, BY_HASH))["signatures"]) == sorted(signatures)


async def test_another_output_path_is_refused_and_changes_nothing(realisations: Realisations, cache: CacheRow) -> None:
    await put(realisations, cache, BY_HASH, body(OUT_PATH, "a:1"))
    with pytest.raises(Conflict, match=OTHER_PATH):
        await put(realisations, cache, BY_HASH, body(OTHER_PATH, "b:2"))
    assert await realisations.get_realisation(cache, BY_HASH) == body(OUT_PATH, "a:1")


async def test_a_malformed_upload_leaves_nothing(realisations: Realisations, store: Store, cache: CacheRow) -> None:
    with pytest.raises(InvalidFormat):
        await put(realisations, cache, BY_HASH, b"{}")
    assert await store.count(realisation) == 0


async def test_caches_do_not_see_each_others_realisations(
    realisations: Realisations, store: Store, cache: CacheRow
) -> None:
    await put(realisations, cache, BY_HASH, body())
    other = await store.create_cache("other")
    with pytest.raises(NotFound):
        await realisations.get_realisation(other, BY_HASH)
    await put(realisations, other, BY_HASH, body(OTHER_PATH))


async def test_realisations_go_with_their_cache(realisations: Realisations, store: Store, cache: CacheRow) -> None:
    await put(realisations, cache, BY_HASH, body())
    await store.database.write(lambda connection: delete_cache(connection, cache.id))
    assert await store.count(realisation) == 0
    with pytest.raises(NotFound):
        await put(realisations, cache, BY_HASH, body())


async def test_the_newer_layout_answers_for_the_deriver_of_a_visible_path_without_signatures(
    realisations: Realisations, store: Store, cache: CacheRow
) -> None:
    await publish(store, cache)
    await put(realisations, cache, BY_HASH, body(OUT_PATH, "a:1"))
    assert await get(realisations, cache, BY_DERIVATION) == {"outPath": OUT_PATH, "signatures": []}


@pytest.mark.parametrize("ca", [CA.render(), None], ids=["other deriver", "not content-addressed"])
async def test_nothing_follows_from_another_path(
    realisations: Realisations, store: Store, cache: CacheRow, ca: str | None
) -> None:
    await publish(store, cache, ca=ca, deriver=DERIVER if ca is None else f"{'d' * 32}-tool-dev.drv")
    await put(realisations, cache, BY_HASH, body())
    assert await store.count(realisation) == 1


async def test_nothing_follows_for_a_path_that_is_not_there(
    realisations: Realisations, store: Store, cache: CacheRow
) -> None:
    await put(realisations, cache, BY_HASH, body())
    assert await store.count(realisation) == 1


async def test_an_upload_takes_the_place_of_what_followed_from_another(
    realisations: Realisations, store: Store, cache: CacheRow
) -> None:
    await publish(store, cache)
    await put(realisations, cache, BY_HASH, body())
    await put(realisations, cache, BY_DERIVATION, body(OTHER_PATH, {"keyName": "a", "sig": "1"}))
    await put(realisations, cache, BY_HASH, body(OUT_PATH, "b:2"))
    assert (await get(realisations, cache, BY_DERIVATION))["outPath"] == OTHER_PATH


async def test_nothing_follows_from_an_upload_of_the_newer_layout(
    realisations: Realisations, store: Store, cache: CacheRow
) -> None:
    await publish(store, cache)
    await put(realisations, cache, BY_DERIVATION, body())
    assert await store.count(realisation) == 1
